"""The compile driver: the whole compiler as one list of passes. Read this file first. (`programs.py` comes here for
what is not in the disk cache.)

    trace           (frontend) the user's function as a Graph
    operations      what the target has one kernel for (attention on a GPU) becomes one node
    taps            convolutions without the part of a kernel that only meets padding
    differentiate   `vjp` nodes become plain operations
    simplify        fold, merge, normalise
    blocks          attention and its like as loops over blocks that fit the cache
    layout          contractions into forms that run well; operands packed
    fuse            units of computation into kernels
    lower, schedule each group as Loop IR, tiled and vectorised for the target
    plan memory     one arena for everything temporary
    expand          transcendental functions into polynomials
    emit            LLVM IR text: every kernel as soon as it is lowered, and one entry function
    compile         machine code, on other threads meanwhile
    load            machine code; the disk cache remembers whole programs by the structure of the traced graph
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dlc.base import settings
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.llvm import kernel as llvm_kernel
from dlc.codegen.llvm.launch.program import emit_entry
from dlc.codegen.llvm.names import symbol
from dlc.codegen.math.expand import expand
from dlc.codegen.program.build import build_program, target_layout, target_operations
from dlc.codegen.program.memory import plan_memory
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
from dlc.runtime.cpu.executable import Executable, Frame
from dlc.runtime.watch import Observer, Watch

if TYPE_CHECKING:
    from dlc.runtime.cuda.executable import CudaExecutable

GRAPH_PASSES: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("taps", drop_taps),
    ("grad", differentiate),
    ("markers", remove_markers),
    ("pruned", prune_scans),
    ("simplified", simplify),
    ("windows", lower_unwindow),
    ("order", sink_permutes),
)


def for_cpu(graph: Graph, donate: tuple[tuple[int, int], ...], name: str, target: CpuTarget, key: str, profile: bool,
            observe: Observer | None) -> Executable:
    """Compile for a CPU, and keep the machine code in the disk cache under `key`, if there is one."""
    watch = Watch(observe, settings.switch("DLC_VERIFY"))
    code = MachineCode(target)
    program = lower(graph, donate, name, target, watch, code.kernel)
    objects = code.finish(program, profile)
    watch("objects", objects)
    frame = frame_of(program)
    if key:
        stored.keep(key, frame, objects)
    library = llvm.Library.load(objects, threads.pool_symbols(), ("dlc_entry",))
    watch("load", library)
    return Executable(frame, library, program if profile else None, profile)


def for_gpu(graph: Graph, donate: tuple[tuple[int, int], ...], name: str, target: GpuTarget, index: int, key: str,
            profile: bool, observe: Observer | None) -> CudaExecutable:
    """The same for a GPU: CUDA C instead of LLVM IR from the same kernels' other schedules."""
    from dlc.runtime.cuda import compile as cuda_compile

    watch = Watch(observe, settings.switch("DLC_VERIFY"))
    program = lower(graph, donate, name, target, watch)
    return cuda_compile.load(program, target, index, key, profile, watch)


def frame_of(program: Program) -> Frame:
    """What a call needs to know of a program."""
    into = {output: param for param, output in program.donate}
    sizes = tuple(t.nbytes for t in program.output_types)
    return Frame(tuple(into.get(k, -1) for k in range(len(sizes))), sizes, program.arena_bytes)


class MachineCode:
    """Object code of a program, made on other threads while this one still lowers: a few kernels a module, fewer where
    these are large, so that the last modules do not leave all threads but one without work."""

    BATCH = 8
    LARGE = 100_000  # characters of text

    def __init__(self, target: CpuTarget):
        self.target = target
        self.pool = llvm.ObjectPool(target, target.threads, opt_level=llvm_kernel.OPT_LEVEL,
                                      passes=llvm_kernel.PASSES)
        self.module = llvm_kernel.Module(target)

    def kernel(self, kernel: Kernel) -> None:
        self.module.add(expand(kernel, self.target))
        if len(self.module.kernels) == self.BATCH or self.module.size >= self.LARGE:
            self.flush()

    def flush(self) -> None:
        if self.module.kernels:
            self.pool.submit(self.module.text())
            self.module = llvm_kernel.Module(self.target)

    def finish(self, program: Program, profile: bool) -> list[bytes]:
        self.flush()
        self.pool.submit(emit_entry_module(program, self.target, profile))
        return self.pool.results()


def lower(graph: Graph, donate: tuple[tuple[int, int], ...], name: str, target: CpuTarget | GpuTarget,
          watch: Callable[[str, Any], None], on_kernel: Callable[[Kernel], None] = lambda kernel: None) -> Program:
    """From the traced graph to scheduled kernels in a memory plan; `on_kernel` hears of each kernel at once."""
    graph = target_layout(prepared(graph, target, watch), target)
    watch("layout", graph)
    program = build_program(graph, donate, target, name, on_kernel)
    watch("program", program)
    if isinstance(target, CpuTarget):
        program = order_launches(program, target.threads)
    program = plan_memory(program)
    if isinstance(target, CpuTarget):
        program = find_dependencies(program)
    watch("memory", program)
    return program


def prepared(graph: Graph, target: CpuTarget | GpuTarget, watch: Callable[[str, Any], None]) -> Graph:
    """The traced graph after all passes that do not depend on schedules."""
    watch("graph", graph)
    graph = target_operations(graph, target)
    watch("operations", graph)
    for stage, graph_pass in GRAPH_PASSES:
        graph = graph_pass(graph)
        watch(stage, graph)
    if isinstance(target, CpuTarget):
        graph = cut_blocks(graph, target.l2_bytes, target.threads)
    watch("blocks", graph)
    return graph


def emit(program: Program, target: CpuTarget, profile: bool = False) -> str:
    """The whole program as one LLVM module, to be read."""
    kernels = [expand(k, target) for k in program.kernels()]
    return llvm_kernel.emit_module(kernels, target, emit_entry(program, target, profile))


def emit_entry_module(program: Program, target: CpuTarget, profile: bool) -> str:
    """The entry function alone, its kernels declared."""
    declared = "\n".join(f"declare void @{symbol(k.name)}(ptr, i64, i64)" for k in program.kernels())
    return llvm_kernel.emit_module((), target, f"{declared}\n{emit_entry(program, target, profile)}")


