"""Schedules worth measuring on a GPU: for each kernel at most 16, the chosen one first, as on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from dlc.codegen.cost.cpu_contract import swapped
from dlc.codegen.cost.gpu_waves import SIMT, stages_for, tiles_for
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.schedule.cpu import group_dtypes
from dlc.codegen.schedule.cpu_candidates import ranked
from dlc.codegen.schedule.gpu import DEEPEST, TILE, lanes_for
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.loops import schedule
from dlc.passes.fuse.access import inner_axes, map_extents, transposed_axis
from dlc.passes.fuse.fuse import Fused, Group

LEAST_STAGES = 3
THREADS = (32, 1024)  # of a block

Found = Iterator[schedule.Schedule]


def group_schedules(fused: Fused, group: Group, target: GpuTarget) -> list[schedule.Schedule]:
    """Schedules of a kernel; only the chosen one where there is no choice."""
    first = gpu_schedule.choose(fused, group, target)
    more = _FAMILIES.get(type(first))
    return ranked(chain([first], more(fused, group, target, first) if more else ()))


def _maps(fused: Fused, group: Group, target: GpuTarget, first: schedule.GpuMap) -> Found:
    extents = map_extents(fused, group)
    if first.tile:
        yield replace(first, tile=TILE, lanes=1)
        if all(extents[k] % 4 == 0 for k in (transposed_axis(fused, group, extents) or 0, -1)):
            yield replace(first, tile=2 * TILE, lanes=4)
        lanes = lanes_for(group_dtypes(group), extents[-1])
        yield schedule.GpuMap(256, lanes, 2)
        yield schedule.GpuMap(256, 1, 1)
        return
    if len(extents) > 1 and transposed_axis(fused, group, extents) is not None:
        yield schedule.GpuMap(256, 1, 1, TILE)
    for unroll in (1, 2, 4):
        yield replace(first, unroll=unroll)
    for block in (128, 512):
        yield replace(first, block=block)
    if first.lanes > 1:
        yield replace(first, lanes=first.lanes // 2)
        yield replace(first, lanes=first.lanes // 2, unroll=2 * first.unroll)


def _rows(fused: Fused, group: Group, target: GpuTarget, first: schedule.GpuRows) -> Found:
    for factor in (2, 0.5, 4, 0.25):
        threads = int(first.group * factor)
        if 8 <= threads <= THREADS[1]:
            yield replace(first, group=threads, block=max(128, threads))
    for block in (256, 512):
        if block >= first.group:
            yield replace(first, block=block)
    for keep in (16, 64, 0):
        yield replace(first, keep=keep)
    if first.lanes > 1:
        yield replace(first, lanes=first.lanes // 2)
    for steps in (2, 8):
        yield replace(first, steps=steps, keep=0)


def _columns(fused: Fused, group: Group, target: GpuTarget, first: schedule.GpuColumns) -> Found:
    inner = max((math.prod(a.attr[1] for a in inner_axes(group, u)) for u in group.units), default=1)
    across = first.block // first.depth

    def of(threads: int, depth: int, **changes: Any) -> Found:
        if 1 <= depth <= min(DEEPEST, max(1, inner)) and THREADS[0] <= threads * depth <= THREADS[1] and threads >= 8:
            yield replace(first, block=threads * depth, depth=depth, **changes)

    for factor in (2, 0.5, 4):
        yield from of(across, int(first.depth * factor))
    for factor in (0.5, 2):
        yield from of(int(across * factor), first.depth)
    yield from of(across // 2, first.depth * 2)
    yield from of(across * 2, first.depth // 2)
    for steps in (8, 2):
        yield from of(across, first.depth, steps=steps)
    wide = lanes_for(group_dtypes(group), (group.rows or (1,))[first.axis])
    for lanes in (2 * first.lanes, first.lanes // 2):
        if 1 <= lanes <= wide:
            yield from of(across, first.depth, lanes=lanes)


def _contract(fused: Fused, group: Group, target: GpuTarget, first: schedule.Schedule) -> Found:
    swap = swapped(group.units[0].node)
    for t in SIMT:
        yield schedule.GpuContract(t.bm, t.bn, t.bk, t.tm, t.tn, swap, t.blocks)
    for t in SIMT[:2]:
        yield schedule.GpuContract(t.bm, t.bn, t.bk, t.tm, t.tn, swap, 3)


def _mma(fused: Fused, group: Group, target: GpuTarget, first: schedule.GpuMma) -> Found:
    """Other tiles and numbers of stages, as far as shared memory goes, copied in bulk or not."""
    ways = [first]
    if first.bulk:
        ways = [replace(first, persistent=target.sm_count - first.persistent), replace(first, bulk=False, persistent=0)]
    yield from ways
    dtype = group.units[0].node.inputs[0].dtype
    for tile in tiles_for(dtype, target):
        stages = stages_for(tile, dtype, target)
        for way in [first, *ways]:
            for count in (min(4, stages), stages):
                if count >= LEAST_STAGES:
                    yield replace(way, bm=tile.bm, bn=tile.bn, gm=tile.gm, gn=tile.gn, stages=count)


_FAMILIES: dict[type, Callable[..., Found]] = {
    schedule.GpuMap: _maps,
    schedule.GpuRows: _rows,
    schedule.GpuColumns: _columns,
    schedule.GpuContract: _contract,
    schedule.GpuSkinny: _contract,
    schedule.GpuMma: _mma,
}
