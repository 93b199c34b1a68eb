"""Layout for a GPU: contractions and reductions in forms that give all of its threads work.

    degenerate   a contraction without rows, columns or inner range becomes a multiplication and a sum
    trim         a contraction of which a slice is used computes only that (`passes/convolution/push_slices.py`)
    vectors      operands that cannot be read as vectors are copied (`codegen/layout/gpu_aligned_operands.py`)
    deal out     a scatter into few rows becomes one into several tables and their sum (`gpu_scatter.py`)
    split        few results over a long range: the range is cut into pieces, whose results are summed by another kernel

Other operands stay where they are and as they are: a GPU's kernels read any order, and halves by themselves.
"""

from __future__ import annotations

import math
from typing import Protocol

from dlc.codegen.cost.gpu_scatter import is_binned
from dlc.codegen.cost.gpu_skinny import is_skinny
from dlc.codegen.cost.gpu_waves import MatrixUnit, best_simt, best_tile, tiles_for
from dlc.codegen.layout.cpu import as_reduction, cut_reduce, in_pieces
from dlc.codegen.layout.gpu_aligned_operands import vector_operands
from dlc.codegen.layout.gpu_scatter import deal_out
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, rewrite
from dlc.ir.graph.ops import split_spec
from dlc.ir.sum_blocks import FOLDS, GPU_PRODUCTS, limit
from dlc.passes.convolution.push_slices import trim_contractions
from dlc.passes.views.contraction import label_sizes, parts_of
from dlc.passes.views.strides import strides_of

MOST = 256  # pieces
LEAST, LEAST_TILES = 48, 128  # inner range of a piece at least, by scalar code and by matrix instructions
# Inner range from which it is cut for its digits: no thread then compensates its sums (`long_sums`), which would take
# more registers than it has. Matrix instructions have none for partial sums either, but multiply numbers of few digits.
LONGEST, LONGEST_TILES = limit(FOLDS) * GPU_PRODUCTS, 1 << 17
WORTH = 0.75  # estimated time of a contraction in pieces, relative to the whole, from which it is cut
LAUNCH_US, BYTES_PER_US = 3.0, 2.5e6  # estimates after runs on an H100: a kernel more, memory


class Sizes(MatrixUnit, Protocol):
    """What layout needs to know of a target (codegen's GpuTarget)."""

    @property
    def threads(self) -> int: ...


def gpu_layout(graph: Graph, target: Sizes) -> Graph:
    """Rewrite every reduction and contraction."""
    graph = vector_operands(trim_contractions(graph))

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op == "reduce":
            return _reduce(node, ins[0], target)
        if node.op == "contract":
            return _contract(make("contract", ins, node.loc, **node.attrs), target)
        if node.op == "scatter":
            return deal_out(node, ins, target.sm_count) or _in_float32(node, ins)
        return None

    return rewrite(map_bodies(graph, lambda body: gpu_layout(body, target)), rule)


def _in_float32(node: Node, ins: tuple[Node, ...]) -> Node | None:
    """A scatter that would round each half that it adds."""
    if not node.dtype.is_half or node.attrs["combine"] not in ("add", "mul") or is_binned(node):
        return None
    base, index, updates = ins
    wide = [build.cast(base, dtypes.float32), index, build.cast(updates, dtypes.float32)]
    return build.cast(make("scatter", wide, node.loc, **node.attrs), node.dtype, node.loc)


