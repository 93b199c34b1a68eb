"""Random ordinary programs, computed by dlc and in float64 by PyTorch or NumPy: `python -m tests.sweeps.differential`.

Each case is drawn by a family (`tests.sweeps.families`), runs in some mode, with some number of threads, at one of the
host's instruction levels, with all fresh memory poisoned, and is compared within a tolerance that follows from what it
adds up. A failure is made smaller and printed as a program.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sweeps.case import MODES, Case, Setting, program
from tests.sweeps.check import Verdict
from tests.sweeps.draw import simpler
from tests.sweeps.families import FAMILIES, WEIGHTS
from tests.sweeps.memory import KINDS
from tests.sweeps.workers import Job, Workers

LEVELS = {"cpu": ("sse2", "avx2", "avx512"), "emulated": ("sm_90a", "sm_80"), "cuda": ("",)}
_SMALL = {"cpu": 0, "emulated": 20, "cuda": 0}  # the largest extent, where large cases take too long
_FAILED = ("wrong", "raises", "crashes", "hangs")


@dataclass
class Report:
    """What a sweep found."""

    counts: Counter = field(default_factory=Counter)  # (family, status) -> cases
    failures: list[tuple[Job, Verdict]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        """How many cases were compared."""
        return sum(n for (_, status), n in self.counts.items() if status != "invalid")

    def summary(self) -> str:
        """One line for each family that has something to say, and a total."""
        invalid = sum(n for (_, status), n in self.counts.items() if status == "invalid")
        failed = Counter(job.family for job, _ in self.failures)
        lines = [f"  {family}: {n} of {sum(c for (f, _), c in self.counts.items() if f == family)} failed"
                 for family, n in failed.items()]
        lines += [f"  {family}: {n} cases that the reference refuses" for (family, status), n in self.counts.items()
                  if status == "invalid"]
        return "\n".join([*lines, f"{self.cases} cases in {self.seconds:.0f} s, {len(self.failures)} failures, "
                                  f"{invalid} invalid"])


def host_levels() -> list[str]:
    """The CPU levels that this host can run."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    own = "avx512" if features.get("avx512f") else "avx2" if features.get("avx2") else "sse2"
    return list(LEVELS["cpu"][: LEVELS["cpu"].index(own) + 1])


def jobs(seed: int, families: list[str], device: str) -> Iterator[Job]:
    """Endless cases: which family, mode, threads and poison each takes is drawn by `seed`."""
    for number in itertools.count():
        chooser = random.Random(f"{seed} {number}")
        family = chooser.choices(families, [WEIGHTS.get(f, 1) for f in families])[0]
        setting = Setting(mode=chooser.choice(MODES), threads=chooser.choice((1, 2, 3, 7)),
                          poison=chooser.choice(KINDS), device=device, seed=chooser.randrange(1 << 30))
        yield Job(family, chooser.randrange(1 << 30), setting, small=_SMALL[device])


def sweep(seed: int, *, cases: int | None = None, seconds: float | None = None, families: list[str] | None = None,
          device: str = "cpu", levels: list[str] | None = None, processes: int | None = None, shrink: float = 60,
          quiet: bool = True) -> Report:
    """Run cases until there are enough or the time is over. Each family's first three failures are made smaller, in at
    most `shrink` seconds, and printed."""
    levels = levels or (host_levels() if device == "cpu" else list(LEVELS[device]))
    report, start = Report(), time.monotonic()
    workers = Workers(processes or os.cpu_count() or 1, levels, device, 300 if device == "emulated" else 60,
                      2000 if device == "cuda" else 150)

    def wanted() -> Iterator[Job]:
        for number, job in enumerate(jobs(seed, families or list(FAMILIES), device)):
            if number == cases or (seconds is not None and time.monotonic() - start > seconds):
                return
            yield job

    try:
        for job, verdict in workers.run(wanted()):
            report.counts[job.family, verdict.status] += 1
            if verdict.status == "invalid" and not quiet:
                print(f"invalid: {_heading(job, verdict)}", file=sys.stderr)
            if verdict.status in _FAILED:
                report.failures.append((job, verdict))
                nth = sum(job.family == f.family for f, _ in report.failures)
                shown = _smallest(job, verdict, workers, shrink) if nth <= 3 else ""
                print(f"FAILED {_heading(job, verdict)}{shown}", flush=True)
            done = sum(report.counts.values())
            if not quiet and done % 500 == 0:
                print(f"... {done} cases, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    finally:
        workers.stop()
    report.seconds = time.monotonic() - start
    return report


def case_of(job: Job) -> Case:
    """The case that a job runs."""
    return FAMILIES[job.family](job.draw())


def smaller(job: Job, verdict: Verdict, workers: Workers, seconds: float) -> tuple[Job, Verdict]:
    """A simpler case that fails in the same way."""
    end = time.monotonic() + seconds
    draw = job.draw()
    FAMILIES[job.family](draw)
    best = job._replace(choices=tuple(draw.choices))
    better = True
    while better and time.monotonic() < end:
        better = False
        for choices in simpler(best.choices or ()):
            if time.monotonic() > end:
                break
            trial = best._replace(choices=tuple(choices))
            draw = trial.draw()
            try:
                FAMILIES[job.family](draw)
            except Exception:  # noqa: BLE001, S112 (a family may take for granted what it draws at first)
                continue
            trial = trial._replace(choices=tuple(draw.choices))
            if len(draw.choices) > len(best.choices or ()) or trial == best:
                continue
            found = workers.one(trial)
            if found.status == verdict.status and found.detail.split(":")[0][:6] == verdict.detail.split(":")[0][:6]:
                best, verdict, better = trial, found, True
                break
    return best, verdict


def _smallest(job: Job, verdict: Verdict, workers: Workers, seconds: float) -> str:
    small, found = smaller(job, verdict, workers, seconds)
    lines = program(case_of(small), small.setting).splitlines()
    return f"\n  made smaller: {found.status}: {found.detail}\n" + "\n".join(f"    {line}" for line in lines)


def _heading(job: Job, verdict: Verdict) -> str:
    s = job.setting
    return (f"{job.family} (case {job.seed}, data {s.seed}; {s.mode}, {s.threads} threads, {s.poison}, "
            f"{s.level or s.device}): {verdict.status}: {verdict.detail}")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweeps.differential", description=__doc__)
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--cases", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="only these (may be repeated)")
    parser.add_argument("--level", action="append", help="only these: sse2, avx2, avx512; sm_80, sm_90a if emulated")
    parser.add_argument("--device", choices=sorted(LEVELS), default="cpu")
    parser.add_argument("--processes", type=int, help="how many cases at once (default: one a core)")
    parser.add_argument("--show", type=int, metavar="CASE", help="print the case of this number (with --family)")
    given = parser.parse_args(arguments)
    if given.show is not None:
        print(program(case_of(Job(given.family[0], given.show, Setting(), small=_SMALL[given.device])), Setting()))
        return 0
    if given.minutes is None and given.cases is None:
        parser.error("say --minutes or --cases")
    report = sweep(given.seed, cases=given.cases, seconds=given.minutes and given.minutes * 60, families=given.family,
                   device=given.device, levels=given.level, processes=given.processes, quiet=False)
    print(report.summary())
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
