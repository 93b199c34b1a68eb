"""A group as a kernel on a CPU: which lowering each kind has, and with which schedule it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.lower.contract import lower_contract
from dlc.codegen.lower.map import lower_map
from dlc.codegen.lower.rows import lower_rows
from dlc.codegen.lower.scatter_sort_scan import lower_ordered
from dlc.codegen.schedule import choice
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.target.cpu import CpuTarget
from dlc.passes.fuse.fuse import Fused, Group

LOWER: dict[str, Callable[..., LoweredKernel]] = {
    "map": lower_map,
    "rows": lower_rows,
    "contract": lower_contract,
    "scatter": lower_ordered,
    "sort": lower_ordered,
    "cumulative": lower_ordered,
}


def lowered_group(fused: Fused, group: Group, target: CpuTarget) -> LoweredKernel:
    """The kernel of a group, with the schedule that was measured for it or else the chosen one."""
    lower = functools.partial(LOWER[group.kind], fused, group)
    if not target.tuned:
        return lower(schedules.choose(fused, group, target))
    if group.kind == "contract":
        from dlc.codegen.schedule.tuned_text import contract_key  # only where something was measured

        node = group.units[0].node
        lowered = lower(choice.contract(node, target))
        return lowered if target.tuned.contract(contract_key(node), node) is None else choice.noted(lowered)
    return choice.measured(lower(schedules.choose(fused, group, target)), target.tuned, lower)
