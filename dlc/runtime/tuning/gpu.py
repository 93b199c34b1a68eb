"""Tuning on a GPU: every kernel, contractions too, as it is lowered. Trials are timed by events, between launches."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.program.gpu_lowering import LOWER
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.schedule import gpu_candidates
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.schedule import Schedule
from dlc.passes.fuse.fuse import Fused, Group
from dlc.runtime.cuda import (
    compile as cuda_compile,
)
from dlc.runtime.cuda import (
    modules as cuda_modules,
)
from dlc.runtime.cuda import (
    stored as cuda_stored,
)
from dlc.runtime.cuda import (
    translate as cuda_translate,
)
from dlc.runtime.cuda.executable import CudaExecutable
from dlc.runtime.devices import index_of
from dlc.runtime.tuning.search import Subject
from dlc.runtime.tuning.session import Session
from dlc.runtime.tuning.trials import Trial

KERNEL_S = 2.0  # NVRTC takes its time
LAUNCH_NS = 2000  # of the shortest kernel
BYTES_PER_NS, FLOPS_PER_NS = 2000, 20_000  # about; only to see what is worth tuning
WORTH = 0.05  # of the shortest kernel's time


class GpuSession(Session):
    """The tuning of one graph on a GPU."""

    kinds = ("map", "rows", "contract")

    def __init__(self, target: GpuTarget, name: str, device: str):
        super().__init__(target, name)  # type: ignore[arg-type]
        self.gpu, self.device = target, device
        self.at_once, self.seconds = cuda_modules.thread_count(), KERNEL_S

    def compile(self, made: Sequence[Trial]) -> None:
        """Give each trial its executable: a module each, compiled at the same time."""
        modules = [t.program.kernels() for t in made]
        codes = cuda_modules.cubins(cuda_compile.sources(modules, self.gpu), self.gpu.arch)
        for t, kernels, code in zip(made, modules, codes, strict=True):
            plan = cuda_translate.translate(t.program, [kernels])
            t.executable = CudaExecutable(plan, [code], index_of(self.device), t.program, True)

    def contractions(self, graph: Graph, known: set[str]) -> Sequence[Subject]:
        """None: the layout pass does not depend on schedules."""
        return ()

    def machine(self, fused: Fused) -> GpuTarget:
        return self.gpu

    def choose(self, fused: Fused, group: Group, machine: GpuTarget) -> Schedule:
        return gpu_schedule.choose(fused, group, self.gpu)

    def lower(self, fused: Fused, group: Group, sched: Schedule) -> LoweredKernel:
        return LOWER[group.kind](fused, group, sched)

    def candidates(self, fused: Fused, group: Group, machine: GpuTarget) -> Sequence[Schedule]:
        return gpu_candidates.group_schedules(fused, group, self.gpu)

    def work_ns(self, fused: Fused, group: Group, lowered: LoweredKernel) -> float:
        kernel = lowered.kernel
        work = max(kernel.bytes / BYTES_PER_NS, kernel.flops / FLOPS_PER_NS)
        return work + LAUNCH_NS if work >= WORTH * LAUNCH_NS else 0

    def grain(self, lowered: LoweredKernel, work: float, machine: GpuTarget) -> int:
        return 1

    def key(self, kind: str, what: str, threads: int) -> str:
        return cuda_stored.key(f"{kind} {what}", self.gpu)
