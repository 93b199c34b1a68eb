"""`x[...]`, `x[...] = v`, `x.at[...]`, and the functions that take or place elements by position.

Indexes are NumPy's: integers, slices with any step, None, `...`, integer arrays (broadcast together), boolean masks.
Integer arrays next to each other put their axes where the first of them stands; separated ones put them first.

Three stages, each a few graph nodes: slices and flips (views); a permutation and reshape that bring all array-indexed
axes together as one; a `gather` (or, going the other way, a `scatter`) on that axis.

A concrete index outside its axis raises IndexOutOfRange at once. One that is only known when a compiled function runs
counts from the end if negative and is then clamped to the axis. A mask that is read (`x[mask]`) fixes the result's
shape, so it must be concrete; a mask that is assigned to (`x[mask] = v`) need not be.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlc.frontend import eager
from dlc.frontend.creation import host_constant
from dlc.frontend.elementwise import truth
from dlc.frontend.location import here, user_errors
from dlc.frontend.manipulation import broadcast_shape, cut, normalize_axis, spread
from dlc.frontend.tensor import Tensor, as_node, wrap
from dlc.frontend.trace import state
from dlc.ir import build as b
from dlc.ir import dtypes
from dlc.ir.errors import DTypeError, IndexOutOfRange, ShapeError, TraceError
from dlc.ir.graph import Node

Index = Node | np.ndarray  # an integer index: known when the program runs, or known now


class _Literal(np.ndarray):
    """An index array made from a list or a bool in the user's code: unlike the user's own arrays it never changes."""


# -- understanding an index


@dataclass
class Plan:
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


def _components(index: Any) -> list[Any]:
    return [_component(i) for i in (index if isinstance(index, tuple) else (index,))]


def _component(i: Any) -> Any:
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
        return int(i) if i.ndim == 0 and i.dtype.kind in "iu" else i
    try:
        return operator.index(i)
    except TypeError:
        allowed = "integers, slices, None, ... or integer or bool arrays"
        raise DTypeError(f"index: {i!r} is not an index (use {allowed})") from None


def _contains_tensor(i: Any) -> bool:
    return builtins.any(isinstance(v, Tensor) or (isinstance(v, (list, tuple)) and _contains_tensor(v)) for v in i)


def _is_mask(i: Any) -> bool:
    return isinstance(i, np.ndarray) and i.dtype == bool or isinstance(i, Tensor) and i.dtype.is_bool


def _consumed(i: Any) -> int:
    """How many axes of the tensor a component stands for."""
    if i is None or i is Ellipsis:
        return 0
    return i.ndim if _is_mask(i) else 1


def _without_ellipsis(shape: tuple[int, ...], parts: list[Any]) -> list[Any]:
    """The components with `...` spelled out as slices, after a marker: it separates arrays even where it is empty."""
    used = builtins.sum(map(_consumed, parts))
    if used > len(shape):
        raise _out_of_range(f"{used} indexes for a tensor of {len(shape)} dimensions (shape {shape})")
    dots = [k for k, i in enumerate(parts) if i is Ellipsis]
    if len(dots) > 1:
        raise _out_of_range("an index holds '...' more than once")
    full = [builtins.slice(None)] * (len(shape) - used)
    return [*parts[: dots[0]], Ellipsis, *full, *parts[dots[0] + 1 :]] if dots else parts + full


def _out_of_range(text: str) -> IndexOutOfRange:
    return IndexOutOfRange(f"index: {text}")


def plan_index(shape: tuple[int, ...], index: Any) -> Plan:
    """The plan of an index. Raises IndexOutOfRange for a concrete index outside its axis, TraceError for a mask without
    values."""
    parts = _without_ellipsis(shape, _components(index))
    plan = Plan(shape)
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
        if _is_mask(part):
            _add_mask(plan, part)
        elif isinstance(part, (np.ndarray, Tensor)):
            _add_array(plan, _checked(part, shape[len(plan.start)], len(plan.start), shape))
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
        raise _out_of_range(f"{k} is outside axis {axis} of extent {extent} (shape {shape})")
    return k % extent


def _add_axis(plan: Plan, start: int, stop: int, step: int) -> int:
    count = builtins.max(0, -(-(stop - start) // step))
    plan.start.append(start)
    plan.stop.append(stop)
    plan.step.append(step)
    plan.cut_shape.append(count)
    return count


def _add_slice(plan: Plan, part: builtins.slice) -> None:
    extent = plan.shape[len(plan.start)]
    try:
        start, stop, step = part.indices(extent)
    except ValueError:
        raise _out_of_range("the step of a slice is 0") from None
    count = len(range(start, stop, step))
    if not count:
        start, stop, step = 0, 0, 1
    elif step < 0:
        plan.flips.append(len(plan.start))
        start, stop, step = start + (count - 1) * step, start + 1, -step
    plan.view_shape.append(_add_axis(plan, start, stop, step))


def _add_integer(plan: Plan, k: int) -> None:
    k = _from_front(k, len(plan.start), plan.shape)
    _add_axis(plan, k, k + 1, 1)


def _add_array(plan: Plan, array: Index) -> None:
    extent = plan.shape[len(plan.start)]
    plan.array_axes.append(len(plan.view_shape))
    plan.view_shape.append(_add_axis(plan, 0, extent, 1))
    plan.arrays.append(array)


def _add_mask(plan: Plan, mask: np.ndarray | Tensor) -> None:
    """A mask is the positions of its true elements, one array for each of its axes."""
    axis = len(plan.start)
    if tuple(mask.shape) != plan.shape[axis : axis + mask.ndim]:
        at = f"axes {axis} to {axis + mask.ndim - 1}" if mask.ndim > 1 else f"axis {axis}"
        raise _out_of_range(f"a mask of shape {tuple(mask.shape)} does not fit {at} of shape {plan.shape}")
    values = _concrete_mask(mask)
    if not values.ndim:  # a scalar mask selects from an axis of its own
        plan.array_axes.append(len(plan.view_shape))
        plan.view_shape.append(1)
        plan.arrays.append(np.zeros(int(values), np.int64))
        return
    for positions in np.nonzero(values):
        _add_array(plan, positions)


def _concrete_mask(mask: np.ndarray | Tensor) -> np.ndarray:
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


def _checked(index: np.ndarray | Tensor, extent: int, axis: int, shape: tuple[int, ...]) -> Index:
    """An integer index as an array counted from the front, if its values are fixed, or as a node."""
    if isinstance(index, Tensor):
        if not index.dtype.is_int:
            raise DTypeError(f"index: an index holds integers or bools, not {index.dtype.name}")
        node = index.node
        if state.trace is None and index.size:
            _check_range(eager.view(index, "index"), extent, axis, shape)
        elif node.op == "const":
            return _checked(np.full(node.shape, node.attrs["value"]), extent, axis, shape)
    else:
        _check_range(index, extent, axis, shape)
        if isinstance(index, _Literal) or not _under_jit():
            whole = np.asarray(index, np.int64)
            return np.where(whole < 0, whole + extent, whole)
        node = as_node(index)
    if not extent and node.type.size:
        raise _out_of_range(f"axis {axis} of shape {shape} has no elements")
    return node


def _check_range(values: np.ndarray, extent: int, axis: int, shape: tuple[int, ...]) -> None:
    if not values.size:
        return
    for worst in (int(values.min()), int(values.max())):
        if not -extent <= worst < extent:
            raise _out_of_range(f"{worst} is outside axis {axis} of extent {extent} (shape {shape})")


def wrapped(index: Node, extent: int) -> Node:
    """A node of positions with negative ones counted from the end."""
    wide = index.dtype is not dtypes.int64 and (index.dtype is not dtypes.int32 or extent >= 1 << 31)
    index = b.cast(index, dtypes.int64) if wide else index
    negative = b.op("lt", index, b.like(index, 0))
    return b.select(negative, index + extent, index)


def clamped(index: Node, extent: int) -> Node:
    """Positions from the front or the end, brought into the axis."""
    index = wrapped(index, extent)
    low = b.op("max", index, b.like(index, 0))
    return b.op("min", low, b.like(index, builtins.max(extent - 1, 0)))


def _linear_index(plan: Plan) -> Node:
    """One index into the merged axis."""
    extents = [plan.view_shape[a] for a in plan.array_axes]
    shapes = [tuple(a.shape) for a in plan.arrays]
    try:
        shape = broadcast_shape("index", *shapes)
    except ShapeError:
        raise _out_of_range(f"index arrays of shapes {', '.join(map(str, shapes))} do not broadcast together") from None
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


# -- reading and writing by a plan


def _view(x: Node, plan: Plan) -> Node:
    """The slicing part."""
    y = b.flip(b.slice_(x, plan.start, plan.stop, plan.step), plan.flips)
    return b.reshape(y, plan.view_shape)


def _merged(view: Node, plan: Plan) -> Node:
    return b.reshape(b.permute(view, plan.order), plan.merged_shape)


def read(x: Node, plan: Plan) -> Node:
    """x[plan]."""
    view = _view(x, plan)
    if not plan.array_axes:
        return view
    return b.make("gather", (_merged(view, plan), _linear_index(plan)), axis=plan.position)


def write(x: Node, plan: Plan, value: Node, combine: str) -> Node:
    """x with `value` put (or added, ...) at the plan's positions; value broadcasts."""
    view = _view(x, plan)
    if plan.array_axes:
        base, index = _merged(view, plan), _linear_index(plan)
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


