"""Processes that run cases: one that crashes or hangs is a verdict, and the sweep goes on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from tests.sweeps.case import Setting
from tests.sweeps.check import Verdict, check
from tests.sweeps.draw import Draw
from tests.sweeps.families import FAMILIES

# Forked children start at once, with all modules in place. Nothing of dlc's machine (host.detect, thread pool, GPU) has
# been looked at in the parent, so that each child chooses its own.
_context = multiprocessing.get_context("fork")


class Job(NamedTuple):
    """A case of a family, drawn by `seed`, or again from the `choices` of an earlier draw."""

    family: str
    seed: int
    setting: Setting
    choices: tuple[int, ...] | None = None
    small: int = 0

    def draw(self) -> Draw:
        return Draw(self.seed, self.choices, self.small)


class Worker:
    """One process, for one level of instructions or kind of device."""

    def __init__(self, level: str, device: str, seconds: float):
        self.level, self.seconds = level, seconds
        self.job: Job | None = None
        self.done, self.deadline = 0, 0.0
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_serve, args=(theirs, level, device), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        """Start a job."""
        self.job, self.deadline = job, time.monotonic() + self.seconds
        self.pipe.send(job)

    def verdict(self) -> Verdict:
        """The verdict on the job, which has come, or must be given for want of a process."""
        self.job, self.done = None, self.done + 1
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(10)
            code = self.process.exitcode or 0
            return Verdict("crashes", signal.Signals(-code).name if code < 0 else f"exit status {code}")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """`count` workers; each serves a level for some jobs, and is then replaced by one for the next level."""

    def __init__(self, count: int, levels: list[str], device: str, seconds: float, jobs_each: int):
        self.levels, self.device, self.seconds, self.jobs_each = levels, device, seconds, jobs_each
        self._made = 0
        self._single: Worker | None = None
        self.workers = [self._next() for _ in range(count)]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Verdict]]:
        """Each job's verdict, as they come. The job's level is that of the worker which takes it."""
        waiting, more = iter(jobs), True
        while more or any(w.job for w in self.workers):
            for k, worker in enumerate(self.workers):
                if not more or worker.job:
                    continue
                job = next(waiting, None)
                if job is None:
                    more = False
                    continue
                if worker.done >= self.jobs_each:
                    worker.stop()
                    worker = self.workers[k] = self._next()
                worker.give(job._replace(setting=_at(job.setting, worker.level)))
            yield from self._finished()

    def one(self, job: Job) -> Verdict:
        """The verdict on one job, at its own level, by a worker beside the others."""
        if self._single is None or self._single.level != job.setting.level:
            self._end_single()
            self._single = Worker(job.setting.level, self.device, self.seconds)
        worker = self._single
        worker.give(job)
        verdict = worker.verdict() if worker.pipe.poll(self.seconds) else Verdict("hangs", f"{self.seconds:.0f} s")
        if self._spent(verdict):
            self._end_single()
        return verdict

    def stop(self) -> None:
        """End all."""
        for worker in self.workers:
            worker.stop()
        self._end_single()

    def _spent(self, verdict: Verdict) -> bool:
        """Is the worker that gave this verdict of no more use? After an error on a GPU, all that follow may fail."""
        return verdict.status in ("crashes", "hangs") or (verdict.status == "raises" and self.device == "cuda")

    def _end_single(self) -> None:
        if self._single is not None:
            self._single.stop()
            self._single = None

    def _next(self) -> Worker:
        self._made += 1
        return Worker(self.levels[self._made % len(self.levels)], self.device, self.seconds)

    def _finished(self) -> Iterator[tuple[Job, Verdict]]:
        busy = {w.pipe: k for k, w in enumerate(self.workers) if w.job}
        if not busy:
            return
        ready: list[Connection] = wait(list(busy), timeout=1.0)  # type: ignore[assignment]
        for pipe in ready:
            worker = self.workers[busy[pipe]]
            job, verdict = worker.job, worker.verdict()
            if self._spent(verdict):
                self._replace(busy[pipe])
            assert job is not None
            yield job, verdict
        for k, worker in enumerate(self.workers):
            if worker.job and time.monotonic() > worker.deadline and not worker.pipe.poll():
                job = worker.job
                self._replace(k)
                yield job, Verdict("hangs", f"{self.seconds:.0f} s")

    def _replace(self, k: int) -> None:
        level = self.workers[k].level
        self.workers[k].stop()
        self.workers[k] = Worker(level, self.device, self.seconds)


def _at(setting: Setting, level: str) -> Setting:
    return setting._replace(level=level)


def _serve(pipe: Connection, level: str, device: str) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()  # pytest's: a crash is the parent's to report
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    _prepare(level, device)
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send(check(FAMILIES[job.family](job.draw()), job.setting))


def _prepare(level: str, device: str) -> None:
    """Choose this process's instructions or device."""
    import torch

    import dlc

    os.environ["DLC_CACHE"] = "off"
    torch.set_num_threads(1)
    if device == "cpu":
        os.environ["DLC_CPU"] = level
        return
    if device == "emulated":
        import pytest

        from tests import cuda_on_cpu

        cuda_on_cpu.use(pytest.MonkeyPatch(), cuda_on_cpu.EmulatedGpu(arch=level, nbytes=1 << 32))
    dlc.set_default_device("cuda")
