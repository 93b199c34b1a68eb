"""Sorting, searching, and the set functions whose result's shape depends on the data."""

from __future__ import annotations

import operator

import numpy as np

from dlc.base.errors import ShapeError
from dlc.frontend.array.axes import broadcast_shape, cut, normalize_axis
from dlc.frontend.array.elementwise import where
from dlc.frontend.array.operands import host_array
from dlc.frontend.array.reductions import argmax, argmin
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node, promote
from dlc.frontend.core.ranges import marked_positions
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node

__all__ = [
    "argmax", "argmin", "argsort", "argwhere", "isin", "nonzero", "searchsorted", "sort", "topk", "unique",
    "unique_all", "unique_counts", "unique_inverse", "unique_values", "where",
]  # fmt: skip


def _sorted(name: str, x, axis: int, descending: bool) -> tuple[Node, Node, int]:
    n = as_node(x)
    n1 = b.reshape(n, (1,)) if n.ndim == 0 else n
    a = normalize_axis(name, axis, n1.ndim)
    both = b.make("sort", (n1,), axis=a, descending=bool(descending))
    values, places = b.item(both, 0), b.item(both, 1)
    return b.reshape(values, n.shape), b.reshape(places, n.shape), a


@user_errors
def sort(x, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """`x` sorted along an axis; equal elements keep their order, a NaN counts as the largest."""
    return wrap(_sorted("sort", x, axis, descending)[0])


@user_errors
def argsort(x, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """int64: the positions of the elements of `x` in sorted order; ties in order, NaN the largest."""
    return wrap(_sorted("argsort", x, axis, descending)[1])


@user_errors
def topk(x, k: int, axis: int = -1, *, largest: bool = True) -> tuple[Tensor, Tensor]:
    """(values, int64 positions) of the `k` largest (or smallest) elements along an axis, in order; NaN the largest."""
    values, places, a = _sorted("topk", x, axis, largest)
    k = operator.index(k)
    if values.ndim == 0:
        values, places = b.reshape(values, (1,)), b.reshape(places, (1,))
    if not 0 <= k <= values.shape[a]:
        raise ShapeError(f"topk: {k} elements of axis {a}, which has {values.shape[a]} (shape {values.shape})")
    return wrap(cut(values, a, 0, k)), wrap(cut(places, a, 0, k))


@user_errors
def searchsorted(x1, x2, *, side: str = "left", sorter=None) -> Tensor:
    """int64: where the elements of `x2` would go into the sorted one-dimensional `x1`.

    side 'left': before equal elements, 'right': after them. A binary search: log2(n) gathers. NaN sorts last.
    """
    if side not in ("left", "right"):
        raise ShapeError(f"searchsorted: side is 'left' or 'right', not {side!r}")
    table, value = promote(x1, x2)
    if table.ndim != 1:
        raise ShapeError(f"searchsorted: the sorted tensor has one dimension, got shape {table.shape}")
    if sorter is not None:
        order = marked_positions(as_node(sorter), table.shape[0], 0, table.shape, least=0)
        table = b.make("gather", (table, order), axis=0)
    n, shape = table.shape[0], value.shape
    at = b.const(0, dtypes.int64, shape)
    step = 1 << max(n.bit_length() - 1, 0)
    while n and step:
        # invariant: everything before `at` goes before the value
        ahead = b.op("add", at, b.like(at, step))
        seen = b.make("gather", (table, b.op("sub", ahead, b.like(at, 1))), axis=0)
        before = _before(seen, value) if side == "left" else b.op("not", _before(value, seen))
        fits = b.op("le", ahead, b.like(at, n))
        at = b.select(b.op("and", before, fits), ahead, at)
        step >>= 1
    return wrap(at)


def _before(a: Node, c: Node) -> Node:
    """a < c in sorting order, in which NaN comes last."""
    less = b.op("lt", a, c)
    if not a.dtype.is_float:
        return less
    return b.op("or", less, b.op("and", b.op("ne", c, c), b.op("eq", a, a)))


# -- results whose shape depends on the data: computed on the host, outside jit only --------------------------------


def _host(name: str, x) -> np.ndarray:
    return host_array(name, x, "its result's shape depends on the values")


@user_errors
def nonzero(x) -> tuple[Tensor, ...]:
    """int64 positions of the non-zero elements, one tensor for each axis, row-major. Not under jit."""
    values = _host("nonzero", x)
    if values.ndim == 0:
        raise ShapeError("nonzero: a scalar has no positions")
    return tuple(wrap(as_node(p.astype(np.int64))) for p in np.nonzero(values))


@user_errors
def argwhere(x) -> Tensor:
    """int64 [count, ndim]: positions of the non-zero elements, row-major. Not under jit."""
    return wrap(as_node(np.argwhere(_host("argwhere", x)).astype(np.int64)))


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct elements, first positions, inverse positions, counts."""
    wide = values.astype(np.float32) if values.dtype == dtypes.bfloat16.np else values  # NumPy cannot sort its NaN
    out, first, inverse, counts = np.unique(wide, True, True, True, equal_nan=False)
    return out.astype(values.dtype), first, inverse, counts


@user_errors
def unique(x, return_inverse: bool = False, return_counts: bool = False):
    """The distinct elements in rising order; on request also the inverse positions and the counts. Not under jit."""
    values = _host("unique", x)
    out, _, inverse, counts = _distinct(values)
    results = [out]
    if return_inverse:
        results.append(inverse.reshape(values.shape).astype(np.int64))
    if return_counts:
        results.append(counts.astype(np.int64))
    tensors = tuple(wrap(as_node(r)) for r in results)
    return tensors if len(tensors) > 1 else tensors[0]


@user_errors
def unique_values(x) -> Tensor:
    """The distinct elements in rising order. Not under jit."""
    return unique(x)


@user_errors
def unique_counts(x) -> tuple[Tensor, Tensor]:
    """(values, counts). Not under jit."""
    return unique(x, return_counts=True)


@user_errors
def unique_inverse(x) -> tuple[Tensor, Tensor]:
    """(values, inverse positions). Not under jit."""
    return unique(x, return_inverse=True)


@user_errors
def unique_all(x) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(values, first positions, inverse positions, counts). Not under jit."""
    values = _host("unique_all", x)
    out, first, inverse, counts = _distinct(values)
    parts = (out, first.astype(np.int64), inverse.reshape(values.shape).astype(np.int64), counts.astype(np.int64))
    return tuple(wrap(as_node(p)) for p in parts)


@user_errors
def isin(x, values) -> Tensor:
    """bool: whether each element of `x` is among `values` (compared with every one: meant for short lists)."""
    a, v = promote(x, values)
    flat = b.reshape(v, (v.type.size,))
    shape = broadcast_shape("isin", (*a.shape, 1), flat.shape)
    same = b.op("eq", b.broadcast(a, shape, range(a.ndim)), b.broadcast_to(flat, shape))
    return wrap(b.reduce(same, "any", (a.ndim,)))
