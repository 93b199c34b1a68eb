"""Opt-in tuning: each kernel's schedule is the fastest of a short list, measured once and remembered on disk.

`schedule/cpu_candidates.py` ranks at most 16 schedules a kernel, the chosen one first. Each is compiled alone with
each of them and timed (`trials.py`), within a fixed time a kernel. A schedule that wins clearly goes into the target's
table of measured schedules, with which the program is then compiled as always.

On disk are the winner of each kernel, and the table of each program: a later process finds the table, then the program,
and measures nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from dlc.codegen.schedule import tuned_text
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.codegen.target.tuned import Tuned
from dlc.ir.graph.graph import Graph
from dlc.runtime import cache
from dlc.runtime.cpu import stored
from dlc.runtime.tuning.session import Session

Target = TypeVar("Target", CpuTarget, GpuTarget)


def tuned_target(graph: Graph, target: Target, name: str, device: str = "cpu") -> Target:
    """The target with the best schedules of the graph's kernels: those remembered, else measured now."""
    found = _table(graph, target)
    if found is None:
        found = _session(target, name, device).tune(graph)
        cache.default().put(_table_key(graph, target), tuned_text.encode(found).encode())
    return replace(target, tuned=found)


def remembered(graph: Graph, target: Target) -> Target:
    """The target with what an earlier run measured for the graph; as it is where there is nothing."""
    found = _table(graph, target)
    return target if found is None else replace(target, tuned=found)


def _session(target: CpuTarget | GpuTarget, name: str, device: str) -> Session:
    if isinstance(target, CpuTarget):
        return Session(target, name)
    from dlc.runtime.tuning.gpu import GpuSession

    return GpuSession(target, name, device)


def _table_key(graph: Graph, target: CpuTarget | GpuTarget) -> str:
    if isinstance(target, CpuTarget):
        return f"table-{stored.program_key(graph, (), target)}"
    from dlc.runtime.cuda import stored as cuda_stored

    return f"table-{cuda_stored.program_key(graph, (), target)}"


def _table(graph: Graph, target: CpuTarget | GpuTarget) -> Tuned | None:
    data = cache.default().get(_table_key(graph, target))
    if data is None:
        return None
    try:
        return tuned_text.decode(data.decode())
    except ValueError:
        return None  # damaged: measured again


