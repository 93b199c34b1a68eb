"""Launches that become one: those of one size-generic kernel on independent tensors (all updates of an optimizer).

A launch may run later, at the place of another with its kernel, where no step between them has to do with it. The first
step that has is found for all launches in one walk from the end. It stays the same while launches move: one that moved
has passed over all between, so it has nothing to do with any of them. And of two launches that are one by now, what
comes first for either comes first for both. So the work grows like the number of arguments: what a launch of thousands
of segments touches is only ever added to, the smaller part to the larger.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dlc.codegen.program.donation import Pair, Steps
from dlc.codegen.program.places import Places
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.loops import ir as loops
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Launch, Repeat, Segment, Slot


class Grains(Protocol):
    """What says how many tasks a thread takes at a time."""

    def grain(self, tasks: int, work_ns: float, target: CpuTarget | GpuTarget, cut: bool = False) -> int: ...


def gather(places: Places, kernels: Grains, steps: Steps, target: CpuTarget | GpuTarget) -> Steps:
    """Launches of one size-generic kernel on independent tensors become one launch, at the place of the last."""
    alike: dict[Kernel, list[int]] = {}
    for k, step in enumerate(steps):
        if isinstance(step, Launch) and loops.RUNTIME in (b.size for b in step.kernel.params):
            alike.setdefault(step.kernel, []).append(k)
    if all(len(found) < 2 for found in alike.values()):
        return list(steps)
    ends = _first_conflicts(steps)
    targets = _targets(places.pairs)
    rows: dict[int, _Row] = {}
    for kernel_steps in alike.values():
        rows |= {k: _Row.of(steps[k], ends[k]) for k in kernel_steps if len(kernel_steps) > 1}
    out: list[Launch | Repeat | None] = list(steps)
    for at in sorted(rows):
        step, row = steps[at], rows[at]
        assert isinstance(step, Launch)
        later = _first_fit(row, at, alike[step.kernel], rows, places.pairs, targets)
        if later is not None:
            rows[later] = row.before(rows[later])
            out[at] = None
        elif row.grown:
            out[at] = row.launch(step, kernels, target)
    return [step for step in out if step is not None]


def _first_fit(row: _Row, at: int, alike: Sequence[int], rows: Mapping[int, _Row], pairs: Mapping[Slot, Pair],
               targets: Mapping[Slot, Sequence[Slot]]) -> int | None:
    """The first later step of those with its kernel (`alike`) that the launch can be one with."""
    for n in range(bisect.bisect_right(alike, at), len(alike)):
        if alike[n] >= row.end:
            return None
        other = rows[alike[n]]
        if not _writes_over(row, other, pairs, targets) and not _writes_over(other, row, pairs, targets):
            return alike[n]
    return None


@dataclass(eq=False)
class _Row:
    """The segments of launches that are one by now, what they touch, and the first step that they cannot pass."""

    segments: deque[Segment]
    touched: set[Slot]
    written: set[Slot]
    work: float
    end: int
    grown: bool = False

    @staticmethod
    def of(step: Launch | Repeat, end: int) -> _Row:
        assert isinstance(step, Launch)
        return _Row(deque(step.segments), set(step.touched), set(step.written), step.work, end)

    def before(self, other: _Row) -> _Row:
        """This row and then the other one. Both are used up."""
        if len(self.segments) >= len(other.segments):
            segments = self.segments
            segments.extend(other.segments)
        else:
            segments = other.segments
            segments.extendleft(reversed(self.segments))
        return _Row(segments, _union(self.touched, other.touched), _union(self.written, other.written),
                    self.work + other.work, min(self.end, other.end), True)

    def launch(self, step: Launch, kernels: Grains, target: CpuTarget | GpuTarget) -> Launch:
        first, *more = self.segments
        merged = replace(step, args=first.args, tasks=first.tasks, more=tuple(more), work=self.work)
        return replace(merged, grain=kernels.grain(merged.all_tasks, merged.work, target))


def _union(a: set[Slot], b: set[Slot]) -> set[Slot]:
    """All that is in either; the larger of the two changes."""
    if len(a) < len(b):
        a, b = b, a
    a |= b
    return a


def _first_conflicts(steps: Sequence[Launch | Repeat]) -> list[int]:
    """For each step the first later one that must stay behind it; the number of steps where there is none."""
    touched: dict[Slot, int] = {}
    written: dict[Slot, int] = {}
    ends = [len(steps)] * len(steps)
    for k in range(len(steps) - 1, -1, -1):
        writes = {s.memory for s in steps[k].written}
        slots = {s.memory for s in steps[k].touched}
        ends[k] = min((row[s] for s in slots if s in (row := touched if s in writes else written)), default=len(steps))
        touched |= dict.fromkeys(slots, k)
        written |= dict.fromkeys(writes, k)
    return ends


def _targets(pairs: Mapping[Slot, Pair]) -> dict[Slot, list[Slot]]:
    """By the old value's slot, those of the new values that are to be written over it."""
    out: dict[Slot, list[Slot]] = {}
    for goal, pair in pairs.items():
        out.setdefault(pair.source, []).append(goal)
    return out


def _writes_over(a: _Row, b: _Row, pairs: Mapping[Slot, Pair], targets: Mapping[Slot, Sequence[Slot]]) -> bool:
    """Is `a` to write a new value over an old one that `b` reads? In one launch it could not, as it might come
    first."""
    if len(a.written) <= len(b.touched):
        return any(s in pairs and pairs[s].source in b.touched for s in a.written)
    return any(goal in a.written for s in b.touched for goal in targets.get(s, ()))
