"""A program's machine code on a CPU: LLVM IR emitted and compiled while the program is still being lowered."""

from __future__ import annotations

from dlc.codegen.llvm import kernel as llvm_kernel
from dlc.codegen.llvm.launch.program import emit_entry
from dlc.codegen.llvm.types import symbol
from dlc.codegen.math.expand import expand
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Program
from dlc.runtime.cpu import llvm
from dlc.runtime.cpu.executable import Frame


class MachineCode:
    """Object code of a program, made on other threads while this one still lowers: a few kernels a module, fewer where
    these are large, so that the last modules do not leave all threads but one without work."""

    BATCH = 8
    LARGE = 100_000  # characters of text

    def __init__(self, target: CpuTarget):
        self.target = target
        self.pool = llvm.ObjectPool(target, target.threads, opt_level=llvm_kernel.OPT_LEVEL,
                                      passes=llvm_kernel.PASSES)
        self.module = llvm_kernel.LlvmModule(target)

    def kernel(self, kernel: Kernel) -> None:
        self.module.add(expand(kernel, self.target))
        if len(self.module.kernels) == self.BATCH or self.module.size >= self.LARGE:
            self.flush()

    def flush(self) -> None:
        if self.module.kernels:
            self.pool.submit(self.module.text())
            self.module = llvm_kernel.LlvmModule(self.target)

    def finish(self, program: Program, profile: bool) -> list[bytes]:
        self.flush()
        self.pool.submit(emit_entry_module(program, self.target, profile))
        return self.pool.results()


def emit(program: Program, target: CpuTarget, profile: bool = False) -> str:
    """The whole program as one LLVM module, to be read."""
    kernels = [expand(k, target) for k in program.kernels()]
    return llvm_kernel.emit_module(kernels, target, emit_entry(program, target, profile))


def emit_entry_module(program: Program, target: CpuTarget, profile: bool) -> str:
    """The entry function alone, its kernels declared."""
    declared = "\n".join(f"declare void @{symbol(k.name)}(ptr, i64, i64)" for k in program.kernels())
    return llvm_kernel.emit_module((), target, f"{declared}\n{emit_entry(program, target, profile)}")


def frame_of(program: Program) -> Frame:
    """What a call needs to know of a program."""
    into = {output: param for param, output in program.donate}
    sizes = tuple(t.nbytes for t in program.output_types)
    return Frame(tuple(into.get(k, -1) for k in range(len(sizes))), sizes, program.arena_bytes)
