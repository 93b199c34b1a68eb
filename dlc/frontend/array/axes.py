"""Axes and shapes as users give them: checked, counted from the end, broadcast."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Sequence

from dlc.base.errors import DTypeError, ShapeError, kind_of
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node


def normalize_axis(name: str, axis, ndim: int) -> int:
    """`axis` counted from the front. Raises ShapeError, naming the function, for one outside [-ndim, ndim)."""
    try:
        k = operator.index(axis)
    except TypeError:
        raise ShapeError(f"{name}: an axis is an integer, not {axis!r}") from None
    if not -ndim <= k < ndim:
        raise ShapeError(f"{name}: axis {k} is outside a tensor of {ndim} dimension{'' if ndim == 1 else 's'}")
    return k + ndim if k < 0 else k


def normalize_axes(name: str, axis, ndim: int) -> tuple[int, ...]:
    """`axis` (None for all, an integer, or several) as distinct axes counted from the front, in the order given."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, (tuple, list)):
        axis = (axis,)
    axes = tuple(normalize_axis(name, a, ndim) for a in axis)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{name}: an axis is named twice in {tuple(axis)}")
    return axes


def in_order(name: str, arrays) -> list:
    """The elements of what is given as several tensors. Raises DTypeError, naming the function, for sets and dicts."""
    if isinstance(arrays, (set, frozenset, dict)):
        raise DTypeError(f"{name}: takes several tensors in order, not a {kind_of(arrays)}")
    return list(arrays)


def shape_tuple(name: str, shape) -> tuple[int, ...]:
    """A shape given as an integer or a sequence of integers."""
    try:
        return (operator.index(shape),)
    except TypeError:
        pass
    try:
        if isinstance(shape, (set, frozenset, dict)):
            raise TypeError("no order")
        return tuple(operator.index(d) for d in shape)
    except TypeError:
        raise ShapeError(f"{name}: a shape is an integer or a sequence of integers, not {shape!r}") from None


def varargs_shape(name: str, args: tuple) -> tuple[int, ...]:
    """The shape of a method that takes both `f(2, 3)` and `f((2, 3))`."""
    return shape_tuple(name, args[0]) if len(args) == 1 else shape_tuple(name, args)


def broadcast_shape(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape under NumPy's rule. Raises ShapeError, naming the function and every shape."""
    ndim = builtins.max((len(s) for s in shapes), default=0)
    out = [1] * ndim
    for s in shapes:
        for k, d in enumerate(s, ndim - len(s)):
            if d != 1:
                if out[k] not in (1, d):
                    raise ShapeError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast together")
                out[k] = d
    return tuple(out)


def spread(x: Node, shape: tuple[int, ...]) -> Node:
    """`x` broadcast to `shape`; a constant stays a constant."""
    if x.shape == shape:
        return x
    if x.op == "const":
        return b.make("const", (), **{**x.attrs, "shape": shape})
    return b.broadcast_to(x, shape)


def broadcast_nodes(name: str, *nodes: Node) -> list[Node]:
    """The operands of an elementwise operation in their common shape."""
    shape = broadcast_shape(name, *(n.shape for n in nodes))
    return [spread(n, shape) for n in nodes]


def expand_axes(x: Node, axes: Sequence[int]) -> Node:
    """`x` with axes of extent 1 put in so that they are number `axes` of the result."""
    ndim, rest = x.ndim + len(axes), iter(x.shape)
    return b.reshape(x, [1 if k in axes else next(rest) for k in range(ndim)])


def infer_extent(name: str, shape: tuple[int, ...], want: tuple[int, ...]) -> tuple[int, ...]:
    """`want` with its -1 worked out from the size of `shape`."""
    size = math.prod(shape)
    known = math.prod(d for d in want if d != -1)
    if want.count(-1) > 1 or builtins.any(d < -1 for d in want):
        raise ShapeError(f"{name}: {want} is not a shape (one extent may be -1)")
    if -1 in want:
        if known == 0 or size % known:
            raise ShapeError(f"{name}: a tensor of shape {shape} ({size} elements) cannot become {want}")
        return tuple(size // known if d == -1 else d for d in want)
    if known != size:
        raise ShapeError(f"{name}: a tensor of shape {shape} ({size} elements) cannot become {want}")
    return want


def concat_nodes(nodes: Sequence[Node], axis: int) -> Node:
    return nodes[0] if len(nodes) == 1 else b.make("concat", tuple(nodes), axis=axis)


def cut(x: Node, axis: int, start: int, stop: int) -> Node:
    """Rows `start` to `stop` of one axis."""
    lo, hi = [0] * x.ndim, list(x.shape)
    lo[axis], hi[axis] = start, stop
    return b.slice_(x, lo, hi, None)
