"""What a target makes of a graph: its own operations, its layout, its groups as a Program.

These are the steps of `runtime/compile.py` from the traced graph to launches; `build_program` does the last of them in
a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

from dlc.codegen.layout.cpu import layout
from dlc.codegen.program.donation import donate_inputs
from dlc.codegen.program.launch_order import reorder
from dlc.codegen.program.launches import Draft, lower_program
from dlc.codegen.program.regions import fuse_program
from dlc.codegen.schedule import choice
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph, Node, settings
from dlc.ir.loops import schedule
from dlc.ir.program.program import Program
from dlc.passes.convolution.polyphase import split_phases
from dlc.passes.convolution.push_slices import trim_contractions
from dlc.passes.views.strides import view_key


def target_operations(graph: Graph, target: CpuTarget | GpuTarget) -> Graph:
    """The graph with those operations that the target has kernels of its own for."""
    if isinstance(target, GpuTarget):
        from dlc.passes.attention.find import find_attention  # programs for a CPU need none of it

        return find_attention(graph, target.tf32)
    return graph


def target_layout(graph: Graph, target: CpuTarget | GpuTarget) -> Graph:
    """The graph with contractions and reductions in forms that the target's schedules run well."""
    if isinstance(target, GpuTarget):
        from dlc.codegen.layout.gpu import gpu_layout  # programs for a CPU need none of it

        return gpu_layout(graph, target)
    graph = split_phases(trim_contractions(graph))
    return layout(graph, tile_rule(target), threads_min_tasks(target), target.has_avx512bf16)


def threads_min_tasks(target: CpuTarget) -> int:
    """How many independent pieces keep the threads busy."""
    return max(1, target.threads) * 2 if target.threads > 1 else 1


def tile_rule(target: CpuTarget) -> Callable[[Node], schedule.Contract]:
    """The target's schedule for a contraction node. The layout pass asks again for what it does not change, and for the
    equal layers of a model."""
    known: dict[Hashable, schedule.Contract] = {}

    def tile_of(node: Node) -> schedule.Contract:
        key = node.type, settings(node), *map(view_key, node.inputs)
        if key not in known:
            known[key] = choice.contract(node, target)
        return known[key]

    return functools.cache(lambda node: choice.contract(node, target) if target.tuned else tile_of(node))


def order_updates(draft: Draft) -> Draft:
    """On a CPU, large updates as early as they can be, and copies of parameters late."""
    if isinstance(draft.target, CpuTarget):
        program = draft.program
        donated = [(program.inputs[p], program.outputs[o]) for p, o in program.donate]
        program.steps = tuple(reorder(program.steps, donated))
    return draft


def donate(draft: Draft) -> Program:
    """The program with its donated outputs in the memory of their inputs."""
    program, places = draft.program, draft.places
    program = donate_inputs(program, lambda source, goal: places.slot(f"new_{source.name}", goal.dtype, goal.size),
                            lambda source, goal: draft.kernels.copy(source, goal, draft.target))
    program.slots = (*program.inputs, *program.outputs, *places.arena)
    return program


def build_program(graph: Graph, donated: Sequence[tuple[int, int]], target: CpuTarget | GpuTarget,
                  name: str) -> Program:
    """The program of a graph after `layout`; its memory is not yet planned."""
    return donate(order_updates(lower_program(fuse_program(graph, target), donated, name)))
