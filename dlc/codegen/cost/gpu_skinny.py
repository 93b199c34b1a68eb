"""The schedule of a contraction with few rows (`passes/lower_gpu_skinny`): how many columns a block takes."""

from __future__ import annotations

import math

from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Node
from dlc.ir.loops import schedule
from dlc.passes.views.contraction import label_sizes, parts_of

ROWS = 32  # at most
LEAST_COLUMNS, LEAST_INNER = 64, 64


BLOCK = 512
ALONG = 4  # inner positions that a thread reads at once
SYNC = 90  # inner positions that a step costs besides its own: some 0.3 us, of chunks of 200 and 400 (H100)
# bytes a microsecond that one multiprocessor gets from the second-level cache, and that all get; multiplications that
# one does: estimates
SM_BYTES, ALL_BYTES, SM_PRODUCTS = 0.1e6, 5.5e6, 0.11e6


def skinny(node: Node, target: GpuTarget) -> schedule.GpuSkinny:
    """The block of a contraction that `is_skinny`."""
    swap = sizes_of(node, False)[0] > ROWS
    m, n, k, _ = sizes_of(node, swap)
    item = node.inputs[0].dtype.compute.itemsize
    tm = min(4, m)
    bm = -(-m // tm) * tm

    def cost(bn: int) -> float:
        blocks = -(-n // bn)
        waves = -(-blocks // target.sm_count)
        block_bytes = k * (m + bn) * item
        return max(waves * block_bytes / SM_BYTES, blocks * block_bytes / ALL_BYTES) + waves * bm * bn * k / SM_PRODUCTS

    widths = [w for w in (4, 8, 12, 16, 20, 24, 32, 40, 48, 64) if w <= max(4, n)]
    bn = min(widths, key=cost)
    slices = max(1, BLOCK // (bm // tm * (bn // 4)))

    def room() -> int:
        """Bytes of shared memory for chunks, two of each operand; the rest is for the partial results."""
        return target.shared_bytes - item * slices * bm * bn - 4096

    def chunk(units: int) -> int:
        return 2 * item * (bm + bn) * (units * ALONG * slices + 4)

    while slices > 1 and (k < ALONG * slices or chunk(1) > room()):
        slices //= 2
    unit = ALONG * slices

    def length(units: int) -> float:
        """Inner positions that the steps cost, with what is outside the range."""
        return -(-k // (units * unit)) * (units * unit + SYNC) + units * unit

    fitting = [u for u in range(1, -(-k // unit) + 1) if chunk(u) <= room() and u * unit * (bm + bn) <= 32 * BLOCK]
    units = min(fitting or [1], key=length)
    return schedule.GpuSkinny(BLOCK, bm, bn, units * unit, tm, 4, slices, ALONG, swap)


def is_skinny(node: Node) -> bool:
    """Is `node` a float32 (or float64) product with few rows and a wide, long other operand?"""
    if not node.inputs[0].dtype.is_float or node.inputs[0].dtype.is_half or node.inputs[0].dtype is not node.dtype:
        return False
    m, n, k, batch = sizes_of(node, False)
    return batch == 1 and min(m, n) <= ROWS and max(m, n) >= LEAST_COLUMNS and k >= LEAST_INNER


def sizes_of(node: Node, swap: bool) -> tuple[int, int, int, int]:
    """(rows, columns, inner range, batch) of a contraction."""
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    m, n, k, batch = (math.prod(sizes[x] for x in labels)
                      for labels in (parts.rows, parts.columns, parts.inner, parts.batch))
    return m, n, k, batch
