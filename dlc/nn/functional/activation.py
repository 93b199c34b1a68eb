"""Activation functions. All are elementwise except the softmax family and `glu`; shapes are unchanged unless said.

Half types are widened to float32 inside the softmax family and come back in their own dtype.
"""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import beside, narrow, widen

_ROOT_2_PI = math.sqrt(2.0 / math.pi)


def relu(input: Tensor) -> Tensor:
    """max(x, 0), with derivative 0 at 0. A NaN stays a NaN."""
    return dlc.where(input <= 0, 0, input)


def relu6(input: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where positive, else negative_slope * x."""
    return dlc.where(input > 0, input, input * negative_slope)


@user_errors
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Leaky ReLU with a learned slope: `weight` has shape (), (1,) or (C,), C being axis 1 of `input`."""
    weight = beside(weight, input)
    if weight.ndim > 1 or weight.ndim and weight.shape[0] not in (1, input.shape[1] if input.ndim > 1 else 1):
        raise dlc.ShapeError(f"prelu: weight {tuple(weight.shape)} is neither one number nor one for each channel of "
                             f"input {tuple(input.shape)}")  # fmt: skip
    one = not weight.ndim or weight.shape[0] == 1
    weight = dlc.reshape(weight, () if one else (-1,) + (1,) * (input.ndim - 2))
    positive = input > 0
    return dlc.where(positive, input, dlc.where(positive, 0, input) * weight)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1)."""
    return dlc.where(input > 0, input, alpha * dlc.expm1(_not_positive(input)))


def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """x where positive, else alpha * (exp(x / alpha) - 1)."""
    return dlc.where(input > 0, input, alpha * dlc.expm1(_not_positive(input) / alpha))


def selu(input: Tensor) -> Tensor:
    """Self-normalising ELU (Klambauer et al. 2017, https://arxiv.org/abs/1706.02515)."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return scale * elu(input, alpha)


def _not_positive(x: Tensor) -> Tensor:
    # the branch that `where` drops must stay finite, or its derivative is 0 * inf
    return dlc.where(x > 0, 0, x)


@user_errors
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), Phi being the standard normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    `approximate='tanh'` uses 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    if approximate == "none":
        return input * (0.5 * (1.0 + dlc.erf(input * math.sqrt(0.5))))
    if approximate == "tanh":
        # the tangent is 1 long before 100: a larger square would only make the derivative 0 * inf
        square = dlc.minimum(input * input, 1e4)
        inner = _ROOT_2_PI * (input + 0.044715 * (input * square))
        return 0.5 * input * (1.0 + dlc.tanh(inner))
    raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return dlc.sigmoid(input)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|))."""
    negative = input < 0  # one choice for both terms: at 0 each alone has no derivative, their sum has
    return dlc.where(negative, input, 0) - dlc.log1p(dlc.exp(dlc.where(negative, input, -input)))


def silu(input: Tensor) -> Tensor:
    """x * sigmoid(x), also called swish."""
    return input * sigmoid(input)


def mish(input: Tensor) -> Tensor:
    """x * tanh(softplus(x)) (Misra 2019, arXiv:1908.08681)."""
    return input * dlc.tanh(softplus(input))


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    scaled = input * beta
    return dlc.where(scaled > threshold, input, -logsigmoid(-scaled) / beta)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (1.0 + dlc.abs(input))


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return dlc.tanh(input)


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return input - dlc.tanh(input)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x limited to [min_val, max_val]; the derivative is 0 at and beyond the limits."""
    return dlc.where(input <= min_val, min_val, dlc.where(input >= max_val, max_val, input))


def hardsigmoid(input: Tensor) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    return hardtanh(input + 3.0, 0.0, 6.0) / 6.0


def hardswish(input: Tensor) -> Tensor:
    """x * hardsigmoid(x)."""
    return input * hardsigmoid(input)


def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """x where x > threshold, else `value`. A NaN stays a NaN."""
    return dlc.where(input <= threshold, value, input)


@user_errors
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """First half times the sigmoid of the second half along `dim`, whose extent is even and halves."""
    extent = input.shape[dim]
    if extent % 2:
        raise ValueError(f"glu: dimension {dim} of shape {tuple(input.shape)} has odd extent {extent}")
    first, second = dlc.split(input, (extent // 2, extent // 2), axis=dim)
    return first * sigmoid(second)


def _empty_along(x: Tensor, dim: int) -> bool:
    """Whether there is nothing to take the maximum of; an axis that does not exist is the maximum's error."""
    return -x.ndim <= dim < x.ndim and x.shape[dim] == 0


@user_errors
def softmax(input: Tensor, dim: int = -1, dtype=None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`. The maximum is subtracted first, as a constant to differentiation."""
    x, out = widen(input, dtype)
    if _empty_along(x, dim):
        return narrow(x, out)
    e = dlc.exp(x - dlc.stop_gradient(dlc.max(x, axis=dim, keepdims=True)))
    return narrow(e / dlc.sum(e, axis=dim, keepdims=True), out)


@user_errors
def log_softmax(input: Tensor, dim: int = -1, dtype=None) -> Tensor:
    """x - log(sum(exp(x))) along `dim`."""
    x, out = widen(input, dtype)
    if _empty_along(x, dim):
        return narrow(x, out)
    shifted = x - dlc.stop_gradient(dlc.max(x, axis=dim, keepdims=True))
    return narrow(shifted - dlc.log(dlc.sum(dlc.exp(shifted), axis=dim, keepdims=True)), out)


def softmin(input: Tensor, dim: int = -1, dtype=None) -> Tensor:
    """softmax(-x)."""
    return softmax(-input, dim, dtype)


@user_errors
def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(||x||_p, eps), the norm taken along `dim`; `p` as in `dlc.vector_norm`."""
    norm = dlc.vector_norm(input, axis=dim, keepdims=True, ord=p)
    return input / dlc.where(norm < eps, eps, norm)
