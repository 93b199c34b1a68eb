"""Sliding windows over an axis, and views of memory by strides."""

from __future__ import annotations

import builtins
import operator

import numpy as np

from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import normalize_axes, normalize_axis, shape_tuple, varargs_shape
from dlc.frontend.array.manipulation import reshape
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_dtype, as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as b


@user_errors
def unfold(x, axis: int, size: int, step: int = 1) -> Tensor:
    """All windows of `size` elements along an axis, `step` apart: the axis counts windows, the taps come last.

    Shape (..., (n - size) // step + 1, ..., size). Raises ShapeError where the axis is shorter than a window.
    """
    n, size, step = as_node(x), operator.index(size), operator.index(step)
    a = normalize_axis("unfold", axis, n.ndim)
    if not 1 <= size <= n.shape[a] or step < 1:
        raise ShapeError(f"unfold: windows of {size}, step {step}, do not fit axis {a} of shape {n.shape}")
    return wrap(b.window(n, (a,), (size,), (step,), None))


@user_errors
def windows(x, axes, sizes, strides=None, dilations=None) -> Tensor:
    """All windows over several axes at once: the axes count windows, the taps come last, in the order of `axes`.

    Window w of an axis has the elements w * stride + tap * dilation. Raises ShapeError where an axis is too short.
    """
    n = as_node(x)
    axes = normalize_axes("windows", tuple(axes), n.ndim)
    ones = (1,) * len(axes)
    sizes, strides, dilations = (shape_tuple("windows", s) for s in (sizes, strides or ones, dilations or ones))
    for a, k, s, d in zip(axes, sizes, strides, dilations, strict=True):
        if k < 1 or s < 1 or d < 1 or d * (k - 1) + 1 > n.shape[a]:
            raise ShapeError(f"windows: {k} taps, stride {s}, dilation {d} do not fit axis {a} of shape {n.shape}")
    return wrap(b.window(n, axes, sizes, strides, dilations))


@user_errors
def dilate(x, axes, steps) -> Tensor:
    """Zeros between neighbours: along each of `axes` extent n becomes (n - 1) * step + 1."""
    n = as_node(x)
    interior = [0] * n.ndim
    for a, step in zip(normalize_axes("dilate", tuple(axes), n.ndim), steps, strict=True):
        interior[a] = int(step) - 1
    if min(interior, default=0) < 0:
        raise ShapeError(f"dilate: steps {tuple(steps)} must be at least 1")
    return wrap(b.pad(n, (0,) * n.ndim, (0,) * n.ndim, interior, 0))


@user_errors
def sliding_window_view(x, window_shape, axis=None) -> Tensor:
    """Windows of `window_shape` over `axis` (all axes if None), one step apart; the taps come last."""
    n, sizes = as_node(x), shape_tuple("sliding_window_view", window_shape)
    axes = normalize_axes("sliding_window_view", axis, n.ndim)
    if len(sizes) != len(axes) or builtins.any(not 1 <= k <= n.shape[a] for k, a in zip(sizes, axes, strict=True)):
        raise ShapeError(f"sliding_window_view: windows {sizes} on axes {axes} do not fit shape {n.shape}")
    return wrap(b.window(n, axes, sizes, None, None))


@user_errors
def view(x, *shape_or_dtype) -> Tensor:
    """PyTorch's `x.view`: another shape, or, given one dtype of the same width, the same bits.

    A bool is a byte of 0 or 1; any other byte than 0 counts as True.
    """
    if len(shape_or_dtype) == 1 and isinstance(shape_or_dtype[0], (DType, np.dtype, type)):
        n, dtype = as_node(x), as_dtype("view", shape_or_dtype[0])
        if n.dtype.itemsize != dtype.itemsize:
            raise DTypeError(f"view: {n.dtype.name} and {dtype.name} differ in width")
        return wrap(b.cast(n, dtype) if n.dtype.is_bool or dtype.is_bool else b.make("bitcast", (n,), dtype=dtype))
    return reshape(x, varargs_shape("view", shape_or_dtype))
