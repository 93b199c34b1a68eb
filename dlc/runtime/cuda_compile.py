"""From a program in a memory plan to an executable on a GPU: CUDA C in a few modules, NVRTC, the disk cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dlc.codegen.cuda_kernel import emit_module
from dlc.codegen.gpu_target import GpuTarget
from dlc.ir import loops
from dlc.ir.loops import Kernel
from dlc.ir.program import Program
from dlc.runtime import cache, cuda_modules, cuda_plan
from dlc.runtime.cuda_executable import CudaExecutable
from dlc.runtime.cuda_plan import Plan


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
    plan = cuda_plan.translate(program, modules)
    code = cuda_modules.cubins(texts, target.arch)
    watch("cubin", code)
    if key:
        cache.default().put(key, pack(plan, code))
    executable = CudaExecutable(plan, code, index, program, profile)
    watch("load", executable)
    return executable


def program_key(what: str, target: GpuTarget, compiler: str) -> str:
    """Everything that a program's machine code depends on; `what` says it of the graph."""
    options = " ".join(cuda_modules.OPTIONS)
    return f"cuda-nvrtc{cuda_modules.version()}-{target.key()}-{options}-{compiler}-{what}"


def from_cache(key: str, index: int) -> CudaExecutable | None:
    """The executable stored under `key`, or None."""
    data = cache.default().get(key)
    if data is None:
        return None
    try:
        plan, code = unpack(data)
    except (ValueError, TypeError, IndexError):
        return None  # a damaged entry: compile again
    return CudaExecutable(plan, code, index)


def pack(plan: Plan, code: list[bytes]) -> bytes:
    """A plan and its modules as one entry of the disk cache: a line of JSON, then the modules."""
    head = json.dumps({"plan": cuda_plan.encode(plan), "modules": [len(c) for c in code]}, separators=(",", ":"))
    return head.encode() + b"\n" + b"".join(code)


def unpack(data: bytes) -> tuple[Plan, list[bytes]]:
    """What was packed. Raises ValueError, TypeError or IndexError for damaged data."""
    head, _, rest = data.partition(b"\n")
    found = json.loads(head)
    code, at = [], 0
    for size in found["modules"]:
        code.append(rest[at : at + size])
        at += size
    if at != len(rest):
        raise ValueError("the modules are cut short")
    return cuda_plan.decode(found["plan"]), code


def _weight(kernel: Kernel) -> float:
    """About how long NVRTC takes: statements and the loops that are written out."""
    return sum(
        (float(s.extent.attr) if isinstance(s, loops.For) and s.kind in ("unroll", "vector") and s.extent.op == "const"
         else 1.0)
        for s in loops.walk(kernel.body)
    )
