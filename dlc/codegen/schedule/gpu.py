"""The choice of a schedule for a GPU: from a group's shapes and the target's numbers to a record of `ir/schedule`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlc.codegen.cost.gpu_contract import attention, contract
from dlc.codegen.cost.gpu_skinny import is_skinny, skinny
from dlc.codegen.schedule.cpu import group_dtypes
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import DType
from dlc.ir.loops import schedule
from dlc.passes.fuse.access import cost_of, inner_axes, map_extents, transposed_axis
from dlc.passes.fuse.fuse import Enough, Fused, Group
from dlc.passes.fuse.row_walk import row_axis

WIDE = 16  # bytes that a thread moves at once
IN_FLIGHT = 2  # vectors a thread, when there is work for all threads
COSTLY = 1500  # scalar operations (`cost_of`) of a thread from which it should have fewer elements
TILE = 32  # elements a side of a transposed tile
SMALL = 1 << 14  # elements of a unit that any group may compute: a launch takes as long
DEEPEST = 32  # threads that share a column
LONGEST_ROW = 512  # threads that share a row usefully


def choose(fused: Fused, group: Group, target: GpuTarget) -> schedule.Schedule:
    """The schedule of one group."""
    if group.kind == "map":
        return _map(fused, group, target)
    if group.kind == "rows":
        return _rows(fused, group, target)
    if group.kind == "contract":
        node = group.units[0].node
        return skinny(node, target) if is_skinny(node) else contract(node, target)
    if group.kind in ("attention", "attention_grad"):
        return attention(group.units[0].node, target)
    return schedule.GpuOrdered(128, target.threads // 2)


def enough_rows(target: GpuTarget) -> Enough:
    """May a group compute a unit by rows alone? When its threads fill a good part of the GPU or have little to do."""

    def enough(rows: int, size: int, across: bool) -> bool:
        threads = rows * max(1, min(DEEPEST if across else LONGEST_ROW, size // max(rows, 1)))
        return size <= max(SMALL, 8 * threads) or threads >= target.threads // 4

    return enough


def lanes_for(dtypes: Sequence[DType], extent: int) -> int:
    """Neighbouring elements a thread: 16 bytes of the narrowest common type up to 4 bytes, as the extent divides."""
    widest = max((min(d.itemsize, 4) for d in dtypes), default=4)
    lanes = WIDE // widest
    while lanes > 1 and extent % lanes:
        lanes //= 2
    return lanes


def _map(fused: Fused, group: Group, target: GpuTarget) -> schedule.GpuMap:
    extents = map_extents(fused, group)
    dtypes = group_dtypes(group)
    total = math.prod(extents)
    across = transposed_axis(fused, group, extents)
    if across is not None and min(extents[across], extents[-1]) >= TILE // 2:
        wide = (extents[across] % 4 == 0 and extents[-1] % 4 == 0 and all(d.itemsize <= 4 for d in dtypes)
                and sum(len(u.loads) for u in group.units) <= 2 and total >= 2 * target.sm_count * (2 * TILE) ** 2)
        return schedule.GpuMap(256, 4, 1, 2 * TILE) if wide else schedule.GpuMap(256, 1, 1, TILE)
    lanes = lanes_for(dtypes, total if len(extents) <= 1 else extents[-1])
    if len(extents) == 1:  # serves every size
        lanes = WIDE // max(min(d.itemsize, 4) for d in dtypes)
    unroll = IN_FLIGHT
    while unroll > 1 and total < unroll * lanes * target.threads:
        unroll //= 2
    if len(extents) == 1:
        unroll = 2  # one kernel for all sizes: launches of small tensors should not starve
    cost = sum(cost_of(v) for u in group.units for v in u.values)
    while lanes * unroll * cost > COSTLY and lanes * unroll > 4:  # arithmetic hides the latency; keep the code short
        lanes, unroll = (lanes, unroll // 2) if unroll > 1 else (lanes // 2, 1)
    return schedule.GpuMap(256, lanes, unroll)


def _rows(fused: Fused, group: Group, target: GpuTarget) -> schedule.Schedule:
    dtypes = group_dtypes(group) + [u.node.inputs[0].dtype for u in group.units if u.kind == "reduce"]
    across, axis = row_axis(fused, group)
    rows = group.rows or ()
    total = math.prod(rows)
    inner = max((math.prod(a.attr[1] for a in inner_axes(group, u)) for u in group.units), default=1)
    if across:
        n = rows[axis]
        lanes = lanes_for(dtypes, n)
        while lanes > 1 and total // lanes * inner < target.threads * 8:
            lanes //= 2
        # threads along a row until all are busy, as long as each has a few positions
        depth, block = 1, 128 if n >= 128 * lanes else 32
        while depth < DEEPEST and 4 * depth <= inner and total // lanes * depth < target.threads:
            depth *= 2
        while block > 32 and block * depth > 512:
            block //= 2
        return schedule.GpuColumns(block * depth, lanes, axis, depth)
    lanes = lanes_for(dtypes, inner)
    vectors = -(-inner // lanes)
    # enough threads for the row to stay in registers, more where there are few rows
    group_size = 8
    while group_size < 1024 and group_size < vectors:
        each = 16 if group_size >= 512 and lanes <= 4 else 8 if group_size >= 128 and lanes <= 4 else 4
        if vectors <= each * group_size and total * group_size >= target.threads // 2:
            break
        group_size *= 2
    block = max(128, group_size)
    keep = 32 if group_size < 512 else 64 if group_size == 512 else 52  # 1,024 threads have 64 registers each
    return schedule.GpuRows(block, group_size, lanes, keep)


