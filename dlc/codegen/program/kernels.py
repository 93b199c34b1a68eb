"""The kernels of a program as they are made: equal groups are lowered once, equal kernels are compiled once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

from dlc.base.errors import DeviceError
from dlc.codegen.cost import cpu_contract
from dlc.codegen.cost.cpu_blocking import turn
from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.program.donation import fit
from dlc.codegen.program.lowering import lowered_group
from dlc.codegen.program.memory import ALIGN
from dlc.codegen.program.moved import Moved, at_slices
from dlc.codegen.program.places import Places
from dlc.codegen.program.regions import Region
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.guard import for_gpu
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.loops.key import kernel_key
from dlc.ir.program.program import Launch, Ref
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.kernel_reuse import group_key

FEW_SLICES = 8  # kernels that differ in the slices that they read, and know them, before one is told where they begin

# the kinds whose lowering looks at nothing outside the group
REPEATED = ("map", "rows", "contract", "attention", "attention_grad")


class Origin(NamedTuple):
    """The first group that a kernel computes, and that group as it was lowered."""

    fused: Fused
    group: Group
    lowered: LoweredKernel


class Kernels:
    """The kernels of one program for a CPU; `gpu_kernels` has the other half. `on_kernel` is told of each at once."""

    def __init__(self, places: Places, on_kernel: Callable[[Kernel], None]):
        self.places, self.on_kernel = places, on_kernel
        self.kernels: dict[Hashable, Kernel] = {}
        self.slices: dict[Hashable, int] = {}  # kernels alike but for the slices that they read, by their key
        self.shared: dict[Hashable, Moved] = {}  # by the kernel, and what it may do with its arguments
        self.known: dict[Hashable, tuple[LoweredKernel, tuple[int, ...]]] = {}  # by `group_key`
        self.names: dict[str, int] = {}
        self.origins: dict[Kernel, Origin] = {}

    def launch(self, region: Region, group: Group, refs: dict[Node, Ref]) -> Launch:
        """Schedule and lower a group, unless an equal one was, and launch its kernel."""
        lowered = self.lowered(region, group)
        args = self.places.args(lowered.nodes, refs)
        fitted = fit(lowered.kernel, args, self.places.pairs)
        known = fitted, streams(fitted, args, region.target.l3_bytes, self.places.donated)  # type: ignore[union-attr]
        moved = self.shared.get(known)
        if moved is None:
            moved = self.shared[known] = self.moved(replace(fitted, streams=known[1]), args)
        kernel = moved.kernel
        self.origins.setdefault(kernel, Origin(region.fused, group, lowered))
        if any(moved.starts):
            args = tuple(Ref(r.slot, r.start + n, r.steps) for r, n in zip(args, moved.starts, strict=True))
        work = schedules.work_ns(region.fused, group, lowered.kernel.bytes)
        cut = isinstance(kernel.schedule, schedule.Contract)
        grain = self.grain(lowered.tasks, work, region.target, cut)
        return Launch(kernel, args, lowered.tasks, grain, work=work)

    def moved(self, kernel: Kernel, args: Sequence[Ref]) -> Moved:
        """The kernel, shared, as it is; or, if several were the same but for the slices that they read, the one that
        begins at a slice."""
        none = (0,) * len(args)
        in_place = not kernel.aliased and not any(r.slot in self.places.pairs for r in args)
        part = at_slices(kernel, ()) if in_place else None
        if part is None:
            return Moved(self.share(kernel), none)
        key = kernel_key(part.kernel)
        self.slices[key] = self.slices.get(key, 0) + 1
        if self.slices[key] <= FEW_SLICES:
            return Moved(self.share(kernel), none)
        return Moved(self.share(part.kernel), part.starts)

    def lowered(self, region: Region, group: Group) -> LoweredKernel:
        """The group's kernel with the tensors it works on; a group equal to an earlier one takes that one's kernel.
        It is shared once the arguments are known."""
        fused = region.fused
        if group.kind not in REPEATED:
            return self.lower(fused, group, region.target)
        key, nodes = group_key(fused, group)
        key = (key, fused.threads)
        found = self.known.get(key)
        if found is None:
            lowered = self.lower(fused, group, region.target)
            order = {n: k for k, n in enumerate(nodes)}
            self.known[key] = lowered, tuple(-1 if isinstance(n, int) else order[n] for n in lowered.nodes)
            return lowered
        lowered, at = found
        here = tuple(n if k < 0 else nodes[k] for n, k in zip(lowered.nodes, at, strict=True))
        return replace(lowered, nodes=here)

    def lower(self, fused: Fused, group: Group, target: CpuTarget | GpuTarget) -> LoweredKernel:
        """Schedule and lower one group."""
        return lowered_group(fused, group, target)  # type: ignore[arg-type]

    def grain(self, tasks: int, work_ns: float, target: CpuTarget | GpuTarget, cut: bool = False) -> int:
        """Tasks that a thread takes at a time; see `turn`."""
        return turn(tasks, work_ns, target.threads, cut)  # type: ignore[union-attr]

    def share(self, kernel: Kernel) -> Kernel:
        """Equal kernels are compiled once; different ones get different names."""
        key = kernel_key(kernel)
        found = self.kernels.get(key)
        if found is not None:
            return found
        n = self.names.get(kernel.name, 0)
        self.names[kernel.name] = n + 1
        kernel = replace(kernel, name=f"{kernel.name}_{n}")
        self.kernels[key] = kernel
        self.on_kernel(kernel)
        return kernel

    def custom(self, kernel: Kernel, args: tuple[Ref, ...], target: CpuTarget | GpuTarget) -> Launch:
        """The launch of a kernel that the user wrote. Raises DeviceError where it is not for this target."""
        if for_gpu(kernel):
            at = "".join(f"\n  at {loc}" for loc in kernel.locs)
            raise DeviceError(f"custom kernel {kernel.name} has grid or lane loops, which are for GPUs; on a CPU its "
                              f"outermost loop may be parallel{at}")
        work = max(kernel.flops * cpu_contract.NS_PER_OP, kernel.bytes * cpu_contract.NS_PER_BYTE)
        return Launch(self.share(kernel), args, kernel.tasks, self.grain(kernel.tasks, work, target), work=work)

    def copy(self, source: Ref, goal: Ref, target: CpuTarget | GpuTarget) -> Launch:
        """A launch that copies one slot to another of the same type."""
        slot = goal.slot
        size, lanes = slot.size, _lanes(slot.dtype.itemsize, target)
        src = Buffer("src", slot.dtype, (size,))
        dst = Buffer("dst", slot.dtype, (size,))
        i = loops.axis("i", size)
        body = loops.loop(i, loops.store(dst, (i,), loops.load(src, i)), "vector", None, lanes)
        kernel = Kernel("copy", (src, dst), frozenset((dst,)), body, schedule.Map(lanes), (), 0, 2 * slot.nbytes)
        return Launch(self.share(kernel), (source, goal))

    def clear(self, goal: Ref, target: CpuTarget | GpuTarget) -> Launch:
        """A launch that fills a slot with zeros."""
        slot = goal.slot
        lanes = _lanes(slot.dtype.itemsize, target)
        dst, i = Buffer("dst", slot.dtype, (slot.size,)), loops.axis("i", slot.size)
        zero = loops.const(0, slot.dtype.compute)
        body = loops.loop(i, loops.store(dst, (i,), loops.cast(zero, slot.dtype)), "vector", None, lanes)
        kernel = Kernel("clear", (dst,), frozenset((dst,)), body, schedule.Map(lanes), (), 0, slot.nbytes)
        return Launch(self.share(kernel), (goal,))


def _lanes(itemsize: int, target: CpuTarget | GpuTarget) -> int:
    return max(1, min(target.lanes(itemsize), 64))  # type: ignore[union-attr]


def streams(kernel: Kernel, args: Sequence[Ref], l3_bytes: int, donated: set) -> frozenset[Buffer]:
    """What the kernel writes past the cache, by non-temporal stores: results that would push themselves out of it
    before anybody reads them, so that their memory need not be read first. Not where that was read anyway, and only
    from a line's beginning on."""
    large = {b for b, r in zip(kernel.params, args, strict=True)
             if b in kernel.writes and min(b.size, r.slot.size) * b.dtype.itemsize >= l3_bytes // 2
             and r.slot not in donated
             and all(n * b.dtype.itemsize % ALIGN == 0 for n in (r.start, *r.steps))}
    if large:
        for s in traverse.walk(kernel.body):
            large -= {e.attr for e in traverse.loads_of(*traverse.exprs(s))}
            large -= {s.buffer} if isinstance(s, loops.Prefetch) else set()
    return frozenset(large)
