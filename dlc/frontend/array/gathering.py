"""The functions that take or place elements by position: `take`, `gather`, `scatter`, `masked_fill`, ..."""

from __future__ import annotations

import builtins
import math
import operator
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import broadcast_shape, cut, normalize_axis, spread
from dlc.frontend.array.elementwise import multiply, truth
from dlc.frontend.array.index_plan import (
    checked_index,
    clamped,
    component,
    concrete_mask,
    is_mask,
    out_of_range,
    plan_index,
)
from dlc.frontend.array.indexing import read, updated, value_node
from dlc.frontend.array.operands import checked_array, host_constant
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node


@user_errors
def take(x, indices, axis: int | None = None) -> Tensor:
    """The elements at integer positions along an axis, which the axes of `indices` replace.

    With `axis=None` the positions are in the flattened tensor.
    """
    n = as_node(x)
    if axis is None:
        n, axis = b.reshape(n, (n.type.size,)), 0
    a = normalize_axis("take", axis, n.ndim)
    return wrap(read(n, plan_index(n.shape, (builtins.slice(None),) * a + (_integers("take", indices),))))


def _integers(name: str, indices) -> Any:
    got = component(indices)
    if isinstance(got, builtins.slice) or got is None or got is Ellipsis or is_mask(got):
        raise DTypeError(f"{name}: positions are integers, not {indices!r}")
    return got


def _along(name: str, x: Node, axis: int, indices, shape: tuple[int, ...]) -> Node:
    """Positions in the flattened x of elements whose position on `axis` is given and on the others is their own."""
    got = _integers(name, indices)
    got = np.asarray(got) if isinstance(got, int) else got
    checked = checked_index(got, x.shape[axis], axis, x.shape)
    if isinstance(checked, np.ndarray):
        at = host_constant(checked)
    else:
        at = b.cast(clamped(checked, x.shape[axis]), dtypes.int64)
    at = spread(at, shape)
    out = None
    for k in range(x.ndim):
        stride = math.prod(x.shape[k + 1 :])
        part = at if k == axis else b.iota(shape, k, dtypes.int64)
        part = part * stride if stride != 1 else part
        out = part if out is None else out + part
    return out


@user_errors
def take_along_axis(x, indices, /, *, axis: int = -1) -> Tensor:
    """out[..., i, ...] = x[..., indices[..., i, ...], ...]; all axes but `axis` broadcast."""
    n = as_node(x)
    a = normalize_axis("take_along_axis", axis, n.ndim)
    extents = _extents("take_along_axis", indices)
    if len(extents) != n.ndim:
        raise ShapeError(f"take_along_axis: indices of shape {extents} for a tensor of shape {n.shape}")
    shape = list(broadcast_shape("take_along_axis", _without(n.shape, a), _without(extents, a)))
    shape.insert(a, extents[a])
    other = list(shape)
    other[a] = n.shape[a]
    n = spread(n, tuple(other))
    if not n.type.size:
        if math.prod(shape):
            raise out_of_range(f"axis {a} of shape {n.shape} has no elements")
        return wrap(b.const(0, n.dtype, shape))
    flat = b.reshape(n, (n.type.size,))
    return wrap(b.make("gather", (flat, _along("take_along_axis", n, a, indices, tuple(shape))), axis=0))


def _extents(name: str, index) -> tuple[int, ...]:
    return index.shape if isinstance(index, Tensor) else checked_array(name, index).shape


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _check_part(name: str, shape: tuple[int, ...], axis: int, part: tuple[int, ...]) -> None:
    fits = len(shape) == len(part) and builtins.all(
        p <= d for k, (p, d) in enumerate(zip(part, shape, strict=True)) if k != axis
    )
    if not fits:
        raise ShapeError(f"{name}: an index of shape {part} does not fit a tensor of shape {shape} on axis {axis}")


@user_errors
def gather(x, axis: int, index) -> Tensor:
    """PyTorch's gather: out[i, j] = x[index[i, j], j] for axis 0, and so on; `index` may be smaller on other axes."""
    n = as_node(x)
    a = normalize_axis("gather", axis, n.ndim)
    shape = _extents("gather", index)
    _check_part("gather", n.shape, a, shape)
    if not math.prod(shape):
        return wrap(b.const(0, n.dtype, shape))
    flat = b.reshape(n, (n.type.size,))
    return wrap(b.make("gather", (flat, _along("gather", n, a, index, shape)), axis=0))


