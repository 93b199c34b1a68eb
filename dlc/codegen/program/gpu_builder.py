"""Programs for a GPU: the same launches over slots as on the CPU, with the GPU's schedules and kernels.

A GPU has no unaligned vector access, so a kernel knows which of its parameters may start off a 16-byte boundary (rows
of a stacked tensor in a scan): `Kernel.unaligned`. Every slot starts on one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from dlc.base.errors import DeviceError
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.lower.body import Lowered
from dlc.codegen.lower.gpu.attention import lower_attention
from dlc.codegen.lower.gpu.contract import lower_contract
from dlc.codegen.lower.gpu.map import launch, lower_map
from dlc.codegen.lower.gpu.mma import lower_mma
from dlc.codegen.lower.gpu.rows import lower_rows
from dlc.codegen.lower.gpu.scatter_sort_scan import lower_ordered
from dlc.codegen.lower.gpu.skinny import lower_skinny
from dlc.codegen.program.builder import Builder
from dlc.codegen.program.donation import Steps, fit
from dlc.codegen.schedule import choice
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Graph, Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.guard import for_gpu
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.loops.key import kernel_key
from dlc.ir.program.program import Launch, Ref
from dlc.ir.program.tensor_map import tensor_maps
from dlc.passes.fuse.fuse import Fused, Group, fuse
from dlc.passes.fuse.merge_maps import merge_maps

WIDE = 16  # bytes
SHORT = 16  # neighbouring elements that are too few to be written apart from others


def _contract(fused: Fused, group: Group, sched: schedule.Schedule) -> Lowered:
    """As the schedule says."""
    ways = {schedule.GpuMma: lower_mma, schedule.GpuSkinny: lower_skinny}
    return ways.get(type(sched), lower_contract)(fused, group, sched)


LOWER: dict[str, Callable[..., Lowered]] = {
    "map": lower_map,
    "rows": lower_rows,
    "contract": _contract,
    "scatter": lower_ordered,
    "sort": lower_ordered,
    "cumulative": lower_ordered,
    "attention": lower_attention,
    "attention_grad": lower_attention,
}


def lowered_group(fused: Fused, group: Group, target: GpuTarget) -> Lowered:
    """The kernel of a group, with the schedule that was measured for it or else the chosen one."""
    lower = functools.partial(LOWER[group.kind], fused, group)
    first = lower(gpu_schedule.choose(fused, group, target))
    return choice.measured(first, target.tuned, lower) if target.tuned else first


class GpuBuilder(Builder):
    """Chooses, lowers and shares kernels for a GPU."""

    def __init__(self, target: GpuTarget):
        super().__init__(target)  # type: ignore[arg-type]
        self.gpu = target
        self.in_loop = False  # is the graph that comes next a loop's body?

    def launches(self, graph: Graph, refs: dict[Node, Ref], roots: dict[Node, Ref], depth: int,
                 strides: dict[Node, tuple[int, ...]] | None = None) -> Steps:
        self.in_loop = depth > 0
        return super().launches(graph, refs, roots, depth, strides)

    def fuse(self, graph: Graph) -> Fused:
        enough = gpu_schedule.enough_rows(self.gpu)
        return merge_maps(fuse(graph, enough=enough, in_order=1 << 62, short=SHORT), self.in_loop)

    def launch(self, fused: Fused, group: Group, refs: dict[Node, Ref]) -> Launch:
        lowered = self.lowered(fused, group)
        args = tuple(self.size(n) if isinstance(n, int) else self.ref(n, refs) for n in lowered.nodes)
        fitted = fit(lowered.kernel, args, self.pairs)
        known = fitted, _off_boundary(fitted, args)
        kernel = self.shared.get(known)
        if kernel is None:
            kernel = _aligned(*known)
            loose = [k for k, p in enumerate(kernel.params) if p in kernel.unaligned]
            if any(m.param in loose for m in tensor_maps(kernel).values()):  # bulk copies start on 16 bytes
                lowered = lower_mma(fused, group, replace(kernel.schedule, bulk=False))
                args = tuple(self.size(n) if isinstance(n, int) else self.ref(n, refs) for n in lowered.nodes)
                other = replace(lowered.kernel, tuned=kernel.tuned)
                kernel = self.share(_aligned(other, _off_boundary(other, args)))
            else:
                kernel = self.shared[known] = self.share(kernel)
        return Launch(kernel, args)

    def lower(self, fused: Fused, group: Group) -> Lowered:
        """Schedule and lower one group; its kernel is shared once the arguments are known (`_aligned`)."""
        return lowered_group(fused, group, self.gpu)

    def custom_launch(self, kernel: Kernel, args: tuple[Ref, ...]) -> Launch:
        if not for_gpu(kernel) and kernel.parallel is None:
            at = "".join(f"\n  at {loc}" for loc in kernel.locs)
            raise DeviceError(f"custom kernel {kernel.name} would run on one thread of the GPU: its outermost loop "
                              f"must be parallel, or a grid loop with a lane loop inside{at}")
        return Launch(self.share(_aligned(kernel, _off_boundary(kernel, args))), args)

    def grain(self, tasks: int, work_ns: float, cut: bool = False) -> int:
        return 1

    def share(self, kernel: Kernel) -> Kernel:
        """Equal kernels are compiled once; different ones get different names."""
        key = kernel_key(kernel)
        found = self.kernels.get(key)
        if found is None:
            needed = launch_shape(kernel).shared_bytes
            if needed > self.target.shared_bytes:
                at = "".join(f"\n  at {loc}" for loc in kernel.locs)
                raise DeviceError(f"kernel {kernel.name} needs {needed} bytes of shared memory, and a block on "
                                  f"{self.target.arch} has {self.target.shared_bytes}{at}")
            n = self.names.get(kernel.name, 0)
            self.names[kernel.name] = n + 1
            found = self.kernels[key] = replace(kernel, name=f"{kernel.name}_{n}")
        return found

    def copy(self, source: Ref, goal: Ref) -> Launch:
        args = (source, goal, self.size(goal.slot.size))
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
