"""Memory that a result takes over: donated outputs in their inputs' memory, a loop's new carries in the old ones'.

That is allowed where nobody can tell: nothing reads the old value after the first write of the new one, or only the
same kernel does, each element before it writes it. A kernel that only moves the old value elsewhere computes the new
one without it: it must know that the two may be one memory (`fit`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from dlc.base.errors import VerifyError
from dlc.codegen.program.step_order import StepOrder
from dlc.ir.loops import instructions, traverse
from dlc.ir.loops import ir as loops
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot

Steps = list[Launch | Repeat]


def donate_inputs(program: Program, aside: Callable[[Slot, Slot], Slot],
                  copy: Callable[[Ref, Ref], Launch]) -> Program:
    """Let donated outputs live in their inputs where nothing reads the input afterwards; elsewhere the output is made
    in a slot of its own, which `aside(input, output)` gives, and copied at the end."""
    order = StepOrder(program.steps)
    copies: Steps = []
    for p, o in program.donate:
        source, goal = program.inputs[p], program.outputs[o]
        _after_readers(order, source, goal)
        free = may_alias(order, source, goal)
        if not free and _read_later(order, source, goal):
            ordered = StepOrder(readers_first(order.steps(), [(source, goal)]))
            free = may_alias(ordered, source, goal)
            if free:
                order = ordered
        if not free:
            new = aside(source, goal)
            order.rename(goal, new)
            copies.append(copy(Ref(new), Ref(goal)))
        order.join(goal, source)
    program.steps = (*order.steps(), *copies)
    return program


def verify_aliases(program: Program) -> None:
    """Raise VerifyError where a launch, in the order in which they now stand, would find a new value in the place of
    the old one that it reads; of a loop's carries, whose two values are one slot by now, within a launch."""
    order = StepOrder(program.steps)
    for goal in program.outputs:
        if goal.alias is not None and goal.size and not may_alias(order, goal.alias, goal):
            raise VerifyError(f"program {program.name}: {goal.name} is written over {goal.alias.name}, which is still "
                              "read afterwards, or by another part of the same launch")
    for step in _launches(program.steps):
        for segment in step.segments:
            _verify_segment(program.name, step.kernel, segment.args)


def _launches(steps: Sequence[Launch | Repeat]) -> Iterator[Launch]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _launches(step.body)
        else:
            yield step


def _verify_segment(program: str, kernel: Kernel, args: Sequence[Ref]) -> None:
    places: dict[Hashable, list[Buffer]] = {}
    for b, r in zip(kernel.params, args, strict=True):
        places.setdefault((r.slot.memory, r.start, r.steps), []).append(b)
    for (slot, *_), params in places.items():
        reading, writing = [b for b in params if b not in kernel.writes], [b for b in params if b in kernel.writes]
        if reading and writing and slot.size and not _in_turn(kernel, reading, writing, False):
            raise VerifyError(f"program {program}: {kernel.name} writes over {slot.name}, but may read it after that")


def _after_readers(order: StepOrder, source: Slot, goal: Slot) -> None:
    """Move the launch that writes `goal` behind the last that reads `source`, where nobody can tell."""
    writers = order.touching(goal)
    last = max(order.touching(source), key=lambda e: e.place, default=None)
    if len(writers) == 1 and last is not None and last.place > writers[0].place:
        if isinstance(writers[0].step, Launch):
            order.move_behind(writers[0], last)


def _read_later(order: StepOrder, source: Slot, goal: Slot) -> bool:
    """Does another step read the old value after one that writes the new one?"""
    first = min((e.place for e in order.writing(goal)), default=None)
    return first is not None and any(e.place > first for e in order.touching(source))


