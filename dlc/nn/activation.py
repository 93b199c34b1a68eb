"""Activation layers: each calls the function of its name in `nn.functional`."""

from __future__ import annotations

from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.module import Module
from dlc.nn.parameter import Parameter


class _Activation(Module):
    """A function of the input and of settings, which are kept as attributes of their names and shown by `repr`."""

    _settings: tuple[str, ...] = ()

    def _set_all(self, **settings) -> None:
        super().__init__()
        for name, value in settings.items():
            setattr(self, name, value)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)


class ReLU(_Activation):
    """max(x, 0). `inplace` is accepted and has no effect: the compiler decides what is done in place."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input)


class ReLU6(_Activation):
    """min(max(x, 0), 6)."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input)


class LeakyReLU(_Activation):
    """x where positive, else negative_slope * x."""

    _settings = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        self._set_all(negative_slope=negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope)


class PReLU(_Activation):
    """x where positive, else weight * x; weight (num_parameters,) is learned, one for all or one for each channel."""

    _settings = ("num_parameters",)

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype=None):  # noqa: A002 (PyTorch's name)
        self._set_all(num_parameters=num_parameters)
        self.weight = Parameter(_filled(num_parameters, init, dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


def _filled(n: int, value: float, dtype):
    return init.ones((n,), dtype) * value


class ELU(_Activation):
    """x where positive, else alpha * (exp(x) - 1)."""

    _settings = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        self._set_all(alpha=alpha)

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha)


class CELU(_Activation):
    """x where positive, else alpha * (exp(x / alpha) - 1)."""

    _settings = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        self._set_all(alpha=alpha)

    def forward(self, input: Tensor) -> Tensor:
        return F.celu(input, self.alpha)


class SELU(_Activation):
    """Self-normalising ELU."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input)


class GELU(_Activation):
    """x * Phi(x), exactly or by the tanh approximation (`approximate='tanh'`)."""

    _settings = ("approximate",)

    def __init__(self, approximate: str = "none"):
        self._set_all(approximate=approximate)

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)


class SiLU(_Activation):
    """x * sigmoid(x)."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input)


class Mish(_Activation):
    """x * tanh(softplus(x))."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""

    _settings = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self._set_all(beta=beta, threshold=threshold)

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]."""

    _settings = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        if min_val >= max_val:
            raise ValueError(f"Hardtanh: min_val {min_val} is not below max_val {max_val}")
        self._set_all(min_val=min_val, max_val=max_val)

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val)


class Hardsigmoid(_Activation):
    """min(max(x + 3, 0), 6) / 6."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input)


class Hardswish(_Activation):
    """x * hardsigmoid(x)."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input)


class GLU(_Activation):
    """First half times the sigmoid of the second half along `dim`."""

    _settings = ("dim",)

    def __init__(self, dim: int = -1):
        self._set_all(dim=dim)

    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim)


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along `dim`."""

    _settings = ("dim",)

    def __init__(self, dim: int = -1):
        self._set_all(dim=dim)

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim)


class LogSoftmax(_Activation):
    """log(softmax(x)) along `dim`."""

    _settings = ("dim",)

    def __init__(self, dim: int = -1):
        self._set_all(dim=dim)

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim)
