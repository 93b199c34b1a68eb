"""What an index means for a tensor: `plan_index`.

Indexes are NumPy's: integers, slices with any step, None, `...`, integer arrays (broadcast together), boolean masks.
Integer arrays next to each other put their axes where the first of them stands; separated ones put them first.

A concrete index outside its axis raises IndexOutOfRange at once. One that is only known when a compiled function runs
counts from the end if negative and is then clamped to the axis. A mask that is read (`x[mask]`) fixes the result's
shape, so it must be concrete; a mask that is assigned to (`x[mask] = v`) need not be.
"""

from __future__ import annotations

import builtins
import math
import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, IndexOutOfRange, ShapeError, TraceError
from dlc.frontend.array.axes import broadcast_shape, spread
from dlc.frontend.array.operands import host_constant
from dlc.frontend.core import eager
from dlc.frontend.core.location import here
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.ranges import check_positions, marked_positions
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.core.trace import state
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node

Index = Node | np.ndarray  # an integer index: known when the program runs, or known now


class _Literal(np.ndarray):
    """An index array made from a list or a bool in the user's code: unlike the user's own arrays it never changes."""


@dataclass
class IndexPlan:
    """What an index means for a tensor of `shape`."""

    shape: tuple[int, ...]
    start: list[int] = field(default_factory=list)  # one entry for each axis of the tensor
    stop: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)
    cut_shape: list[int] = field(default_factory=list)  # after slicing
    view_shape: list[int] = field(default_factory=list)  # without the axes of single integers, with those of None
    array_axes: list[int] = field(default_factory=list)  # of view_shape
    arrays: list[Index] = field(default_factory=list)
    position: int = 0  # where the axes of the arrays go among the other axes of view_shape

    @property
    def order(self) -> list[int]:
        """Axes of view_shape, the array-indexed ones brought together at `position`."""
        rest = [k for k in range(len(self.view_shape)) if k not in self.array_axes]
        return rest[: self.position] + self.array_axes + rest[self.position :]

    @property
    def merged_shape(self) -> list[int]:
        shape = [self.view_shape[k] for k in self.order]
        p, n = self.position, len(self.array_axes)
        return shape[:p] + [math.prod(shape[p : p + n])] + shape[p + n :]


def components(index: Any) -> list[Any]:
    """The parts of an index, in forms that are easy to tell apart."""
    return [component(i) for i in (index if isinstance(index, tuple) else (index,))]


def component(i: Any) -> Any:
    """One part of an index as None, Ellipsis, slice, int, ndarray, or Tensor."""
    if i is None or i is Ellipsis or isinstance(i, (builtins.slice, Tensor)):
        return i
    if isinstance(i, (list, tuple)):
        if _contains_tensor(i):
            return wrap(as_node(list(i)))
        i = np.array(i, np.int64 if len(i) == 0 else None).view(_Literal)
    if isinstance(i, (bool, np.bool_)):
        return np.asarray(bool(i)).view(_Literal)
    if isinstance(i, np.ndarray):
        if i.dtype.kind not in "biu":
            raise DTypeError(f"index: an index holds integers or bools, not {i.dtype}")
        if i.ndim == 0 and i.dtype.kind in "iu":
            return int(i)
        return i if isinstance(i, _Literal) else np.asarray(i)  # of no other subclass: it may compute otherwise
    try:
        return operator.index(i)
    except TypeError:
        allowed = "integers, slices, None, ... or integer or bool arrays"
        raise DTypeError(f"index: {i!r} is not an index (use {allowed})") from None


def _contains_tensor(i: Any) -> bool:
    return builtins.any(isinstance(v, Tensor) or (isinstance(v, (list, tuple)) and _contains_tensor(v)) for v in i)


def is_mask(i: Any) -> bool:
    """Is a part of an index a boolean mask?"""
    return isinstance(i, np.ndarray) and i.dtype == bool or isinstance(i, Tensor) and i.dtype.is_bool


def _consumed(i: Any) -> int:
    """How many axes of the tensor a component stands for."""
    if i is None or i is Ellipsis:
        return 0
    return i.ndim if is_mask(i) else 1


