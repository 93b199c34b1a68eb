"""The kernels of a program before scheduling: the same groups as plain loops, which say what they compute."""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.build import LOWER
from dlc.ir import schedule
from dlc.ir.loops import Kernel
from dlc.ir.program import Program
from dlc.passes.fuse import Group

_PLAIN: dict[str, schedule.Schedule] = {
    "map": schedule.Map(),
    "rows": schedule.Rows(),
    "contract": schedule.Contract(),
}


def naive_kernels(program: Program) -> list[Kernel]:
    """One kernel for each group, numbered, in the order of the program; loops count in scalars (lanes=0)."""
    out = []
    for fused in program.fused:  # type: ignore[attr-defined]
        for group in fused.groups:
            if group.kind == "scan" or not launched(group):
                continue
            kernel = LOWER[group.kind](fused, group, _PLAIN.get(group.kind, schedule.Plain())).kernel
            out.append(replace(kernel, name=f"{kernel.name}_{len(out)}"))
    return out


def launched(group: Group) -> bool:
    """Whether a group has anything to compute."""
    return any(u.kind == "sort" or u.node.op == "scan" or u.node.type.size for u in group.units)
