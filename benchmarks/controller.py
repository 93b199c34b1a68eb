"""Runs the peers of a case against each other: checks every one, then times them in alternating turns."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.case import Arrays, Case, Floor, differences
from benchmarks.worker import Started, checked_outputs, environment, main

WARM_UP = 0.5  # seconds, at least


class PeerFailed(RuntimeError):
    """A peer could not be built, run, or gave wrong results; the message is its traceback or the difference."""


@dataclass
class Measured:
    """One peer of one case: seconds of one iteration in every round, or why there are none."""

    started: Started | None = None
    warm_start: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half of the interquartile range over the median."""
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return (high - low) / 2 / self.seconds


@dataclass
class CaseResult:
    """All peers of one case.

    `disturbance` is the share of the machine's processor time that went to other processes during the timed turns;
    above a few percent the times are not worth quoting (OpenMP's spinning barriers suffer most).
    """

    name: str
    floor: Floor
    peers: dict[str, Measured]
    disturbance: float | None = None
    failure: str | None = None  # of the case as a whole: then no peer has results

    @classmethod
    def failed(cls, name: str, peers: Sequence[str], why: str) -> CaseResult:
        return cls(name, Floor(0, 0), {peer: Measured(failure=why) for peer in peers}, None, why)

    def rival(self, peer: str) -> str | None:
        """The fastest of the others, dlc left out."""
        others = [name for name, got in self.peers.items() if got.rounds and name not in (peer, "dlc")]
        return min(others, key=lambda name: self.peers[name].seconds, default=None)

    def speedup(self, peer: str) -> float | None:
        """The median over the rounds of the rival's time over this peer's, in the same round."""
        rival = self.rival(peer)
        if rival is None or not self.peers[peer].rounds:
            return None
        pairs = zip(self.peers[rival].rounds, self.peers[peer].rounds, strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)


class Worker:
    """A worker process; it is stopped (SIGSTOP) whenever it has nothing to answer, so that its threads cannot spin."""

    def __init__(self, case: str, peer: str, inputs: Arrays | None, threads: int, cache: Path, limit: float) -> None:
        self.limit = limit
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(theirs, case, peer, inputs, threads), daemon=True)
        with _environment(environment(threads, cache)):
            self.process.start()
        theirs.close()
        try:
            self.started = self._answer()
        except BaseException:
            self.close()  # nobody else knows of it yet
            raise

    def ask(self, *order: Any) -> Any:
        """Send an order, let the worker run until it has answered."""
        os.kill(self.process.pid, signal.SIGCONT)
        self.pipe.send(order)
        return self._answer()

    def _answer(self) -> Any:
        if not self.pipe.poll(self.limit):
            raise PeerFailed(f"no answer in {self.limit:g} s")
        try:
            kind, value = self.pipe.recv()
        except EOFError:
            self.process.join(5)
            raise PeerFailed(f"the process died with exit code {self.process.exitcode}") from None
        if kind == "error":
            raise PeerFailed(value)
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGSTOP)
        return value

    def close(self) -> None:
        """End the process, in good order if it can: torch.compile's helpers hold semaphores."""
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGCONT)
            with suppress(OSError):
                self.pipe.send(("stop",))
            self.process.join(5)
            self.process.kill()
        self.process.join()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    old = dict(os.environ)
    os.environ.update(variables)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # packages that pip installs have their byte code beside them
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old)


def measure(
    case: Case,
    peers: Sequence[str],
    *,
    threads: int = 2,
    rounds: int = 15,
    turn: float = 0.25,
    warm_start: bool = False,
    limit: float = 900.0,
    report: Callable[[str], None] = print,
) -> CaseResult:
    """Check and time the peers of a case.

    Args:
        threads: for each peer.
        rounds: in each, every peer has one turn; the order rotates.
        turn: seconds of one turn, about; one iteration at least.
        warm_start: time the first call once more, in a new process that finds the disk caches filled.
        limit: seconds that a worker may take for one answer.
        report: gets a word on what is going on.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as workers:

        def start(peer: str, inputs: Arrays | None, cache: str) -> Worker:
            worker = Worker(case.name, peer, inputs, threads, Path(folder) / cache, limit)
            workers.callback(worker.close)
            return worker

        report("reference")
        inputs, expected, flops = start("reference", None, "reference").started
        if case.check_with:
            checked_inputs, expected, flops = start("reference", case.check_with, "reference").started
        result = CaseResult(case.name, case.floor(inputs, flops), {peer: Measured() for peer in peers})
        ready: dict[str, Worker] = {}
        for peer, measured in result.peers.items():
            report(f"{peer}: first call and check")
            try:
                if case.check_with:
                    checked = start(peer, checked_inputs, f"{peer}-check")
                    measured.errors = _check(checked, expected, case)
                    checked.close()
                worker = start(peer, inputs, peer)
                measured.started = worker.started
                if not case.check_with:
                    measured.errors = _check(worker, expected, case)
                if warm_start:
                    again = start(peer, inputs, peer)
                    measured.warm_start = again.started.first_call
                    again.close()
                ready[peer] = worker
            except (PeerFailed, ValueError) as error:
                measured.failure = str(error).strip()
        _time(ready, result, rounds, turn, report)
        return result


def _check(worker: Worker, expected: Arrays, case: Case) -> dict[str, float]:
    got = checked_outputs(lambda: worker.ask("outputs"), lambda k: worker.ask("run", k))
    return differences(got, expected, case)


def _time(
    ready: dict[str, Worker], result: CaseResult, rounds: int, turn: float, report: Callable[[str], None]
) -> None:
    iterations = {}
    for peer, worker in list(ready.items()):
        report(f"{peer}: warm-up")
        spent, count = 0.0, 1
        try:
            while spent < WARM_UP:
                last = worker.ask("run", count)
                spent += last
                iterations[peer] = max(1, round(turn / last * count))
                count = min(2 * count, iterations[peer])
        except PeerFailed as error:
            result.peers[peer].failure = str(error).strip()
            del ready[peer]
    order = list(ready)
    own, busy, total = _processor_time(ready.values())
    for number in range(rounds):
        report(f"round {number + 1} of {rounds}")
        for peer in list(order):
            try:
                seconds = ready[peer].ask("run", iterations[peer]) / iterations[peer]
                result.peers[peer].rounds.append(seconds)
            except PeerFailed as error:
                result.peers[peer].failure, result.peers[peer].rounds = str(error).strip(), []
                order.remove(peer)
                del ready[peer]
        order = order[1:] + order[:1]
    own_after, busy_after, total_after = _processor_time(ready.values())
    if total_after > total:
        result.disturbance = max(0.0, (busy_after - busy - (own_after - own)) / (total_after - total))


def _processor_time(workers: Iterable[Worker]) -> tuple[int, int, int]:
    """Ticks spent since boot: by the workers, by all processes, and by all with the idle time."""
    own = 0
    for worker in workers:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        own += int(fields[11]) + int(fields[12])  # utime and stime
    ticks = [int(text) for text in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return own, sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # 3 idle, 4 waiting for the disk