def _put(x: Node, plan: Plan, new: Node) -> Node:
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
    masks = [k for k, i in enumerate(parts) if _is_mask(i)]
    if len(masks) != 1 or not builtins.all(_is_whole(i) for k, i in enumerate(parts) if k not in masks):
        return None
    mask = parts[masks[0]]
    before = builtins.sum(i is not Ellipsis for i in parts[: masks[0]])
    after = x.ndim - before - mask.ndim
    if value.ndim > after + 1 + before or value.ndim > after and value.shape[-after - 1] != 1:
        return None
    if tuple(mask.shape) != x.shape[before : before + mask.ndim]:
        raise _out_of_range(f"a mask of shape {tuple(mask.shape)} does not fit axis {before} of shape {x.shape}")
    if value.ndim > after:
        k = value.ndim - after - 1
        value = b.reshape(value, (*value.shape[:k], *(1,) * mask.ndim, *value.shape[k + 1 :]))
    value = _fitted(value, x.shape)
    chosen = b.broadcast(as_node(mask), x.shape, range(before, before + mask.ndim))
    return b.select(chosen, _combined(combine, x, value), x)


def updated(x: Node, index: Any, value: Any, combine: str) -> Node:
    """x with `value`, cast to its dtype, combined in at `index`."""
    new = _value_node(value, x.dtype)
    parts = _without_ellipsis(x.shape, _components(index))
    masked = _masked_write(x, parts, new, combine)
    return masked if masked is not None else write(x, plan_index(x.shape, index), new, combine)


