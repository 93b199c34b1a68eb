"""The stages of the compiler: the driver's own results, caught on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.codegen.llvm import kernel as llvm_kernel
from dlc.codegen.target.gpu import GpuTarget
from dlc.inspect.fused_text import print_fused
from dlc.inspect.machine import Machine
from dlc.inspect.naive import naive_kernels
from dlc.inspect.program_text import print_program
from dlc.ir.graph.graph import Graph
from dlc.ir.graph.text import print_graph
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.program.program import Program
from dlc.runtime import compile as compiler
from dlc.runtime.cpu import llvm, machine_code
from dlc.runtime.cuda import compile as cuda_compile
from dlc.runtime.cuda import modules as cuda_modules
from dlc.runtime.tuning import tune

_ROWS = tuple(stage for stage, _ in compiler.STAGES)
GRAPH_STAGES = ("graph", *_ROWS[: _ROWS.index("fused")])
PROGRAM_STAGES = _ROWS[_ROWS.index("donated") :]
KERNEL_STAGES = ("loops", "scheduled")
CPU_STAGES, GPU_STAGES = ("llvm", "asm"), ("cuda", "ptx", "sass")
STAGES = (*GRAPH_STAGES, "fused", *KERNEL_STAGES, "ordered", *PROGRAM_STAGES, *CPU_STAGES, *GPU_STAGES)
LANGUAGE = dict.fromkeys(GRAPH_STAGES, "graph") | dict.fromkeys(KERNEL_STAGES, "loops")
LANGUAGE |= {"llvm": "llvm", "asm": "asm", "cuda": "cuda", "ptx": "ptx"}


def check_stage(stage: str, gpu: bool) -> None:
    """Raises ValueError unless there is such a stage on a GPU, or on the CPU."""
    if stage not in STAGES:
        raise ValueError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
    if stage in (CPU_STAGES if gpu else GPU_STAGES):
        raise ValueError(f"there is no stage {stage} for a {'GPU' if gpu else 'CPU'}")


class _Reached(Exception):
    """The driver is past the stages that are asked for."""


class Stages:
    """A traced graph, compiled for a machine as far as somebody looks."""

    def __init__(self, graph: Graph, donate: tuple[tuple[int, int], ...], name: str, machine: Machine,
                 tuned: bool = False):
        self.graph, self.donate, self.name = graph, donate, name
        self.machine = tune.remembered(graph, machine) if tuned else machine
        self.seen: dict[str, Any] = {}

    def _run(self, last: str) -> Any:
        def watch(stage: str, result: Any) -> None:
            self.seen[stage] = result
            if stage == last:
                raise _Reached

        if last not in self.seen:
            try:
                compiler.lower(self.graph, compiler.Job(self.machine, self.name, self.donate), watch)
            except _Reached:
                pass
        return self.seen[last]

    def _alone(self, stage: str) -> Any:
        """The result of a stage that later ones would change."""
        return compiler.lower(self.graph, compiler.Job(self.machine, self.name, self.donate), last=stage)

    def graph_at(self, stage: str) -> Graph:
        """The graph after a graph stage."""
        return self._run(stage)

    def program(self) -> Program:
        """Scheduled kernels in a memory plan."""
        return self._run("program")

    def kernels(self, stage: str) -> list[Kernel]:
        """The kernels at a kernel stage, in the order of their first launch."""
        program = self.program()
        return program.kernels() if stage == "scheduled" else naive_kernels(program)

    def llvm(self) -> str:
        """The LLVM module."""
        return machine_code.emit(self.program(), self.machine)

    def cuda(self) -> str:
        """The CUDA C of all kernels."""
        return cuda_compile.source(self.program(), self.machine)

    def ptx(self) -> str:
        """NVRTC's portable assembly of it."""
        return cuda_modules.ptx(self.cuda(), self.machine.arch)

    def sass(self) -> str:
        """The machine code of the GPU."""
        return cuda_modules.sass(cuda_modules.cubin(self.cuda(), self.machine.arch))

    def asm(self) -> str:
        """The machine code."""
        return llvm.assembly(self.llvm(), self.machine, opt_level=llvm_kernel.OPT_LEVEL, passes=llvm_kernel.PASSES)

    def text(self, stage: str) -> str:
        """A stage as it is printed. Raises ValueError for one that does not exist, or not on this machine."""
        check_stage(stage, isinstance(self.machine, GpuTarget))
        if stage in GRAPH_STAGES:
            return print_graph(self.graph_at(stage))
        if stage in KERNEL_STAGES:
            return "\n".join(map(print_kernel, self.kernels(stage)))
        texts: dict[str, Callable[[], str]] = {
            "fused": lambda: print_fused(self.program()),
            "ordered": lambda: print_program(self._alone("ordered").program),
            **{name: lambda name=name: print_program(self._alone(name)) for name in PROGRAM_STAGES},
            "program": lambda: print_program(self.program()),
            "llvm": self.llvm,
            "asm": self.asm,
            "cuda": self.cuda,
            "ptx": self.ptx,
            "sass": self.sass,
        }
        return texts[stage]()
