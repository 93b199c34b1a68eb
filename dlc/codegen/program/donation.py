"""Memory that a result takes over: donated outputs in their inputs' memory, a loop's new carries in the old ones'.

That is allowed where nobody can tell: nothing reads the old value after the first write of the new one, or only the
same kernel does, each element before it writes it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from dlc.base.errors import VerifyError
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot, may_wait

Steps = list[Launch | Repeat]


def in_place(program: Program, donate: Sequence[tuple[int, int]], aside: Callable[[Slot, Slot], Slot],
             copy: Callable[[Ref, Ref], Launch]) -> Program:
    """Let donated outputs live in their inputs where nothing reads the input afterwards; elsewhere the output is made
    in a slot of its own, which `aside(input, output)` gives, and copied at the end."""
    steps = list(program.steps)
    touched = [s.touched for s in steps]
    copies: Steps = []
    for p, o in donate:
        source, goal = program.inputs[p], program.outputs[o]
        _after_readers(steps, touched, source, goal)
        if unnoticed(steps, touched, source, goal):
            goal.alias = source
            continue
        new = aside(source, goal)
        redirect(steps, touched, goal, new)
        goal.alias = source
        copies.append(copy(Ref(new), Ref(goal)))
    program.steps = (*steps, *copies)
    return program


def verify_aliases(program: Program) -> None:
    """Raise VerifyError where a launch, in the order in which they now stand, would find a new value in the place of
    the old one that it reads."""
    steps = list(program.steps)
    touched = [s.touched for s in steps]
    for goal in program.outputs:
        if goal.alias is not None and goal.size and not unnoticed(steps, touched, goal.alias, goal):
            raise VerifyError(f"program {program.name}: {goal.name} is written over {goal.alias.name}, which is still "
                              "read afterwards, or by another part of the same launch")


def redirect(steps: Steps, touched: list[set[Slot]], old: Slot, new: Slot) -> None:
    """Let the steps use `new` instead of `old`."""
    for k, slots in enumerate(touched):
        if old in slots:
            steps[k] = _replaced(steps[k], old, new)
            touched[k] = (slots - {old}) | {new}


def _after_readers(steps: Steps, touched: list[set[Slot]], source: Slot, goal: Slot) -> None:
    """Move the launch that writes `goal` behind the last that reads `source`, where nobody can tell."""
    writers = [k for k, slots in enumerate(touched) if goal in slots]
    readers = [k for k, slots in enumerate(touched) if source in slots]
    if len(writers) != 1 or not readers or readers[-1] < writers[0]:
        return
    at, last = writers[0], readers[-1]
    step, between = steps[at], steps[at + 1 : last + 1]
    if isinstance(step, Launch) and may_wait(step, between):
        for row in (steps, touched):
            row.insert(last, row.pop(at))


def unnoticed(steps: Steps, touched: Sequence[set[Slot]], source: Slot, goal: Slot, strict: bool = False) -> bool:
    """Is writing `goal` into the memory of `source` unnoticeable? `strict`: also to a kernel that runs as written,
    each load where it stands."""
    writers = [k for k, slots in enumerate(touched) if goal in slots]
    if not writers:
        return False
    first = writers[0]
    if any(source in slots for slots in touched[first + 1 :]):
        return False
    step = steps[first]
    if source not in touched[first]:
        return True
    return isinstance(step, Launch) and _elementwise(step, source, goal, strict)


def _elementwise(step: Launch, source: Slot, goal: Slot, strict: bool) -> bool:
    """Does the kernel read `source` only at the very place of `goal` that it writes, and before it writes it? All of it
    on one set of tensors: the segments of a launch run in any order and at the same time, so that what one of them
    writes must be nothing that another reads. Not known of kernels that the user wrote: a loop around the nest may read
    again what it has written.

    The text's order is not enough: compilers are told that parameters do not overlap, and may load an element later
    than it stands there (as an operand from memory). So what is written must be computed from the element, perhaps by
    way of registers; equal loads of it in that nest are one, which therefore comes first (not if `strict`: there a
    statement after the write may not load it). A load under another condition is another load. What a loop reads that
    is over before the write does not matter either.
    """
    if step.kernel.meta.get("custom"):
        return False
    accesses = _accesses(step.kernel)
    reading = [s for s in step.segments if any(r.slot is source for r in s.args)]
    writing = [s for s in step.segments if any(r.slot is goal for r in s.args)]
    if len(reading) != 1 or len(writing) != 1 or reading[0] is not writing[0]:
        return False
    pairs = list(zip(step.kernel.params, writing[0].args, strict=True))
    if len({(r.start, r.steps) for _, r in pairs if r.slot is source or r.slot is goal}) != 1:
        return False
    reads = [x for b, r in pairs if r.slot is source for x in accesses.reads.get(b, ())]
    writes = [x for b, r in pairs if r.slot is goal for x in accesses.writes.get(b, ())]
    # branches of an If (whole tiles, and those at an edge) have places of their own: a kernel writes an element once
    if not writes or any(a.place is not b.place and _together(a, b) for a in writes for b in writes):
        return False
    for r in reads:
        along = [w for w in writes if _together(r, w)]
        if not along or any(w.place is not r.place for w in along):
            return False
        for w in along:
            fed = any(x.load is r.load and x.nest is r.nest for x in w.feeds)
            over = r.order < w.order and any(s not in w.inside for s in r.inside)
            if not (fed or over) or (strict and r.order > w.order):
                return False
    return True


class _Access(NamedTuple):
    """One load or store of a global buffer: its place in the text, its offset, its innermost loop, its branches; of a
    store, the loads that it is computed from."""

    load: loops.Expr | None  # of a store, and of a statement that copies: None
    order: int
    place: loops.Expr | None  # None: some elements, not one
    nest: loops.Stmt | None
    branches: tuple[tuple[loops.Stmt, int], ...]
    inside: tuple[loops.Stmt, ...]  # loops that are run one iteration after the other
    feeds: tuple[_Access, ...] = ()


class _Accesses(NamedTuple):
    reads: dict[Buffer, list[_Access]]
    writes: dict[Buffer, list[_Access]]


def _together(a: _Access, b: _Access) -> bool:
    """Can both happen in one run? Not in two branches of one If."""
    return not any(x is y and i != j for x, i in a.branches for y, j in b.branches)


@functools.lru_cache(maxsize=1024)
def _accesses(kernel: Kernel) -> _Accesses:
    reads: dict[Buffer, list[_Access]] = {}
    writes: dict[Buffer, list[_Access]] = {}
    held: dict[Buffer, dict[_Access, None]] = {}  # what is in registers and shared memory was computed from these
    order = itertools.count()

    def visit(stmt: loops.Stmt, nest: loops.Stmt | None, branches: tuple[tuple[loops.Stmt, int], ...],
              inside: tuple[loops.Stmt, ...]) -> None:
        now = next(order)
        feeds: dict[_Access, None] = {}
        for load in traverse.loads_of(*traverse.exprs(stmt)):
            if load.attr.space == "global":
                access = _Access(load, now, load.args[0], nest, branches, inside)
                reads.setdefault(load.attr, []).append(access)
                feeds[access] = None
            else:
                feeds |= held.get(load.attr, {})
        for buffer in traverse.buffers(stmt):
            if buffer.space != "global":
                held.setdefault(buffer, {}).update(feeds)
            elif isinstance(stmt, loops.Store):
                write = _Access(None, now, stmt.index[0], nest, branches, inside, tuple(feeds))
                writes.setdefault(buffer, []).append(write)
            elif not isinstance(stmt, loops.Prefetch):  # a statement that copies a part of a buffer
                reads.setdefault(buffer, []).append(_Access(None, now, None, nest, branches, inside))
        if isinstance(stmt, loops.For):
            nest = stmt
            if stmt.kind == "serial" and stmt.axis.attr[1] > 1:
                inside = (*inside, stmt)
        for k, child in enumerate(traverse.children(stmt)):
            visit(child, nest, (*branches, (stmt, k)) if isinstance(stmt, loops.If) else branches, inside)

    visit(kernel.body, None, (), ())
    return _Accesses(reads, writes)


def _replaced(step: Launch | Repeat, old: Slot, new: Slot) -> Launch | Repeat:
    if isinstance(step, Repeat):
        return replace(step, body=tuple(_replaced(s, old, new) for s in step.body))

    def swap(args: tuple[Ref, ...]) -> tuple[Ref, ...]:
        return tuple(Ref(new, r.start, r.steps) if r.slot is old else r for r in args)

    more = tuple(replace(s, args=swap(s.args)) for s in step.more)
    return replace(step, args=swap(step.args), more=more)
