"""A group as a kernel on a GPU: which lowering each kind has, and with which schedule it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.lower.gpu.attention import lower_attention
from dlc.codegen.lower.gpu.contract import lower_contract
from dlc.codegen.lower.gpu.map import lower_map
from dlc.codegen.lower.gpu.mma import lower_mma
from dlc.codegen.lower.gpu.rows import lower_rows
from dlc.codegen.lower.gpu.scatter_sort_scan import lower_ordered
from dlc.codegen.lower.gpu.skinny import lower_skinny
from dlc.codegen.schedule import choice
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.loops import schedule
from dlc.passes.fuse.fuse import Fused, Group


def _contract(fused: Fused, group: Group, sched: schedule.Schedule) -> LoweredKernel:
    """As the schedule says."""
    ways = {schedule.GpuMma: lower_mma, schedule.GpuSkinny: lower_skinny}
    return ways.get(type(sched), lower_contract)(fused, group, sched)


LOWER: dict[str, Callable[..., LoweredKernel]] = {
    "map": lower_map,
    "rows": lower_rows,
    "contract": _contract,
    "scatter": lower_ordered,
    "sort": lower_ordered,
    "cumulative": lower_ordered,
    "attention": lower_attention,
    "attention_grad": lower_attention,
}


def lowered_group(fused: Fused, group: Group, target: GpuTarget) -> LoweredKernel:
    """The kernel of a group, with the schedule that was measured for it or else the chosen one."""
    lower = functools.partial(LOWER[group.kind], fused, group)
    first = lower(gpu_schedule.choose(fused, group, target))
    return choice.measured(first, target.tuned, lower) if target.tuned else first
