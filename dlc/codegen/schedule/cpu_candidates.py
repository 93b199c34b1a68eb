"""Schedules worth measuring: for each kernel at most 16, the chosen one first, the likeliest to be better next.

The order is that of the estimates in `codegen/schedule/cpu.py` and, where these say nothing, of how much may be gained.
Every candidate computes the same; nothing here knows whether it is fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from dlc.codegen.cost import cpu_contract
from dlc.codegen.cost.cpu_contract import lanes_for
from dlc.codegen.lower.body import KernelBody
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.graph.graph import Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.passes.fuse.access import contiguous, inner_axes, map_extents, transposed_axis
from dlc.passes.fuse.fuse import Fused, Group

MOST = 16
WIDEST = 16  # vectors of partial results that a kernel of one reduction may keep; others have a quarter


def contractions(node: Node, target: CpuTarget) -> list[schedule.Contract]:
    """Schedules of a contraction before its operands are packed (the packing follows the schedule)."""
    first = cpu_contract.contract(node, target)
    tiles = _other_tiles(node, first, target)
    by_width: dict[int, schedule.Contract] = {}
    for s in tiles:
        by_width.setdefault(s.nr, s)
    widths = [s for s in by_width.values() if s.nr != first.nr or first.along]
    second = tiles[:1]
    return ranked(chain(
        [first],
        widths,
        _other_forms(node, first, target),
        islice(_blockings(node, first), 4),
        islice(tiles, 6),
        *(_blockings(node, s) for s in second),
        _blockings(node, first),
        tiles,
    ))


def _other_tiles(node: Node, first: schedule.Contract, target: CpuTarget) -> list[schedule.Contract]:
    """The other register tiles with vectors along the columns, by their estimates."""
    m, n, k, _ = cpu_contract.product_sizes(node, first.swap)
    base = cpu_contract.tiled(node, target, first.swap)
    pairs = bool(node.attrs.get("pairs"))
    costs = dict(cpu_contract.tile_costs(base.run or m, n, k, base.lanes, target, pairs))
    order = sorted(costs, key=lambda tile: costs[tile])
    return [cpu_contract.tiled(node, target, first.swap, t) for t in order if first.along or t != (first.mr, first.nr)]


def _other_forms(node: Node, first: schedule.Contract, target: CpuTarget) -> Iterator[schedule.Contract]:
    """Vectors along another range: the inner one, or the rows where the columns do not fill vectors."""
    m, n, k, _ = cpu_contract.product_sizes(node, first.swap)
    if not first.along and k >= 64 and cpu_contract.may_run_along(node, first.swap):
        yield cpu_contract.along_inner(node, target, first.swap)
    if n < 2 * cpu_contract.lanes_for(target, [node.inputs[0].dtype.compute], 1 << 20) and m > n:
        yield cpu_contract.tiled(node, target, not first.swap)


def _blockings(node: Node, s: schedule.Contract) -> Iterator[schedule.Contract]:
    """The same tile in tasks of other sizes."""
    m, n, _, _ = cpu_contract.product_sizes(node, s.swap)
    most_m, most_n = max(s.block_m, -(-m // s.mr)), max(s.block_n, -(-n // s.nr))
    for down, across in ((2, 1), (1, 2), (0.5, 1), (1, 0.5), (2, 0.5), (0.5, 2), (4, 1), (1, 4), (0.25, 1), (2, 2)):
        mb, nb = max(1, min(most_m, int(s.block_m * down))), max(1, min(most_n, int(s.block_n * across)))
        yield replace(s, block_m=mb, block_n=nb)


def group_schedules(fused: Fused, group: Group, target: CpuTarget) -> list[schedule.Schedule]:
    """Schedules of a kernel that is no contraction; only the chosen one where there is no choice."""
    first = schedules.choose(fused, group, target)
    if isinstance(first, schedule.Map):
        return ranked(chain([first], _maps(fused, group, first, target)))
    if isinstance(first, schedule.Rows):
        return ranked(chain([first], _rows(first), _across(fused, group, target)))
    if isinstance(first, schedule.Columns):
        return ranked(chain([first], _columns(group, first), _across(fused, group, target), _along(group, target)))
    return [first]


def _maps(fused: Fused, group: Group, first: schedule.Map, target: CpuTarget) -> Iterator[schedule.Schedule]:
    extents = map_extents(fused, group)
    wide = first.lanes >= 4
    if first.tile:
        yield replace(first, tile=0)
        if wide:
            yield schedule.Map(first.lanes, first.chunk, first.lanes // 2)
    elif wide and len(extents) > 1 and transposed_axis(fused, group, extents) is not None:
        yield schedule.Map(first.lanes, first.chunk, first.lanes)
    for factor in (4, 0.25, 2, 0.5):
        yield replace(first, chunk=max(first.lanes, int(first.chunk * factor)))
    if not first.tile:
        for lanes in (2 * first.lanes, first.lanes // 2):
            if lanes:
                yield replace(first, lanes=lanes, chunk=max(lanes, first.chunk))


def _rows(first: schedule.Rows) -> Iterator[schedule.Schedule]:
    for unroll in (1, 2, 4, 8):
        yield replace(first, unroll=unroll)
    for factor in (4, 0.25, 2, 0.5):
        yield replace(first, rows=max(1, int(first.rows * factor)))
    if first.lanes > 4:
        yield replace(first, lanes=first.lanes // 2)
    yield replace(first, lanes=2 * first.lanes)


def _columns(group: Group, first: schedule.Columns) -> Iterator[schedule.Schedule]:
    most = WIDEST if len(group.units) == 1 else WIDEST // 4
    for unroll in (1, 2, 4, 8, 16):
        if unroll <= most:
            yield replace(first, unroll=unroll)
    if first.lanes > 4:
        yield replace(first, lanes=first.lanes // 2)


def _across(fused: Fused, group: Group, target: CpuTarget) -> Iterator[schedule.Schedule]:
    """Vectors across each row axis along which memory is read or written with stride 1."""
    body, rows = KernelBody(fused, group), group.rows or ()
    axes = [loops.axis("q", e) for e in rows]
    places = {u: dict(zip(group.row_axes[u], axes, strict=True)) for u in group.units}
    for k in reversed(range(len(rows))):
        if contiguous(body, group.units, places, axes[k]) > 0:
            lanes = lanes_for(target, _dtypes(group), rows[k])
            for unroll in (1, 4):
                yield schedule.Columns(lanes, unroll, k)


def _along(group: Group, target: CpuTarget) -> Iterator[schedule.Schedule]:
    """Vectors along the inner axis of the rows."""
    last = max((inner_axes(group, u)[-1].attr[1] for u in group.units if inner_axes(group, u)), default=1)
    if last > 1:
        lanes = lanes_for(target, _dtypes(group), last)
        for unroll in (1, 4):
            yield schedule.Rows(lanes, unroll, 1)


def _dtypes(group: Group) -> list:
    return schedules.group_dtypes(group) + [u.node.inputs[0].dtype for u in group.units if u.kind == "reduce"]


def ranked(found: Iterable) -> list:
    """The first 16 different ones, as ranked."""
    return list(islice(dict.fromkeys(found), MOST))