def readers_first(steps: Steps, pairs: Sequence[tuple[Slot, Slot]]) -> Steps:
    """The steps in an order in which whatever reads an old value comes before what writes the new one (the second of a
    pair), where what they compute for each other allows that; apart from it in the order that they have."""
    wishes = [0] * len(steps)  # the steps that each should come after, as bits
    for source, goal in pairs:
        readers = sum(1 << k for k, s in enumerate(steps) if source in s.touched)
        for k, s in enumerate(steps):
            if goal in s.written:
                wishes[k] |= readers & ~(1 << k)
    if all(w < 1 << k for k, w in enumerate(wishes)):
        return steps
    before = _needs(steps)
    for k, needs in enumerate(before):  # no step waits for those that need it
        for j in _bits(needs):
            wishes[j] &= ~(1 << k)
    left, waiting, out = (1 << len(steps)) - 1, list(range(len(steps))), []
    while waiting:
        ready = [k for k in waiting if not before[k] & left]
        k = next((k for k in ready if not wishes[k] & left), ready[0])
        waiting.remove(k)
        left &= ~(1 << k)
        out.append(steps[k])
    return out


def _needs(steps: Steps) -> list[int]:
    """For each step those that must be done before it, as bits."""
    wrote: dict[Slot, int] = {}
    read: dict[Slot, int] = {}
    out: list[int] = []
    for k, s in enumerate(steps):
        written = {slot.memory for slot in s.written}
        direct = 0
        for slot in {slot.memory for slot in s.touched}:
            direct |= wrote.get(slot, 0) | (read.get(slot, 0) if slot in written else 0)
            row = wrote if slot in written else read
            row[slot] = row.get(slot, 0) | 1 << k
        out.append(functools.reduce(int.__or__, (out[j] for j in _bits(direct)), direct))
    return out


def _bits(x: int) -> Iterator[int]:
    while x:
        yield x.bit_length() - 1
        x ^= 1 << x.bit_length() - 1


def may_alias(order: StepOrder, source: Slot, goal: Slot, strict: bool = False) -> bool:
    """Is writing `goal` into the memory of `source` unnoticeable? `strict`: also to a kernel that runs as written,
    each load where it stands."""
    first = min(order.touching(goal), key=lambda e: e.place, default=None)
    if first is None or any(e.place > first.place for e in order.touching(source)):
        return False
    if source not in first.slots:
        return True
    return isinstance(first.step, Launch) and _elementwise(first.step, source, goal, strict)


class Pair(NamedTuple):
    """A new value that is to be written over the old one; `strict`: see `may_alias`."""

    source: Slot
    goal: Slot
    strict: bool


def fit(kernel: Kernel, args: tuple[Ref, ...], pairs: Mapping[Slot, Pair]) -> Kernel:
    """The kernel as it can run with the values of `pairs` (by the new ones' slots) in place, as many as there are: what
    it needs for that is to write the new value after it has read the old one, or to know that the two are one memory,
    or both. The same kernel if it needs neither, or if that is not enough."""
    slots = {r.slot for r in args}
    met = [p for r in args if (p := pairs.get(r.slot)) is not None and p.source in slots]
    launch = Launch(kernel, args)
    for n, pair in enumerate(met):
        if _fits(launch, pair):
            continue
        goals = frozenset(u.param for u in launch.uses(pair.goal))
        both = goals.union(u.param for u in launch.uses(pair.source))
        body, aliased = _written_last(kernel.body, goals), kernel.aliased | both
        kept = [p for p in met[:n] if _fits(launch, p)]
        ways = replace(kernel, body=body), replace(kernel, aliased=aliased), replace(kernel, body=body, aliased=aliased)
        for way in ways:
            fitted = Launch(way, args)
            if all(_fits(fitted, p) for p in (pair, *kept)):
                kernel, launch = way, fitted
                break
    return kernel


def _fits(launch: Launch, pair: Pair) -> bool:
    return _elementwise(launch, pair.source, pair.goal, pair.strict)


def _read(stmts: Sequence[loops.Stmt]) -> set[Buffer]:
    return {e.attr for s in stmts for e in traverse.loads_of(*traverse.exprs(s))}