def without_ellipsis(shape: tuple[int, ...], parts: list[Any]) -> list[Any]:
    """The components with `...` spelled out as slices, after a marker: it separates arrays even where it is empty."""
    used = builtins.sum(map(_consumed, parts))
    if used > len(shape):
        raise out_of_range(f"{used} indexes for a tensor of {len(shape)} dimensions (shape {shape})")
    dots = [k for k, i in enumerate(parts) if i is Ellipsis]
    if len(dots) > 1:
        raise out_of_range("an index holds '...' more than once")
    full = [builtins.slice(None)] * (len(shape) - used)
    return [*parts[: dots[0]], Ellipsis, *full, *parts[dots[0] + 1 :]] if dots else parts + full


def out_of_range(text: str) -> IndexOutOfRange:
    """The error of an index that does not fit."""
    return IndexOutOfRange(f"index: {text}")


def plan_index(shape: tuple[int, ...], index: Any) -> IndexPlan:
    """The plan of an index. Raises IndexOutOfRange for a concrete index outside its axis, TraceError for a mask without
    values."""
    parts = without_ellipsis(shape, components(index))
    plan = IndexPlan(shape)
    has_arrays = builtins.any(isinstance(i, (np.ndarray, Tensor)) for i in parts)
    if not has_arrays and state.trace is None:
        # Outside a trace a number is an input of the program, so that x[0], x[1], ... are one program. In a trace it
        # is part of it, where it costs nothing and helps to simplify.
        parts, has_arrays = _as_inputs(shape, parts)
    places: list[int] = []  # of the advanced components among the parts
    out_axes = 0  # axes of the result so far that come from slices and None
    for place, part in enumerate(parts):
        if part is Ellipsis:
            continue
        if part is None:
            plan.view_shape.append(1)
            out_axes += 1
            continue
        if isinstance(part, builtins.slice):
            _add_slice(plan, part)
            out_axes += 1
            continue
        if has_arrays:  # then single integers count as arrays too
            if not places:
                plan.position = out_axes
            places.append(place)
        if is_mask(part):
            _add_mask(plan, part)
        elif isinstance(part, (np.ndarray, Tensor)):
            _add_array(plan, checked_index(part, shape[len(plan.start)], len(plan.start), shape))
        else:
            _add_integer(plan, part)
    if places and places[-1] - places[0] + 1 != len(places):
        plan.position = 0
    return plan


def _as_inputs(shape: tuple[int, ...], parts: list[Any]) -> tuple[list[Any], bool]:
    """The parts with integers (but on axes of extent 1) as 0-d arrays; whether there are any."""
    out, axis, found = [], 0, False
    for part in parts:
        if isinstance(part, int) and shape[axis] > 1:
            out.append(np.array(_from_front(part, axis, shape)))
            found = True
        else:
            out.append(part)
        axis += _consumed(part)
    return out, found


def _from_front(k: int, axis: int, shape: tuple[int, ...]) -> int:
    extent = shape[axis]
    if not -extent <= k < extent:
        raise out_of_range(f"{k} is outside axis {axis} of extent {extent} (shape {shape})")
    return k % extent


