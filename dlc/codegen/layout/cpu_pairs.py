"""bfloat16 contractions as contractions of pairs along a label that is summed over.

Two neighbours along the label are one word, so that an instruction multiplies both (`dot2` of the Loop IR). The label
is chosen so that little is copied. An operand that lies contiguous along it is read in place, word by word. Others are
paired as they are packed into panels, or, where several views of one element would each be paired (a convolution's
window), below the views: the memory under them is copied once, in pairs along an axis that no window slides along.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, make, unique
from dlc.ir.graph.ops import split_spec
from dlc.passes.views.contraction import label_sizes, parts_of
from dlc.passes.views.strides import strides_of
from dlc.passes.views.views import base_of

FEW = 4  # rows or columns below which a contraction runs as a reduction
SHORT = 8  # inner range below which pairing does not pay


class _Operand(NamedTuple):
    """An operand as pairs, and how many words are written to make it so."""

    node: Node
    copied: int


def pair_operands(node: Node) -> Node | None:
    """The contraction on pairs, with a float32 result; None where that is not worth while."""
    sizes = label_sizes(node)
    spec = split_spec(node.attrs["spec"])
    parts = parts_of(node.attrs["spec"], sizes, False)
    rows, columns, inner = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns, parts.inner))
    if min(rows, columns) < FEW or inner < SHORT:
        return None
    best: tuple[int, list[_Operand]] | None = None
    for label in parts.inner:
        found = [_paired(x, own.index(label)) for x, own in zip(node.inputs, spec, strict=False)]
        waste = inner // sizes[label] * rows * columns // 16 if sizes[label] % 2 else 0
        if any(x is None for x in found):
            continue
        cost = waste + sum(x.copied for x in found)
        if best is None or cost < best[0]:
            best = cost, found
    if best is None:
        return None
    return build.contract(*(x.node for x in best[1]), node.attrs["spec"], dtypes.float32, node.loc, pairs=True)


def _paired(x: Node, axis: int) -> _Operand | None:
    """`x` with its neighbours along `axis` paired."""
    whole = _even(x, axis)
    top = build.pair(whole, axis)
    if whole is x and None not in strides_of(top):
        return _Operand(top, 0)
    if x.type.size <= base_of(x).type.size:
        return _Operand(top, top.type.size)
    below = _below(x, axis)
    return None if below is None else _Operand(below, base_of(below).type.size)


def _even(x: Node, axis: int) -> Node:
    """`x` with an even extent: a zero adds nothing to a sum."""
    if x.shape[axis] % 2 == 0:
        return x
    return build.pad(x, [0] * x.ndim, [int(a == axis) for a in range(x.ndim)], None, 0, x.loc)


def _below(x: Node, axis: int) -> Node | None:
    """`x` paired along `axis` as views of pairs in memory of their own; None where a view slides along the axis."""
    at = x.attrs
    if x.op == "permute":
        src = _below(x.inputs[0], at["axes"][axis])
        return None if src is None else build.permute(src, at["axes"], x.loc)
    if x.op == "window":
        if axis >= x.inputs[0].ndim or axis in at["axes"]:
            return None
        src = _below(x.inputs[0], axis)
        return None if src is None else make("window", (src,), x.loc, **at)
    if x.op == "reshape":
        where = _same_axis(x.inputs[0].shape, x.shape, axis)
        src = None if where is None else _below(x.inputs[0], where)
        if src is not None:
            return build.reshape(src, (*x.shape[:axis], -(-x.shape[axis] // 2), *x.shape[axis + 1 :]), x.loc)
    if x.type.size > base_of(x).type.size:
        return None
    return make("barrier", (build.pair(_even(x, axis), axis),), x.loc, uid=unique())


def _same_axis(old: tuple[int, ...], new: tuple[int, ...], axis: int) -> int | None:
    """The axis before a reshape that is `axis` after it."""
    before = math.prod(new[:axis])
    for k, extent in enumerate(old):
        if extent == new[axis] and math.prod(old[:k]) == before:
            return k
    return None
