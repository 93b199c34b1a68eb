"""The memory plan: one arena for everything that lives only inside a step.

A slot is alive from the first to the last step that touches it; a Repeat is one step. Slots are placed largest first
at the lowest offset that is free of all slots alive at the same time.

In a task graph (`task_graph.py`) several launches run at the same time, so the memory of a small slot is not given away
at once: the next launches would have to wait for its last reader.

The slots that only the body of a parallel Repeat touches are planned by themselves, in the workspace that each of its
threads has. There the steps of loops inside the body count one by one, since every iteration computes anew what only
that loop touches.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence

from dlc.ir.program.program import Launch, Program, Repeat, Slot

ALIGN = 64
SMALL = 1 << 18  # bytes of a slot that a flow may keep for longer than it needs
LATER = 8  # launches of a flow that may start before an earlier one is done


def slots_of(step: Launch | Repeat) -> list[Slot]:
    """The slots that a step touches, workspaces included."""
    if isinstance(step, Launch):
        return [r.slot for r in step.all_args]
    own = [step.workers.space] if step.workers is not None else []
    return own + [s for inner in step.body for s in slots_of(inner)]


def plan_memory(program: Program) -> Program:
    """Give every arena slot its offset and the program its arena size (in place)."""
    _plan_workspaces(program.steps, _touched_by(program.steps))
    life: dict[Slot, tuple[int, int]] = {}
    flows = {step.flow: time for time, step in enumerate(program.steps) if isinstance(step, Launch) and step.flow}
    for time, step in enumerate(program.steps):
        later = min(time + LATER, flows[step.flow]) if isinstance(step, Launch) and step.flow else time
        for slot in slots_of(step):
            if slot.kind == "arena" and slot.private is None:
                life[slot] = (life.get(slot, (time, time))[0], later if slot.nbytes <= SMALL else time)
    program.arena_bytes = _place(life)
    return program


def _plan_workspaces(steps: Sequence[Launch | Repeat], touched_by: Mapping[Slot, Launch | Repeat | None]) -> None:
    """Find the slots that only one parallel Repeat touches, and place them."""
    for step in steps:
        if not isinstance(step, Repeat):
            continue
        if step.workers is None:
            _plan_workspaces(step.body, touched_by)
            continue
        life = _lives(step.body, {slot for slot in step.touched if touched_by[slot] is not step})
        size = _place(life)
        for slot in life:
            slot.private = step.workers.space
        step.workers.space.size = step.workers.count * size


def _touched_by(steps: Sequence[Launch | Repeat]) -> dict[Slot, Launch | Repeat | None]:
    """The one launch or parallel Repeat that touches each slot, None where there are several."""
    out: dict[Slot, Launch | Repeat | None] = {}
    for step in steps:
        if isinstance(step, Repeat) and step.workers is None:
            for slot, one in _touched_by(step.body).items():
                out[slot] = one if slot not in out else None
            continue
        for slot in step.touched:
            out[slot] = step if slot not in out else None
    return out


def _lives(body: Sequence[Launch | Repeat], outside: set[Slot]) -> dict[Slot, tuple[int, int]]:
    """When each slot of the body is alive, in launches; all of a loop for slots that something else touches too."""
    touches: dict[Slot, list[tuple[int, tuple[Repeat, ...]]]] = {}
    spans: dict[Repeat, tuple[int, int]] = {}
    time = 0

    def visit(steps: Sequence[Launch | Repeat], loops: tuple[Repeat, ...]) -> None:
        nonlocal time
        for step in steps:
            if isinstance(step, Launch):
                for slot in slots_of(step):
                    if slot.kind == "arena" and slot not in outside:
                        touches.setdefault(slot, []).append((time, loops))
                time += 1
            else:
                start = time
                visit(step.body, (*loops, step))
                spans[step] = (start, max(start, time - 1))

    visit(body, ())
    life = {}
    for slot, found in touches.items():
        shared = min((len(loops) for _, loops in found))
        while any(loops[:shared] != found[0][1][:shared] for _, loops in found):
            shared -= 1
        ranges = [spans[loops[shared]] if len(loops) > shared else (at, at) for at, loops in found]
        life[slot] = (min(a for a, _ in ranges), max(b for _, b in ranges))
    return life


def _place(life: dict[Slot, tuple[int, int]]) -> int:
    """Give the slots their offsets; the bytes that they take together."""
    taken = _Taken(max((end for _, end in life.values()), default=0) + 1)
    top = 0
    for slot in sorted(life, key=lambda s: (-s.nbytes, life[s][0])):
        size = _aligned(slot.nbytes)
        slot.offset = taken.take(*life[slot], size)
        top = max(top, slot.offset + size)
    return top


class _Taken:
    """Which bytes are taken at which times: a binary tree of spans of time. A span has the bytes that are taken all
    through it, by slots of whose life it is one of the largest spans (`through`), and those that such slots of it and
    of its parts take (`within`), both as disjoint ranges in order. Activations that lie side by side are one range, so
    finding the lowest free place takes few steps, however many slots are alive."""

    def __init__(self, times: int):
        self._leaves = 1 << max(times - 1, 0).bit_length()
        self._through: dict[int, _Ranges] = {}
        self._within: dict[int, _Ranges] = {}

    def take(self, first: int, last: int, size: int) -> int:
        """Take the lowest `size` bytes that are free from time `first` to `last`; their offset."""
        spans = sorted(self._spans(first, last))  # long ones, where most is taken, first
        above = {a for span in spans for a in _ancestors(span)}
        rows = [self._within[n] for n in spans if n in self._within]
        rows += [self._through[n] for n in sorted(above) if n in self._through]
        begin, k, free = 0, 0, 0
        while free < len(rows):  # until none of them moves it any more
            after = rows[k].behind(begin, size)
            free = free + 1 if after == begin else 1
            begin, k = after, (k + 1) % len(rows)
        for n in spans:
            self._through.setdefault(n, _Ranges()).add(begin, begin + size)
        for n in above.union(spans):
            self._within.setdefault(n, _Ranges()).add(begin, begin + size)
        return begin

    def _spans(self, first: int, last: int) -> Iterator[int]:
        """The fewest spans that make up the times from `first` to `last`. Span 1 is all, 2 n and 2 n + 1 halve n."""
        low, high = first + self._leaves, last + self._leaves + 1
        while low < high:
            if low & 1:
                yield low
                low += 1
            if high & 1:
                high -= 1
                yield high
            low, high = low >> 1, high >> 1


def _ancestors(span: int) -> Iterator[int]:
    while span := span >> 1:
        yield span


class _Ranges:
    """Numbers as disjoint ranges [begin, end) in order; ranges that touch are one."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def behind(self, begin: int, size: int) -> int:
        """The lowest number from `begin` on that has `size` free ones from there."""
        for k in range(bisect.bisect_right(self._ends, begin), len(self._ends)):
            if begin + size <= self._begins[k]:
                break
            begin = self._ends[k]
        return begin

    def add(self, begin: int, end: int) -> None:
        low, high = bisect.bisect_left(self._ends, begin), bisect.bisect_right(self._begins, end)
        if low < high:
            begin, end = min(begin, self._begins[low]), max(end, self._ends[high - 1])
        self._begins[low:high], self._ends[low:high] = [begin], [end]


def _aligned(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGN) * ALIGN
