"""Shapes: reshaping, reordering, joining, splitting and padding. Nothing here computes; most of it is views."""

from __future__ import annotations

import builtins
import math
import operator

import numpy as np

from dlc.base.errors import ShapeError
from dlc.frontend.array.axes import (
    broadcast_nodes,
    broadcast_shape,
    concat_nodes,
    cut,
    expand_axes,
    in_order,
    infer_extent,
    normalize_axes,
    normalize_axis,
    shape_tuple,
    spread,
)
from dlc.frontend.array.operands import host_constant
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node, promote
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node

# -- shapes, axes and broadcasting: what every other array function uses -----------------------------------------


# -- public functions ----------------------------------------------------------------------------------------------


@user_errors
def reshape(x, shape, *, copy: bool | None = None) -> Tensor:
    """`x` in another shape of the same size, row-major. One extent may be -1: it is worked out.

    Raises ShapeError where the sizes differ. `copy` is accepted and has no effect: tensors are values.
    """
    n, want = as_node(x), shape_tuple("reshape", shape)
    return wrap(b.reshape(n, infer_extent("reshape", n.shape, want)))


@user_errors
def flatten(x, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """`x` with the axes from `start_axis` to `end_axis`, both included, made one. A scalar gives shape (1,)."""
    n = as_node(x)
    if n.ndim == 0:
        return wrap(b.reshape(n, (1,)))
    lo, hi = normalize_axis("flatten", start_axis, n.ndim), normalize_axis("flatten", end_axis, n.ndim)
    if hi < lo:
        raise ShapeError(f"flatten: start axis {start_axis} comes after end axis {end_axis} (shape {n.shape})")
    merged = math.prod(n.shape[lo : hi + 1])
    return wrap(b.reshape(n, (*n.shape[:lo], merged, *n.shape[hi + 1 :])))


@user_errors
def unflatten(x, axis: int, sizes) -> Tensor:
    """`x` with one axis split into several of extents `sizes`, of which one may be -1."""
    n = as_node(x)
    a = normalize_axis("unflatten", axis, n.ndim)
    parts = infer_extent("unflatten", (n.shape[a],), shape_tuple("unflatten", sizes))
    return wrap(b.reshape(n, (*n.shape[:a], *parts, *n.shape[a + 1 :])))


@user_errors
def permute_dims(x, axes) -> Tensor:
    """`x` with its axes reordered: axis k of the result is axis `axes[k]` of `x`."""
    n = as_node(x)
    order = normalize_axes("permute_dims", tuple(axes), n.ndim)
    if len(order) != n.ndim:
        raise ShapeError(f"permute_dims: axes {tuple(axes)} do not name every axis of shape {n.shape}")
    return wrap(b.permute(n, order))


@user_errors
def transpose(x, axes=None) -> Tensor:
    """`x` with its axes reversed, or in the order `axes` (NumPy's meaning; see `swapaxes` for two axes)."""
    n = as_node(x)
    return permute_dims(x, tuple(range(n.ndim))[::-1] if axes is None else axes)


@user_errors
def matrix_transpose(x) -> Tensor:
    """The last two axes swapped. Raises ShapeError below two dimensions."""
    n = as_node(x)
    if n.ndim < 2:
        raise ShapeError(f"matrix_transpose: needs at least two dimensions, got shape {n.shape}")
    return wrap(b.permute(n, (*range(n.ndim - 2), n.ndim - 1, n.ndim - 2)))


@user_errors
def swapaxes(x, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged."""
    n = as_node(x)
    order = list(range(n.ndim))
    i, j = normalize_axis("swapaxes", axis1, n.ndim), normalize_axis("swapaxes", axis2, n.ndim)
    order[i], order[j] = order[j], order[i]
    return wrap(b.permute(n, order))


@user_errors
def moveaxis(x, source, destination) -> Tensor:
    """The axes `source` moved to the positions `destination`; the others keep their order."""
    n = as_node(x)
    src, dst = normalize_axes("moveaxis", source, n.ndim), normalize_axes("moveaxis", destination, n.ndim)
    if len(src) != len(dst):
        raise ShapeError(f"moveaxis: {len(src)} source axes, {len(dst)} destinations")
    order = [k for k in range(n.ndim) if k not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        order.insert(d, s)
    return wrap(b.permute(n, order))


@user_errors
def squeeze(x, axis=None) -> Tensor:
    """`x` without the axes `axis`, which must have extent 1; without any such axis if `axis` is None."""
    n = as_node(x)
    if axis is None:
        return wrap(b.reshape(n, [d for d in n.shape if d != 1]))
    gone = normalize_axes("squeeze", axis, n.ndim)
    for a in gone:
        if n.shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of shape {n.shape} has extent {n.shape[a]}, not 1")
    return wrap(b.reshape(n, [d for k, d in enumerate(n.shape) if k not in gone]))


@user_errors
def expand_dims(x, axis=0) -> Tensor:
    """`x` with axes of extent 1 put in, number `axis` of the result."""
    n = as_node(x)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    return wrap(expand_axes(n, normalize_axes("expand_dims", axis, n.ndim + count)))


unsqueeze = expand_dims


@user_errors
def broadcast_to(x, shape) -> Tensor:
    """`x` repeated along axes of extent 1, and along new ones in front, to `shape`; -1 keeps an extent."""
    n, want = as_node(x), shape_tuple("broadcast_to", shape)
    lead = len(want) - n.ndim
    want = tuple(n.shape[k - lead] if d == -1 and k >= lead else d for k, d in enumerate(want))
    if lead < 0 or broadcast_shape("broadcast_to", n.shape, want) != want:
        raise ShapeError(f"broadcast_to: shape {n.shape} does not broadcast to {want}")
    return wrap(spread(n, want))


@user_errors
def broadcast_arrays(*arrays) -> list[Tensor]:
    """The arguments in their common shape."""
    return [wrap(n) for n in broadcast_nodes("broadcast_arrays", *map(as_node, arrays))]


@user_errors
def broadcast_shapes(*shapes) -> tuple[int, ...]:
    """The common shape of `shapes` under NumPy's broadcasting rule."""
    return broadcast_shape("broadcast_shapes", *(shape_tuple("broadcast_shapes", s) for s in shapes))


@user_errors
def concat(arrays, axis: int | None = 0) -> Tensor:
    """Tensors joined along an existing axis, which only may differ; flattened first if `axis` is None."""
    arrays = in_order("concat", arrays)
    if not arrays:
        raise ShapeError("concat: nothing to join")
    nodes = promote(*arrays)
    if axis is None:
        nodes, axis = [b.reshape(n, (n.type.size,)) for n in nodes], 0
    if nodes[0].ndim == 0:
        raise ShapeError("concat: scalars have no axis to join along; use stack")
    a = normalize_axis("concat", axis, nodes[0].ndim)
    return wrap(concat_nodes(nodes, a))


cat = concatenate = concat


@user_errors
def stack(arrays, axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    arrays = in_order("stack", arrays)
    if not arrays:
        raise ShapeError("stack: nothing to join")
    nodes = promote(*arrays)
    if len({n.shape for n in nodes}) > 1:
        raise ShapeError(f"stack: shapes differ: {', '.join(str(n.shape) for n in nodes)}")
    a = normalize_axis("stack", axis, nodes[0].ndim + 1)
    return wrap(concat_nodes([expand_axes(n, (a,)) for n in nodes], a))


@user_errors
def unstack(x, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of `x` along an axis, which vanishes."""
    n = as_node(x)
    if n.ndim == 0:
        raise ShapeError("unstack: a scalar has no axis")
    a = normalize_axis("unstack", axis, n.ndim)
    shape = n.shape[:a] + n.shape[a + 1 :]
    return tuple(wrap(b.reshape(cut(n, a, k, k + 1), shape)) for k in range(n.shape[a]))


@user_errors
def split(x, size_or_sizes, axis: int = 0) -> tuple[Tensor, ...]:
    """`x` cut along an axis: into pieces of the given size (the last may be smaller), or of the sizes in a list.

    PyTorch's meaning; `chunk` gives a number of pieces. Raises ShapeError where the sizes do not add up.
    """
    n = as_node(x)
    a = normalize_axis("split", axis, n.ndim)
    extent = n.shape[a]
    if isinstance(size_or_sizes, (tuple, list)):
        sizes = shape_tuple("split", size_or_sizes)
        if builtins.sum(sizes) != extent or builtins.any(s < 0 for s in sizes):
            raise ShapeError(f"split: sizes {sizes} do not add up to extent {extent} of axis {a} (shape {n.shape})")
    else:
        size = operator.index(size_or_sizes)
        if size < 1:
            raise ShapeError(f"split: a piece has size {size}")
        sizes = tuple(builtins.min(size, extent - k) for k in range(0, extent, size)) or (0,)
    ends = np.cumsum(sizes).tolist()
    return tuple(wrap(cut(n, a, e - s, e)) for s, e in zip(sizes, ends, strict=True))


@user_errors
def chunk(x, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
    """`x` cut along an axis into at most `chunks` pieces of equal size; the last may be smaller."""
    n = as_node(x)
    if operator.index(chunks) < 1:
        raise ShapeError(f"chunk: {chunks} pieces")
    extent = n.shape[normalize_axis("chunk", axis, n.ndim)]
    return split(x, builtins.max(1, -(-extent // chunks)), axis)


@user_errors
def flip(x, axis=None) -> Tensor:
    """`x` with the order along `axis` (all axes if None) reversed."""
    n = as_node(x)
    return wrap(b.flip(n, normalize_axes("flip", axis, n.ndim)))


@user_errors
def roll(x, shift, axis=None) -> Tensor:
    """Elements moved by `shift` along `axis`; those that leave at one end enter at the other.

    `shift` and `axis` may be sequences of one length; with `axis=None` the flattened tensor rolls.
    """
    n = as_node(x)
    if axis is None:
        flat = b.reshape(n, (n.type.size,))
        for s in shape_tuple("roll", shift):
            flat = _roll(flat, s, 0)
        return wrap(b.reshape(flat, n.shape))
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    shifts = shape_tuple("roll", shift)
    shifts = shifts * len(axes) if len(shifts) == 1 else shifts
    if len(shifts) != len(axes):
        raise ShapeError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for s, a in zip(shifts, axes, strict=True):
        n = _roll(n, s, normalize_axis("roll", a, n.ndim))
    return wrap(n)


def _roll(x: Node, shift: int, axis: int) -> Node:
    extent = x.shape[axis]
    k = shift % extent if extent else 0
    if not k:
        return x
    return concat_nodes([cut(x, axis, extent - k, extent), cut(x, axis, 0, extent - k)], axis)


@user_errors
def tile(x, repetitions) -> Tensor:
    """The whole of `x` laid side by side `repetitions[k]` times along each axis (aligned from the right)."""
    n, reps = as_node(x), shape_tuple("tile", repetitions)
    reps = (1,) * (n.ndim - len(reps)) + reps
    shape = (1,) * (len(reps) - n.ndim) + n.shape
    pairs = [e for r, d in zip(reps, shape, strict=True) for e in (r, d)]
    apart = b.reshape(n, [e for d in shape for e in (1, d)])
    return wrap(b.reshape(b.broadcast_to(apart, pairs), [r * d for r, d in zip(reps, shape, strict=True)]))


@user_errors
def repeat(x, repeats, axis: int | None = None) -> Tensor:
    """Each element along `axis` (of the flattened tensor if None) `repeats` times in a row.

    `repeats` is an integer, or a concrete sequence with one count for each element: the counts fix the result's shape.
    """
    n = as_node(x)
    if axis is None:
        n, axis = b.reshape(n, (n.type.size,)), 0
    a = normalize_axis("repeat", axis, n.ndim)
    counts = np.asarray(repeats.numpy() if isinstance(repeats, Tensor) else repeats)
    if counts.dtype.kind not in "iu" or counts.ndim > 1 or (counts < 0).any():
        raise ShapeError(f"repeat: repeats are non-negative integers, not {repeats!r}")
    if counts.size == 1:
        k = int(counts.reshape(()))
        apart = b.reshape(n, (*n.shape[: a + 1], 1, *n.shape[a + 1 :]))
        wide = b.broadcast_to(apart, (*n.shape[: a + 1], k, *n.shape[a + 1 :]))
        return wrap(b.reshape(wide, (*n.shape[:a], n.shape[a] * k, *n.shape[a + 1 :])))
    if counts.size != n.shape[a]:
        raise ShapeError(f"repeat: {counts.size} counts for axis {a} of extent {n.shape[a]} (shape {n.shape})")
    index = host_constant(np.repeat(np.arange(n.shape[a]), counts))
    return wrap(b.make("gather", (n, index), axis=a))


repeat_interleave = repeat