def _written_last(body: loops.Stmt, goals: frozenset[Buffer]) -> loops.Stmt:
    """The statements with the stores to `goals` behind the other stores beside them, where these have nothing to do
    with each other."""

    def rule(s: loops.Stmt) -> loops.Stmt:
        if not isinstance(s, loops.Seq) or not all(isinstance(x, loops.Store) for x in s.body):
            return s
        last = [x for x in s.body if x.buffer in goals]
        rest = [x for x in s.body if x.buffer not in goals]
        if _read(last) & {x.buffer for x in rest} or _read(rest) & goals:
            return s
        return loops.Seq((*rest, *last))

    return traverse.map_stmt(body, lambda e: e, rule)


def _elementwise(step: Launch, source: Slot, goal: Slot, strict: bool) -> bool:
    """Does the kernel read `source` only at the very place of `goal` that it writes, and before it writes it? All of it
    on one set of tensors: the segments of a launch run in any order and at the same time, so that what one of them
    writes must be nothing that another reads. Not known of kernels that the user wrote: a loop around the nest may read
    again what it has written.

    The text's order is not enough: compilers are told that parameters do not overlap, and may load an element later
    than it stands there (as an operand from memory). So what is written must be computed from the element, perhaps by
    way of registers; equal loads of it in that nest are one, which therefore comes first (not if `strict`: there a
    statement after the write may not load it). If something else is computed from it too, the parameters must be known
    to be one memory (`aliased`): LLVM loads an element again where that makes a store simpler. A load under another
    condition is another load. What a loop reads that is over before the write does not matter either. Of `aliased`
    parameters compilers keep the text's order.
    """
    reading, writing = step.uses(source), step.uses(goal)
    if len({u.segment for u in reading}) != 1 or {u.segment for u in reading} != {u.segment for u in writing}:
        return False
    if len({(u.ref.start, u.ref.steps) for u in (*reading, *writing)}) != 1:
        return False
    old, new = [u.param for u in reading], [u.param for u in writing]
    return _in_turn(step.kernel, old, new, strict)


def _in_turn(kernel: Kernel, old: Sequence[Buffer], new: Sequence[Buffer], strict: bool) -> bool:
    """May the parameters `new`, which are written, be the memory of the `old` ones, which are read? See above."""
    if kernel.custom:
        return False
    accesses = _accesses(kernel.body)
    aliased = kernel.aliased.issuperset((*old, *new))
    reads = [x for b in old for x in accesses.reads.get(b, ())]
    writes = [x for b in new for x in accesses.writes.get(b, ())]
    goals = frozenset(new)
    # branches of an If (whole tiles, and those at an edge) have places of their own: a kernel writes an element once
    if not writes or any(a.place is not b.place and _together(a, b) for a in writes for b in writes):
        return False
    for r in reads:
        along = [w for w in writes if _together(r, w)]
        if not along or any(w.place is not r.place for w in along):
            return False
        for w in along:
            fed = any(_same(x, r) for x in w.feeds) and (aliased or accesses.fed[_which(r)] <= goals)
            over = r.order < w.order and any(s not in w.inside for s in r.inside)
            if not (fed or over or (aliased and _first(r, w))) or (strict and r.order > w.order):
                return False
    return True


_ONE_THREAD = ("serial", "unroll", "vector")  # loops whose iterations one thread runs


class _Access(NamedTuple):
    """One load or store of a global buffer: its place in the text, its offset and its condition, its innermost loop,
    its branches; of a store, the loads that it is computed from."""

    load: loops.Expr | None  # of a store, and of a statement that copies: None
    order: int
    place: loops.Expr | None  # None: some elements, not one
    nest: loops.Stmt | None
    branches: tuple[tuple[loops.Stmt, int], ...]
    inside: tuple[loops.Stmt, ...]  # loops that are run one iteration after the other
    around: tuple[loops.Stmt, ...]  # all that it stands in
    predicate: loops.Expr | None
    feeds: tuple[_Access, ...] = ()


