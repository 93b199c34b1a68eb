"""Pooling: a reduction over a sliding window. Inputs are (N, C, *spatial) or (C, *spatial)."""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import exact_matmul
from dlc.nn.functional.sizes import per_axis
from dlc.nn.functional.window import pad_axes, window


@user_errors
def max_pool1d(input: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False) -> Tensor:
    """Largest element of each window of the last axis. Padding never wins. `stride` is `kernel_size` if None."""
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode)


@user_errors
def max_pool2d(input: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False) -> Tensor:
    """Largest element of each window of the last two axes. Padding never wins. `stride` is `kernel_size` if None."""
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode)


@user_errors
def avg_pool1d(input: Tensor, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True) -> Tensor:
    """Mean of each window of the last axis; zeros of the padding count unless `count_include_pad` is false."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@user_errors
def avg_pool2d(
    input: Tensor, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
) -> Tensor:
    """Mean of each window of the last two axes; zeros of the padding count unless `count_include_pad` is false."""
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@user_errors
def adaptive_avg_pool1d(input: Tensor, output_size) -> Tensor:
    """Means over `output_size` nearly equal, possibly overlapping parts of the last axis."""
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


@user_errors
def adaptive_avg_pool2d(input: Tensor, output_size) -> Tensor:
    """Means over a grid of nearly equal parts; `output_size` is (h, w) or one number, None keeps an extent."""
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


class _Grid:
    """The arithmetic of one pooling call: window sizes, paddings and how many windows each axis has."""

    def __init__(self, name, n, input, kernel_size, stride, padding, dilation, ceil_mode):
        if input.ndim not in (n + 1, n + 2):
            raise dlc.ShapeError(f"{name}: input has {n + 1} or {n + 2} dimensions, got {tuple(input.shape)}")
        self.sizes = per_axis(name, "kernel_size", kernel_size, n, 1)
        self.strides = self.sizes if stride is None else per_axis(name, "stride", stride, n, 1)
        self.paddings = per_axis(name, "padding", padding, n)
        self.dilations = per_axis(name, "dilation", dilation, n, 1)
        self.axes = tuple(range(input.ndim - n, input.ndim))
        self.extents = tuple(input.shape[a] for a in self.axes)
        if any(2 * p > k for p, k in zip(self.paddings, self.sizes, strict=True)):
            raise ValueError(f"{name}: padding {self.paddings} is more than half of the kernel size {self.sizes}")
        self.counts, self.pads = [], []
        rows = zip(self.extents, self.sizes, self.strides, self.paddings, self.dilations, strict=True)
        for extent, size, stride_, pad, dilation_ in rows:
            reach = dilation_ * (size - 1) + 1
            room = extent + 2 * pad - reach
            count = (-(-room // stride_) if ceil_mode else room // stride_) + 1
            if ceil_mode and (count - 1) * stride_ >= extent + pad:
                count -= 1  # a window may not start in the padding behind the input
            if room < 0 or count < 1:
                raise dlc.ShapeError(f"{name}: input {tuple(input.shape)} is smaller than the kernel {self.sizes}")
            self.counts.append(count)
            self.pads.append((pad, max((count - 1) * stride_ + reach - extent - pad, -extent)))

    def windows(self, x: Tensor, value: float) -> Tensor:
        """(..., *counts, *sizes): `x` padded with `value`, or cropped where no window reaches."""
        return window(pad_axes(x, self.axes, self.pads, value), self.axes, self.sizes, self.strides, self.dilations)

    @property
    def taps(self) -> tuple[int, ...]:
        """The axes of the taps, counted from the end."""
        return tuple(range(-len(self.sizes), 0))


def _max_pool(name, n, input, kernel_size, stride, padding, dilation, ceil_mode) -> Tensor:
    grid = _Grid(name, n, input, kernel_size, stride, padding, dilation, ceil_mode)
    low = -math.inf if dlc.isdtype(input.dtype, "real floating") else dlc.iinfo(input.dtype).min
    return dlc.max(grid.windows(input, low), axis=grid.taps)


def _avg_pool(name, n, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor) -> Tensor:
    grid = _Grid(name, n, input, kernel_size, stride, padding, 1, ceil_mode)
    total = dlc.sum(grid.windows(input, 0.0), axis=grid.taps)
    if divisor is not None:
        return total / divisor
    constant, counts = 1, None
    for k, extent in enumerate(grid.extents):
        pad, size, stride_, count = grid.paddings[k], grid.sizes[k], grid.strides[k], grid.counts[k]
        last_end = (count - 1) * stride_ - pad + size
        if (pad == 0 or count_include_pad) and last_end <= extent + (pad if count_include_pad else 0):
            constant *= size  # every window of this axis has all its elements
            continue
        # elements of each window that count, by index arithmetic on the window's number
        start = dlc.arange(count) * stride_ - pad
        end = dlc.minimum(start + size, extent + pad)
        if not count_include_pad:
            start = dlc.maximum(start, 0)
            end = dlc.minimum(end, extent)
        of_axis = dlc.reshape(dlc.astype(end - start, input.dtype), (-1,) + (1,) * (n - 1 - k))
        counts = of_axis if counts is None else counts * of_axis
    return total / constant if counts is None else total / (counts * constant)


def _adaptive_avg_pool(name, n, input, output_size) -> Tensor:
    if input.ndim not in (n + 1, n + 2):
        raise dlc.ShapeError(f"{name}: input has {n + 1} or {n + 2} dimensions, got {tuple(input.shape)}")
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * n
    extents = input.shape[input.ndim - n :]
    sizes = per_axis(name, "output_size", [e if s is None else s for s, e in zip(sizes, extents, strict=True)], n, 1)
    if any(e == 0 and s > 1 for e, s in zip(extents, sizes, strict=True)):
        raise dlc.ShapeError(f"{name}: input {tuple(input.shape)} has no elements for {sizes} parts")
    x, means = input, []
    for k, (size, extent) in enumerate(zip(sizes, extents, strict=True)):
        axis = input.ndim - n + k
        if extent % size == 0:
            means.append((axis, size, extent // size))
        else:
            x = _average_parts(x, axis, size, extent)
    # equal parts: split each axis and average all the inner ones in one reduction
    for axis, size, inner in reversed(means):
        x = dlc.unflatten(x, axis, (size, inner))
    return dlc.mean(x, axis=tuple(axis + 1 + k for k, (axis, _, _) in enumerate(means))) if means else x


def _average_parts(x: Tensor, axis: int, size: int, extent: int) -> Tensor:
    """Part i is from floor(i extent / size) to ceil((i + 1) extent / size); as a product with a matrix of weights."""
    part = dlc.expand_dims(dlc.arange(size), axis=1)
    start, end = part * extent // size, ((part + 1) * extent + size - 1) // size
    at = dlc.expand_dims(dlc.arange(extent), axis=0)
    inside = (at >= start) & (at < end)
    weights = dlc.astype(inside, x.dtype) / dlc.astype(end - start, x.dtype)
    return dlc.moveaxis(exact_matmul(dlc.moveaxis(x, axis, -1), dlc.matrix_transpose(weights)), -1, axis)
