"""`pad` in its modes."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence

import numpy as np

from dlc.base.errors import ShapeError
from dlc.frontend.array.axes import concat_nodes, cut, spread
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node


@user_errors
def pad(x, pad_width, mode: str = "constant", constant_values: float = 0) -> Tensor:
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
