"""Activation layers: each calls the function of its name in `nn.functional`."""

from __future__ import annotations

from collections.abc import Callable

from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.module import Module, Parameter


class _Activation(Module):
    """A function of the input and of settings, which are kept as attributes of their names and shown by `repr`."""

    _function: Callable[..., Tensor]
    _settings: tuple[str, ...] = ()

    def _set_all(self, **settings) -> None:
        super().__init__()
        self._settings = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, input: Tensor) -> Tensor:
        return self._function(input, *(getattr(self, name) for name in self._settings))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)


class _InPlace(_Activation):
    """Without settings. `inplace` is accepted and has no effect: the compiler decides what is done in place."""

    def __init__(self, inplace: bool = False):
        super().__init__()


class ReLU(_InPlace):
    """max(x, 0). `inplace` is accepted and has no effect: the compiler decides what is done in place."""

    _function = staticmethod(F.relu)


class ReLU6(_InPlace):
    """min(max(x, 0), 6)."""

    _function = staticmethod(F.relu6)


class LeakyReLU(_Activation):
    """x where positive, else negative_slope * x."""

    _function = staticmethod(F.leaky_relu)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        self._set_all(negative_slope=negative_slope)


class PReLU(_Activation):
    """x where positive, else weight * x; weight (num_parameters,) is learned, one for all or one for each channel."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype=None):  # noqa: A002 (PyTorch's name)
        self._set_all(num_parameters=num_parameters)
        self.weight = Parameter(_filled(num_parameters, init, dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


def _filled(n: int, value: float, dtype):
    return init.ones((n,), dtype) * value


class ELU(_Activation):
    """x where positive, else alpha * (exp(x) - 1)."""

    _function = staticmethod(F.elu)

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        self._set_all(alpha=alpha)


class CELU(_Activation):
    """x where positive, else alpha * (exp(x / alpha) - 1)."""

    _function = staticmethod(F.celu)

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        self._set_all(alpha=alpha)


class SELU(_InPlace):
    """Self-normalising ELU."""

    _function = staticmethod(F.selu)


class GELU(_Activation):
    """x * Phi(x), exactly or by the tanh approximation (`approximate='tanh'`)."""

    _function = staticmethod(F.gelu)

    def __init__(self, approximate: str = "none"):
        self._set_all(approximate=approximate)


class SiLU(_InPlace):
    """x * sigmoid(x)."""

    _function = staticmethod(F.silu)


class Mish(_InPlace):
    """x * tanh(softplus(x))."""

    _function = staticmethod(F.mish)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    _function = staticmethod(F.sigmoid)


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    _function = staticmethod(F.logsigmoid)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    _function = staticmethod(F.tanh)


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""

    _function = staticmethod(F.softplus)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self._set_all(beta=beta, threshold=threshold)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    _function = staticmethod(F.softsign)


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]."""

    _function = staticmethod(F.hardtanh)

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        if min_val >= max_val:
            raise ValueError(f"Hardtanh: min_val {min_val} is not below max_val {max_val}")
        self._set_all(min_val=min_val, max_val=max_val)


class Hardsigmoid(_InPlace):
    """min(max(x + 3, 0), 6) / 6."""

    _function = staticmethod(F.hardsigmoid)


class Hardswish(_InPlace):
    """x * hardsigmoid(x)."""

    _function = staticmethod(F.hardswish)


class GLU(_Activation):
    """First half times the sigmoid of the second half along `dim`."""

    _function = staticmethod(F.glu)

    def __init__(self, dim: int = -1):
        self._set_all(dim=dim)


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along `dim`."""

    _function = staticmethod(F.softmax)

    def __init__(self, dim: int = -1):
        self._set_all(dim=dim)


class LogSoftmax(_Activation):
    """log(softmax(x)) along `dim`."""

    _function = staticmethod(F.log_softmax)

    def __init__(self, dim: int = -1):
        self._set_all(dim=dim)
