"""Loss functions. `reduction` is 'mean', 'sum' or 'none' everywhere.

PyTorch's deprecated `size_average` and `reduce` are not here; what follows `weight` is given by keyword.
"""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.ranges import class_numbers
from dlc.nn.functional.precision import narrow, single, widen


@user_errors
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of the logits `input` (N, C, d1, ...) or (C,) with `target`.

    `target` holds class numbers (N, d1, ...), of which those equal to `ignore_index` do not count, or probabilities of
    the shape of `input`. `weight` (C,) scales each class. With 'mean', class numbers divide by the total weight of
    their classes, probabilities by N * d1 * ...

    The class is picked by comparing with the class numbers rather than by gathering, so that forward and backward are
    reductions and elementwise work over rows, which fuse.
    """
    _check_reduction("cross_entropy", reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing {label_smoothing} is outside [0, 1]")
    axis = _class_axis("cross_entropy", input)
    as_probabilities = tuple(input.shape) == tuple(target.shape) and _is_float(target)
    if not as_probabilities:
        target = _class_numbers("cross_entropy", input, target, axis, ignore_index)
    _check_weight("cross_entropy", weight, input.shape[axis])

    x, out = widen(single(input))
    classes = x.shape[axis]
    m = dlc.stop_gradient(dlc.max(x, axis=axis, keepdims=True))
    # everything relative to the largest: next to a logit of 1e5 the logarithm would lose its digits
    below = x - m
    lse = dlc.log(dlc.sum(dlc.exp(below), axis=axis, keepdims=True))
    w = None if weight is None else _along(weight, axis, x.ndim)

    if as_probabilities:
        p = target if label_smoothing == 0.0 else target * (1.0 - label_smoothing) + label_smoothing / classes
        terms = p * (lse - below)
        losses = dlc.sum(terms if w is None else terms * w, axis=axis)
        if reduction == "mean":
            return narrow(dlc.sum(losses) / math.prod(losses.shape), out)
        return narrow(_reduce(losses, reduction), out)

    hit = _hits(target, axis, classes)
    lse1 = dlc.squeeze(lse, axis=axis)
    nll = lse1 - dlc.sum(dlc.where(hit, below, 0), axis=axis)
    picked_weight = None
    if w is not None:
        picked_weight = dlc.sum(dlc.where(hit, w, 0), axis=axis)
        nll = nll * picked_weight
    if label_smoothing > 0.0:
        smooth = classes * lse1 - dlc.sum(below, axis=axis) if w is None else dlc.sum(w * (lse - below), axis=axis)
        nll = (1.0 - label_smoothing) * nll + (label_smoothing / classes) * smooth
    return narrow(_reduce_classes(nll, target, classes, picked_weight, ignore_index, reduction), out)


@user_errors
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input[target] for log-probabilities `input` (N, C, d1, ...) or (C,) and class numbers `target` (N, d1, ...)."""
    _check_reduction("nll_loss", reduction)
    axis = _class_axis("nll_loss", input)
    target = _class_numbers("nll_loss", input, target, axis, ignore_index)
    _check_weight("nll_loss", weight, input.shape[axis])
    input = single(input)
    hit = _hits(target, axis, input.shape[axis])
    nll = -dlc.sum(dlc.where(hit, input, 0), axis=axis)
    picked_weight = None
    if weight is not None:
        w = _along(weight, axis, input.ndim)
        picked_weight = dlc.sum(dlc.where(hit, w, 0), axis=axis)
        nll = nll * picked_weight
    return _reduce_classes(nll, target, input.shape[axis], picked_weight, ignore_index, reduction)


@user_errors
def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(input - target)^2. Raises ShapeError where the shapes differ: nothing broadcasts silently."""
    _check_pair("mse_loss", input, target, reduction)
    input, target = single(input, target)
    d = input - target
    return _reduce(d * d, reduction)


@user_errors
def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """|input - target|."""
    _check_pair("l1_loss", input, target, reduction)
    input, target = single(input, target)
    return _reduce(dlc.abs(input - target), reduction)


@user_errors
def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """0.5 d^2 / beta where |d| < beta, else |d| - 0.5 beta, with d = input - target."""
    _check_pair("smooth_l1_loss", input, target, reduction)
    input, target = single(input, target)
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta {beta} is negative")
    d = input - target
    size = dlc.abs(d)
    if beta == 0:
        return _reduce(size, reduction)
    near = dlc.where(size < beta, d, 0)  # the square that `where` drops must stay finite, or its derivative is 0 * inf
    return _reduce(dlc.where(size < beta, near * near * (0.5 / beta), size - 0.5 * beta), reduction)


@user_errors
def huber_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """0.5 d^2 where |d| < delta, else delta (|d| - 0.5 delta), with d = input - target."""
    _check_pair("huber_loss", input, target, reduction)
    input, target = single(input, target)
    if delta <= 0:
        raise ValueError(f"huber_loss: delta {delta} is not positive")
    d = input - target
    size = dlc.abs(d)
    near = dlc.where(size < delta, d, 0)  # as in `smooth_l1_loss`
    return _reduce(dlc.where(size < delta, 0.5 * near * near, delta * (size - 0.5 * delta)), reduction)


@user_errors
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-(pos_weight y log(sigmoid(x)) + (1 - y) log(1 - sigmoid(x))), stable for all x."""
    _check_pair("binary_cross_entropy_with_logits", input, target, reduction)
    input, target = single(input, target)
    # a multiple of the input plus a rest that vanishes far out, so that no difference of ones is left of the derivative
    negative = input < 0
    rest = dlc.log1p(dlc.exp(dlc.where(negative, input, -input)))
    if pos_weight is None:
        losses = dlc.where(negative, -target, 1.0 - target) * input + rest
    else:
        losses = dlc.where(negative, -pos_weight * target, 1.0 - target) * input
        losses = losses + (1.0 + (pos_weight - 1.0) * target) * rest
    return _reduce(losses if weight is None else losses * weight, reduction)


