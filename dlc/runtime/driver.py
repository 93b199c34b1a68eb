"""The compile driver: the whole compiler as one list of passes. Read this file first.

    trace           (frontend) the user's function as a Graph
    differentiate   `vjp` nodes become plain operations
    simplify        fold, merge, normalise
    layout          contractions into forms that run well; operands packed
    fuse            units of computation into kernels
    lower, schedule each group as Loop IR, tiled and vectorised for the target
    plan memory     one arena for everything temporary
    expand          transcendental functions into polynomials
    emit            LLVM IR text: every kernel and one entry function
    load            machine code, from the disk cache where it is known
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dlc.codegen import llvm_kernel
from dlc.codegen.build import build_program, threads_min_tasks, tile_rule
from dlc.codegen.expand_math import expand
from dlc.codegen.llvm_program import emit_entry
from dlc.codegen.target import CpuTarget
from dlc.ir.graph import Graph
from dlc.ir.graph_verify import verify as verify_graph
from dlc.ir.loops_verify import verify as verify_kernel
from dlc.ir.program import Launch, Program, Repeat
from dlc.passes.inline import prune_scans, remove_markers
from dlc.passes.layout import layout
from dlc.passes.memory import plan_memory
from dlc.passes.simplify import simplify
from dlc.passes.simplify_windows import lower_unwindow
from dlc.passes.vjp import expand as differentiate
from dlc.runtime import cache, host, native, threads
from dlc.runtime.executable import Executable, Interpreted

Observer = Callable[[str, Any, float], None]  # (stage, its result, seconds)

GRAPH_PASSES: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("grad", differentiate),
    ("markers", remove_markers),
    ("pruned", prune_scans),
    ("simplified", simplify),
    ("windows", lower_unwindow),
)


def compile_graph(graph: Graph, donate: tuple[tuple[int, int], ...] = (), name: str = "main", *,
                  target: CpuTarget | None = None, profile: bool = False,
                  observe: Observer | None = None) -> Executable | Interpreted:
    """Compile `graph`. `donate` pairs (parameter, output) say which outputs are written into which parameter's buffer.

    `observe` is told of every stage: graph, grad, simplified, layout, program (with its groups), loops, llvm.
    """
    if os.environ.get("DLC_INTERPRET") == "1":
        return Interpreted(differentiate(graph), donate)
    target = target or host.detect()
    watch = _Watch(observe, os.environ.get("DLC_VERIFY") == "1")
    program = lower(graph, donate, name, target, watch)
    text = emit(program, target, profile)
    watch("llvm", text)
    library = load(text, target)
    watch("load", library)
    return Executable(program, library, profile)


def lower(graph: Graph, donate: tuple[tuple[int, int], ...], name: str, target: CpuTarget,
          watch: Callable[[str, Any], None]) -> Program:
    """From the traced graph to scheduled kernels in a memory plan."""
    watch("graph", graph)
    for stage, graph_pass in GRAPH_PASSES:
        graph = graph_pass(graph)
        watch(stage, graph)
    graph = layout(graph, tile_rule(target), threads_min_tasks(target))
    watch("layout", graph)
    program = build_program(graph, donate, target, name)
    watch("program", program)
    program = plan_memory(program)
    watch("memory", program)
    return program


def emit(program: Program, target: CpuTarget, profile: bool = False) -> str:
    """The LLVM module of a program."""
    expanded = {k: expand(k, target) for k in program.kernels()}

    def swap(step: Launch | Repeat) -> Launch | Repeat:
        if isinstance(step, Repeat):
            return Repeat(step.count, tuple(map(swap, step.body)))
        return replace(step, kernel=expanded[step.kernel])

    emitted = replace(program, steps=tuple(map(swap, program.steps)))
    return llvm_kernel.emit_module(list(expanded.values()), target, emit_entry(emitted, target, profile))


def load(text: str, target: CpuTarget) -> native.Library:
    """Machine code of a module: from the disk cache, or compiled and put there."""
    options = {"opt_level": llvm_kernel.OPT_LEVEL, "passes": llvm_kernel.PASSES}
    key = native.object_key(text, target, **options)
    store = cache.default()
    data = store.get(key)
    if data is not None:
        try:
            return native.Library.load(data, threads.pool_symbols(), ("dlc_entry",))
        except native.LinkError:
            pass  # a damaged object: compile it again
    data = native.compile_object(text, target, **options)
    store.put(key, data)
    return native.Library.load(data, threads.pool_symbols(), ("dlc_entry",))


class _Watch:
    """Tells the observer of each stage with the seconds it took, and verifies what it sees when asked to."""

    def __init__(self, observe: Observer | None, check: bool):
        self.observe, self.check = observe, check
        self.last = time.perf_counter()

    def __call__(self, stage: str, result: Any) -> None:
        if self.observe is not None:
            self.observe(stage, result, time.perf_counter() - self.last)
        if self.check and isinstance(result, Graph):
            verify_graph(result, stage)
        if self.check and stage == "program":
            for k in result.kernels():
                verify_kernel(k, stage)
        self.last = time.perf_counter()
