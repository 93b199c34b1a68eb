"""From a prepared graph to a Program: fuse, schedule and lower each group, give every tensor a slot.

`scan` becomes a Repeat around the launches of its body, whose stacked inputs and outputs are slots that advance; so
does `each`, on several threads if it is parallel.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

from dlc.base.errors import DeviceError
from dlc.codegen.cost import cpu_contract
from dlc.codegen.cost.cpu_blocking import turn
from dlc.codegen.lower.body import Lowered
from dlc.codegen.lower.contract import lower_contract
from dlc.codegen.lower.map import lower_map
from dlc.codegen.lower.rows import lower_rows
from dlc.codegen.lower.scatter_sort_scan import lower_ordered
from dlc.codegen.program.donation import Pair, Steps, fit, readers_first, redirect, unnoticed
from dlc.codegen.program.memory import ALIGN
from dlc.codegen.schedule import choice
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.schedule.tuned_text import contract_key
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir import dtypes
from dlc.ir.graph.formulas import add
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param, unique
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.loops.key import kernel_key
from dlc.ir.program.program import Launch, Ref, Repeat, Slot, Workers, may_wait
from dlc.passes.fuse.fuse import Fused, Group, fuse
from dlc.passes.fuse.kernel_reuse import group_key
from dlc.passes.fuse.materialize import made_in_place, own_outputs
from dlc.passes.views.views import contiguous, memory_of

LOWER: dict[str, Callable[..., Lowered]] = {
    "map": lower_map,
    "rows": lower_rows,
    "contract": lower_contract,
    "scatter": lower_ordered,
    "sort": lower_ordered,
    "cumulative": lower_ordered,
}
# the kinds whose lowering looks at nothing outside the group
REPEATED = ("map", "rows", "contract", "attention", "attention_grad")


class Builder:
    """Programs for the CPU; `gpu_build` has the other half."""

    def __init__(self, target: CpuTarget):
        self.target = target
        self.arena: list[Slot] = []
        self.kernels: dict[Hashable, Kernel] = {}
        self.shared: dict[Hashable, Kernel] = {}  # by the kernel, and what it may do with its arguments
        self.known: dict[Hashable, tuple[Lowered, tuple[int, ...]]] = {}  # by `group_key`
        self.on_kernel: Callable[[Kernel], None] = lambda kernel: None
        self.names: dict[str, int] = {}
        self.fused: list[Fused] = []
        self.sizes: dict[int, Ref] = {}
        self.bodies: dict[Hashable, _Formal] = {}
        self.donated: set[Slot] = set()  # outputs that will be written over inputs
        self.pairs: dict[Slot, Pair] = {}  # outputs and new carries, by their slots, with what they may be written over
        self.threads = 0  # that a kernel may use, if not all of the target's

    def slot(self, name: str, dtype, size: int) -> Slot:
        self.arena.append(Slot(name, dtype, size, "arena"))
        return self.arena[-1]

    def steps(self, graph: Graph, refs: dict[Node, Ref], roots: dict[Node, Ref], depth: int,
              strides: dict[Node, tuple[int, ...]] | None = None) -> Steps:
        """The launches of a graph, those of one kernel gathered; see `launches`."""
        return self.gather_segments(self.launches(graph, refs, roots, depth, strides))

    def launches(self, graph: Graph, refs: dict[Node, Ref], roots: dict[Node, Ref], depth: int,
                 strides: dict[Node, tuple[int, ...]] | None = None) -> Steps:
        """The launches of a graph whose parameters and outputs already have places; `strides` of those whose elements
        do not lie one after the other. `depth` is the number of counters of the enclosing Repeats."""
        fused = self.fuse(graph) if not strides else fuse(graph, strides)
        fused.threads = self.threads
        self.fused.append(fused)
        refs = dict(refs)
        refs.update(roots)
        out: Steps = []
        for group in fused.groups:
            if all(isinstance(u.node.type, TensorType) and u.node.type.size == 0 for u in group.units):
                continue
            if group.kind == "scan":
                out += self.scan(group.units[0].node, refs, fused, depth)
            elif group.kind == "call":
                out += self.call(group.units[0].node, refs, fused)
            elif group.kind == "each":
                out += self.each(group.units[0].node, refs, fused, depth)
            else:
                out.append(self.launch(fused, group, refs))
        return out

    def fuse(self, graph: Graph) -> Fused:
        return fuse(graph)

    def ref(self, node: Node, refs: dict[Node, Ref]) -> Ref:
        if node not in refs:
            refs[node] = Ref(self.slot(f"{node.op}{len(self.arena)}", node.dtype, node.type.size))
        return refs[node]

    def results(self, node: Node, refs: dict[Node, Ref], fused: Fused) -> list[Ref]:
        """Places for all results of a node, read or not."""
        items = fused.table.items(node)
        return [self.ref(items[k], refs) if k in items else Ref(self.slot("unused", t.dtype, t.size))
                for k, t in enumerate(node.type)]

    def launch(self, fused: Fused, group: Group, refs: dict[Node, Ref]) -> Launch:
        lowered = self.lowered(fused, group)
        args = tuple(self.size(n) if isinstance(n, int) else self.ref(n, refs) for n in lowered.nodes)
        fitted = fit(lowered.kernel, args, self.pairs)
        known = fitted, self.streams(fitted, args)
        kernel = self.shared.get(known)
        if kernel is None:
            kernel = self.shared[known] = self.share(replace(fitted, streams=known[1]))
        work = schedules.work_ns(fused, group, kernel.bytes)
        cut = isinstance(kernel.schedule, schedule.Contract)
        return Launch(kernel, args, lowered.tasks, self.grain(lowered.tasks, work, cut), work=work)

    def streams(self, kernel: Kernel, args: Sequence[Ref]) -> frozenset[Buffer]:
        """What the kernel writes past the cache: results that would push themselves out of it before anybody reads
        them, so that their memory need not be read first. Not where that was read anyway, and only from a line's
        beginning on."""
        large = {b for b, r in zip(kernel.params, args, strict=True)
                 if b in kernel.writes and min(b.size, r.slot.size) * b.dtype.itemsize >= self.target.l3_bytes // 2
                 and r.slot not in self.donated
                 and all(n * b.dtype.itemsize % ALIGN == 0 for n in (r.start, *r.steps))}
        if large:
            for s in traverse.walk(kernel.body):
                large -= {e.attr for e in traverse.loads_of(*traverse.exprs(s))}
                large -= {s.buffer} if isinstance(s, loops.Prefetch) else set()
        return frozenset(large)

    def lowered(self, fused: Fused, group: Group) -> Lowered:
        """The group's kernel with the tensors it works on; a group equal to an earlier one takes that one's kernel.
        It is shared once the arguments are known."""
        if group.kind not in REPEATED:
            return self.lower(fused, group)
        key, nodes = group_key(fused, group)
        key = (key, fused.threads)
        found = self.known.get(key)
        if found is None:
            lowered = self.lower(fused, group)
            places = {n: k for k, n in enumerate(nodes)}
            self.known[key] = lowered, tuple(-1 if isinstance(n, int) else places[n] for n in lowered.nodes)
            return lowered
        lowered, order = found
        here = tuple(n if k < 0 else nodes[k] for n, k in zip(lowered.nodes, order, strict=True))
        return replace(lowered, nodes=here)

    def lower(self, fused: Fused, group: Group) -> Lowered:
        """Schedule and lower one group."""
        return lowered_group(fused, group, self.target)

    def size(self, n: int) -> Ref:
        """A run-time size as an argument."""
        if n not in self.sizes:
            self.sizes[n] = Ref(Slot(f"n{n}", dtypes.int64, 1, "const", value=n))
        return self.sizes[n]

    def gather_segments(self, steps: Steps) -> Steps:
        """Launches of one size-generic kernel on independent tensors become one launch, at the place of the last."""
        out = list(steps)
        at = 0
        while at < len(out):
            step = out[at]
            later = next((k for k in range(at + 1, len(out)) if self._mergeable(step, out, at, k)), None)
            if later is None:
                at += 1
                continue
            goal = out[later]
            assert isinstance(step, Launch) and isinstance(goal, Launch)
            merged = replace(step, more=(*step.more, *goal.segments), work=step.work + goal.work)
            out[later] = replace(merged, grain=self.grain(merged.all_tasks, merged.work))
            del out[at]
        return out

    def _mergeable(self, step: Launch | Repeat, steps: Steps, at: int, later: int) -> bool:
        """Can the launch at `at` run as late as the one at `later`, which has the same kernel?"""
        goal = steps[later]
        if not (isinstance(step, Launch) and isinstance(goal, Launch) and step.kernel is goal.kernel):
            return False
        if loops.RUNTIME not in (b.size for b in step.kernel.params):
            return False
        if self._writes_over(step, goal) or self._writes_over(goal, step):
            return False
        return may_wait(step, steps[at + 1 : later + 1])

    def _writes_over(self, a: Launch, b: Launch) -> bool:
        """Is `a` to write a new value over an old one that `b` reads? In one launch it could not, as it might come
        first."""
        return any(s in self.pairs and self.pairs[s].source in b.touched for s in a.written)

    def grain(self, tasks: int, work_ns: float, cut: bool = False) -> int:
        """Tasks that a thread takes at a time; see `turn`."""
        return turn(tasks, work_ns, self.target.threads, cut)

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

    def copy(self, source: Ref, goal: Ref) -> Launch:
        """A launch that copies one slot to another of the same type."""
        slot = goal.slot
        size, lanes = slot.size, max(1, min(self.target.lanes(slot.dtype.itemsize), 64))
        src = Buffer("src", slot.dtype, (size,))
        dst = Buffer("dst", slot.dtype, (size,))
        i = loops.axis("i", size)
        body = loops.loop(i, loops.store(dst, (i,), loops.load(src, i)), "vector", None, lanes)
        kernel = Kernel("copy", (src, dst), frozenset((dst,)), body, schedule.Map(lanes), (), 0, 2 * slot.nbytes)
        return Launch(self.share(kernel), (source, goal))

    def scan(self, node: Node, refs: dict[Node, Ref], fused: Fused, depth: int) -> Steps:
        """A Repeat over the launches of the body."""
        at = node.attrs
        body: Graph = own_outputs(at["body"])
        n_const, n_carry, length = at["consts"], at["carry"], at["length"]
        items = fused.table.items(node)
        source = [self.ref(memory_of(i), refs) for i in node.inputs]
        steps: Steps = []
        inner: dict[Node, Ref] = {}

        def moving(ref: Ref, size: int) -> Ref:
            """Row t of a stacked tensor; reversed scans walk it from the end."""
            start, step = (ref.start + (length - 1) * size, -size) if at["reverse"] else (ref.start, size)
            return Ref(ref.slot, start, (*ref.steps, *(0,) * (depth - len(ref.steps)), step))

        carries: list[Ref] = []
        for k in range(n_carry):
            p = body.params[n_const + k]
            place = self.ref(items[k], refs) if k in items else Ref(self.slot("carry", p.dtype, p.type.size))
            carries.append(place)
            if place.slot.size:
                steps.append(self.copy(source[n_const + k], place))
        for k, p in enumerate(body.params):
            if k < n_const:
                inner[p] = source[k]
            elif k < n_const + n_carry:
                inner[p] = carries[k - n_const]
            else:
                inner[p] = moving(source[k], p.type.size)
        roots: dict[Node, Ref] = {}
        new: list[Ref] = []
        for k, o in enumerate(body.outputs):
            if k < n_carry:
                place = Ref(self.slot("next", o.dtype, o.type.size))
                new.append(place)
                self.pairs[place.slot] = Pair(carries[k].slot, place.slot, True)
            elif k in items:
                place = moving(self.ref(items[k], refs), o.type.size)
            else:
                place = Ref(self.slot("unused", o.dtype, o.type.size))
            roots[memory_of(o)] = place
        inside = self.launches(body, inner, roots, depth + 1)
        inside = readers_first(inside, [(b.slot, a.slot) for a, b in zip(new, carries, strict=True)])
        inside += self.keep_carries(inside, new, carries)
        for a in new:
            del self.pairs[a.slot]
        inside = self.gather_segments(inside)  # only now: what lies in one memory is known
        if length:
            steps.append(Repeat(length, tuple(inside)))
        return steps

    def call(self, node: Node, refs: dict[Node, Ref], fused: Fused) -> Steps:
        """The launch of a kernel that the user wrote."""
        args = [self.ref(memory_of(i), refs) for i in node.inputs] + self.results(node, refs, fused)
        if all(t.size == 0 for t in node.type):
            return []
        from dlc.ir.graph.custom import kernel_of

        kernel = kernel_of(node.attrs["kernel"])
        if node.loc is not None:
            kernel = replace(kernel, locs=(node.loc,))
        return [self.custom_launch(kernel, tuple(args))]

    def custom_launch(self, kernel: Kernel, args: tuple[Ref, ...]) -> Launch:
        from dlc.ir.loops.guard import for_gpu

        if for_gpu(kernel):
            at = "".join(f"\n  at {loc}" for loc in kernel.locs)
            raise DeviceError(f"custom kernel {kernel.name} has grid or lane loops, which are for GPUs; on a CPU its "
                              f"outermost loop may be parallel{at}")
        work = max(kernel.flops * cpu_contract.NS_PER_OP, kernel.bytes * cpu_contract.NS_PER_BYTE)
        return Launch(self.share(kernel), args, kernel.tasks, self.grain(kernel.tasks, work), work=work)

    def each(self, node: Node, refs: dict[Node, Ref], fused: Fused, depth: int) -> Steps:
        """A Repeat over the launches of the body, on all threads if the iterations are parallel. A body is lowered
        once, for formal slots; the layers of a model share it."""
        at, extents = node.attrs, node.attrs["extents"]
        items = fused.table.items(node)
        lies = tuple((fused.table.layout.get(items[k]) if k in items else None) or contiguous(t.shape)
                     for k, t in enumerate(node.type))
        key = (at["body"], at["parallel"], extents, at["starts"], at["steps"], at["gives"], lies, depth, self.threads)
        if key not in self.bodies:
            self.bodies[key] = self.each_body(node, lies, depth)
        inputs, results, own, before, inside = self.bodies[key]
        places = self.results(node, refs, fused)
        there = dict(zip(inputs, (self.ref(i, refs) for i in node.inputs), strict=True))
        there |= dict(zip(results, places, strict=True))
        there |= {s: Ref(self.slot(s.name, s.dtype, s.size)) for s in own}
        before = [_moved(s, there) for s in before]
        count = math.prod(extents)
        if not count:
            return before
        workers = Workers(self.target.threads, self.slot("workspace", dtypes.uint8, 0)) if at["parallel"] else None
        return [*before, Repeat(count, tuple(_moved(s, there) for s in inside), tuple(extents), workers)]

    def each_body(self, node: Node, lies: Sequence[tuple[int, ...]], depth: int) -> _Formal:
        """The launches of one iteration of an `each` with slots that stand for its inputs and results; `lies` has the
        strides of the results."""
        at, extents = node.attrs, node.attrs["extents"]
        outer = self.target, self.threads
        if at["parallel"]:
            self.target, self.threads = self.target.with_threads(1), 1
        body, sums, pieces = _each_outputs(at["body"], at["gives"])
        first = len(self.arena)
        inputs = [Slot(p.attrs["name"], p.dtype, i.type.size, "formal")
                  for p, i in zip(at["body"].params, node.inputs, strict=True)]
        results = [Slot(f"result{k}", t.dtype, t.size, "formal") for k, t in enumerate(node.type)]

        def moving(slot: Slot, start: int, steps: Sequence[int]) -> Ref:
            return Ref(slot, start, (*(0,) * depth, *steps))

        inner = {p: moving(slot, start, steps) for p, slot, start, steps
                 in zip(body.params, inputs, at["starts"], at["steps"], strict=False)}
        inner |= {p: Ref(results[k]) for k, p in sums.items()}
        roots: dict[Node, Ref] = {}
        strides: dict[Node, tuple[int, ...]] = {}
        new: list[Ref] = []
        for o, (k, axis, position) in zip(body.outputs, pieces, strict=True):
            if k in sums:
                roots[o] = Ref(self.slot("sum", o.dtype, o.type.size))
                new.append(roots[o])
                continue
            block = at["body"].outputs[k].shape
            roots[o] = moving(results[k], position * lies[k][axis] if lies[k] else 0,
                              [block[a] * lies[k][a] for a in at["gives"][k]])
            strides[o] = lies[k]
        before = [self.clear(Ref(results[k])) for k in sums]
        inside = self.steps(body, inner, roots, depth + len(extents), strides)
        inside += self.gather_segments(self.keep_carries(inside, new, [Ref(results[k]) for k in sums]))
        self.target, self.threads = outer
        own = self.arena[first:]
        del self.arena[first:]
        return _Formal(inputs, results, own, before, inside)

    def clear(self, goal: Ref) -> Launch:
        """A launch that fills a slot with zeros."""
        slot = goal.slot
        lanes = max(1, min(self.target.lanes(slot.dtype.itemsize), 64))
        dst, i = Buffer("dst", slot.dtype, (slot.size,)), loops.axis("i", slot.size)
        zero = loops.const(0, slot.dtype.compute)
        body = loops.loop(i, loops.store(dst, (i,), loops.cast(zero, slot.dtype)), "vector", None, lanes)
        kernel = Kernel("clear", (dst,), frozenset((dst,)), body, schedule.Map(lanes), (), 0, slot.nbytes)
        return Launch(self.share(kernel), (goal,))

    def keep_carries(self, steps: Steps, new: Sequence[Ref], carries: Sequence[Ref]) -> Steps:
        """The copies of the new carries to the places of the old ones. Where nothing in `steps` needs the old one any
        more, the new one is written there at once (`steps` changes) and need not be copied."""
        copies: Steps = []
        touched = [s.touched for s in steps]
        for a, b in zip(new, carries, strict=True):
            if not b.slot.size:
                continue
            if not b.start and not any(b.steps) and unnoticed(steps, touched, b.slot, a.slot, True):
                redirect(steps, touched, a.slot, b.slot)
                self.arena.remove(a.slot)
            else:
                copies.append(self.copy(a, b))
        return copies


class _Formal(NamedTuple):
    """The launches of a body: before the loop, and in it. `inputs` and `results` are to be replaced by what they are at
    a use, `own` by slots of that use alone."""

    inputs: list[Slot]
    results: list[Slot]
    own: list[Slot]
    before: Steps
    inside: Steps


def _moved(step: Launch | Repeat, there: dict[Slot, Ref]) -> Launch | Repeat:
    """The step with every reference to a slot of `there` made relative to what it stands for."""
    if isinstance(step, Repeat):
        return replace(step, body=tuple(_moved(s, there) for s in step.body))

    def move(args: tuple[Ref, ...]) -> tuple[Ref, ...]:
        return tuple(_relative(r, there[r.slot]) if r.slot in there else r for r in args)

    return replace(step, args=move(step.args), more=tuple(replace(s, args=move(s.args)) for s in step.more))


def _relative(ref: Ref, base: Ref) -> Ref:
    steps = tuple(a + b for a, b in itertools.zip_longest(ref.steps, base.steps, fillvalue=0))
    return Ref(base.slot, base.start + ref.start, steps)


def _each_outputs(body: Graph, gives: Sequence[Sequence[int]]) -> tuple[
        Graph, dict[int, Node], list[tuple[int, int, int]]]:
    """The body of an `each` with outputs that have memory of their own; parameters (by output) that the outputs are
    added to whose results are sums over the iterations; and for each output of the new body the old one's number, an
    axis and a position on it: what is joined from several loops' results is written by these loops, each its part."""
    sums: dict[int, Node] = {}
    outputs: list[Node] = []
    pieces: list[tuple[int, int, int]] = []
    for k, (o, axes) in enumerate(zip(body.outputs, gives, strict=True)):
        parts = [o]
        if -1 in axes:
            sums[k] = param(o.type, "sum")
            parts = [add(sums[k], o)]
        elif o.op == "concat" and all(i.op == "item" and made_in_place(i) for i in o.inputs):
            parts = list(o.inputs)
        elif memory_of(o) is not o:
            parts = [make("barrier", (o,), o.loc, uid=unique())]
        axis = o.attrs["axis"] if len(parts) > 1 else 0
        position = 0
        for part in parts:
            outputs.append(part)
            pieces.append((k, axis, position))
            position += part.shape[axis] if len(parts) > 1 else 0
    return own_outputs(Graph((*body.params, *sums.values()), outputs, body.name)), sums, pieces


def lowered_group(fused: Fused, group: Group, target: CpuTarget) -> Lowered:
    """The kernel of a group, with the schedule that was measured for it or else the chosen one."""
    lower = functools.partial(LOWER[group.kind], fused, group)
    if not target.tuned:
        return lower(schedules.choose(fused, group, target))
    if group.kind == "contract":
        node = group.units[0].node
        lowered = lower(choice.contract(node, target))
        return lowered if target.tuned.contract(contract_key(node), node) is None else choice.noted(lowered)
    return choice.measured(lower(schedules.choose(fused, group, target)), target.tuned, lower)