@user_errors
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-(y log(p) + (1 - y) log(1 - p)) for probabilities p; each logarithm is at least -100.

    The derivative is (p - y) / max(p (1 - p), 1e-12), so finite also where p is 0 or 1.
    """
    _check_pair("binary_cross_entropy", input, target, reduction)
    (p, out), (y, _) = widen(single(input)), widen(single(target))
    inside = p * (1.0 - p) >= _LEAST_SPREAD
    fixed = dlc.stop_gradient(p)
    q = dlc.where(inside, p, fixed)
    # at the ends the logarithms count as constants; this is 0, and its derivative is (p - y) / 1e-12
    slope = dlc.where(inside, 0.0, _slope(p, y) - _slope(fixed, y))
    losses = slope - (y * _clamped_log(q) + (1.0 - y) * _clamped_log(1.0 - q))
    return narrow(_reduce(losses if weight is None else losses * weight, reduction), out)


_LEAST_SPREAD = 1e-12  # of p (1 - p), in the derivative of the binary cross entropy


def _slope(p: Tensor, y: Tensor) -> Tensor:
    return (0.5 * p - y) * p * (1.0 / _LEAST_SPREAD)


@user_errors
def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log(target) - input) for log-probabilities `input`; 0 where target is 0.

    'batchmean' divides the sum by the first extent, which is the mathematical divergence.
    """
    _check_pair("kl_div", input, target, "sum" if reduction == "batchmean" else reduction)
    input, target = single(input, target)
    if log_target:
        losses = dlc.exp(target) * (target - input)
    else:
        zero = target == 0
        losses = dlc.where(zero, 0, target * dlc.log(dlc.where(zero, 1, target))) - target * input
    if reduction == "batchmean":
        return dlc.sum(losses) / (input.shape[0] if input.ndim else 1)
    return _reduce(losses, reduction)


# -- what the losses share ------------------------------------------------------------------------------------------


def _clamped_log(p: Tensor) -> Tensor:
    y = dlc.log(p)
    return dlc.where(y < -100.0, -100.0, y)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return dlc.mean(losses) if reduction == "mean" else dlc.sum(losses)


def _reduce_classes(
    nll: Tensor, target: Tensor, classes: int, picked_weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    """Drop the ignored positions of `nll` and reduce; 'mean' divides by the total weight of what is left.

    A class number that is no class makes a NaN where its value is not known yet (under jit): never a plausible number.
    """
    valid = target != ignore_index
    is_class = (target >= 0) & (target < classes)
    nll = dlc.where(valid, dlc.where(is_class, nll, math.nan), 0)
    if reduction != "mean":
        return _reduce(nll, reduction)
    counted = dlc.astype(valid, nll.dtype)
    return dlc.sum(nll) / dlc.sum(counted if picked_weight is None else counted * picked_weight)


def _hits(target: Tensor, axis: int, classes: int) -> Tensor:
    """True where the class number along `axis` is the target's."""
    target = dlc.expand_dims(target, axis=axis)
    return target == _along(dlc.arange(classes, dtype=target.dtype), axis, target.ndim)


def _along(row: Tensor, axis: int, ndim: int) -> Tensor:
    """A 1-D tensor shaped to broadcast along `axis` of a tensor of `ndim` dimensions."""
    return dlc.reshape(row, tuple(-1 if k == axis else 1 for k in range(ndim)))


def _is_float(x: Tensor) -> bool:
    return dlc.isdtype(x.dtype, "real floating")


def _class_axis(name: str, input: Tensor) -> int:
    if input.ndim == 0:
        raise dlc.ShapeError(f"{name}: input is (C,) or (N, C, ...), not a scalar")
    return 0 if input.ndim == 1 else 1


def _class_numbers(name: str, input: Tensor, target: Tensor, axis: int, ignore_index: int) -> Tensor:
    """`target`, checked: what a trace does not know, `_reduce_classes` and `dlc.debug()` find."""
    shape = tuple(input.shape)
    if not dlc.isdtype(target.dtype, "integral"):
        raise dlc.DTypeError(
            f"{name}: target of shape {tuple(target.shape)} and dtype {target.dtype} is neither class numbers "
            f"(integers) nor probabilities of the shape {shape} of input"
        )
    want = shape[:axis] + shape[axis + 1 :]
    if tuple(target.shape) != want:
        raise dlc.ShapeError(f"{name}: input {shape} needs class numbers of shape {want}, got {tuple(target.shape)}")
    numbers = class_numbers(name, target, shape[axis], ignore_index)
    # narrower ones may not hold `ignore_index`, nor the number of classes
    return numbers if numbers.dtype in (dlc.int32, dlc.int64) else dlc.astype(numbers, dlc.int64)


def _check_weight(name: str, weight: Tensor | None, classes: int) -> None:
    if weight is not None and tuple(weight.shape) != (classes,):
        raise dlc.ShapeError(f"{name}: weight has shape {tuple(weight.shape)}, expected ({classes},)")


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def _check_pair(name: str, input: Tensor, target: Tensor, reduction: str) -> None:
    _check_reduction(name, reduction)
    if tuple(input.shape) != tuple(target.shape):
        raise dlc.ShapeError(f"{name}: input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
