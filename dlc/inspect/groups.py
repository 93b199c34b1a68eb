"""Which group of the fused graph became which kernel of the program.

Groups are lowered once more, as the program builder did, and known again by the text of their kernel: launches are
merged and reordered after lowering, and equal kernels are one.
"""

from __future__ import annotations

from typing import NamedTuple

from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.program import gpu_lowering
from dlc.codegen.program.lowering import lowered_group
from dlc.codegen.target.gpu import GpuTarget
from dlc.inspect.machine import Machine
from dlc.ir.graph.graph import TensorType
from dlc.ir.loops import traverse
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.program.program import Program
from dlc.passes.fuse.fuse import Fused, Group


class Origin(NamedTuple):
    """The first group that a kernel computes, and that group as it was lowered."""

    fused: Fused
    group: Group
    lowered: LoweredKernel


def origins(program: Program, machine: Machine) -> list[tuple[Kernel, Origin | None]]:
    """Every kernel of the program in the order of first use; None for a copy, which no group asked for."""
    found: dict[str, Origin] = {}
    for fused in program.fused:
        for group in fused.groups:
            if group.kind not in ("scan", "call", "each") and _launched(group):
                lowered = _lowered(fused, group, machine)
                found.setdefault(_key(lowered.kernel), Origin(fused, group, lowered))
    return [(kernel, found.get(_key(kernel))) for kernel in program.kernels()]


def _lowered(fused: Fused, group: Group, machine: Machine) -> LoweredKernel:
    if isinstance(machine, GpuTarget):
        return gpu_lowering.lowered_group(fused, group, machine)
    return lowered_group(fused, group, machine.with_threads(fused.threads or machine.threads))


def _key(kernel: Kernel) -> str:
    return print_kernel(traverse.canonical(kernel))


def _launched(group: Group) -> bool:
    """Whether a group has anything to compute."""
    return any(not isinstance(u.node.type, TensorType) or u.node.type.size for u in group.units)
