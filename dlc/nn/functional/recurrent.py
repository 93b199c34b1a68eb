"""Recurrent layers over a sequence, each one `dlc.scan`: compile time does not grow with the length.

The inputs' products with `w_ih` do not depend on the state, so they are one matmul over all steps before the scan;
what is left inside is the product with `w_hh` and elementwise work. Layouts and gate orders are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable

import dlc
from dlc import Tensor
from dlc.nn.functional.activation import relu
from dlc.nn.functional.precision import beside, narrow, widen

State = tuple[Tensor, ...]
# (projected input (B, gates * H), state, w_hh (gates * H, H), b_hh or None) -> new state; its first part is the output
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]


def rnn_tanh_cell(projected: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh)."""
    return (dlc.tanh(_recurrent(projected, state, w_hh, b_hh)),)


def rnn_relu_cell(projected: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """h' = relu(W_ih x + b_ih + W_hh h + b_hh)."""
    return (relu(_recurrent(projected, state, w_hh, b_hh)),)


def lstm_cell(projected: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """Gates i, f, g, o: c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c')."""
    i, f, g, o = dlc.chunk(_recurrent(projected, state, w_hh, b_hh), 4, axis=-1)
    c = _gate(f) * state[1] + _gate(i) * dlc.tanh(g)
    return _gate(o) * dlc.tanh(c), c


def gru_cell(projected: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """Gates r, z, n: n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h."""
    h = state[0]
    recurrent = dlc.matmul(h, dlc.matrix_transpose(w_hh))
    if b_hh is not None:
        recurrent = recurrent + b_hh
    xr, xz, xn = dlc.chunk(projected, 3, axis=-1)
    hr, hz, hn = dlc.chunk(recurrent, 3, axis=-1)
    r, z = _gate(xr + hr), _gate(xz + hz)
    n = dlc.tanh(xn + r * hn)
    return (n + z * (h - n),)


def _gate(x: Tensor) -> Tensor:
    """The logistic function to within the rounding of 1, which is all that a gate needs. As a tanh its derivative
    takes nothing but its result: a loop keeps one array of each gate for its backward pass."""
    x, out = widen(x)
    return narrow(0.5 * dlc.tanh(0.5 * x) + 0.5, out)


def _recurrent(projected: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> Tensor:
    out = projected + dlc.matmul(state[0], dlc.matrix_transpose(w_hh))
    return out if b_hh is None else out + b_hh


def recurrent_layer(
    cell: Cell,
    input: Tensor,
    state: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """One direction of one layer: input (T, B, I), state parts (B, H) -> (outputs (T, B, H), last state).

    With `reverse` the sequence is read from its end; output t still belongs to input t.
    """
    projected = dlc.matmul(input, dlc.matrix_transpose(w_ih))
    if b_ih is not None:
        projected = projected + beside(b_ih, projected)
    inner = b_hh
    if b_hh is not None and cell is not gru_cell:  # the GRU's b_hn is scaled by a gate; elsewhere it is a constant term
        projected, inner = projected + beside(b_hh, projected), None

    w_hh = beside(w_hh, projected)  # once, not at each step
    inner = None if inner is None else beside(inner, projected)
    casts = dlc.get_autocast_dtype() is not None

    def step(carry: State, x: Tensor) -> tuple[State, Tensor]:
        new = cell(x, carry, w_hh, inner)
        if not casts:
            return new, new[0]
        # the outputs are the product's dtype, the state keeps its own, which a long sequence needs
        return tuple(narrow(n, old.dtype) for n, old in zip(new, carry, strict=True)), narrow(new[0], x.dtype)

    last, outputs = dlc.scan(step, tuple(state), projected, reverse=reverse)
    return outputs, last
