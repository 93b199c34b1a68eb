"""Shapes: reshaping, reordering, joining, splitting and padding. Nothing here computes; most of it is views."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Sequence

import numpy as np

from dlc.frontend.location import user_errors
from dlc.frontend.tensor import Tensor, as_dtype, as_node, promote, wrap
from dlc.ir import build as b
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.errors import DTypeError, ShapeError
from dlc.ir.graph import Node

# -- shapes, axes and broadcasting: what every other array function uses -----------------------------------------


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


def shape_tuple(name: str, shape) -> tuple[int, ...]:
    """A shape given as an integer or a sequence of integers."""
    try:
        return (operator.index(shape),)
    except TypeError:
        pass
    try:
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


# -- public functions ----------------------------------------------------------------------------------------------


@user_errors
def reshape(x, shape, *, copy: bool | None = None) -> Tensor:
    """`x` in another shape of the same size, row-major. One extent may be -1: it is worked out.

    Raises ShapeError where the sizes differ. `copy` is accepted and has no effect: tensors are values.
    """
    n, want = as_node(x), shape_tuple("reshape", shape)
    return wrap(b.reshape(n, infer_extent("reshape", n.shape, want)))


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
    arrays = list(arrays)
    if not arrays:
        raise ShapeError("concat: nothing to join")
    nodes = promote(*arrays)
    if axis is None:
        nodes, axis = [b.reshape(n, (n.type.size,)) for n in nodes], 0
    if nodes[0].ndim == 0:
        raise ShapeError("concat: scalars have no axis to join along; use stack")
    a = normalize_axis("concat", axis, nodes[0].ndim)
    return wrap(concat_nodes(nodes, a))


def concat_nodes(nodes: Sequence[Node], axis: int) -> Node:
    return nodes[0] if len(nodes) == 1 else b.make("concat", tuple(nodes), axis=axis)


cat = concatenate = concat


@user_errors
def stack(arrays, axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    arrays = list(arrays)
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


def cut(x: Node, axis: int, start: int, stop: int) -> Node:
    """Rows `start` to `stop` of one axis."""
    lo, hi = [0] * x.ndim, list(x.shape)
    lo[axis], hi[axis] = start, stop
    return b.slice_(x, lo, hi, None)


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
    from dlc.frontend.creation import host_constant

    index = host_constant(np.repeat(np.arange(n.shape[a]), counts))
    return wrap(b.make("gather", (n, index), axis=a))


repeat_interleave = repeat


@user_errors
def pad(x, pad_width, mode: str = "constant", constant_values=0) -> Tensor:
    """`x` with `pad_width` elements added: an integer for all sides, (before, after), or one such pair for each axis.

    Modes: 'constant', 'edge', 'reflect' (the border is not repeated), 'symmetric' (it is), 'wrap'. The last three
    take at most the extent (reflect: extent - 1) of elements; ShapeError otherwise. NumPy's names and order;
    `nn.functional.pad` takes PyTorch's.
    """
    n = as_node(x)
    width = np.asarray(pad_width)
    if width.dtype.kind not in "iu" or (width < 0).any():
        raise ShapeError(f"pad: widths are non-negative integers, not {pad_width!r}")
    try:
        pairs = [tuple(map(int, p)) for p in np.broadcast_to(width, (n.ndim, 2))]
    except ValueError:
        raise ShapeError(f"pad: widths of shape {width.shape} do not fit a tensor of shape {n.shape}") from None
    if mode == "constant":
        return wrap(pad_constant(n, pairs, constant_values))
    if mode not in _BORDERS:
        raise ShapeError(f"pad: unknown mode {mode!r}; choose from constant, {', '.join(_BORDERS)}")
    for axis, (lo, hi) in enumerate(pairs):
        n = pad_axis(n, axis, lo, hi, mode)
    return wrap(n)


def pad_constant(x: Node, pairs: Sequence[tuple[int, int]], value) -> Node:
    """Zero or constant padding; a negative width crops. `value` may be a scalar tensor."""
    low, high = [p[0] for p in pairs], [p[1] for p in pairs]
    if not isinstance(value, Tensor):
        return b.pad(x, low, high, None, value)
    fill = b.cast(as_node(value), x.dtype)
    if fill.ndim:
        raise ShapeError(f"pad: the value has shape {fill.shape}, not ()")
    inside = b.pad(b.const(True, dtypes.bool_, x.shape), low, high, None, False)
    return b.select(inside, b.pad(x, low, high, None, 0), spread(fill, inside.shape))


def pad_axis(x: Node, axis: int, low: int, high: int, mode: str) -> Node:
    """One axis padded from its own elements; `mode` is a key of the border table."""
    if not low and not high:
        return x
    extent = x.shape[axis]
    most = {"edge": math.inf if extent else 0, "reflect": extent - 1}.get(mode, extent)
    if builtins.max(low, high) > most:
        raise ShapeError(f"pad: {builtins.max(low, high)} elements in mode {mode!r} on axis {axis} of shape {x.shape}")
    before, after = _BORDERS[mode](x, axis, extent, low, high)
    return concat_nodes([p for p in (before, x, after) if p.shape[axis]], axis)


def _edge(x, axis, n, low, high):
    def thick(piece, k):
        return b.broadcast_to(piece, (*x.shape[:axis], k, *x.shape[axis + 1 :]))

    return thick(cut(x, axis, 0, 1), low), thick(cut(x, axis, n - 1, n), high)


def _reflect(x, axis, n, low, high):
    before, after = cut(x, axis, 1, low + 1), cut(x, axis, n - 1 - high, n - 1)
    return b.flip(before, (axis,)), b.flip(after, (axis,))


def _symmetric(x, axis, n, low, high):
    return b.flip(cut(x, axis, 0, low), (axis,)), b.flip(cut(x, axis, n - high, n), (axis,))


def _wrap_around(x, axis, n, low, high):
    return cut(x, axis, n - low, n), cut(x, axis, 0, high)


_BORDERS = {"edge": _edge, "reflect": _reflect, "symmetric": _symmetric, "wrap": _wrap_around}


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
