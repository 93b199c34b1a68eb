"""The whole compiler as one list: every stage from the traced graph to loaded code, with the function that does it.

Read this file first. (`programs.py` comes here for what is not in the disk cache.)

A stage takes the result of the one before it and the `Job`, and gives its own; nothing else changes a program. They are
the stages that `dlc dump --stage` shows. Both targets have the same stages up to `program`: a function that has nothing
to do for a target gives back what it got.

Kernels do not wait for the end of the list: on a CPU each is expanded, emitted and given to LLVM on other threads as
soon as `scheduled` has made it (`Job.on_kernel`), and `objects` collects the machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlc.base import settings
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.program.build import donate, order_updates, target_layout, target_operations
from dlc.codegen.program.launches import Draft, lower_program
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.program.regions import Region, fuse_program
from dlc.codegen.program.task_graph import find_dependencies, order_launches
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Program
from dlc.passes.autodiff.vjp import expand as differentiate
from dlc.passes.blockwise.blocks import cut_blocks
from dlc.passes.convolution.padding_taps import drop_taps
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.prune import prune_scans
from dlc.passes.simplify.simplify import simplify
from dlc.passes.simplify.windows import lower_unwindow
from dlc.runtime.cpu import llvm, stored, threads
from dlc.runtime.cpu.executable import Executable
from dlc.runtime.cpu.machine_code import MachineCode, frame_of
from dlc.runtime.watch import Observer, Watch

if TYPE_CHECKING:
    from dlc.runtime.cuda.executable import CudaExecutable

Donated = tuple[tuple[int, int], ...]  # (parameter, output) pairs


@dataclass(frozen=True)
class Job:
    """What is compiled, and for what. `donate`: which outputs are to be written over which parameters."""

    target: CpuTarget | GpuTarget
    name: str = "main"
    donate: Donated = ()
    on_kernel: Callable[[Kernel], None] = lambda kernel: None


Stage = tuple[str, Callable[[Any, Job], Any]]


def graph_pass(function: Callable[[Graph], Graph]) -> Callable[[Graph, Job], Graph]:
    """A pass over graphs, which are the same for all targets, as the function of a stage."""
    return lambda graph, job: function(graph)


def _blocks(graph: Graph, job: Job) -> Graph:
    return cut_blocks(graph, job.target.l2_bytes, job.target.threads) if isinstance(job.target, CpuTarget) else graph


def _scheduled(region: Region, job: Job) -> Draft:
    return lower_program(region, job.donate, job.name, job.on_kernel)


def _side_by_side(program: Program, job: Job) -> Program:
    return order_launches(program, job.target.threads) if isinstance(job.target, CpuTarget) else program


def _tasks(program: Program, job: Job) -> Program:
    return find_dependencies(program) if isinstance(job.target, CpuTarget) else program


STAGES: tuple[Stage, ...] = (
    # Graph -> Graph
    ("target-ops", lambda graph, job: target_operations(graph, job.target)),  # what the target has one kernel for
    ("padding-taps", graph_pass(drop_taps)),  # convolutions without what only meets padding
    ("grad", graph_pass(differentiate)),  # `vjp` nodes become plain operations
    ("strip-markers", graph_pass(remove_markers)),  # what only differentiation needed
    ("pruned", graph_pass(prune_scans)),  # dead carries and outputs of loops
    ("simplified", graph_pass(simplify)),  # folded, merged, normalised
    ("windows", graph_pass(lower_unwindow)),  # transposes of sliding windows
    ("transposes", graph_pass(sink_permutes)),  # to where they cost nothing
    ("blocks", _blocks),  # attention and its like as loops over blocks that fit the cache
    ("layout", lambda graph, job: target_layout(graph, job.target)),  # contractions in forms that run well
    # Graph -> Region: groups of nodes, one kernel each
    ("fused", lambda graph, job: fuse_program(graph, job.target)),
    # Region -> Draft: each group scheduled, lowered to Loop IR and launched on slots
    ("scheduled", _scheduled),
    # Draft -> Draft -> Program: the order of updates; outputs in the memory of inputs
    ("ordered", lambda draft, job: order_updates(draft)),
    ("donated", lambda draft, job: donate(draft)),
    # Program -> Program: small launches beside one another, one arena for all that is temporary, what waits for what
    ("side-by-side", _side_by_side),
    ("memory", lambda program, job: plan_memory(program)),
    ("program", _tasks),
)


def lower(graph: Graph, job: Job, watch: Callable[[str, Any], None] = lambda stage, result: None,
          last: str = "program") -> Any:
    """The result of the stage `last` for a traced graph; `watch` is told of each stage's."""
    watch("graph", graph)
    result: Any = graph
    for stage, function in STAGES:
        result = function(result, job)
        watch(stage, result)
        if stage == last:
            return result
    raise ValueError(f"no stage {last!r}; there are {', '.join(stage for stage, _ in STAGES)}")


def for_cpu(graph: Graph, donate: Donated, name: str, target: CpuTarget, key: str, profile: bool,
            observe: Observer | None) -> Executable:
    """All stages, and machine code: kept in the disk cache under `key`, if there is one."""
    watch = Watch(observe, settings.switch("DLC_VERIFY"))
    code = MachineCode(target)
    program = lower(graph, Job(target, name, donate, code.kernel), watch)
    objects = code.finish(program, profile)
    watch("objects", objects)
    frame = frame_of(program)
    if key:
        stored.keep(key, frame, objects)
    library = llvm.Library.load(objects, threads.pool_symbols(), ("dlc_entry",))
    watch("load", library)
    return Executable(frame, library, program if profile else None, profile)


def for_gpu(graph: Graph, donate: Donated, name: str, target: GpuTarget, index: int, key: str, profile: bool,
            observe: Observer | None) -> CudaExecutable:
    """The same for a GPU: CUDA C instead of LLVM IR from the same kernels' other schedules."""
    from dlc.runtime.cuda import compile as cuda_compile  # programs for a CPU need none of it

    watch = Watch(observe, settings.switch("DLC_VERIFY"))
    program = lower(graph, Job(target, name, donate), watch)
    return cuda_compile.load(program, target, index, key, profile, watch)
