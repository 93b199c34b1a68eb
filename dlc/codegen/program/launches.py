"""From groups to launches: each group is scheduled, lowered and launched on the slots of its tensors.

`scan` becomes a Repeat around the launches of its body, whose stacked inputs and outputs are slots that advance; so
does `each`, on several threads if it is parallel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dlc.codegen.program.donation import Pair, Steps, may_alias, readers_first
from dlc.codegen.program.gather import gather
from dlc.codegen.program.gpu_kernels import GpuKernels
from dlc.codegen.program.kernels import Kernels
from dlc.codegen.program.places import Places
from dlc.codegen.program.regions import EachBody, Region, every_fused
from dlc.codegen.program.step_order import StepOrder
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.graph.graph import Node
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot, Workers
from dlc.passes.views.views import memory_of

Target = CpuTarget | GpuTarget


class Draft(NamedTuple):
    """A program whose launches may still move, with what makes slots and kernels for it."""

    program: Program
    places: Places
    kernels: Kernels
    target: Target


def lower_program(region: Region, donate: Sequence[tuple[int, int]], name: str,
                  on_kernel: Callable[[Kernel], None] = lambda kernel: None) -> Draft:
    """The program of fused groups, in the order of the groups. Its memory is not yet planned; sizes and kinds of slots
    are final.

    `on_kernel` is told of every kernel as soon as it is known, so that machine code can be made meanwhile.
    """
    graph, target = region.graph, region.target
    inputs = tuple(Slot(p.attrs.get("name") or f"p{k}", p.dtype, p.type.size, "input", k)
                   for k, p in enumerate(graph.params))
    outputs = tuple(Slot(f"out{k}", o.dtype, o.type.size, "output", k) for k, o in enumerate(graph.outputs))
    refs = {p: Ref(s) for p, s in zip(graph.params, inputs, strict=True)}
    roots = {memory_of(o): Ref(s) for o, s in zip(graph.outputs, outputs, strict=True)}
    places = Places()
    places.donated = {outputs[o] for _, o in donate}
    places.pairs = {outputs[o]: Pair(inputs[p], outputs[o], False) for p, o in donate}
    kernels = GpuKernels(places, on_kernel, target) if isinstance(target, GpuTarget) else Kernels(places, on_kernel)
    work = _Work(places, kernels)
    steps = gather(work.places, work.kernels, _launches(work, region, refs, roots), target)
    program = Program(name, inputs, outputs, tuple(steps), tuple(o.type for o in graph.outputs),
                      (*inputs, *outputs, *places.arena), donate=tuple(donate), fused=tuple(every_fused(region)),
                      origins=work.kernels.origins)
    return Draft(program, places, kernels, target)


@dataclass(eq=False)
class _Work:
    """What the launches of one program have in common."""

    places: Places
    kernels: Kernels
    formal: dict[EachBody, _Formal] = field(default_factory=dict)


def _launches(work: _Work, region: Region, refs: dict[Node, Ref], roots: dict[Node, Ref]) -> Steps:
    """The launches of a graph whose parameters and outputs already have places."""
    refs = refs | roots
    out: Steps = []
    for group in region.groups:
        node = group.units[0].node
        if group.kind == "scan":
            out += _scan(work, node, refs, region)
        elif group.kind == "call":
            out += _call(work, node, refs, region)
        elif group.kind == "each":
            out += _each(work, node, refs, region)
        else:
            out.append(work.kernels.launch(region, group, refs))
    return out


# --- loops and kernels of the user's


def _scan(work: _Work, node: Node, refs: dict[Node, Ref], region: Region) -> Steps:
    """A Repeat over the launches of the body."""
    at, places, inside_region, depth = node.attrs, work.places, region.scans[node], region.depth
    body = inside_region.graph
    n_const, n_carry, length = at["consts"], at["carry"], at["length"]
    items = region.fused.table.items(node)
    source = [places.ref(memory_of(i), refs) for i in node.inputs]
    steps: Steps = []
    inner: dict[Node, Ref] = {}

    def moving(ref: Ref, size: int) -> Ref:
        """Row t of a stacked tensor; reversed scans walk it from the end."""
        start, step = (ref.start + (length - 1) * size, -size) if at["reverse"] else (ref.start, size)
        return Ref(ref.slot, start, (*ref.steps, *(0,) * (depth - len(ref.steps)), step))

    carries: list[Ref] = []
    for k in range(n_carry):
        p = body.params[n_const + k]
        place = places.ref(items[k], refs) if k in items else Ref(places.slot("carry", p.dtype, p.type.size))
        carries.append(place)
        if place.slot.size:
            steps.append(work.kernels.copy(source[n_const + k], place, region.target))
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
            place = Ref(places.slot("next", o.dtype, o.type.size))
            new.append(place)
            places.pairs[place.slot] = Pair(carries[k].slot, place.slot, True)
        elif k in items:
            place = moving(places.ref(items[k], refs), o.type.size)
        else:
            place = Ref(places.slot("unused", o.dtype, o.type.size))
        roots[memory_of(o)] = place
    inside = _launches(work, inside_region, inner, roots)
    inside = readers_first(inside, [(b.slot, a.slot) for a, b in zip(new, carries, strict=True)])
    inside += _keep_carries(work, inside, new, carries, region.target)
    for a in new:
        del places.pairs[a.slot]
    inside = gather(places, work.kernels, inside, region.target)  # only now: what lies in one memory is known
    if length:
        steps.append(Repeat(length, tuple(inside)))
    return steps


def _call(work: _Work, node: Node, refs: dict[Node, Ref], region: Region) -> Steps:
    """The launch of a kernel that the user wrote."""
    args = [work.places.ref(memory_of(i), refs) for i in node.inputs]
    args += work.places.results(node, refs, region.fused)
    if all(t.size == 0 for t in node.type):
        return []
    from dlc.ir.graph.custom import kernel_of  # few programs have one

    kernel = kernel_of(node.attrs["kernel"])
    if node.loc is not None:
        kernel = replace(kernel, locs=(node.loc,))
    return [work.kernels.custom(kernel, tuple(args), region.target)]


def _each(work: _Work, node: Node, refs: dict[Node, Ref], region: Region) -> Steps:
    """A Repeat over the launches of the body, on all threads if the iterations are parallel. A body is lowered once,
    for formal slots; the layers of a model share it."""
    at, places, body = node.attrs, work.places, region.eaches[node]
    if body not in work.formal:
        work.formal[body] = _formal(work, node, body, region.depth)
    inputs, results, own, before, inside = work.formal[body]
    goals = places.results(node, refs, region.fused)
    there = dict(zip(inputs, (places.ref(i, refs) for i in node.inputs), strict=True))
    there |= dict(zip(results, goals, strict=True))
    there |= {s: Ref(places.slot(s.name, s.dtype, s.size)) for s in own}
    before = [_moved(s, there) for s in before]
    count = math.prod(at["extents"])
    if not count:
        return before
    workers = None
    if at["parallel"]:
        threads = region.target.threads  # type: ignore[union-attr]
        workers = Workers(threads, places.slot("workspace", dtypes.uint8, 0))
    return [*before, Repeat(count, tuple(_moved(s, there) for s in inside), tuple(at["extents"]), workers)]


def _formal(work: _Work, node: Node, body: EachBody, depth: int) -> _Formal:
    """The launches of one iteration of an `each` with slots that stand for its inputs and results."""
    at, places, lies, target = node.attrs, work.places, body.lies, body.region.target
    first = len(places.arena)
    inputs = [Slot(p.attrs["name"], p.dtype, i.type.size, "formal")
              for p, i in zip(at["body"].params, node.inputs, strict=True)]
    results = [Slot(f"result{k}", t.dtype, t.size, "formal") for k, t in enumerate(node.type)]

    def moving(slot: Slot, start: int, steps: Sequence[int]) -> Ref:
        return Ref(slot, start, (*(0,) * depth, *steps))

    inner = {p: moving(slot, start, steps) for p, slot, start, steps
             in zip(body.region.graph.params, inputs, at["starts"], at["steps"], strict=False)}
    inner |= {p: Ref(results[k]) for k, p in body.sums.items()}
    roots: dict[Node, Ref] = {}
    new: list[Ref] = []
    for o, (k, axis, position) in zip(body.region.graph.outputs, body.pieces, strict=True):
        if k in body.sums:
            roots[o] = Ref(places.slot("sum", o.dtype, o.type.size))
            new.append(roots[o])
            continue
        block = at["body"].outputs[k].shape
        roots[o] = moving(results[k], position * lies[k][axis] if lies[k] else 0,
                          [block[a] * lies[k][a] for a in at["gives"][k]])
    before = [work.kernels.clear(Ref(results[k]), target) for k in body.sums]
    inside = gather(places, work.kernels, _launches(work, body.region, inner, roots), target)
    kept = _keep_carries(work, inside, new, [Ref(results[k]) for k in body.sums], target)
    inside += gather(places, work.kernels, kept, target)
    own = places.arena[first:]
    del places.arena[first:]
    return _Formal(inputs, results, own, before, inside)


def _keep_carries(work: _Work, steps: Steps, new: Sequence[Ref], carries: Sequence[Ref], target: Target) -> Steps:
    """The copies of the new carries to the places of the old ones. Where nothing in `steps` needs the old one any
    more, the new one is written there at once (`steps` changes) and need not be copied."""
    copies: Steps = []
    gone: set[Slot] = set()
    order = StepOrder(steps)
    for a, b in zip(new, carries, strict=True):
        if not b.slot.size:
            continue
        if not b.start and not any(b.steps) and may_alias(order, b.slot, a.slot, True):
            order.rename(a.slot, b.slot)
            gone.add(a.slot)
        else:
            copies.append(work.kernels.copy(a, b, target))
    steps[:] = order.steps()
    if gone:
        work.places.arena = [s for s in work.places.arena if s not in gone]
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
