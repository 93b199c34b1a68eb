"""Initialisers, under PyTorch's names: each fills a Tensor in place and returns it.

Values are drawn on the host by NumPy's Philox generator, keyed from `dlc.random`: the same on every target for a seed,
and nothing has to be compiled to make a model.
"""

from __future__ import annotations

import functools
import math

import numpy as np

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors

# -- host arrays to start parameters from -----------------------------------------------------------------------------


def zeros(shape: tuple[int, ...], dtype=None) -> np.ndarray:
    """A host array of zeros of a dtype, float32 if None."""
    if any(not isinstance(n, (int, np.integer)) or n < 0 for n in shape):
        raise dlc.ShapeError(f"a parameter cannot have shape {shape}: sizes are integers that are not negative")
    checked = dlc.float32 if dtype is None else dlc.zeros((0,), dtype=dtype).dtype  # NumPy's dtypes are taken as well
    return np.zeros(shape, checked.np)


def ones(shape: tuple[int, ...], dtype=None) -> np.ndarray:
    """A host array of ones of a dtype, float32 if None."""
    return np.ones_like(zeros(shape, dtype))


empty = zeros  # to be filled by an initialiser; nothing is ever uninitialised


def _generator() -> np.random.Generator:
    """A fresh generator, keyed by where dlc.random's default stream stands, which moves on by one."""
    state = dlc.random.default_generator.state
    try:
        key, counter = (int(word) for word in state.numpy())
    except dlc.TraceError:
        raise dlc.TraceError(
            "parameters are made and filled outside of traced functions: inside they would be new at every call"
        ) from None
    state.assign(np.array([key, counter + 1], np.uint64))
    return np.random.Generator(np.random.Philox(key=key << 64 | counter))


def _fill(tensor: Tensor, values: np.ndarray) -> Tensor:
    with dlc.no_grad():
        return tensor.rebind(values.astype(tensor.dtype.np))


# -- initialisers -----------------------------------------------------------------------------------------------------


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in [a, b)."""
    return _fill(tensor, _generator().random(tensor.shape) * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, zero_row: int | None = None) -> Tensor:
    """Normal with the given mean and standard deviation; row `zero_row`, if given, is 0."""
    values = _generator().standard_normal(tensor.shape) * std + mean
    if zero_row is not None:
        values[zero_row] = 0.0
    return _fill(tensor, values)


@functools.partial(user_errors, operation=False)
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal, drawn again where it falls outside [a, b]."""
    if not a < b:
        raise ValueError(f"trunc_normal_: a {a} is not below b {b}")
    if mean - 8 * std > b or mean + 8 * std < a:
        raise ValueError(f"trunc_normal_: [{a}, {b}] is more than 8 standard deviations from the mean {mean}")
    generator = _generator()
    values = generator.standard_normal(tensor.shape) * std + mean
    outside = (values < a) | (values > b)
    while outside.any():
        values[outside] = generator.standard_normal(int(outside.sum())) * std + mean
        outside = (values < a) | (values > b)
    return _fill(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """All elements `val`."""
    return _fill(tensor, np.full(tensor.shape, val))


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


@functools.partial(user_errors, operation=False)
def eye_(tensor: Tensor) -> Tensor:
    """The identity, cut or zero-padded to the shape of the 2-D `tensor`."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: needs two dimensions, got {tuple(tensor.shape)}")
    return _fill(tensor, np.eye(*tensor.shape))


@functools.partial(user_errors, operation=False)
def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random matrix with orthonormal rows or columns, times `gain` (Saxe et al. 2013, arXiv:1312.6120)."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: needs at least two dimensions, got {tuple(tensor.shape)}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    q, r = np.linalg.qr(_generator().standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


_GAINS = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv_transpose1d": 1.0, "conv_transpose2d": 1.0, "sigmoid": 1.0,
    "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75,
}  # fmt: skip


@functools.partial(user_errors, operation=False)
def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity; `param` is leaky_relu's slope (0.01 if None)."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"calculate_gain: {nonlinearity!r} is none of leaky_relu, {', '.join(_GAINS)}")
    return _GAINS[nonlinearity]


@functools.partial(user_errors, operation=False)
def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, *taps)."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need at least two dimensions, got {tuple(tensor.shape)}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))


@functools.partial(user_errors, operation=False)
def _kaiming_std(name: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode is 'fan_in' or 'fan_out', not {mode!r}")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform in +-gain sqrt(3 / fan) (He et al. 2015, arXiv:1502.01852); `a` is leaky_relu's slope."""
    bound = math.sqrt(3.0) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Normal with standard deviation gain / sqrt(fan)."""
    return normal_(tensor, 0.0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity))


def fan_in_uniform_(tensor: Tensor, weight: Tensor) -> Tensor:
    """A bias's start: uniform in +-1/sqrt(fan_in of its `weight`)."""
    fan_in = fans(weight)[0]
    bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
    return uniform_(tensor, -bound, bound)
