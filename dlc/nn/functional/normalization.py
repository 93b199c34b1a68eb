"""Normalisations. Mean and variance take two passes, in float32 for half types; the result has the input's dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import narrow, widen


@user_errors
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose shape is `normalized_shape`."""
    axes = _last_axes("layer_norm", input, normalized_shape)
    x, out = widen(input)
    y = _standardize(x, axes, eps)
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return narrow(y, out)


@user_errors
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes (arXiv:1910.07467); `eps`: the dtype's epsilon if None."""
    axes = _last_axes("rms_norm", input, normalized_shape)
    x, out = widen(input)
    if eps is None:
        eps = float(dlc.finfo(x.dtype).eps)
    y = x * dlc.rsqrt(dlc.mean(x * x, axis=axes, keepdims=True) + eps)
    return narrow(y if weight is None else y * weight, out)


@user_errors
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Input (N, C, ...): each sample standardised over each of `num_groups` groups of channels; weight, bias (C,)."""
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise dlc.ShapeError(f"group_norm: input {tuple(input.shape)} has no channels for {num_groups} groups")
    x, out = widen(input)
    grouped = dlc.reshape(x, (x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups))
    y = dlc.reshape(_standardize(grouped, (2,), eps), input.shape)
    return narrow(_scale_channels(y, weight, bias), out)


@user_errors
def instance_norm(
    input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Input (N, C, ...): each channel of each sample standardised over its positions."""
    return group_norm(input, max(input.shape[1], 1), weight, bias, eps)


@user_errors
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Input (N, C, ...): each channel standardised over the batch (training) or by the running statistics.

    In training, `running_mean` and `running_var` (C,), where given, are updated in place:
    running = (1 - momentum) * running + momentum * batch's, with the unbiased variance. There an infinite weight counts
    as NaN, which makes all of its channel NaN: the sums of the derivative then need no weights inside.
    """
    if input.ndim < 2:
        raise dlc.ShapeError(f"batch_norm: input is (N, C, ...), got {tuple(input.shape)}")
    x, out = widen(input)
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: evaluation needs running_mean and running_var")
        scale = dlc.rsqrt(running_var + eps)
        y = (x - _channels(running_mean, x.ndim)) * _channels(scale, x.ndim)
        return narrow(_scale_channels(y, weight, bias), out)

    axes = (0, *range(2, x.ndim))
    count = math.prod(x.shape[a] for a in axes)
    if count == 1:
        raise dlc.ShapeError(
            f"batch_norm: training needs more than one value per channel, got input {tuple(input.shape)}"
        )
    if not count:  # there are no statistics to remember
        running_mean = running_var = None
    mean = dlc.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    var = dlc.mean(centred * centred, axis=axes, keepdims=True)
    if running_mean is not None:
        _blend(running_mean, mean, momentum)
    if running_var is not None:
        _blend(running_var, var * (count / (count - 1)), momentum)
    if weight is not None:
        weight = dlc.where(dlc.abs(weight) < math.inf, weight, math.nan)
    return narrow(_scale_channels(centred * dlc.rsqrt(var + eps), weight, bias), out)


def _blend(running: Tensor, batch: Tensor, momentum: float | Tensor) -> None:
    batch = dlc.stop_gradient(dlc.reshape(batch, running.shape))
    running.assign(narrow((1.0 - momentum) * running + momentum * batch, running.dtype))


def _standardize(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - dlc.mean(x, axis=axes, keepdims=True)
    return centred * dlc.rsqrt(dlc.mean(centred * centred, axis=axes, keepdims=True) + eps)


def _scale_channels(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * _channels(weight, x.ndim)
    return x if bias is None else x + _channels(bias, x.ndim)


def _channels(row: Tensor, ndim: int) -> Tensor:
    """(C,) shaped to broadcast along axis 1."""
    return dlc.reshape(row, (-1,) + (1,) * (ndim - 2))


def _last_axes(name: str, input: Tensor, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    want = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not want or tuple(input.shape[-len(want) :]) != want:
        raise dlc.ShapeError(f"{name}: input {tuple(input.shape)} does not end in normalized_shape {want}")
    return tuple(range(input.ndim - len(want), input.ndim))
