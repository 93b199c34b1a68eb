"""From a program in a memory plan to an executable on a GPU: CUDA C in a few modules, NVRTC, the disk cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Program
from dlc.runtime.cuda import modules as cuda_modules
from dlc.runtime.cuda import stored as cuda_stored
from dlc.runtime.cuda import translate as cuda_translate
from dlc.runtime.cuda.executable import CudaExecutable


def modules_of(program: Program) -> list[list[Kernel]]:
    """The program's kernels, dealt out to modules that take NVRTC about the same time."""
    return cuda_modules.batches(program.kernels(), _weight)


def sources(modules: list[list[Kernel]], target: GpuTarget) -> list[str]:
    """The CUDA C of each module."""
    return [emit_module(kernels, target) for kernels in modules]


def source(program: Program, target: GpuTarget) -> str:
    """All kernels of a program as one CUDA C source, to be read."""
    return emit_module(program.kernels(), target)


def load(program: Program, target: GpuTarget, index: int, key: str, profile: bool,
         watch: Callable[[str, Any], None]) -> CudaExecutable:
    """Emit, compile and load a program; keep its machine code in the disk cache under `key`, if there is one."""
    modules = modules_of(program)
    texts = sources(modules, target)
    watch("cuda", "\n".join(texts))
    plan = cuda_translate.translate(program, modules)
    code = cuda_modules.cubins(texts, target.arch)
    watch("cubin", code)
    if key:
        cuda_stored.keep(key, plan, code)
    executable = CudaExecutable(plan, code, index, program, profile)
    watch("load", executable)
    return executable


def _weight(kernel: Kernel) -> float:
    """About how long NVRTC takes: statements and the loops that are written out."""
    return sum(
        (float(s.extent.attr) if isinstance(s, loops.For) and s.kind in ("unroll", "vector") and s.extent.op == "const"
         else 1.0)
        for s in traverse.walk(kernel.body)
    )