def _reduce(node: Node, x: Node, target: Sizes) -> Node | None:
    """Cut a reduction whose result is too small to keep the threads busy."""
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    total = math.prod(x.shape[a] for a in axes)
    results = node.type.size
    if monoid.startswith("arg") or not results or total * results < 1 << 16:
        return None
    axis = max(axes, key=lambda a: x.shape[a])
    if x.ndim - 1 in axes or x.shape[-1] == 1:  # a block can share a row
        pieces = 2 * target.sm_count // results
        least = 2048
    else:  # every column has a thread
        pieces = 2 * target.threads // results
        least = 128
    pieces = min(pieces, total // least, x.shape[axis])
    if pieces < 2:
        return None
    # pieces of equal length, if any are near: the last one need not be padded
    even = next((p for p in range(pieces, pieces // 2, -1) if x.shape[axis] % p == 0), pieces)
    return cut_reduce(node, x, axis, even)


def _contract(node: Node, target: Sizes) -> Node:
    sizes = label_sizes(node)
    if node.type.size == 0:
        return node
    if any(n == 0 for n in sizes.values()):
        return build.const(0, node.dtype, node.shape, node.loc)
    parts = parts_of(node.attrs["spec"], sizes, False)
    if not parts.inner or not parts.rows or not parts.columns:
        return as_reduction(node, sizes)
    a, b = node.inputs
    if node.dtype.is_float and node.dtype is not a.dtype and not (a.dtype.is_half and node.dtype is dtypes.float32):
        wide = build.contract(build.cast(a, node.dtype), build.cast(b, node.dtype), node.attrs["spec"], None, node.loc)
        return _contract(wide, target)
    return _split(node, sizes, target)


def _estimate(m: int, n: int, k: int, batch: int, pieces: int, dtype: DType, target: Sizes) -> float:
    """Microseconds of a contraction in pieces: waves of tiles, whose steps take what their multiplications or the
    latency of memory take, and the summing of the pieces."""
    if tiles := tiles_for(dtype, target):
        best = best_tile(m, n, -(-k // pieces), batch * pieces, target.sm_count, tiles)[0]
    else:
        best = best_simt(m, n, -(-k // pieces), batch * pieces, target.sm_count)[0]
    return best + (pieces > 1) * (LAUNCH_US + batch * m * n * (4 + 8 * pieces) / BYTES_PER_US)


def _split(node: Node, sizes: dict[str, int], target: Sizes) -> Node:
    """Cut the longest inner label in pieces where their sums cost less than idle multiprocessors."""
    parts = parts_of(node.attrs["spec"], sizes, False)
    m, n, k = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns, parts.inner))
    batch = math.prod(sizes[x] for x in parts.batch)
    dtype = node.inputs[0].dtype
    tiles = bool(tiles_for(dtype, target))
    least = LEAST_TILES if tiles else LEAST
    if k < 4 * least or node.dtype.is_int or is_skinny(node):
        return node

    def cost(p: int) -> float:
        return _estimate(m, n, k, batch, p, dtype, target)

    # a piece of what an operand is contiguous along is whole rows of a shared tile, or at least whole vectors
    specs = split_spec(node.attrs["spec"])[:2]
    strides = [dict(zip(own, strides_of(x), strict=True)) for own, x in zip(specs, node.inputs, strict=True)]
    rows = (64, 8) if dtype.is_half else (32, 4) if tiles else (16, 4, 1)
    fits = {x: next(n for n in rows if sizes[x] % n == 0 or n == rows[-1]) for x in parts.inner}
    whole = {x: fits[x] if any(s[x] in (1, None) for s in strides) else 1 for x in parts.inner}
    choices = [(x, p) for x in parts.inner for p in range(2, min(MOST, k // least) + 1)
               if sizes[x] % p == 0 and sizes[x] // p % whole[x] == 0]
    longest = LONGEST_TILES if tiles else LONGEST
    short = [(x, p) for x, p in choices if k <= longest * p]
    label, pieces = min(short or choices, key=lambda c: cost(c[1]), default=(parts.inner[0], 1))
    if cost(pieces) > WORTH * cost(1) and (k <= longest or not short):
        return node
    (a, b), spec = in_pieces(node, label, pieces)
    partial = build.contract(a, b, spec, dtypes.float32 if node.dtype.is_half else node.dtype, node.loc)
    return build.cast(build.sum_(partial, [0], node.loc), node.dtype, node.loc)
