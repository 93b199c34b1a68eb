"""Which schedule a kernel gets: the one that was measured for it on this machine, or else the one that is chosen.

Nothing here measures: `dlc/runtime/tuning/tune.py` does, and leaves what it found in the target's `tuned` table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dlc.codegen.cost import cpu_contract
from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.tuned import Tuned
from dlc.ir.graph.graph import Node
from dlc.ir.loops import schedule
from dlc.passes.views.contraction import row_run


def contract(node: Node, target: CpuTarget) -> schedule.Contract:
    """The schedule of a contraction: the measured one, or else what `codegen/schedule/cpu.py` chooses."""
    first = cpu_contract.contract(node, target)
    if not target.tuned:
        return first
    from dlc.codegen.schedule.tuned_text import contract_key  # only where something was measured

    found = target.tuned.contract(contract_key(node), node)
    return first if found is None else fitted(found, first, node)


def fitted(found: schedule.Contract, first: schedule.Contract, node: Node) -> schedule.Contract:
    """A measured schedule on `node`, which may be the measured contraction in pieces or with an operand packed; `first`
    where it cannot be used."""
    if found.stack:
        return replace(first, block_m=found.block_m, block_n=found.block_n) if first.stack else first
    if found.along:
        return replace(found, run=0) if cpu_contract.may_run_along(node, found.swap) else first
    if first.along or first.stack or first.swap != found.swap:
        run = row_run(node, found.swap)
        return replace(found, run=run if run >= cpu_contract.SHORT_RUN else 0)
    return replace(first, lanes=found.lanes, mr=found.mr, nr=found.nr, block_m=found.block_m, block_n=found.block_n,
                   tail=found.tail)


def measured(first: LoweredKernel, tuned: Tuned, lower: Callable[[schedule.Schedule], LoweredKernel]) -> LoweredKernel:
    """The kernel with the schedule that was measured for it; `first`, which has the chosen one, where there is none."""
    from dlc.codegen.schedule.tuned_text import kernel_digest

    found = tuned.kernels.get(kernel_digest(first.kernel))
    return first if found is None else noted(lower(found))


def noted(lowered: LoweredKernel) -> LoweredKernel:
    """The kernel with a note that its schedule was measured."""
    return replace(lowered, kernel=replace(lowered.kernel, tuned=True))
