"""Reductions and running totals.

`axis` is None (all axes), an integer, or a tuple; `keepdims` keeps reduced axes with extent 1. Integers and bools add
up and multiply in int64 (unsigned: uint64); half types accumulate in float32. An empty sum is 0, an empty product 1,
an empty mean NaN; an empty max or min raises ShapeError.
"""

from __future__ import annotations

import math

from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import cut, expand_axes, normalize_axes, normalize_axis
from dlc.frontend.array.elementwise import not_equal, subtract, truth
from dlc.frontend.array.operands import root_of_sum, wide
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_dtype, as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node


def fold(x: Node, monoid: str, axes: tuple[int, ...], keepdims: bool) -> Node:
    """A reduction, its axes kept with extent 1 on request."""
    out = b.reduce(x, monoid, axes)
    return expand_axes(out, axes) if keepdims else out


def _adding_type(name: str, x: Node, dtype: DType | None) -> DType:
    if dtype is not None:
        return as_dtype(name, dtype)
    if x.dtype.is_float:
        return x.dtype
    return dtypes.uint64 if x.dtype.kind == "u" else dtypes.int64


@user_errors
def sum(x, axis=None, *, dtype: DType | None = None, keepdims: bool = False) -> Tensor:
    """The sum, in `dtype` if given."""
    n = as_node(x)
    n = b.cast(n, _adding_type("sum", n, dtype))
    return wrap(fold(n, "sum", normalize_axes("sum", axis, n.ndim), keepdims))


@user_errors
def prod(x, axis=None, *, dtype: DType | None = None, keepdims: bool = False) -> Tensor:
    """The product, in `dtype` if given."""
    n = as_node(x)
    n = b.cast(n, _adding_type("prod", n, dtype))
    return wrap(fold(n, "prod", normalize_axes("prod", axis, n.ndim), keepdims))


def _extreme(name: str, x, axis, keepdims: bool) -> Tensor:
    n = as_node(x)
    axes = normalize_axes(name, axis, n.ndim)
    if math.prod(n.shape[a] for a in axes) == 0:
        raise ShapeError(f"{name}: no elements to reduce over axes {axes} of shape {n.shape}")
    if n.dtype.is_bool:
        return wrap(fold(n, "any" if name == "max" else "all", axes, keepdims))
    return wrap(fold(n, name, axes, keepdims))


