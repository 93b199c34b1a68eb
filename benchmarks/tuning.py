"""What tuning gains: `python -m benchmarks.tuning CASE ...` times each case's dlc program with and without it.

Both are in one process and take turns, each several times from the start, as where its tensors happen to lie matters;
the fastest iteration of each counts, and the difference of their results is printed beside. Tuning itself is done anew
for every case, in a cache folder of its own.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import numpy as np

from benchmarks.case import Arrays, Program
from benchmarks.catalogue import CASES


@click.command(epilog="Cases: " + ", ".join(CASES))
@click.argument("names", nargs=-1, required=True, metavar="CASE...")
@click.option("--seconds", default=20.0, show_default=True, help="Of turns, a case.")
@click.option("--starts", default=3, show_default=True, help="Programs of each kind.")
@click.option("--threads", default=2, show_default=True)
def main(names: tuple[str, ...], seconds: float, starts: int, threads: int) -> None:
    """Print the times of some cases with and without tuning."""
    os.environ["DLC_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"] = str(threads), "1"
    click.echo(f"{'case':20} {'plain ms':>9} {'tuned ms':>9} {'gain':>6} {'first s':>8} {'tuned s':>8} {'differ':>8}")
    for name in names:
        if name not in CASES:
            raise click.BadParameter(f"unknown case {name!r}; there are {', '.join(CASES)}")
        with tempfile.TemporaryDirectory() as folder, _set("DLC_CACHE_DIR", folder):
            inputs = CASES[name].inputs()
            plain, first = _started(name, inputs)
            with _set("DLC_TUNE", "1"):
                tuned, slow = _started(name, inputs)
            differ = _difference(plain.outputs(), tuned.outputs())
            a, b = _fastest(plain, tuned, seconds / starts)
            for _ in range(starts - 1):
                plain, _ = _started(name, inputs)
                with _set("DLC_TUNE", "1"):
                    tuned, _ = _started(name, inputs)
                again = _fastest(plain, tuned, seconds / starts)
                a, b = min(a, again[0]), min(b, again[1])
        click.echo(f"{name:20} {a * 1e3:9.3f} {b * 1e3:9.3f} {a / b:5.2f}x {first:8.2f} {slow:8.2f} {differ:8.1e}")


@contextmanager
def _set(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _started(name: str, inputs: Arrays) -> tuple[Program, float]:
    """A case's program after its first iteration, and the seconds that took."""
    import dlc

    dlc.manual_seed(0)  # the same dropout for both
    program = CASES[name].programs["dlc"]({k: v.copy() for k, v in inputs.items()})
    begin = time.perf_counter()
    program.run(1)
    return program, time.perf_counter() - begin


def _difference(a: Arrays, b: Arrays) -> float:
    """The largest relative L2 difference of any output but the update, which Adam makes of signs."""
    return max((float(np.linalg.norm(a[k].astype(np.float64) - b[k]) / max(float(np.linalg.norm(a[k])), 1e-30))
                for k in a if k != "update"), default=0.0)


def _fastest(plain: Program, tuned: Program, seconds: float) -> tuple[float, float]:
    best = [float("inf")] * 2
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for k, program in enumerate((plain, tuned)):
            begin = time.perf_counter()
            program.run(1)
            best[k] = min(best[k], time.perf_counter() - begin)
    return best[0], best[1]


if __name__ == "__main__":
    main()
