"""Resizing of (N, C, L) and (N, C, H, W)."""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import exact_matmul
from dlc.nn.functional.window import window


@user_errors
def interpolate(
    input: Tensor, size=None, scale_factor=None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """The input resized to `size`, or by `scale_factor` (one number, or one for each axis).

    Modes: 'nearest', and 'linear' (N, C, L) or 'bilinear' (N, C, H, W), for which `align_corners` (default false)
    tells whether the outermost pixels' centres or edges coincide. As PyTorch, an explicit scale factor also fixes the
    sampling grid.
    """
    n = input.ndim - 2
    modes = {"nearest": (1, 2), "linear": (1,), "bilinear": (2,)}
    if mode not in modes:
        raise ValueError(f"interpolate: mode is one of {', '.join(map(repr, modes))}, not {mode!r}")
    if n not in modes[mode]:
        raise dlc.ShapeError(f"interpolate: mode {mode!r} does not take an input of shape {tuple(input.shape)}")
    if mode == "nearest" and align_corners is not None:
        raise ValueError("interpolate: align_corners has no meaning in mode 'nearest'")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give size or scale_factor, and not both")
    extents = tuple(input.shape[2:])
    if size is not None:
        sizes = _several(size, n)
        if min(sizes) < 1:
            raise dlc.ShapeError(f"interpolate: size {sizes} has no elements")
        steps = [i / o for i, o in zip(extents, sizes, strict=True)]
    else:
        factors = _several(scale_factor, n)
        sizes = tuple(math.floor(i * f) for i, f in zip(extents, factors, strict=True))
        steps = [1.0 / f for f in factors]
    if min(extents) < 1:
        raise dlc.ShapeError(f"interpolate: input {tuple(input.shape)} has no elements")
    if min(sizes) < 1:
        raise dlc.ShapeError(f"interpolate: input {tuple(input.shape)} would shrink to {sizes}")
    x = input
    for k in range(n):
        if mode == "nearest":
            x = _nearest(x, 2 + k, sizes[k], steps[k])
        else:
            x = _linear(x, 2 + k, sizes[k], steps[k], bool(align_corners))
    return x


def _several(value, n: int) -> tuple:
    out = tuple(value) if isinstance(value, (tuple, list)) else (value,) * n
    if len(out) != n:
        raise ValueError(f"interpolate: {value!r} is not one number or {n}")
    return out


def _nearest(x: Tensor, axis: int, size: int, step: float) -> Tensor:
    """Output i takes input floor(i * step)."""
    extent = x.shape[axis]
    if size % extent == 0 and step == extent / size:
        return x if size == extent else dlc.repeat(x, size // extent, axis=axis)
    index = [min(math.floor(i * step), extent - 1) for i in range(size)]
    return dlc.take(x, dlc.asarray(index), axis=axis)


def _linear(x: Tensor, axis: int, size: int, step: float, align_corners: bool) -> Tensor:
    extent = x.shape[axis]
    if size == extent and (align_corners or step == 1.0):
        return x
    if not align_corners and size % extent == 0 and step == extent / size:
        return _linear_multiple(x, axis, size // extent)
    return _linear_any(x, axis, size, step, align_corners)


def _linear_multiple(x: Tensor, axis: int, factor: int) -> Tensor:
    """An integer factor: `factor` outputs per element, each from three neighbouring taps with fixed weights."""
    rows = []
    for r in range(factor):
        offset = (r + 0.5) / factor - 0.5  # where the output lies, counted from its element's centre
        rows.append([max(-offset, 0.0), 1.0 - abs(offset), max(offset, 0.0)])
    widths = [(1, 1) if k == axis else (0, 0) for k in range(x.ndim)]
    taps = window(dlc.pad(x, widths, mode="edge"), (axis,), (3,), (1,), (1,))
    out = exact_matmul(taps, dlc.asarray([list(column) for column in zip(*rows, strict=True)], dtype=x.dtype))
    return dlc.flatten(dlc.moveaxis(out, -1, axis + 1), axis, axis + 1)


def _linear_any(x: Tensor, axis: int, size: int, step: float, align_corners: bool) -> Tensor:
    """Any size: a product with the (extent, size) matrix of triangle weights max(0, 1 - |position - i|)."""
    extent = x.shape[axis]
    at = dlc.astype(dlc.arange(size), dlc.float64 if x.dtype == dlc.float64 else dlc.float32)
    if align_corners:
        position = at * ((extent - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = dlc.clip((at + 0.5) * step - 0.5, 0.0, float(extent - 1))
    source = dlc.expand_dims(dlc.astype(dlc.arange(extent), at.dtype), axis=1)
    weights = dlc.maximum(1.0 - dlc.abs(dlc.expand_dims(position, axis=0) - source), 0.0)
    return dlc.moveaxis(exact_matmul(dlc.moveaxis(x, axis, -1), dlc.astype(weights, x.dtype)), -1, axis)
