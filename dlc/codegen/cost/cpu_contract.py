"""The register tile of a contraction on a CPU, by formulas over its shapes and the target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dlc.codegen.cost import cpu_amx
from dlc.codegen.cost.cpu_amx import SHORT_RUN as SHORT_RUN_OF_TILES
from dlc.codegen.cost.cpu_amx import AmxTiles, height_of
from dlc.codegen.cost.cpu_blocking import blocks
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node
from dlc.ir.graph.ops import split_spec
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import TILE
from dlc.passes.views.contraction import column_run, label_sizes, parts_of, row_run, runs_along_inner
from dlc.passes.views.strides import strides_of
from dlc.passes.views.views import base_of

SCRATCH_LIMIT = 128 << 10  # bytes of thread-private scratch one row may use

CHUNK_BYTES = 32 << 10  # what one task of a pointwise kernel touches in its widest tensor
SHORT_RUN = 6  # rows at one stride (a line of an image) from which a register tile stays inside the run
STREAM = 1280  # cycles in which a line comes from afar
NOT_THERE = 4  # times a result the second-level cache may hold and yet no longer have what its epilogue meets
AHEAD = 64  # inner range from which there is time to fetch what a tile's results meet
MOST_ROWS = 28  # of a register tile
PAGE, WAYS = 4096, 8  # of a first-level cache: bytes after which its sets come again, lines of one set
NS_PER_BYTE = 0.05  # one core streaming
NS_PER_CACHED_BYTE = 0.02  # what a contraction reads and writes, beside its arithmetic
NS_PER_OP = 0.06  # one core, one vectorised scalar operation


def lanes_for(target: CpuTarget, dtypes: Sequence[DType], extent: int) -> int:
    """Vector lanes for elements of these dtypes along an axis: full registers of the widest compute type up to 4
    bytes (8-byte types then take several registers), no more lanes than the axis can use."""
    widest = max((min(d.compute.itemsize, 8) for d in dtypes if not d.is_bool), default=4)
    full = max(2, target.vector_bytes // min(widest, 8))
    need = 1 << max(0, (extent - 1).bit_length())
    return max(1, min(full, need))


def swapped(node: Node) -> bool:
    """Do the vectors run along the first operand's labels? They do when the result's last label is its own."""
    a, b, out = split_spec(node.attrs["spec"])
    sizes = label_sizes(node)
    wide = [x for x in out if sizes[x] != 1]
    for x in reversed(wide):
        if (x in a) != (x in b):
            return x in a
    return False


def contract(node: Node, target: CpuTarget) -> schedule.Contract:
    """Register tile and blocking for a contraction, by shapes."""
    swap = swapped(node)
    m, n, k, _ = product_sizes(node, swap)
    if target.has_amx_bf16 and node.attrs.get("pairs") and cpu_amx.suits(m, n, k):
        return on_tiles(node, target, swap)
    if k >= 3 * m and k >= 128 and may_run_along(node, swap):
        return along_inner(node, target, swap)
    return tiled(node, target, swap)


def product_sizes(node: Node, swap: bool) -> tuple[int, int, int, int]:
    """Rows, columns, inner range and batch of a contraction."""
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    return tuple(math.prod(sizes[x] for x in labels)  # type: ignore[return-value]
                 for labels in (parts.rows, parts.columns, parts.inner, parts.batch))


def tiled(node: Node, target: CpuTarget, swap: bool, tile: tuple[int, int] | None = None) -> schedule.Contract:
    """The schedule with vectors along the columns, and the register tile (rows, columns) that is given or estimated to
    be the best."""
    m, columns, k, outer = product_sizes(node, swap)
    sizes = label_sizes(node)
    n = math.prod(sizes[x] for x in column_run(node, swap))  # in which tiles are cut; the others are tasks
    outer *= columns // n
    dtype = node.inputs[0].dtype.compute
    lanes = lanes_for(target, [dtype], n)
    run = row_run(node, swap)
    if run < SHORT_RUN:
        run = 0
    pairs = bool(node.attrs.get("pairs"))
    mr, nr = tile or register_tile(run or m, n, k, lanes, target, pairs, rows_in_cache(node, swap))
    m_tiles, n_tiles = m // (run or m) * -(-(run or m) // mr), -(-n // nr)
    width = dtype.itemsize * k
    mb, nb = blocks(m_tiles, n_tiles, outer, mr * width, nr * width, work_of(2 * mr * nr * k), target.threads,
                    target.l2_bytes)
    ahead = m * n * outer * dtype.itemsize * NOT_THERE > target.l2_bytes and k >= AHEAD
    stream = STREAM // (mr * -(-nr // lanes)) if n * width * outer > target.l1d_bytes else 0
    return schedule.Contract(lanes, mr, nr, mb, nb, swap, run=run, ahead=ahead, stream=stream,
                             tail=narrowest(nr, lanes, target))


def on_tiles(node: Node, target: CpuTarget, swap: bool, tiles: AmxTiles | None = None) -> schedule.Contract:
    """The schedule for a matrix unit, with the tiles that are given or estimated to be the best."""
    m, n, k, outer = product_sizes(node, swap)
    run = row_run(node, swap)
    run = run if run >= SHORT_RUN_OF_TILES else 0  # shorter ones are packed
    stack, wide = tiles or cpu_amx.best(m, n, k, run or m)
    rows = height_of(run or m)
    stacks, panels = -(-(m // (run or m) * -(-(run or m) // rows)) // stack), -(-n // (TILE * wide))
    mr, nr = stack * rows, TILE * wide
    mb, nb = blocks(stacks, panels, outer, mr * k * 4, nr * k * 4, 4 * mr * nr * k * cpu_amx.NS_PER_FLOP,
                    target.threads, target.l2_bytes)
    ahead = m * n * outer * 4 > target.l2_bytes and k >= AHEAD
    return schedule.Contract(TILE, mr, nr, mb, nb, swap, run=run, stack=stack, ahead=ahead)


def narrowest(nr: int, lanes: int, target: CpuTarget) -> int:
    """The fewest lanes for columns beyond the last whole tile, where these may take narrower vectors: half the widest
    take half their time, or at least no more. 0 where they take the tile's own."""
    return 4 if lanes == nr and lanes * 4 == target.vector_bytes == 64 else 0


