"""The search for one kernel's schedule: its candidates, in the order of their ranks, until the time is over."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dlc.base.errors import DeviceError, warn
from dlc.codegen.schedule import tuned_text
from dlc.codegen.schedule.cpu_candidates import MOST
from dlc.ir.loops.schedule import Schedule
from dlc.runtime.cpu.memory import Buffer
from dlc.runtime.tuning import trials
from dlc.runtime.tuning.trials import Trial

GAIN = 0.97  # a winner takes at most this part of the chosen schedule's time
AGAIN = 3  # times that it must do so once more


class Machine(Protocol):
    """Where trials run: `seconds` may be spent on a kernel, besides one run of each candidate; `at_once` are compiled
    together."""

    seconds: float
    at_once: int

    def compile(self, made: Sequence[Trial]) -> None:
        """Give each trial its executable."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A kernel to tune: its candidates, the chosen schedule first, how to make a trial of one, and values for it."""

    name: str
    key: str
    schedules: Sequence[Schedule]
    trial: Callable[[Schedule], Trial]
    inputs: Callable[[Trial], list[Buffer]]


@dataclass(frozen=True)
class Winner:
    """What is remembered of a kernel: its schedule (None: the chosen one), the keys of the target's table that this
    goes under, and the keys of the kernel with the chosen one: these need not be tuned."""

    schedule: Schedule | None
    places: tuple[str, ...]
    settled: tuple[str, ...]

    def encode(self) -> bytes:
        packed = None if self.schedule is None else tuned_text.pack(self.schedule)
        return json.dumps([packed, self.places, self.settled]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Winner:
        """Raises ValueError for what is no winner."""
        found: Any = tuned_text.from_json(data)
        if not (isinstance(found, list) and len(found) == 3 and all(isinstance(keys, list) for keys in found[1:])
                and all(isinstance(k, str) for keys in found[1:] for k in keys)):
            raise ValueError("not a winner")
        return cls(None if found[0] is None else tuned_text.unpack(found[0]), tuple(found[1]), tuple(found[2]))


def search(subject: Subject, machine: Machine) -> Winner:
    """Compile and time the candidates of a kernel in the order of their ranks, until the time is over."""
    begin = time.perf_counter()
    deadline = begin + machine.seconds
    first = subject.trial(subject.schedules[0])
    machine.compile([first])
    inputs = subject.inputs(first)
    expected = first.run(inputs)
    each = time.perf_counter() - begin  # seconds of a candidate: fewer, once several are compiled together
    deadline += MOST * first.seconds
    best, at, seen = first, 1, {first.text()}
    while at < len(subject.schedules):
        started = time.perf_counter()
        fitting = int((deadline - started) / each)
        if fitting < 1:
            break
        batch: list[Trial] = []
        while at < len(subject.schedules) and len(batch) < min(machine.at_once, fitting):
            trial = subject.trial(subject.schedules[at])
            if trial.text() not in seen:
                batch.append(trial)
                seen.add(trial.text())
            at += 1
        if not batch:
            break
        machine.compile(batch)
        sound = [t for t in batch if _right(subject, t, expected, inputs)]
        trials.race([first, *([best] if best is not first else []), *sound], inputs, deadline)
        best = min((first, best, *sound), key=lambda t: t.best)
        each = (time.perf_counter() - started) / len(batch)
    if not _wins(best, first, inputs):
        return Winner(None, (), first.places)
    return Winner(best.schedule, best.places, first.places)


def _wins(best: Trial, first: Trial, inputs: list[Buffer]) -> bool:
    """Is `best` clearly faster whenever the two run against each other? Of many, one is the fastest by luck."""
    if best is first or best.best > GAIN * first.best:
        return False
    for _ in range(AGAIN):
        first.best = best.best = math.inf
        trials.race([first, best], inputs, math.inf)
        if best.best > GAIN * first.best:
            return False
    return True


def _right(subject: Subject, trial: Trial, expected: list[Buffer], inputs: list[Buffer]) -> bool:
    """Does a candidate compute what the chosen schedule does? It is not used, and the user is told, if not."""
    try:
        if trials.same(expected, trial.run(inputs), inputs, trial):
            return True
        fault = "is computed wrongly"
    except DeviceError as error:
        fault = f"does not run ({error})"
    warn(f"dlc: {subject.name} {fault} with {trial.schedule!r}, which is not used; please report this")
    return False