class _Accesses(NamedTuple):
    reads: dict[Buffer, list[_Access]]
    writes: dict[Buffer, list[_Access]]
    fed: dict[tuple[int, ...], set[Buffer]]  # by `_which` of a load: the buffers that it feeds stores to


def _together(a: _Access, b: _Access) -> bool:
    """Can both happen in one run? Not in two branches of one If."""
    return not any(x is y and i != j for x, i in a.branches for y, j in b.branches)


def _which(r: _Access) -> tuple[int, ...]:
    """Loads for which this is the same are one. What a branch has loaded another does not know."""
    return id(r.load), id(r.nest), *(x for s, k in r.branches for x in (id(s), k))


def _same(a: _Access, b: _Access) -> bool:
    return a.load is b.load and _which(a) == _which(b)


def _first(r: _Access, w: _Access) -> bool:
    """Does the thread that writes an element read it before, if anybody reads it? The loops that their place (the same)
    depends on have the same ranges, those that threads share are the same; and where an element is read, it is also
    written, so that it is no other iteration's. Not where the value comes later than the statement that loads it."""
    if r.order >= w.order or r.place is None or any(isinstance(s, instructions.Async) for s in r.around):
        return False
    if r.branches[: len(w.branches)] != w.branches or w.predicate not in (None, r.predicate):
        return False
    axes = r.place.axes

    def turns(x: _Access) -> tuple[dict[loops.Expr, loops.Expr], list[loops.Stmt]]:
        around = [s for s in x.around if isinstance(s, loops.For)]
        return {s.axis: s.extent for s in around if s.axis in axes}, [s for s in around if s.kind not in _ONE_THREAD]

    return turns(r) == turns(w)


@functools.lru_cache(maxsize=1024)
def _accesses(body: loops.Stmt) -> _Accesses:
    """Of a kernel's body, which it keeps under another name."""
    reads: dict[Buffer, list[_Access]] = {}
    writes: dict[Buffer, list[_Access]] = {}
    held: dict[Buffer, dict[_Access, None]] = {}  # what is in registers and shared memory was computed from these
    order = itertools.count()

    def visit(stmt: loops.Stmt, nest: loops.Stmt | None, branches: tuple[tuple[loops.Stmt, int], ...],
              inside: tuple[loops.Stmt, ...], around: tuple[loops.Stmt, ...]) -> None:
        now = next(order)
        feeds: dict[_Access, None] = {}
        for load in traverse.loads_of(*traverse.exprs(stmt)):
            if load.attr.space == "global":
                access = _Access(load, now, load.args[0], nest, branches, inside, around, loops.load_parts(load)[2])
                reads.setdefault(load.attr, []).append(access)
                feeds[access] = None
            else:
                feeds |= held.get(load.attr, {})
        for buffer in traverse.buffers(stmt):
            if buffer.space != "global":
                held.setdefault(buffer, {}).update(feeds)
            elif isinstance(stmt, loops.Store):
                write = _Access(None, now, stmt.index[0], nest, branches, inside, around, stmt.predicate, tuple(feeds))
                writes.setdefault(buffer, []).append(write)
            elif not isinstance(stmt, loops.Prefetch):  # a statement that copies a part of a buffer
                reads.setdefault(buffer, []).append(_Access(None, now, None, nest, branches, inside, around, None))
        if isinstance(stmt, loops.For):
            nest = stmt
            if stmt.kind == "serial" and stmt.axis.attr[1] > 1:
                inside = (*inside, stmt)
        for k, child in enumerate(traverse.children(stmt)):
            inner = (*branches, (stmt, k)) if isinstance(stmt, loops.If) else branches
            visit(child, nest, inner, inside, (*around, stmt))

    visit(body, None, (), (), ())
    fed: dict[tuple[int, ...], set[Buffer]] = {}
    for buffer, some in writes.items():
        for write in some:
            for x in write.feeds:
                fed.setdefault(_which(x), set()).add(buffer)
    return _Accesses(reads, writes, fed)