_REDUCE = {None: "set", "sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@user_errors
def scatter(x, axis: int, index, src, *, reduce: str | None = None) -> Tensor:
    """PyTorch's scatter as a new tensor: out[index[i, j], j] = src[i, j] for axis 0, and so on.

    `src` is a number or at least as large as `index`. `reduce`: None (set; of equal positions one wins), 'sum', 'prod',
    'amax', 'amin'.
    """
    n = as_node(x)
    a = normalize_axis("scatter", axis, n.ndim)
    if reduce not in _REDUCE:
        raise ShapeError(f"scatter: unknown reduction {reduce!r}; choose from {', '.join(str(k) for k in _REDUCE)}")
    shape = _extents("scatter", index)
    _check_part("scatter", n.shape, a, shape)
    if not math.prod(shape):
        return wrap(n)
    value = value_node(src, n.dtype)
    if value.ndim:
        _check_part("scatter", value.shape, -1, shape)
        value = b.slice_(value, (0,) * value.ndim, shape, None)
    flat, places = b.reshape(n, (n.type.size,)), _along("scatter", n, a, index, shape)
    new = b.make("scatter", (flat, places, spread(value, shape)), axis=0, combine=_REDUCE[reduce])
    return wrap(b.reshape(new, n.shape))


@user_errors
def scatter_add(x, axis: int, index, src) -> Tensor:
    """`scatter` that adds."""
    return scatter(x, axis, index, src, reduce="sum")


def _index_update(name: str, x, axis: int, index, source, combine: str) -> Tensor:
    n = as_node(x)
    a = normalize_axis(name, axis, n.ndim)
    where = (builtins.slice(None),) * a + (_integers(name, index),)
    return wrap(updated(n, where, source, combine))


@user_errors
def index_add(x, axis: int, index, source, *, alpha=1) -> Tensor:
    """x with `alpha * source` added to its slices at positions `index` of an axis; equal positions add up."""
    return _index_update("index_add", x, axis, index, source if alpha == 1 else multiply(source, alpha), "add")


@user_errors
def index_copy(x, axis: int, index, source) -> Tensor:
    """x with its slices at positions `index` of an axis replaced by those of `source`."""
    return _index_update("index_copy", x, axis, index, source, "set")


@user_errors
def index_fill(x, axis: int, index, value) -> Tensor:
    """x with its slices at positions `index` of an axis filled with `value`."""
    return _index_update("index_fill", x, axis, index, value, "set")


@user_errors
def index_select(x, axis: int, index) -> Tensor:
    """The slices of x at positions `index` of an axis (PyTorch's order of arguments; see `take`)."""
    return take(x, index, axis)


@user_errors
def masked_fill(x, mask, value) -> Tensor:
    """x with `value` where the mask, which broadcasts to x, is true."""
    n = as_node(x)
    cond = truth(as_node(mask))
    if broadcast_shape("masked_fill", cond.shape, n.shape) != n.shape:
        raise ShapeError(f"masked_fill: a mask of shape {cond.shape} does not broadcast to {n.shape}")
    fill = value_node(value, n.dtype)
    return wrap(b.select(spread(cond, n.shape), spread(fill, n.shape), n))


@user_errors
def masked_select(x, mask) -> Tensor:
    """The elements of x where the mask is true, as a vector. Not under jit: the count depends on the values."""
    n = as_node(x)
    values = mask if isinstance(mask, Tensor) else checked_array("masked_select", mask)
    shape = broadcast_shape("masked_select", n.shape, tuple(values.shape))
    chosen = np.broadcast_to(concrete_mask(values), shape)
    return wrap(read(spread(n, shape), plan_index(shape, (chosen,))))


@user_errors
def narrow(x, axis: int, start: int, length: int) -> Tensor:
    """`length` slices of x along an axis from `start` on."""
    n, start, length = as_node(x), operator.index(start), operator.index(length)
    a = normalize_axis("narrow", axis, n.ndim)
    extent = n.shape[a]
    first = start + extent if start < 0 else start
    if length < 0 or first < 0 or first + length > extent:
        raise out_of_range(f"narrow: {length} elements from {start} on axis {a} of extent {extent} (shape {n.shape})")
    return wrap(cut(n, a, first, first + length))
