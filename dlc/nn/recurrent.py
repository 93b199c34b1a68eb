"""RNN, LSTM and GRU: several layers, both directions, dropout between layers; weights as in PyTorch."""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.base.errors import warn
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.functional import recurrent as cells
from dlc.nn.functional.dropout import check_probability
from dlc.nn.functional.precision import single
from dlc.nn.module import Module, Parameter


class _Recurrent(Module):
    """The layers of a recurrent network.

    Layer l has weight_ih_l{l} (gates * H, I), weight_hh_l{l} (gates * H, H), bias_ih_l{l}, bias_hh_l{l} (gates * H,),
    and the same with `_reverse` for the second direction; I is `input_size` in the first layer, then directions * H.
    All start uniform in +-1/sqrt(H).
    """

    _gates: int
    _parts: int = 1  # how many tensors make up a state

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, dtype=None,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if input_size < 1 or hidden_size < 1 or num_layers < 1:
            raise ValueError(f"{name}: sizes {input_size}, {hidden_size} and {num_layers} layers must be positive")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first = bias, batch_first
        self.dropout, self.bidirectional = check_probability(name, dropout), bidirectional
        if dropout > 0 and num_layers == 1:
            warn(f"{name}: dropout acts between layers; with one layer it does nothing", UserWarning)
        for layer in range(num_layers):
            for direction in range(self._directions):
                size = input_size if layer == 0 else hidden_size * self._directions
                shapes = [(self._gates * hidden_size, size), (self._gates * hidden_size, hidden_size)]
                shapes += [(self._gates * hidden_size,)] * 2 if bias else []
                for weight, shape in zip(self._names(layer, direction), shapes, strict=True):
                    self.register_parameter(weight, Parameter(init.empty(shape, dtype)))
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _names(self, layer: int, direction: int) -> list[str]:
        suffix = f"l{layer}" + ("_reverse" if direction else "")
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")
        return [f"{kind}_{suffix}" for kind in kinds]

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do; here because PyTorch has it."""

    def _cell(self) -> cells.Cell:
        raise NotImplementedError

    def _run(self, input: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """input (T, B, I) -- (B, T, I) if batch_first, (T, I) without batch -- to (output, state parts (L*D, B, H))."""
        name = type(self).__name__
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise dlc.ShapeError(
                f"{name}: input is (T, B, {self.input_size}){' with batch first' if self.batch_first else ''} or "
                f"(T, {self.input_size}), got {tuple(input.shape)}"
            )
        unbatched = input.ndim == 2
        x = dlc.expand_dims(input, axis=1) if unbatched else dlc.swapaxes(input, 0, 1) if self.batch_first else input
        rows, batch = self.num_layers * self._directions, x.shape[1]
        if state is None:
            state = (single(dlc.zeros((rows, batch, self.hidden_size), dtype=x.dtype)),) * self._parts
        else:
            want = (rows, self.hidden_size) if unbatched else (rows, batch, self.hidden_size)
            for part in state:
                if tuple(part.shape) != want:
                    got = f"for input {tuple(input.shape)}, got {tuple(part.shape)}"
                    raise dlc.ShapeError(f"{name}: state is {want} {got}")
            state = tuple(dlc.expand_dims(part, axis=1) for part in state) if unbatched else state

        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(self._directions):
                weights = [getattr(self, w) for w in self._names(layer, direction)]
                start = tuple(part[layer * self._directions + direction] for part in state)
                out, end = cells.recurrent_layer(self._cell(), x, start, *weights, reverse=direction == 1)
                outputs.append(out)
                last.append(end)
            x = outputs[0] if len(outputs) == 1 else dlc.concat(outputs, axis=-1)
        ends = tuple(dlc.stack([end[k] for end in last], axis=0) for k in range(self._parts))
        if unbatched:
            return dlc.squeeze(x, axis=1), tuple(dlc.squeeze(part, axis=1) for part in ends)
        return (dlc.swapaxes(x, 0, 1) if self.batch_first else x), ends

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        parts += [f"{n}={getattr(self, n)}" for n, value in usual.items() if getattr(self, n) != value]
        return ", ".join(parts)


class RNN(_Recurrent):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu: (input (T, B, I), h0 (L*D, B, H)) -> (output, h_n)."""

    _gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, dtype=None,
    ):  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)
        self.nonlinearity = nonlinearity

    def _cell(self) -> cells.Cell:
        return cells.rnn_tanh_cell if self.nonlinearity == "tanh" else cells.rnn_relu_cell

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h


class GRU(_Recurrent):
    """Gates r, z, n: (input (T, B, I), h0 (L*D, B, H)) -> (output (T, B, D*H), h_n (L*D, B, H))."""

    _gates = 3

    def _cell(self) -> cells.Cell:
        return cells.gru_cell

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h


class LSTM(_Recurrent):
    """Gates i, f, g, o: (input (T, B, I), (h0, c0)) -> (output (T, B, D*H), (h_n, c_n)), states (L*D, B, H)."""

    _gates = 4
    _parts = 2

    def _cell(self) -> cells.Cell:
        return cells.lstm_cell

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, (h, c) = self._run(input, None if hx is None else tuple(hx))
        return output, (h, c)
