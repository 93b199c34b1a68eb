"""Steps in an order that changes, with who touches and who writes each slot: questions about one slot, and moves, cost
what touches that slot, not a walk over all steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dlc.ir.program.program import Launch, Ref, Repeat, Slot

GAP = 1 << 64  # between the places of neighbours: so often its half is taken before all are numbered anew


@dataclass(eq=False)
class Entry:
    """A step and its place. `renamed`: slots for which others are to be used in the end."""

    step: Launch | Repeat
    place: int
    slots: set[Slot]
    renamed: dict[Slot, Slot] = field(default_factory=dict)
    before: Entry | None = None
    after: Entry | None = None
    blocked: Entry | None = None  # a step that it has been found unable to pass


class StepOrder:
    """See above. Slots that become one memory are told by `join`."""

    def __init__(self, steps: Sequence[Launch | Repeat]):
        self._entries = [Entry(s, GAP * k, set(s.touched)) for k, s in enumerate(steps, 1)]
        self._end = Entry(Repeat(0, ()), GAP * (len(steps) + 1), set())
        for a, b in itertools.pairwise((*self._entries, self._end)):
            a.after, b.before = b, a
        self._first = self._entries[0] if self._entries else self._end
        self._touching: dict[Slot, list[Entry]] = {}
        self._writing: dict[Slot, set[Entry]] = {}
        self._members: dict[Slot, list[Slot]] = {}  # slots in one memory, by that memory
        for e in self._entries:
            for slot in e.slots:
                self._touching.setdefault(slot, []).append(e)
                if slot.memory is not slot:
                    self._members.setdefault(slot.memory, [slot.memory]).append(slot)
            for slot in e.step.written:
                self._writing.setdefault(slot, set()).add(e)
        self._members = {m: list(dict.fromkeys(slots)) for m, slots in self._members.items()}

    def steps(self) -> list[Launch | Repeat]:
        return [_renamed(e.step, e.renamed) if e.renamed else e.step for e in self._in_order()]

    def _in_order(self) -> Iterator[Entry]:
        e = self._first
        while e.after is not None:  # all but the end
            yield e
            e = e.after

    def touching(self, slot: Slot) -> Sequence[Entry]:
        """Who reads or writes the slot, in any order."""
        return self._touching.get(slot, ())

    def writing(self, slot: Slot) -> Iterable[Entry]:
        return self._writing.get(slot, ())

    def rename(self, old: Slot, new: Slot) -> None:
        """Let the steps use `new` instead of `old`."""
        found = self._touching.pop(old, [])
        for e in found:
            e.renamed[old] = new
            e.slots.discard(old)
            e.slots.add(new)
        self._touching[new] = list(dict.fromkeys((*self._touching.get(new, ()), *found)))
        self._writing.setdefault(new, set()).update(self._writing.pop(old, ()))

    def join(self, slot: Slot, memory: Slot) -> None:
        """Let `slot` live in the memory of another one."""
        slot.alias = memory
        self._members.setdefault(memory.memory, [memory.memory]).append(slot)

    def move_behind(self, e: Entry, last: Entry) -> bool:
        """Let the step run right after a later one, if it has nothing to do with those that it would pass."""
        if e.blocked is not None and e.place < e.blocked.place <= last.place:
            return False
        e.blocked = self._conflict(e, last)
        if e.blocked is not None:
            return False
        assert e.after is not None and last.after is not None
        if e.before is None:
            self._first = e.after
        else:
            e.before.after = e.after
        e.after.before = e.before
        e.before, e.after = last, last.after
        last.after.before = e
        last.after = e
        e.place = (last.place + e.after.place) // 2
        if e.place == last.place:
            for k, x in enumerate(self._in_order(), 1):
                x.place = GAP * k
            self._end.place = GAP * (len(self._entries) + 1)
        return True

    def _conflict(self, e: Entry, last: Entry) -> Entry | None:
        """A step behind `e`, up to `last`, that reads what it writes, or writes what it touches."""
        for memory in {s.memory for s in e.slots}:
            members = self._members.get(memory, (memory,))
            written = any(e in self._writing.get(s, ()) for s in members)
            for s in members:
                for other in self._touching.get(s, ()) if written else self._writing.get(s, ()):
                    if e.place < other.place <= last.place:
                        return other
        return None


def _renamed(step: Launch | Repeat, new: dict[Slot, Slot]) -> Launch | Repeat:
    if isinstance(step, Repeat):
        return replace(step, body=tuple(_renamed(s, new) for s in step.body))

    def swap(args: tuple[Ref, ...]) -> tuple[Ref, ...]:
        return tuple(Ref(new[r.slot], r.start, r.steps) if r.slot in new else r for r in args)

    more = tuple(replace(s, args=swap(s.args)) for s in step.more)
    return replace(step, args=swap(step.args), more=more)
