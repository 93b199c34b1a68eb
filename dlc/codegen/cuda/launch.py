"""How many blocks and threads a kernel is launched with, and its shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlc.ir.loops.interp.values import evaluate_expr
from dlc.ir.loops.ir import Alloc, Buffer, Expr, For, Kernel
from dlc.ir.loops.traverse import walk
from dlc.ir.program.tensor_map import TensorMap, tensor_maps

TASK_BLOCK = 64  # threads of a block where each runs an iteration of a `parallel` loop
LONG = 16  # stores to registers of a loop's body that is not to be copied
REGISTERS = 1 << 16  # of a multiprocessor
STATIC_SHARED = 48 << 10  # bytes; more has to be asked for at launch


@dataclass(frozen=True)
class LaunchShape:
    """How to launch a kernel: `blocks` is a number, or an expression over parameters that hold run-time sizes."""

    blocks: int | Expr
    block: int
    shared_bytes: int = 0  # dynamic shared memory
    maps: tuple[TensorMap, ...] = ()  # parameters after the pointers

    def grid(self, sizes: Mapping[Buffer, int] | None = None) -> int:
        """The number of blocks; `sizes` gives the value of each run-time size (kernel.params of shape (1,))."""
        if isinstance(self.blocks, int):
            return self.blocks
        env = {b: np.array([n], np.int64) for b, n in (sizes or {}).items()}
        return int(evaluate_expr(self.blocks, env))


def launch_shape(kernel: Kernel) -> LaunchShape:
    """Grid, block and shared memory of a kernel."""
    shared = sum(shared_bytes_of(b) for b in shared_buffers(kernel)) if dynamic(kernel) else 0
    if kernel.parallel is not None:
        extent = kernel.parallel.extent
        if extent.op == "const":
            return LaunchShape(max(1, -(-extent.attr // TASK_BLOCK)), TASK_BLOCK)
        return LaunchShape((extent + (TASK_BLOCK - 1)) // TASK_BLOCK, TASK_BLOCK)
    blocks: int | Expr = 1
    threads = 1
    for s in walk(kernel.body):
        if isinstance(s, For) and s.kind == "grid":
            blocks = int(s.extent.attr) if s.extent.op == "const" else s.extent
        elif isinstance(s, For) and s.kind == "lane":
            threads = max(threads, int(s.extent.attr))
    return LaunchShape(blocks, threads, shared, tuple(tensor_maps(kernel).values()))


def shared_buffers(kernel: Kernel) -> list[Buffer]:
    return [s.buffer for s in walk(kernel.body) if isinstance(s, Alloc) and s.buffer.space in ("shared", "gate")]


def shared_bytes_of(b: Buffer) -> int:
    """What a buffer takes of the shared memory given at launch; swizzled ones come first and are multiples of 1024."""
    return -(-b.nbytes // 16) * 16


def dynamic(kernel: Kernel) -> bool:
    """Is the shared memory given at launch rather than declared?"""
    return kernel.parallel is None and sum(b.nbytes for b in shared_buffers(kernel)) > STATIC_SHARED - 2048
