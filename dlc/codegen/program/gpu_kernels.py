"""The kernels of a program for a GPU.

A GPU has no unaligned vector access, so a kernel knows which of its parameters may start off a 16-byte boundary (rows
of a stacked tensor in a scan): `Kernel.unaligned`. Every slot starts on one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

from dlc.base.errors import DeviceError
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.lower.gpu.map import launch
from dlc.codegen.lower.gpu.mma import lower_mma
from dlc.codegen.program.donation import fit
from dlc.codegen.program.gpu_lowering import lowered_group
from dlc.codegen.program.kernels import Kernels, Origin
from dlc.codegen.program.places import Places
from dlc.codegen.program.regions import Region
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.guard import for_gpu
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.program.program import Launch, Ref
from dlc.ir.program.tensor_map import tensor_maps
from dlc.passes.fuse.fuse import Fused, Group

WIDE = 16  # bytes


class GpuKernels(Kernels):
    """The same for a GPU: other schedules, no grains, kernels that know which parameters are not aligned."""

    def __init__(self, places: Places, on_kernel: Callable[[Kernel], None], target: GpuTarget):
        super().__init__(places, on_kernel)
        self.target = target
        self.aligned: dict[Hashable, Kernel] = {}  # by the kernel, and which parameters are not aligned

    def launch(self, region: Region, group: Group, refs: dict[Node, Ref]) -> Launch:
        lowered = self.lowered(region, group)
        args = self.places.args(lowered.nodes, refs)
        fitted = fit(lowered.kernel, args, self.places.pairs)
        known = fitted, _off_boundary(fitted, args)
        kernel = self.aligned.get(known)
        if kernel is None:
            kernel = _aligned(*known)
            loose = [k for k, p in enumerate(kernel.params) if p in kernel.unaligned]
            if any(m.param in loose for m in tensor_maps(kernel).values()):  # TMA copies start on 16 bytes
                lowered = lower_mma(region.fused, group, replace(kernel.schedule, bulk=False))
                args = self.places.args(lowered.nodes, refs)
                other = replace(lowered.kernel, tuned=kernel.tuned)
                kernel = self.share(_aligned(other, _off_boundary(other, args)))
            else:
                kernel = self.aligned[known] = self.share(kernel)
        self.origins.setdefault(kernel, Origin(region.fused, group, lowered))
        return Launch(kernel, args)

    def lower(self, fused: Fused, group: Group, target: CpuTarget | GpuTarget) -> LoweredKernel:
        return lowered_group(fused, group, self.target)

    def grain(self, tasks: int, work_ns: float, target: CpuTarget | GpuTarget, cut: bool = False) -> int:
        return 1

    def share(self, kernel: Kernel) -> Kernel:
        needed = launch_shape(kernel).shared_bytes
        if needed > self.target.shared_bytes:
            at = "".join(f"\n  at {loc}" for loc in kernel.locs)
            raise DeviceError(f"kernel {kernel.name} needs {needed} bytes of shared memory, and a block on "
                              f"{self.target.arch} has {self.target.shared_bytes}{at}")
        return super().share(kernel)

    def custom(self, kernel: Kernel, args: tuple[Ref, ...], target: CpuTarget | GpuTarget) -> Launch:
        if not for_gpu(kernel) and kernel.parallel is None:
            at = "".join(f"\n  at {loc}" for loc in kernel.locs)
            raise DeviceError(f"custom kernel {kernel.name} would run on one thread of the GPU: its outermost loop "
                              f"must be parallel, or a grid loop with a lane loop inside{at}")
        return Launch(self.share(_aligned(kernel, _off_boundary(kernel, args))), args)

    def copy(self, source: Ref, goal: Ref, target: CpuTarget | GpuTarget) -> Launch:
        args = (source, goal, self.places.size(goal.slot.size))
        kernel = copy_kernel(goal.slot.dtype)
        return Launch(self.share(_aligned(kernel, _off_boundary(kernel, args))), args)


def _off_boundary(kernel: Kernel, args: tuple[Ref, ...]) -> frozenset[Buffer]:
    """The parameters that these arguments do not align."""
    return frozenset(p for p, r in zip(kernel.params, args, strict=True)
                     if any(n * p.dtype.itemsize % WIDE for n in (r.start, *r.steps)))


def _aligned(kernel: Kernel, loose: frozenset[Buffer]) -> Kernel:
    """The kernel with a note of the parameters that may start off a boundary."""
    return replace(kernel, unaligned=loose) if loose else kernel


def copy_kernel(dtype: DType) -> Kernel:
    """Copies n elements from one tensor to another."""
    lanes, block = WIDE // dtype.itemsize, 256
    chunk = lanes * block
    src, dst = (Buffer(name, dtype, (loops.RUNTIME,)) for name in ("src", "dst"))
    holder = Buffer("n", dtypes.int64, (1,), note="elements")
    n = loops.load(holder, loops.const(0))
    b, t, v = loops.axis("b", loops.RUNTIME // chunk), loops.axis("t", block), loops.axis("v", lanes)
    at = b * chunk + t * lanes + v

    def move(inside: loops.Expr | None) -> loops.Stmt:
        value = loops.load(src, at, predicate=inside)
        return loops.loop(v, loops.store(dst, (at,), value, predicate=inside), "vector", None, lanes)

    body = loops.If(loops.op("le", b * chunk + chunk, n), move(None), move(loops.op("lt", at, n)))
    blocks = (n + (chunk - 1)) // chunk
    return Kernel("copy", (src, dst, holder), frozenset((dst,)), launch(b, t, body, (), blocks),
                  schedule.GpuMap(block, lanes))
