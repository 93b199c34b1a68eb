"""Small launches in a row become a *flow*: all threads take their pieces in order, each as soon as it can start.

A kernel of ten microseconds loses much of them when every thread must wait for the others before and after it, and when
two threads share it: each fetches what the other has just written. In a flow nobody waits at the end of a launch: the
next piece begins when the launches that it depends on are done. So one thread goes on with the chain of a backward
pass while another computes the weight gradients that the chain leaves behind.

`order_launches`, before the memory plan, finds rows of launches and puts each in the order in which threads would start
them if the estimated times were right, those first that most of the rest waits for. A launch is cut into pieces where
there is too little else to do. It is still a program: read one launch after the other, it computes the same.
`find_dependencies`, after the plan, says which launches of its row a launch must wait for: two launches also depend on
each other if the plan gives them the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from dlc.ir.loops.schedule import Contract
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot, rows

LARGE_NS = 150_000  # for each thread: a launch that takes longer gains nothing from company
LEAST_NS = 4000  # together; less is not worth waking a thread
LONGEST = 128  # launches of a flow
PIECE_NS = 300.0  # taking a piece, and waiting for what it needs
PIECES = 8  # of a launch, for each thread, at most
SHARE_NS = 1500.0  # for each piece of a launch that is cut: threads fetch from each other what they have written
NEAR_NS = 1500.0  # that a launch may wait for the thread which has what it needs
VECTORS = 0.25  # of the time that `work` says: how long kernels take that are no contractions
SOON = 0.5  # of the time of a launch: what can start by then is company
COMPANY = 0.5  # of its time, for each other thread: if there is as much else to do it is not cut
WORTH = 0.9  # of the time of a whole launch that it may take at most in pieces
GAIN = 0.95  # of the time on one thread that a flow may take at most


class _Touch(NamedTuple):
    """Bytes [begin, end) of a memory that a launch reads or writes."""

    memory: Slot | None  # None: the arena
    begin: float
    end: float
    written: bool


def order_launches(program: Program, threads: int) -> Program:
    """Find the flows and put their launches in order (in place)."""
    if threads > 1:
        numbers = iter(range(1, 1 << 30))
        program.steps = tuple(_ordered(program.steps, threads, numbers))
    return program


def find_dependencies(program: Program) -> Program:
    """Mark what each launch of a flow waits for (in place)."""
    program.steps = tuple(_marked(program.steps))
    return program


def _ordered(steps: Sequence[Launch | Repeat], threads: int, numbers: Iterator[int]) -> list[Launch | Repeat]:
    out: list[Launch | Repeat] = []
    row: list[Launch] = []

    def close() -> None:
        out.extend(_flow(row, threads, numbers))
        row.clear()

    for step in steps:
        if isinstance(step, Repeat):
            close()
            inside = step.body if step.workers is not None else tuple(_ordered(step.body, threads, numbers))
            out.append(replace(step, body=inside))
            continue
        if step.work > LARGE_NS * threads:
            close()
            out.append(step)
            continue
        row.append(step)
        if len(row) == LONGEST:
            close()
    close()
    return out


def _flow(launches: Sequence[Launch], threads: int, numbers: Iterator[int]) -> Sequence[Launch]:
    """The launches of a row in a good order and cut as they should be, if that makes a flow."""
    times = [_nanoseconds(launch) for launch in launches]
    if len(launches) < 2 or sum(times) < LEAST_NS:
        return launches
    row = [replace(launch, grain=_grain(launch, time, threads)) for launch, time in zip(launches, times, strict=True)]
    touched = [_touches(launch) for launch in row]
    needs, homes = _needs(touched), {}
    for _ in range(2):  # the next step finds everything where this one has left it
        order, end = _simulated(row, times, needs, touched, threads, homes)
    if end > GAIN * sum(times):
        return launches
    number = next(numbers)
    return [replace(row[k], flow=number, grain=row[k].grain if len(owners) > 1 else row[k].all_tasks, owners=owners)
            for k, owners in order]


def _grain(launch: Launch, time: float, threads: int) -> int:
    """Tasks of a piece, if the launch is cut: those that a thread takes at a time anyway, but enough for some work."""
    count = min(-(-launch.all_tasks // launch.grain), PIECES * threads, max(2, int(time / (2 * SHARE_NS))))
    return max(launch.grain, -(-launch.all_tasks // count))


def _nanoseconds(launch: Launch) -> float:
    return PIECE_NS + launch.work * (1.0 if isinstance(launch.kernel.schedule, Contract) else VECTORS)


def _simulated(row: Sequence[Launch], times: Sequence[float], needs: Sequence[Sequence[int]],
               touched: Sequence[Sequence[_Touch]], threads: int,
               homes: dict[Slot | None, int]) -> tuple[list[tuple[int, tuple[int, ...]]], float]:
    """The launches in the order in which they start, with the threads of their pieces, and when the last is done.
    `homes` are the threads that have touched each memory last, before and after."""
    users: list[list[int]] = [[] for _ in row]
    for k, others in enumerate(needs):
        for other in others:
            users[other].append(k)
    ahead = list(times)  # until the end of all that waits for the launch
    for k in range(len(row) - 1, -1, -1):
        ahead[k] += max((ahead[u] for u in users[k]), default=0.0)
    missing = [len(others) for others in needs]
    start = [0.0] * len(row)  # when all that a launch needs is there
    able = [k for k, count in enumerate(missing) if not count]
    free = [0.0] * threads
    order: list[tuple[int, tuple[int, ...]]] = []
    while able:
        now = max(min(free), min(start[k] for k in able))
        ready = [k for k in able if start[k] <= now]
        k = max(ready, key=lambda r: (ahead[r], -r))
        able.remove(k)
        others = sum(times[r] for r in able if start[r] <= now + SOON * times[k])
        before, near = free, [t for t in range(threads) if free[t] <= now + NEAR_NS]
        free, owners, end = _taken(before, now, times[k], 1, max(near, key=lambda t: _at_home(touched[k], t, homes)))
        if row[k].grain < row[k].all_tasks and others < COMPANY * (threads - 1) * times[k]:
            cut = _taken(before, now, times[k], -(-row[k].all_tasks // row[k].grain))
            if cut[2] - now < WORTH * (end - now):
                free, owners, end = cut
        for t in touched[k]:
            homes[t.memory] = owners[0] if len(owners) == 1 else -1
        order.append((k, owners))
        for u in users[k]:
            missing[u] -= 1
            start[u] = max(start[u], end)
            if not missing[u]:
                able.append(u)
    return order, max(free)


def _taken(free: Sequence[float], now: float, time: float, count: int,
           first: int = -1) -> tuple[list[float], tuple[int, ...], float]:
    """When each thread is free again after a launch in so many pieces, their threads, and when the launch is done;
    `first` is the thread of the only piece."""
    after, owners, end = list(free), [], 0.0
    more = PIECE_NS if count == 1 else PIECE_NS + SHARE_NS
    for _ in range(count):
        thread = after.index(min(after)) if first < 0 else first
        after[thread] = max(after[thread], now) + (time - PIECE_NS) / count + more
        owners.append(thread)
        end = max(end, after[thread])
    if len(set(owners)) == count:
        owners.sort()  # the same part of everything for the same thread
    return after, tuple(owners), end


def _at_home(touches: Sequence[_Touch], thread: int, homes: dict[Slot | None, int]) -> float:
    """Bytes that a thread has in its cache, of what a launch touches."""
    return sum(t.memory.nbytes for t in touches if t.memory is not None and homes.get(t.memory) == thread)


def _marked(steps: Sequence[Launch | Repeat]) -> Iterator[Launch | Repeat]:
    for row in rows(steps):
        first = row[0]
        if isinstance(first, Repeat):
            yield replace(first, body=tuple(_marked(first.body)))
        elif first.flow:
            launches = [step for step in row if isinstance(step, Launch)]
            needs = _needs([_touches(launch) for launch in launches])
            for launch, after in zip(launches, needs, strict=True):
                yield replace(launch, after=tuple(after))
        else:
            yield first


def _needs(touched: Sequence[Sequence[_Touch]]) -> list[list[int]]:
    """For each launch the earlier ones that it must wait for, less those that these wait for themselves."""
    seen: dict[Slot | None, list[tuple[_Touch, int]]] = {}
    before: list[int] = []  # the launches that each one waits for in the end, as bits
    out: list[list[int]] = []
    for k, touches in enumerate(touched):
        found = {j for t in touches for o, j in seen.get(t.memory, ()) if _clash(o, t)}
        waits, kept = 0, []
        for j in sorted(found, reverse=True):
            if not waits >> j & 1:
                kept.append(j)
                waits |= before[j] | 1 << j
        before.append(waits)
        out.append(kept[::-1])
        for t in touches:
            entries = seen.setdefault(t.memory, [])
            if t.written:  # who touches it later waits for this launch, and so for those
                entries[:] = [(o, j) for o, j in entries if not (t.begin <= o.begin and o.end <= t.end)]
        for t in touches:
            seen[t.memory].append((t, k))
    return out


def _touches(launch: Launch) -> list[_Touch]:
    written = launch.written
    return [_touch(ref, ref.slot in written) for ref in launch.all_args if ref.slot.kind != "const"]


def _touch(ref: Ref, written: bool) -> _Touch:
    slot = ref.slot.memory
    if slot.kind == "arena" and slot.offset >= 0:
        return _Touch(None, slot.offset, slot.offset + slot.nbytes, written)
    return _Touch(slot, 0, math.inf, written)


def _clash(a: _Touch, b: _Touch) -> bool:
    return (a.written or b.written) and a.begin < b.end and b.begin < a.end
