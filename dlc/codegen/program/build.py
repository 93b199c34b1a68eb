"""`build_program`: the prepared graph of either target as a Program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

from dlc.codegen.layout.cpu import layout
from dlc.codegen.program.builder import Builder
from dlc.codegen.program.donation import Pair, in_place
from dlc.codegen.program.launch_order import in_good_time
from dlc.codegen.schedule import choice
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph, Node, settings
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Program, Ref, Slot
from dlc.passes.attention.find import find_attention
from dlc.passes.convolution.polyphase import split_phases
from dlc.passes.convolution.push_slices import trim_contractions
from dlc.passes.fuse.materialize import own_outputs
from dlc.passes.views.strides import view_key
from dlc.passes.views.views import memory_of


def build_program(graph: Graph, donate: Sequence[tuple[int, int]], target: CpuTarget | GpuTarget, name: str,
                  on_kernel: Callable[[Kernel], None] = lambda kernel: None) -> Program:
    """The program of a graph after `layout`; its memory is not yet planned. Sizes and kinds of slots are final.

    `on_kernel` is told of every kernel as soon as it is known, so that machine code can be made meanwhile.
    """
    builder = _builder(target)
    builder.on_kernel = on_kernel
    graph = own_outputs(graph)
    inputs = tuple(Slot(_slot_name(p, k), p.dtype, p.type.size, "input", k) for k, p in enumerate(graph.params))
    outputs = tuple(Slot(f"out{k}", o.dtype, o.type.size, "output", k) for k, o in enumerate(graph.outputs))
    refs = {p: Ref(s) for p, s in zip(graph.params, inputs, strict=True)}
    roots = {memory_of(o): Ref(s) for o, s in zip(graph.outputs, outputs, strict=True)}
    builder.donated = {outputs[o] for _, o in donate}
    builder.pairs = {outputs[o]: Pair(inputs[p], outputs[o], False) for p, o in donate}
    steps = builder.steps(graph, refs, roots, 0)
    if isinstance(target, CpuTarget):
        steps = in_good_time(steps, [(inputs[p], outputs[o]) for p, o in donate])
    program = Program(name, inputs, outputs, tuple(steps), tuple(o.type for o in graph.outputs),
                      (*inputs, *outputs, *builder.arena), donate=tuple(donate), fused=tuple(builder.fused))
    program = in_place(program, donate, lambda source, goal: builder.slot(f"new_{source.name}", goal.dtype, goal.size),
                       builder.copy)
    program.slots = (*inputs, *outputs, *builder.arena)
    return program


def _slot_name(p: Node, k: int) -> str:
    return p.attrs.get("name") or f"p{k}"


def _builder(target: CpuTarget | GpuTarget) -> Builder:
    if isinstance(target, GpuTarget):
        from dlc.codegen.program.gpu_builder import GpuBuilder

        return GpuBuilder(target)
    return Builder(target)


def target_operations(graph: Graph, target: CpuTarget | GpuTarget) -> Graph:
    """The graph with those operations that the target has kernels of its own for."""
    return find_attention(graph, target.tf32) if isinstance(target, GpuTarget) else graph


def target_layout(graph: Graph, target: CpuTarget | GpuTarget) -> Graph:
    """The graph with contractions and reductions in forms that the target's schedules run well."""
    if isinstance(target, GpuTarget):
        from dlc.codegen.layout.gpu import gpu_layout

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