def _value_node(value: Any, dtype) -> Node:
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
    """x[index] = value: rebinds x, through which and through `value` gradients flow. value is cast to x's dtype."""
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


# -- functions that take or place by position


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
    got = _component(indices)
    if isinstance(got, builtins.slice) or got is None or got is Ellipsis or _is_mask(got):
        raise DTypeError(f"{name}: positions are integers, not {indices!r}")
    return got


def _along(name: str, x: Node, axis: int, indices, shape: tuple[int, ...]) -> Node:
    """Positions in the flattened x of elements whose position on `axis` is given and on the others is their own."""
    got = _integers(name, indices)
    got = np.asarray(got) if isinstance(got, int) else got
    checked = _checked(got, x.shape[axis], axis, x.shape)
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
    extents = tuple(np.shape(indices))
    if len(extents) != n.ndim:
        raise ShapeError(f"take_along_axis: indices of shape {extents} for a tensor of shape {n.shape}")
    shape = list(broadcast_shape("take_along_axis", _without(n.shape, a), _without(extents, a)))
    shape.insert(a, extents[a])
    other = list(shape)
    other[a] = n.shape[a]
    n = spread(n, tuple(other))
    if not n.type.size:
        if math.prod(shape):
            raise _out_of_range(f"axis {a} of shape {n.shape} has no elements")
        return wrap(b.const(0, n.dtype, shape))
    flat = b.reshape(n, (n.type.size,))
    return wrap(b.make("gather", (flat, _along("take_along_axis", n, a, indices, tuple(shape))), axis=0))


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
    shape = tuple(np.shape(index))
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
    shape = tuple(np.shape(index))
    _check_part("scatter", n.shape, a, shape)
    if not math.prod(shape):
        return wrap(n)
    value = _value_node(src, n.dtype)
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
    from dlc.frontend.elementwise import multiply

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
    fill = _value_node(value, n.dtype)
    return wrap(b.select(spread(cond, n.shape), spread(fill, n.shape), n))


@user_errors
def masked_select(x, mask) -> Tensor:
    """The elements of x where the mask is true, as a vector. Not under jit: the count depends on the values."""
    n = as_node(x)
    values = mask if isinstance(mask, (Tensor, np.ndarray)) else np.asarray(mask)
    shape = broadcast_shape("masked_select", n.shape, tuple(values.shape))
    chosen = np.broadcast_to(_concrete_mask(values), shape)
    return wrap(read(spread(n, shape), plan_index(shape, (chosen,))))


@user_errors
def narrow(x, axis: int, start: int, length: int) -> Tensor:
    """`length` slices of x along an axis from `start` on."""
    n, start, length = as_node(x), operator.index(start), operator.index(length)
    a = normalize_axis("narrow", axis, n.ndim)
    extent = n.shape[a]
    first = start + extent if start < 0 else start
    if length < 0 or first < 0 or first + length > extent:
        raise _out_of_range(f"narrow: {length} elements from {start} on axis {a} of extent {extent} (shape {n.shape})")
    return wrap(cut(n, a, first, first + length))