@user_errors
def max(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """The largest element; NaN if there is one."""
    return _extreme("max", x, axis, keepdims)


@user_errors
def min(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """The smallest element; NaN if there is one."""
    return _extreme("min", x, axis, keepdims)


amax, amin = max, min


def mean_node(x: Node, axes: tuple[int, ...], keepdims: bool) -> Node:
    """The mean of a float node in its compute type."""
    x = wide(x)
    total = fold(x, "sum", axes, keepdims)
    return total / math.prod(x.shape[a] for a in axes)


def _centred_moment(x: Node, axes: tuple[int, ...], correction: float) -> Node:
    """The variance with `axes` kept, in the compute type: two passes, the second over squared differences.

    Relative to the first element, so that equal elements have variance 0 whatever their mean is rounded to.
    """
    x = wide(x)
    first = b.make("stop_gradient", (_first(x, axes),))
    shifted = x - b.broadcast_to(first, x.shape)
    mean = mean_node(shifted, axes, True)
    off = shifted - b.broadcast_to(mean, x.shape)
    total = fold(off * off, "sum", axes, True)
    count = math.prod(x.shape[a] for a in axes) - correction
    return total / (count if count > 0 else 0)


def _first(x: Node, axes: tuple[int, ...]) -> Node:
    """The first element along `axes`, which are kept; 0 of none."""
    if 0 in [x.shape[a] for a in axes]:
        return b.const(0, x.dtype, [1 if a in axes else d for a, d in enumerate(x.shape)])
    stop = [1 if a in axes else d for a, d in enumerate(x.shape)]
    return b.slice_(x, [0] * x.ndim, stop, None)


def _float_result(n: Node) -> DType:
    return n.dtype if n.dtype.is_float else dtypes.float32


@user_errors
def mean(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """The arithmetic mean; integers as float32."""
    n = as_node(x)
    axes = normalize_axes("mean", axis, n.ndim)
    return wrap(b.cast(mean_node(n, axes, keepdims), _float_result(n)))


@user_errors
def var(x, axis=None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The mean of the squared differences from the mean, over n - `correction` (1 for the unbiased estimate)."""
    n = as_node(x)
    axes = normalize_axes("var", axis, n.ndim)
    return wrap(b.cast(_variance(n, axes, correction, keepdims), _float_result(n)))


def _variance(n: Node, axes: tuple[int, ...], correction: float, keepdims: bool) -> Node:
    v = _centred_moment(n, axes, correction)
    return v if keepdims else b.reshape(v, [d for k, d in enumerate(v.shape) if k not in axes])


@user_errors
def std(x, axis=None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The square root of the variance. The gradient where all elements are equal is 0."""
    n = as_node(x)
    axes = normalize_axes("std", axis, n.ndim)
    v = _variance(n, axes, correction, keepdims)
    return wrap(b.cast(root_of_sum(v), _float_result(n)))


@user_errors
def any(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """bool: whether an element is non-zero; False over none."""
    n = as_node(x)
    return wrap(fold(truth(n), "any", normalize_axes("any", axis, n.ndim), keepdims))


@user_errors
def all(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """bool: whether every element is non-zero; True over none."""
    n = as_node(x)
    return wrap(fold(truth(n), "all", normalize_axes("all", axis, n.ndim), keepdims))


@user_errors
def count_nonzero(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """int64: how many elements are not zero."""
    n = as_node(x)
    ones = b.cast(truth(n), dtypes.int64)
    return wrap(fold(ones, "sum", normalize_axes("count_nonzero", axis, n.ndim), keepdims))


@user_errors
def logsumexp(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) without overflow on the way; -inf over no elements. Integers as float32."""
    n = as_node(x)
    axes = normalize_axes("logsumexp", axis, n.ndim)
    result, w = _float_result(n), wide(n)
    if math.prod(n.shape[a] for a in axes) == 0:
        kept = [1 if k in axes else d for k, d in enumerate(n.shape)]
        out = b.const(-math.inf, result, kept)
    else:
        top = b.make("stop_gradient", (fold(w, "max", axes, True),))
        finite = b.op("lt", b.op("abs", top), b.like(top, math.inf))
        top = b.select(finite, top, b.like(top, 0))  # all -inf, or an inf: subtracting it would give NaN
        shifted = w - b.broadcast_to(top, w.shape)
        total = fold(b.op("exp", shifted), "sum", axes, True)
        out = b.cast(b.op("log", total) + top, result)
    return wrap(out if keepdims else b.reshape(out, [d for k, d in enumerate(n.shape) if k not in axes]))


def _position(name: str, x, axis, keepdims: bool) -> Tensor:
    n = as_node(x)
    axes = normalize_axes(name, axis, n.ndim)
    if axis is not None and len(axes) != 1:
        raise ShapeError(f"{name}: takes one axis or None, not {axis}")
    if math.prod(n.shape[a] for a in axes) == 0:
        raise ShapeError(f"{name}: no elements to choose from over axes {axes} of shape {n.shape}")
    n = b.cast(n, dtypes.uint8) if n.dtype.is_bool else n
    if not axes:
        return wrap(b.const(0, dtypes.int64, ()))
    return wrap(fold(n, name, axes, keepdims))


@user_errors
def argmax(x, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """int64: the position of the largest element along `axis` (in the flattened tensor if None), the first on ties.

    A NaN counts as the largest.
    """
    return _position("argmax", x, axis, keepdims)


@user_errors
def argmin(x, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """int64: the position of the smallest element along `axis` (in the flattened tensor if None), the first on ties.

    A NaN counts as the smallest.
    """
    return _position("argmin", x, axis, keepdims)


# -- running totals -------------------------------------------------------------------------------------------------


def _running(name: str, monoid: str, x, axis: int | None, dtype: DType | None, initial: bool, neutral: int) -> Tensor:
    n = as_node(x)
    if axis is None:
        n, axis = b.reshape(n, (n.type.size,)), 0
    scalar = n.ndim == 0
    n = b.reshape(n, (1,)) if scalar else n
    a = normalize_axis(name, axis, n.ndim)
    if monoid in ("sum", "prod"):
        n = b.cast(n, _adding_type(name, n, dtype))
    elif n.dtype.is_bool:
        raise DTypeError(f"{name}: needs numbers, got bool{list(n.shape)}")
    narrow = n.dtype
    out = b.make("cumulative", (b.cast(n, narrow.compute),), monoid=monoid, axis=a, reverse=False)
    out = b.cast(out, narrow)
    if initial:
        low = [0] * n.ndim
        low[a] = 1
        out = b.pad(out, low, [0] * n.ndim, None, neutral)
    return wrap(b.reshape(out, ()) if scalar and not initial else out)


@user_errors
def cumulative_sum(x, axis: int | None = None, *, dtype: DType | None = None, include_initial: bool = False) -> Tensor:
    """Running sums along `axis` (of the flattened tensor if None); with `include_initial`, one more, 0, in front."""
    return _running("cumulative_sum", "sum", x, axis, dtype, include_initial, 0)


@user_errors
def cumulative_prod(x, axis: int | None = None, *, dtype: DType | None = None, include_initial: bool = False) -> Tensor:
    """Running products along `axis` (of the flattened tensor if None); with `include_initial`, a 1 in front."""
    return _running("cumulative_prod", "prod", x, axis, dtype, include_initial, 1)


cumsum, cumprod = cumulative_sum, cumulative_prod


@user_errors
def cummax(x, axis: int | None = None) -> Tensor:
    """The largest element so far along `axis` (values only; PyTorch's returns positions too)."""
    return _running("cummax", "max", x, axis, None, False, 0)


@user_errors
def cummin(x, axis: int | None = None) -> Tensor:
    """The smallest element so far along `axis` (values only)."""
    return _running("cummin", "min", x, axis, None, False, 0)


@user_errors
def diff(x, *, axis: int = -1, n: int = 1) -> Tensor:
    """Differences of neighbours along `axis`, taken `n` times."""
    node = as_node(x)
    a = normalize_axis("diff", axis, node.ndim)
    for _ in range(n):
        last = node.shape[a]
        one, two = cut(node, a, 1 if last else 0, last), cut(node, a, 0, last - 1 if last else 0)
        node = (not_equal if node.dtype.is_bool else subtract)(wrap(one), wrap(two)).node
    return wrap(node)
