"""The kernels of a program before scheduling: the same groups as plain loops, which say what they compute."""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.program.lowering import LOWER
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Program

_PLAIN: dict[str, schedule.Schedule] = {
    "map": schedule.Map(),
    "rows": schedule.Rows(),
    "contract": schedule.Contract(),
}


def naive_kernels(program: Program) -> list[Kernel]:
    """For each kernel of the program its group with loops in scalars (lanes=0), under the same name; the kernel itself
    where there is no such form (attention)."""
    out = []
    for kernel in program.kernels():
        origin = program.origins.get(kernel)
        if origin is not None and origin.group.kind in LOWER:
            plain = _PLAIN.get(origin.group.kind, schedule.Plain())
            lowered = LOWER[origin.group.kind](origin.fused, origin.group, plain)
            kernel = replace(lowered.kernel, name=kernel.name)
        out.append(kernel)
    return out
