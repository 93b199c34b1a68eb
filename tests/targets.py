"""Processors by name, the same on every host: no test depends on the machine that it runs on.

`cpu("avx512")` is a processor with two threads, fixed caches and exactly the features of that name. What such a
processor computes is run by machine code where the host has the features (`runs`), and by the Loop IR interpreter
elsewhere. `DLC_TEST_CPU=NAME pytest ...` makes the whole test process take the host for one of them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import llvmlite.binding as llvm
import numpy as np
import pytest

from dlc.codegen.target.cpu import LEVEL_CPU, LEVEL_FEATURES, LEVELS, CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph

CPUS = (*LEVELS, "avx512-bf16", "amx")  # each has the features of those before it
_MORE = {"avx512-bf16": ("avx512bf16",), "amx": ("amx-tile", "amx-bf16")}
_CACHES = {"l1d_bytes": 32 << 10, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20}
GPUS = ("sm_80", "sm_90a")
_HOST = dict(llvm.get_host_cpu_features())


def _features(name: str) -> dict[str, bool]:
    return {f: True for n in CPUS[: CPUS.index(name) + 1] for f in (*LEVEL_FEATURES.get(n, ()), *_MORE.get(n, ()))}


@functools.cache
def cpu(name: str, threads: int = 2) -> CpuTarget:
    """The processor of that name."""
    triple = llvm.get_process_triple()
    if not triple.startswith(("x86_64", "amd64")):
        triple = "x86_64-unknown-linux-gnu"
    return CpuTarget.from_features(triple, LEVEL_CPU.get(name, "x86-64-v4"), _features(name), **_CACHES,
                                   threads=threads)


def target(name: str, threads: int = 2) -> CpuTarget | GpuTarget:
    """The processor, or the GPU, of that name."""
    return GpuTarget.of(name) if name in GPUS else cpu(name, threads)


def runs(target: CpuTarget) -> bool:
    """Whether the machine that this runs on has all features of the target."""
    if not llvm.get_process_triple().startswith(target.triple.split("-")[0]):
        return False
    wanted = {f[1:] for f in target.features.split(",") if f.startswith("+")}
    # what every x86-64 has, LLVM does not report of all of them
    return all(_HOST.get(f, f in LEVEL_FEATURES["sse2"]) for f in wanted)


class InterpretedProgram:
    """Has an `Executable`'s method `run`, for a program that this machine has no instructions for."""

    def __init__(self, program, types: Sequence):
        self.program, self.types, self.arena_bytes = program, types, program.arena_bytes

    @classmethod
    def of(cls, graph: Graph, target: CpuTarget, donate: Sequence[tuple[int, int]] = (), name: str = "main", *watch):
        """The graph, lowered for a processor as its compiler does, `watch` being told of it."""
        from dlc.runtime import compile as compiler

        program = compiler.lower(graph, compiler.Job(target, name, tuple(donate)), *watch)
        return cls(program, [p.type for p in graph.params])

    def run(self, buffers: list) -> list:
        from dlc.ir.program.interp import run_program
        from dlc.runtime.cpu.memory import allocate, as_ndarray

        arrays = [as_ndarray(b, t.shape, t.dtype.np).copy() for b, t in zip(buffers, self.types, strict=True)]
        into = {output: parameter for parameter, output in self.program.donate}
        out = []
        for k, value in enumerate(run_program(self.program, arrays)):
            buffer = buffers[into[k]] if k in into else allocate(value.nbytes)
            as_ndarray(buffer, value.shape, value.dtype)[...] = value
            out.append(buffer)
        return out


def executable(graph: Graph, target: CpuTarget, donate: Sequence[tuple[int, int]] = ()):
    """What runs the graph as that processor would: compiled if the host can, else interpreted."""
    from dlc.runtime.programs import compile_graph

    if runs(target):
        return compile_graph(graph, tuple(donate), target=target)
    return InterpretedProgram.of(graph, target, donate)


def computed(graph: Graph, arrays: Sequence[np.ndarray], target: CpuTarget) -> list[np.ndarray]:
    """The graph's outputs as that processor computes them."""
    from dlc.runtime.cpu.memory import as_ndarray, from_array

    out = executable(graph, target).run([from_array(a) for a in arrays])
    return [as_ndarray(b, o.shape, o.dtype.np).copy() for b, o in zip(out, graph.outputs, strict=True)]


def pretend(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let this process take its host for the processor `name`. AMX that the host lacks is emulated, instruction by
    instruction; programs for vectors that it lacks are interpreted."""
    from dlc.runtime import compile as compiler
    from dlc.runtime import watch
    from dlc.runtime.cpu import host, threads
    from dlc.runtime.cpu import llvm as native

    target = cpu(name)
    patch.setattr(llvm, "get_host_cpu_features", lambda: {**dict.fromkeys(_HOST, False), **_features(name)})
    patch.setattr(llvm, "get_host_cpu_name", lambda: target.cpu)
    patch.setattr(host, "_allow_amx", lambda: True)
    host.detect.cache_clear()
    if runs(target):
        return
    os.environ["DLC_CACHE"] = "0"  # the code is for no machine that there is
    if runs(cpu("avx512-bf16")):
        from tests.codegen.amx import Unit, emulated

        unit = Unit()
        symbols = {**threads.pool_symbols(), **unit.symbols()}
        for function in ("compile_object", "_compile_alone"):
            compile_ = getattr(native, function)
            patch.setattr(native, function, lambda text, *args, to=compile_, **kw: to(emulated(text), *args, **kw))
        patch.setattr(threads, "pool_symbols", lambda: symbols)
        patch.setattr(threads, "emulated_unit", unit, raising=False)  # it must outlive the code that calls it
        return

    def interpreted(graph, donate, name, target, key, profile, observe):
        return InterpretedProgram.of(graph, target, donate, name, watch.Watch(observe, True))

    patch.setattr(compiler, "for_cpu", interpreted)
