"""Small launches that do not depend on each other run side by side.

A kernel of ten microseconds loses a third of them when two threads share it: each fetches what the other has just
written, and both wait for the slower. Where several such launches follow each other and none needs what another writes
(the weight gradients at the end of a backward pass, each with its optimizer update), the threads take whole kernels.

The pass comes after the memory plan, since two launches also depend on each other if the plan gives them the same
memory. It changes no order: read one after the other, the launches are still the same program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from dlc.ir.program import Launch, Program, Ref, Repeat, Slot

LARGE_NS = 150_000  # for each thread: a launch that takes longer gains nothing from company
LEAST_NS = 4000  # together; less is not worth waking a thread
PIECES = 4  # for each thread, at least, if the launches can be cut like that


class Piece(NamedTuple):
    """Tasks [begin, end) of one of the launches of a region."""

    launch: int
    begin: int
    end: int


class _Touch(NamedTuple):
    """Bytes [begin, end) of a memory that a launch reads or writes."""

    memory: Slot | None  # None: the arena
    begin: float
    end: float
    written: bool


def side_by_side(program: Program, threads: int) -> Program:
    """Mark launches that may run at the same time (in place)."""
    if threads > 1:
        numbers = iter(range(1, 1 << 30))
        program.steps = tuple(_marked(program.steps, threads, numbers))
    return program


def pieces(launches: Sequence[Launch], threads: int) -> list[Piece]:
    """The work of a region in the order in which threads should take it: the largest first, and whole launches unless
    one of them would keep the others waiting at the end."""
    share = sum(launch.work for launch in launches) / (threads * PIECES)
    found = []
    for k, launch in enumerate(launches):
        tasks = launch.all_tasks
        count = 1 if launch.grain >= tasks else max(1, min(tasks, round(launch.work / max(share, 1.0))))
        step = -(-tasks // count)
        found += [(launch.work * (min(at + step, tasks) - at) / tasks, Piece(k, at, min(at + step, tasks)))
                  for at in range(0, tasks, step)]
    return [piece for _, piece in sorted(found, key=lambda pair: -pair[0])]


def _marked(steps: Sequence[Launch | Repeat], threads: int, numbers) -> list[Launch | Repeat]:
    out: list[Launch | Repeat] = []
    row: list[Launch] = []
    touched: list[_Touch] = []

    def close() -> None:
        if len(row) > 1 and sum(launch.work for launch in row) >= LEAST_NS:
            number = next(numbers)
            out.extend(replace(launch, beside=number) for launch in row)
        else:
            out.extend(row)
        row.clear()
        touched.clear()

    for step in steps:
        if isinstance(step, Repeat):
            close()
            inside = step.body if step.workers is not None else tuple(_marked(step.body, threads, numbers))
            out.append(replace(step, body=inside))
            continue
        touches = _touches(step)
        if step.work > LARGE_NS * threads or any(_clash(a, b) for a in touched for b in touches):
            close()
        if step.work > LARGE_NS * threads:
            out.append(step)
        else:
            row.append(step)
            touched += touches
    close()
    return out


def _touches(launch: Launch) -> list[_Touch]:
    written = launch.written
    return [_touch(ref, ref.slot in written) for ref in launch.all_args if ref.slot.kind != "const"]


def _touch(ref: Ref, written: bool) -> _Touch:
    slot = ref.slot
    while slot.alias is not None:
        slot = slot.alias
    if slot.kind == "arena":
        return _Touch(None, slot.offset, slot.offset + slot.nbytes, written)
    return _Touch(slot, 0, math.inf, written)


def _clash(a: _Touch, b: _Touch) -> bool:
    return (a.written or b.written) and a.memory is b.memory and a.begin < b.end and b.begin < a.end
