"""`x[...]`, `x[...] = v` and `x.at[...]`.

Three stages, each a few graph nodes: slices and flips (views); a permutation and reshape that bring all array-indexed
axes together as one; a `gather` (or, going the other way, a `scatter`) on that axis. What an index means is said in
`index_plan.py`.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np

from dlc.base.errors import ShapeError
from dlc.frontend.array.axes import spread
from dlc.frontend.array.index_plan import (
    IndexPlan,
    components,
    is_mask,
    linear_index,
    out_of_range,
    plan_index,
    without_ellipsis,
)
from dlc.frontend.core import in_place
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node


def _view(x: Node, plan: IndexPlan) -> Node:
    """The slicing part."""
    y = b.flip(b.slice_(x, plan.start, plan.stop, plan.step), plan.flips)
    return b.reshape(y, plan.view_shape)


def _merged(view: Node, plan: IndexPlan) -> Node:
    return b.reshape(b.permute(view, plan.order), plan.merged_shape)


def read(x: Node, plan: IndexPlan) -> Node:
    """x[plan]."""
    view = _view(x, plan)
    if not plan.array_axes:
        return view
    return b.make("gather", (_merged(view, plan), linear_index(plan)), axis=plan.position)


def write(x: Node, plan: IndexPlan, value: Node, combine: str) -> Node:
    """x with `value` put (or added, ...) at the plan's positions; value broadcasts."""
    view = _view(x, plan)
    if plan.array_axes:
        base, index = _merged(view, plan), linear_index(plan)
        p = plan.position
        updates = _fitted(value, (*base.shape[:p], *index.shape, *base.shape[p + 1 :]))
        merged = b.make("scatter", (base, index, updates), axis=p, combine=combine)
        apart = b.reshape(merged, [view.shape[k] for k in plan.order])
        new = b.permute(apart, np.argsort(plan.order).tolist())
    else:
        new = _combined(combine, view, _fitted(value, view.shape))
    new = b.flip(b.reshape(new, plan.cut_shape), plan.flips)
    return _put(x, plan, new)


def _combined(combine: str, old: Node, new: Node) -> Node:
    return new if combine == "set" else b.op(combine, old, new)


def _fitted(value: Node, shape: tuple[int, ...]) -> Node:
    """`value` broadcast to the place it goes to; leading axes of extent 1 may be left over, as in NumPy."""
    extra = value.ndim - len(shape)
    if extra > 0 and value.shape[:extra] == (1,) * extra:
        value = b.reshape(value, value.shape[extra:])
    if value.ndim > len(shape) or builtins.any(
        v not in (1, d) for v, d in zip(value.shape, shape[len(shape) - value.ndim :], strict=True)
    ):
        raise ShapeError(f"setitem: a value of shape {value.shape} does not fit the indexed part of shape {shape}")
    return spread(value, shape)


def _put(x: Node, plan: IndexPlan, new: Node) -> Node:
    """`new` in the sliced part of x, x elsewhere."""
    if new.shape == x.shape:
        return new
    if not new.type.size:
        return x
    last = [lo + (n - 1) * st for lo, n, st in zip(plan.start, plan.cut_shape, plan.step, strict=True)]
    high = [d - k - 1 for d, k in zip(x.shape, last, strict=True)]
    gaps = [st - 1 for st in plan.step]
    inside = b.pad(b.const(True, dtypes.bool_, new.shape), plan.start, high, gaps, False)
    return b.select(inside, b.pad(new, plan.start, high, gaps, 0), x)


def _is_whole(i: Any) -> bool:
    return i is Ellipsis or isinstance(i, builtins.slice) and i == builtins.slice(None)


def _masked_write(x: Node, parts: list[Any], value: Node, combine: str) -> Node | None:
    """x[mask] = v as a selection, which needs no values of the mask.

    None where the index is more than one mask and whole axes, or where v has an element for each element of the mask.
    """
    masks = [k for k, i in enumerate(parts) if is_mask(i)]
    if len(masks) != 1 or not builtins.all(_is_whole(i) for k, i in enumerate(parts) if k not in masks):
        return None
    mask = parts[masks[0]]
    before = builtins.sum(i is not Ellipsis for i in parts[: masks[0]])
    after = x.ndim - before - mask.ndim
    if value.ndim > after + 1 + before or value.ndim > after and value.shape[-after - 1] != 1:
        return None
    if tuple(mask.shape) != x.shape[before : before + mask.ndim]:
        raise out_of_range(f"a mask of shape {tuple(mask.shape)} does not fit axis {before} of shape {x.shape}")
    if value.ndim > after:
        k = value.ndim - after - 1
        value = b.reshape(value, (*value.shape[:k], *(1,) * mask.ndim, *value.shape[k + 1 :]))
    value = _fitted(value, x.shape)
    chosen = b.broadcast(as_node(mask), x.shape, range(before, before + mask.ndim))
    return b.select(chosen, _combined(combine, x, value), x)


def updated(x: Node, index: Any, value: Any, combine: str) -> Node:
    """x with `value`, cast to its dtype, combined in at `index`."""
    new = value_node(value, x.dtype)
    parts = without_ellipsis(x.shape, components(index))
    masked = _masked_write(x, parts, new, combine)
    return masked if masked is not None else write(x, plan_index(x.shape, index), new, combine)


def value_node(value: Any, dtype) -> Node:
    if isinstance(value, (bool, int, float)):
        return as_node(value, dtype)
    return b.cast(as_node(value), dtype)


@user_errors
def getitem(x: Tensor, index) -> Tensor:
    """x[index]. Raises IndexOutOfRange, DTypeError (not an index), TraceError (a mask without values)."""
    n = as_node(x)
    return wrap(read(n, plan_index(n.shape, index)))


@user_errors
def setitem(x: Tensor, index, value) -> None:
    """x[index] = value: rebinds x, through which and through `value` gradients flow. value is cast to x's dtype.

    Raises GradientError for a leaf that requires gradients, but under `no_grad`.
    """
    in_place.check(x, "x[...] = value")
    x.rebind(wrap(updated(x.node, index, value, "set")))


class At:
    """`x.at[index].set(v)` and the like: new tensors, x stays as it is. Equal positions add up (or multiply, ...)."""

    __slots__ = ("_tensor", "_index")

    def __init__(self, tensor: Tensor, index: Any = ()):
        self._tensor, self._index = tensor, index

    def __getitem__(self, index: Any) -> At:
        return At(self._tensor, index)

    def get(self) -> Tensor:
        """x[index]."""
        return getitem(self._tensor, self._index)


def _at_method(name: str, combine: str, doc: str) -> Callable:
    def method(self: At, value: Any) -> Tensor:
        return _at_update(self, value, combine)

    method.__name__ = name
    method.__doc__ = doc
    return method


@user_errors
def _at_update(at: At, value: Any, combine: str) -> Tensor:
    return wrap(updated(as_node(at._tensor), at._index, value, combine))


for _name, _combine, _doc in (
    ("set", "set", "x with `value` at the index; of equal positions one wins."),
    ("add", "add", "x with `value` added at the index."),
    ("mul", "mul", "x multiplied by `value` at the index."),
    ("multiply", "mul", "x multiplied by `value` at the index."),
    ("max", "max", "x, or `value` where it is larger."),
    ("min", "min", "x, or `value` where it is smaller."),
):
    setattr(At, _name, _at_method(_name, _combine, _doc))
