"""The threads of a block (a lane loop) in the interpreter: Python generators that yield where they wait.

They run, in a shuffled order, from one Sync or AllReduce to the next; that they do not all meet at the same one raises
InterpError. Where some wait at gates, each goes as far as it can.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

from dlc.base.errors import InterpError
from dlc.ir.loops.instructions import Await, Mma, TmaCopy
from dlc.ir.loops.interp.matrix import multiply
from dlc.ir.loops.ir import AllReduce, Stmt, Sync


def in_step(threads: list, order: random.Random, combine: dict[AllReduce, Callable[[Any, Any], Any]]) -> None:
    """Run generators that yield (statement, value) in step until they yield None."""
    numbers = list(range(len(threads)))
    answers: list[Any] = [None] * len(threads)
    while threads:
        met: list[tuple[Stmt | None, Any]] = [(None, None)] * len(threads)
        for i in order.sample(numbers, len(numbers)):
            met[i] = threads[i].send(answers[i])
        stmt = met[0][0]
        for i, (other, _) in enumerate(met):
            if other is not stmt:
                raise InterpError(f"thread {i} of a block waits at another statement than thread 0, or has finished")
        if stmt is None:
            return
        answers = [None] * len(threads)
        if isinstance(stmt, AllReduce):
            for start in range(0, len(met), stmt.lanes):
                total = met[start][1]
                for _, value in met[start + 1 : start + stmt.lanes]:
                    total = combine[stmt](total, value)
                answers[start : start + stmt.lanes] = [total] * stmt.lanes
        elif isinstance(stmt, Mma):
            for start in range(0, len(met), stmt.lanes):
                multiply(stmt, [value for _, value in met[start : start + stmt.lanes]])


def apart(threads: list, order: random.Random, combine: dict[AllReduce, Callable[[Any, Any], Any]]) -> None:
    """Run generators that yield (statement, value) and may wait at different ones, until all yield None."""
    count = len(threads)
    met: list[Any] = [(None, None)] * count
    ready: dict[int, Any] = dict.fromkeys(range(count))  # thread -> what it is answered
    while ready:
        for i in order.sample(list(ready), len(ready)):
            met[i] = threads[i].send(ready[i])
        ready = {}
        for i, (stmt, value) in enumerate(met):
            if isinstance(stmt, Await):
                gate, phases = value
                if gate.phases > phases:
                    raise InterpError(f"thread {i} awaits phase {phases} of {stmt.gate.name}, now at {gate.phases}")
                if gate.phases == phases:
                    ready[i] = None
            elif stmt is not None:
                size = (stmt.threads or count) if isinstance(stmt, Sync) else stmt.lanes  # type: ignore[attr-defined]
                if i % size or (isinstance(stmt, Sync) and i):
                    continue
                group = range(i, i + size)
                if any(met[j][0] is not stmt for j in group):
                    continue
                values = [met[j][1] for j in group]
                answer = None
                if isinstance(stmt, Mma):
                    multiply(stmt, values)
                elif isinstance(stmt, AllReduce):
                    answer = functools.reduce(combine[stmt], values)
                ready.update(dict.fromkeys(group, answer))
    waiting = [i for i, (stmt, _) in enumerate(met) if stmt is not None]
    if waiting:
        raise InterpError(f"threads {waiting[:4]} of a block wait for ever")


class Gate:
    """A slot of a gate: its completed phases, and what has happened in the one that is open."""

    def __init__(self) -> None:
        self.phases = self.arrived = 0
        self.copies: list[tuple] = []

    def arrive(self, of: int) -> None:
        self.arrived += 1
        if self.arrived == of:
            for stmt, memory, start, source, at in self.copies:
                for k, place in enumerate(itertools.product(*map(range, stmt.view.box))):
                    inside = [0 <= a + p < n for a, p, n in zip(at, place, stmt.view.sizes, strict=True)]
                    offset = sum((a + p) * s for a, p, s in zip(at, place, stmt.view.strides, strict=True))
                    zero = stmt.buffer.dtype.np.type(0)
                    memory[start + k] = source[stmt.view.start + offset] if all(inside) else zero
            self.phases, self.arrived, self.copies = self.phases + 1, 0, []

    def bulk(self, stmt: TmaCopy, memory: list, start: int, source: Any, at: tuple[int, ...]) -> None:
        """Until the phase completes nothing stands where the copy goes."""
        count = math.prod(stmt.view.box)
        if start + count > len(memory):
            raise InterpError(f"a TmaCopy of {count} elements runs over the end of {stmt.buffer.name}")
        memory[start : start + count] = [None] * count
        self.copies.append((stmt, memory, start, source, at))