def may_run_along(node: Node, swap: bool) -> bool:
    """Can `along_inner` schedule the contraction?"""
    of_floats = node.inputs[0].dtype.compute.is_float or node.attrs.get("pairs", False)
    return of_floats and runs_along_inner(node, swap)


def along_inner(node: Node, target: CpuTarget, swap: bool) -> schedule.Contract:
    """Vectors along the inner range: folding them costs about 100 / k of the work, packing the columns 30 / m."""
    m, n, _, outer = product_sizes(node, swap)
    side = 5 if target.vector_registers >= 32 else 3
    mr, nr = (-(-x // -(-x // side)) for x in (m, n))
    m_tiles, n_tiles = -(-m // mr), -(-n // nr)
    want = 1 if target.threads == 1 else 4 * target.threads
    n_blocks = min(n_tiles, -(-want // outer))
    lanes = lanes_for(target, [node.inputs[0].dtype.compute], 1 << 20)
    return schedule.Contract(lanes, mr, nr, m_tiles, max(1, n_tiles // n_blocks), swap, along=True)


def rows_in_cache(node: Node, swap: bool) -> int:
    """How many neighbouring rows of a window the first-level cache holds at one position of the inner range: those a
    power of two apart fall into the same few sets. (Other operands with such rows are packed.)"""
    spec = split_spec(node.attrs["spec"])
    operand, own = node.inputs[swap], spec[swap]
    rows = parts_of(node.attrs["spec"], label_sizes(node), swap).rows
    pitch = strides_of(operand)[own.index(rows[-1])] if rows else None
    if not pitch or base_of(operand).type.size >= operand.type.size:
        return MOST_ROWS
    apart = pitch * operand.dtype.itemsize
    return WAYS * (PAGE // math.gcd(apart, PAGE))


def register_tile(m: int, n: int, k: int, lanes: int, target: CpuTarget, pairs: bool = False,
                  most: int = MOST_ROWS) -> tuple[int, int]:
    """(rows, columns) of the accumulator tile with the least estimated time."""
    best, best_cost = (1, lanes), math.inf
    for tile, cost in tile_costs(m, n, k, lanes, target, pairs, most):
        if cost < best_cost * 0.999:
            best, best_cost = tile, cost
    return best


def tile_costs(m: int, n: int, k: int, lanes: int, target: CpuTarget,
               pairs: bool = False, rows: int = MOST_ROWS) -> Iterator[tuple[tuple[int, int], float]]:
    """Accumulator tiles (rows, columns) that fit the registers, with the estimated time of the whole contraction:
    padding, loads against FMAs, and the cost of starting and storing a tile over its inner range."""
    registers = target.vector_registers
    for vectors in range(1, 5):
        nr = vectors * lanes
        most = min(m, (registers - vectors - 1) // vectors, MOST_ROWS, rows)
        if most < 1 or (vectors > 1 and nr - lanes >= n):
            continue
        for limit in range(max(1, most // 2), most + 1):
            mr = -(-m // -(-m // limit))  # even tiles
            narrow = last_lanes(n, nr, lanes, narrowest(nr, lanes, target)) < lanes
            tiles = -(-m // mr) * (n // nr + (0.5 if narrow else n % nr > 0))
            # an FMA of latency 4 on one or two ports needs enough independent sums; panels come from the second-level
            # cache at some 32 bytes a cycle; a pair is spread over the lanes by an instruction of its own
            busy = max(mr * vectors, 8) + (mr + nr) * 4 / 32 + (mr / 2 if pairs else 0)
            yield (mr, nr), tiles * (k * busy + 2 * mr * vectors + 30)


def work_of(flops: int) -> float:
    """Estimated nanoseconds of so many operations in a contraction on one thread."""
    return flops * 0.01


def last_lanes(n: int, nr: int, lanes: int, fewest: int) -> int:
    """Lanes of the vectors of the last of n columns in tiles of nr: `lanes`, or from `fewest` on (unless that is 0) as
    few as reach over all that is left, in one vector."""
    rest = n % nr
    narrow = max(fewest, 1 << (rest - 1).bit_length()) if rest else lanes
    return narrow if fewest and n > nr and narrow < lanes else lanes
