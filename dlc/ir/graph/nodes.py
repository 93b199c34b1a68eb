"""Short constructors for Graph IR nodes, which passes and the frontend use instead of spelling attributes.

All shapes are exact: nothing here broadcasts or promotes except where a docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node, make
from dlc.ir.loc import Loc


def const(value, dtype: DType, shape: Sequence[int] = (), loc: Loc | None = None) -> Node:
    """A tensor filled with `value`, converted to the Python type of `dtype`."""
    if dtype.is_float:
        value = float(value)
    elif dtype.is_bool:
        value = bool(value)
    else:
        bits = dtype.bits
        value = int(value) & ((1 << bits) - 1)
        if dtype.kind == "i" and value >> (bits - 1):
            value -= 1 << bits
    return make("const", (), loc, value=value, dtype=dtype, shape=tuple(shape))


def like(node: Node, value, loc: Loc | None = None) -> Node:
    """`value` in the shape and dtype of `node`."""
    return const(value, node.dtype, node.shape, loc)


def iota(shape: Sequence[int], axis: int, dtype: DType = dtypes.int64, loc: Loc | None = None) -> Node:
    return make("iota", (), loc, axis=axis, shape=tuple(shape), dtype=dtype)


def cast(x: Node, dtype: DType, loc: Loc | None = None) -> Node:
    return x if x.dtype is dtype else make("cast", (x,), loc, dtype=dtype)


def reshape(x: Node, shape: Sequence[int], loc: Loc | None = None) -> Node:
    return x if x.shape == tuple(shape) else make("reshape", (x,), loc, shape=tuple(shape))


def permute(x: Node, axes: Sequence[int], loc: Loc | None = None) -> Node:
    axes = tuple(axes)
    return x if axes == tuple(range(x.ndim)) else make("permute", (x,), loc, axes=axes)


def broadcast(x: Node, shape: Sequence[int], axes: Sequence[int], loc: Loc | None = None) -> Node:
    """Input axis k goes to output axis axes[k]."""
    shape, axes = tuple(shape), tuple(axes)
    if x.shape == shape and axes == tuple(range(len(shape))):
        return x
    return make("broadcast", (x,), loc, shape=shape, axes=axes)


def broadcast_to(x: Node, shape: Sequence[int]) -> Node:
    """NumPy's rule: axes are aligned from the right."""
    return broadcast(x, shape, range(len(shape) - x.ndim, len(shape)))


def expand(x: Node, shape: Sequence[int], reduced: Sequence[int]) -> Node:
    """Undo a reduction: `x` lacks the axes `reduced` of `shape` and is repeated along them."""
    return broadcast(x, shape, [a for a in range(len(shape)) if a not in reduced])


def slice_(x: Node, start, stop, step=None, loc: Loc | None = None) -> Node:
    start, stop = tuple(start), tuple(stop)
    step = tuple(step) if step is not None else (1,) * x.ndim
    if start == (0,) * x.ndim and stop == x.shape and step == (1,) * x.ndim:
        return x
    return make("slice", (x,), loc, start=start, stop=stop, step=step)


def flip(x: Node, axes: Sequence[int], loc: Loc | None = None) -> Node:
    return make("flip", (x,), loc, axes=tuple(sorted(axes))) if axes else x


def pad(x: Node, low, high, interior=None, value=0, loc: Loc | None = None) -> Node:
    low, high = tuple(low), tuple(high)
    interior = tuple(interior) if interior is not None else (0,) * x.ndim
    if not any(low) and not any(high) and not any(interior):
        return x
    value = const(value, x.dtype).attrs["value"]
    return make("pad", (x,), loc, low=low, high=high, interior=interior, value=value)


def window(x: Node, axes, sizes, strides=None, dilations=None, loc: Loc | None = None) -> Node:
    axes, sizes = tuple(axes), tuple(sizes)
    strides = tuple(strides) if strides is not None else (1,) * len(axes)
    dilations = tuple(dilations) if dilations is not None else (1,) * len(axes)
    return make("window", (x,), loc, axes=axes, sizes=sizes, strides=strides, dilations=dilations)


def reduce(x: Node, monoid: str, axes: Sequence[int], loc: Loc | None = None) -> Node:
    axes = tuple(sorted(axes))
    if not axes and not monoid.startswith("arg"):
        return x
    return make("reduce", (x,), loc, monoid=monoid, axes=axes)


def sum_(x: Node, axes: Sequence[int], loc: Loc | None = None) -> Node:
    return reduce(x, "sum", axes, loc)


def pair(x: Node, axis: int, loc: Loc | None = None) -> Node:
    return make("pair", (x,), loc or x.loc, axis=axis)


def contract(a: Node, b: Node, spec: str, dtype: DType | None = None, loc: Loc | None = None, *,
             pairs: bool = False) -> Node:
    more = {"pairs": True} if pairs else {}
    return make("contract", (a, b), loc, spec=spec, dtype=dtype or a.dtype, **more)


def select(cond: Node, a: Node, b: Node, loc: Loc | None = None) -> Node:
    return make("select", (cond, a, b), loc)


def item(x: Node, index: int, loc: Loc | None = None) -> Node:
    return make("item", (x,), loc or x.loc, index=index)


def op(name: str, *inputs: Node, loc: Loc | None = None) -> Node:
    """An elementwise operation by name: op('add', a, b)."""
    return make(name, inputs, loc)


def _operator(name: str) -> Callable[[Node, Node | float], Node]:
    def apply(a: Node, b: Node | float) -> Node:
        return make(name, (a, b if isinstance(b, Node) else like(a, b)))

    return apply


Node.__add__, Node.__sub__ = _operator("add"), _operator("sub")  # type: ignore[attr-defined]
Node.__mul__, Node.__truediv__ = _operator("mul"), _operator("div")  # type: ignore[attr-defined]
