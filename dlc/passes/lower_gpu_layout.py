"""Layout for a GPU: contractions and reductions in forms that give all of its threads work.

    degenerate   a contraction without rows, columns or inner range becomes a multiplication and a sum
    split        few results over a long range: the range is cut into pieces, whose results are summed by another kernel

Operands stay where they are and as they are: a GPU's kernels read any order, and halves by themselves.
"""

from __future__ import annotations

import math
from typing import Protocol

from dlc.ir import build, dtypes
from dlc.ir.graph import Graph, Node, make, rewrite
from dlc.ir.ops import split_spec
from dlc.passes.layout import _as_reduction, cut_reduce
from dlc.passes.lower_contract import label_sizes, parts_of

TILE = 64  # rows and columns of a contraction that one block computes at least
MIN_INNER = 256  # inner range of a piece at least


class Sizes(Protocol):
    """What layout needs to know of a target (codegen's GpuTarget)."""

    sm_count: int

    @property
    def threads(self) -> int: ...


def gpu_layout(graph: Graph, target: Sizes) -> Graph:
    """Rewrite every reduction and contraction."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op == "reduce":
            return _reduce(node, ins[0], target)
        if node.op == "contract":
            return _contract(make("contract", ins, node.loc, **node.attrs), target)
        return None

    return rewrite(graph, rule)


def _reduce(node: Node, x: Node, target: Sizes) -> Node | None:
    """Cut a reduction whose result is too small to keep the threads busy."""
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    total = math.prod(x.shape[a] for a in axes)
    results = node.type.size
    if monoid.startswith("arg") or not results or total * results < 1 << 18:
        return None
    axis = max(axes, key=lambda a: x.shape[a])
    if x.ndim - 1 in axes or x.shape[-1] == 1:  # a block can share a row
        pieces = 4 * target.sm_count // results
        least = 2048
    else:  # every column has a thread
        pieces = 2 * target.threads // results
        least = 128
    pieces = min(pieces, total // least, x.shape[axis])
    return cut_reduce(node, x, axis, pieces) if pieces >= 2 else None


def _contract(node: Node, target: Sizes) -> Node:
    sizes = label_sizes(node)
    if node.type.size == 0:
        return node
    if any(n == 0 for n in sizes.values()):
        return build.const(0, node.dtype, node.shape, node.loc)
    parts = parts_of(node.attrs["spec"], sizes, False)
    if not parts.inner or not parts.rows or not parts.columns:
        return _as_reduction(node, sizes)
    a, b = node.inputs
    if node.dtype.is_float and node.dtype is not a.dtype and not (a.dtype.is_half and node.dtype is dtypes.float32):
        wide = build.contract(build.cast(a, node.dtype), build.cast(b, node.dtype), node.attrs["spec"], None, node.loc)
        return _contract(wide, target)
    return _split(node, sizes, target)


def _split(node: Node, sizes: dict[str, int], target: Sizes) -> Node:
    """Cut the longest inner label in pieces when there are too few tiles for the multiprocessors."""
    parts = parts_of(node.attrs["spec"], sizes, False)
    m, n, k = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns, parts.inner))
    tiles = math.prod(sizes[x] for x in parts.batch) * -(-m // TILE) * -(-n // TILE)
    label = max(parts.inner, key=lambda x: sizes[x])
    if 2 * tiles > target.sm_count or k < 2 * MIN_INNER or node.dtype.is_int:
        return node
    pieces = next((p for p in (32, 16, 8, 4, 2)
                   if sizes[label] % p == 0 and k // p >= MIN_INNER and tiles * p <= 2 * target.sm_count), 0)
    if not pieces:
        return node
    a, b, out = split_spec(node.attrs["spec"])
    fresh = next(c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in sizes)

    def cut(x: Node, own: str) -> Node:
        at = own.index(label)
        return build.reshape(x, (*x.shape[:at], pieces, x.shape[at] // pieces, *x.shape[at + 1 :]))

    spec = f"{a.replace(label, fresh + label)},{b.replace(label, fresh + label)}->{fresh}{out}"
    dtype = dtypes.float32 if node.dtype.is_half else node.dtype
    partial = build.contract(cut(node.inputs[0], a), cut(node.inputs[1], b), spec, dtype, node.loc)
    return build.cast(build.sum_(partial, [0], node.loc), node.dtype, node.loc)