def _add_axis(plan: IndexPlan, start: int, stop: int, step: int) -> int:
    count = builtins.max(0, -(-(stop - start) // step))
    plan.start.append(start)
    plan.stop.append(stop)
    plan.step.append(step)
    plan.cut_shape.append(count)
    return count


def _add_slice(plan: IndexPlan, part: builtins.slice) -> None:
    extent = plan.shape[len(plan.start)]
    try:
        start, stop, step = part.indices(extent)
    except ValueError:
        raise out_of_range("the step of a slice is 0") from None
    count = len(range(start, stop, step))
    if not count:
        start, stop, step = 0, 0, 1
    elif step < 0:
        plan.flips.append(len(plan.start))
        start, stop, step = start + (count - 1) * step, start + 1, -step
    plan.view_shape.append(_add_axis(plan, start, stop, step))


def _add_integer(plan: IndexPlan, k: int) -> None:
    k = _from_front(k, len(plan.start), plan.shape)
    _add_axis(plan, k, k + 1, 1)


def _add_array(plan: IndexPlan, array: Index) -> None:
    extent = plan.shape[len(plan.start)]
    plan.array_axes.append(len(plan.view_shape))
    plan.view_shape.append(_add_axis(plan, 0, extent, 1))
    plan.arrays.append(array)


def _add_mask(plan: IndexPlan, mask: np.ndarray | Tensor) -> None:
    """A mask is the positions of its true elements, one array for each of its axes."""
    axis = len(plan.start)
    if tuple(mask.shape) != plan.shape[axis : axis + mask.ndim]:
        at = f"axes {axis} to {axis + mask.ndim - 1}" if mask.ndim > 1 else f"axis {axis}"
        raise out_of_range(f"a mask of shape {tuple(mask.shape)} does not fit {at} of shape {plan.shape}")
    values = concrete_mask(mask)
    if not values.ndim:  # a scalar mask selects from an axis of its own
        plan.array_axes.append(len(plan.view_shape))
        plan.view_shape.append(1)
        plan.arrays.append(np.zeros(int(values), np.int64))
        return
    for found in np.nonzero(values):
        _add_array(plan, found)


def concrete_mask(mask: np.ndarray | Tensor) -> np.ndarray:
    """The values of a mask that selects elements. Raises TraceError where they are not known."""
    problem = None
    if isinstance(mask, Tensor):
        try:
            return mask.numpy()
        except TraceError:
            problem = "is traced"
    elif not isinstance(mask, _Literal) and _under_jit():
        problem = "may change between calls of the compiled function"
    if problem:
        raise TraceError(
            f"index: a mask of shape {tuple(mask.shape)} that {problem} cannot select elements, because the result's "
            f"shape would depend on its values: use dlc.where(mask, x, y), x[mask] = v or x.at[mask].add(v), or select "
            f"outside the compiled function\n  at {here()}"
        )
    return np.asarray(mask)


def _under_jit() -> bool:
    trace = state.trace
    while trace is not None:
        if trace.kind == "jit":
            return True
        trace = trace.parent
    return False


def checked_index(index: np.ndarray | Tensor, extent: int, axis: int, shape: tuple[int, ...]) -> Index:
    """An integer index as an array counted from the front, if its values are fixed, or as a node."""
    if isinstance(index, Tensor):
        if not index.dtype.is_int:
            raise DTypeError(f"index: an index holds integers or bools, not {index.dtype.name}")
        node = index.node
        if state.trace is None and index.size:
            check_positions(eager.view(index, "index"), -extent, extent, axis, shape)
        elif node.op == "const":
            return checked_index(np.full(node.shape, node.attrs["value"]), extent, axis, shape)
    else:
        check_positions(index, -extent, extent, axis, shape)
        if isinstance(index, _Literal) or not _under_jit():
            whole = np.asarray(index, np.int64)
            return np.where(whole < 0, whole + extent, whole)
        node = as_node(index)
    if not extent and node.type.size:
        raise out_of_range(f"axis {axis} of shape {shape} has no elements")
    return node if state.trace is None else marked_positions(node, extent, axis, shape)


def wrapped(index: Node, extent: int) -> Node:
    """A node of positions with negative ones counted from the end. Unsigned ones stay as they are: the largest would be
    negative in any other type."""
    if index.dtype.kind == "u":
        return index
    wide = index.dtype is not dtypes.int64 and (index.dtype is not dtypes.int32 or extent >= 1 << 31)
    index = b.cast(index, dtypes.int64) if wide else index
    negative = b.op("lt", index, b.like(index, 0))
    return b.select(negative, index + extent, index)


def clamped(index: Node, extent: int) -> Node:
    """Positions from the front or the end, brought into the axis."""
    index = wrapped(index, extent)
    if index.dtype.kind == "i":
        index = b.op("max", index, b.like(index, 0))
    elif index.dtype is not dtypes.uint64:
        index = b.cast(index, dtypes.int64)  # where the extent has a place
    return b.op("min", index, b.like(index, builtins.max(extent - 1, 0)))


def linear_index(plan: IndexPlan) -> Node:
    """One index into the merged axis."""
    extents = [plan.view_shape[a] for a in plan.array_axes]
    shapes = [tuple(a.shape) for a in plan.arrays]
    try:
        shape = broadcast_shape("index", *shapes)
    except ShapeError:
        raise out_of_range(f"index arrays of shapes {', '.join(map(str, shapes))} do not broadcast together") from None
    if builtins.all(isinstance(a, np.ndarray) for a in plan.arrays):
        total: Any = np.zeros(shape, np.int64)
        for a, n in zip(plan.arrays, extents, strict=True):
            total = total * n + a
        return host_constant(total)
    if len(plan.arrays) == 1:
        return wrapped(plan.arrays[0], extents[0])  # gather and scatter clamp by themselves
    out = None
    for a, n in zip(plan.arrays, extents, strict=True):
        node = host_constant(a) if isinstance(a, np.ndarray) else b.cast(clamped(a, n), dtypes.int64)
        node = spread(node, shape)
        out = node if out is None else out * n + node
    return out
