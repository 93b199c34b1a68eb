"""The choice of a schedule: from a group's shapes and the target's numbers to a record of `ir/loops/schedule.py`.

Everything is decided by small cost formulas over the target's vector width, registers and caches. The choice for a
contraction depends on shapes alone, because the layout pass packs operands for it before groups exist.
"""

from __future__ import annotations

import math

from dlc.codegen.cost.cpu_contract import (
    CHUNK_BYTES,
    NS_PER_BYTE,
    NS_PER_CACHED_BYTE,
    NS_PER_OP,
    contract,
    lanes_for,
    work_of,
)
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.dtypes import DType
from dlc.ir.loops import schedule
from dlc.passes.fuse.access import best_vector_axis, cost_of, inner_axes, map_extents, transposed_axis
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.views.contraction import label_sizes


def group_dtypes(group: Group) -> list[DType]:
    return [u.node.dtype for u in group.units if u.kind in ("map", "reduce", "contract")]


def choose(fused: Fused, group: Group, target: CpuTarget) -> schedule.Schedule:
    """The schedule of one group."""
    if group.kind == "map":
        return _map(fused, group, target)
    if group.kind == "rows":
        return _rows(fused, group, target)
    if group.kind == "contract":
        return contract(group.units[0].node, target)
    return schedule.Plain(lanes_for(target, [group.units[0].node.inputs[-1].dtype], 1 << 20))


def _map(fused: Fused, group: Group, target: CpuTarget) -> schedule.Map:
    extents = map_extents(fused, group)
    dtypes = group_dtypes(group)
    # one axis: a kernel for tensors of every size, whose lanes do not follow this one's
    lanes = lanes_for(target, dtypes, extents[-1] if len(extents) > 1 else 1 << 20 if extents else 1)
    chunk = max(lanes, CHUNK_BYTES // max(4, *(d.itemsize for d in dtypes)))
    across = transposed_axis(fused, group, extents)
    if across is not None and lanes >= 4 and extents[across] >= lanes // 2 and extents[-1] >= lanes // 2:
        return schedule.Map(lanes, chunk, lanes)
    return schedule.Map(lanes, chunk)


def _rows(fused: Fused, group: Group, target: CpuTarget) -> schedule.Schedule:
    dtypes = group_dtypes(group) + [u.node.inputs[0].dtype for u in group.units if u.kind == "reduce"]
    across, axis = best_vector_axis(fused, group)
    rows = group.rows or ()
    if across:
        n = rows[axis]
        lanes = lanes_for(target, dtypes, n)
        blocks = math.prod(rows) // n * -(-n // lanes)
        # beyond the caches long runs of each row count more than tasks to share out
        large = max(u.size for u in group.units) * 4 > target.l2_bytes
        tasks = target.threads if large or target.threads == 1 else 4 * target.threads
        # a lone reduction reads long runs of each row; with more in the group the registers are needed
        widths = (16, 8, 4, 2, 1) if len(group.units) == 1 else (4, 2, 1)
        alone = sum(bool(inner_axes(group, u)) for u in group.units) == 1  # all else comes after its loop
        if len(group.units) > 1 and alone and large and blocks % (8 * target.threads) == 0:
            widths = (8, 4, 2, 1)
        unroll = next(u for u in widths if u == 1 or (blocks // u >= tasks and n >= lanes * u))
        return schedule.Columns(lanes, unroll, axis)
    inner = max((math.prod(a.attr[1] for a in inner_axes(group, u)) for u in group.units), default=1)
    last = max((inner_axes(group, u)[-1].attr[1] for u in group.units if inner_axes(group, u)), default=1)
    lanes = lanes_for(target, dtypes, last)
    unroll = 4 if last >= 8 * lanes else 2 if last >= 2 * lanes else 1
    per = max(1, CHUNK_BYTES // (4 * max(1, inner)))
    per = min(per, max(1, math.prod(rows) // (4 * target.threads)))
    return schedule.Rows(lanes, unroll, per)


def work_ns(fused: Fused, group: Group, nbytes: int) -> float:
    """Estimated single-thread time of a group."""
    if group.kind == "contract":
        sizes = label_sizes(group.units[0].node)
        return work_of(2 * math.prod(sizes.values())) + nbytes * NS_PER_CACHED_BYTE
    ops = 0
    for u in group.units:
        inner = frozenset(inner_axes(group, u)) if group.kind == "rows" else frozenset()
        ops += u.size * (2 + sum(cost_of(v, inner) for v in u.values))
    return max(ops * NS_PER_OP, nbytes * NS_PER_BYTE)
