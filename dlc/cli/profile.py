"""`dlc profile`: where the time of a compiled function goes, kernel by kernel."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import dlc
from dlc.cli.errors import CommandError
from dlc.cli.launches import lines, work
from dlc.cli.target import find
from dlc.cli.units import count, nbytes, seconds
from dlc.frontend import eager
from dlc.ir.errors import DeviceError
from dlc.runtime import devices, driver
from dlc.runtime.executable import Interpreted


class Row(NamedTuple):
    """One kernel over one call of the function."""

    name: str
    launches: int
    seconds: float
    bytes: float
    flops: float
    lines: str


@click.command()
@click.argument("target")
@click.option("--repeat", default=20, show_default=True, type=click.IntRange(1), help="Calls to time.")
@click.option("--top", default=0, type=click.IntRange(0), help="Only the N slowest kernels.")
@click.option("--device", metavar="DEVICE", help="Where TARGET makes its tensors: cpu, cuda, cuda:1.")
def profile(target: str, repeat: int, top: int, device: str | None) -> None:
    """Run TARGET (see `dlc dump --help`) and show the time of each of its kernels.

    Times are medians over the calls, by a clock read around each launch (on a GPU: by events, one kernel at a time);
    share is of all kernels together. A call is timed as it usually runs: on a GPU, as one graph.
    Bytes count each argument of a kernel once, flop its scalar operations on floats, weighted by what they cost.
    """
    try:
        with dlc.device(device) if device else nullcontext():
            rows, whole = measure(target, repeat)
    except DeviceError as error:
        raise CommandError(str(error).partition("\n")[0]) from None
    total = sum(r.seconds for r in rows) or 1e-12
    shown = sorted(rows, key=lambda r: -r.seconds)[: top or None]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("kernel", "launches", "time", "share", "bytes", "GB/s", "flop", "GFLOP/s", "source"):
        table.add_column(heading, justify="left" if heading in ("kernel", "source") else "right", no_wrap=True)
    for r in shown:
        spent = r.seconds or 1e-12
        table.add_row(
            r.name, str(r.launches), seconds(r.seconds), f"{r.seconds / total:.1%}", nbytes(r.bytes),
            f"{r.bytes / spent / 1e9:.1f}", count(r.flops), f"{r.flops / spent / 1e9:.1f}", r.lines,
        )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    n = sum(r.launches for r in rows)
    console.print(
        f"{len(rows)} kernels, {n} launches: {seconds(total)} in kernels, {seconds(whole)} a call (median of {repeat})",
        highlight=False,
    )


def measure(text: str, repeat: int) -> tuple[list[Row], float]:
    """The kernels of a target in program order, and the seconds of a whole call."""
    target = find(text)
    target.function(*target.args, **target.kwargs)  # gradients and state are then as in every later call
    entry, call = target.trace()
    executable = driver.compile_graph(entry.graph, entry.donate, target.function.name, device=entry.device,
                                      profile=True, tune=target.function.tuned)  # fmt: skip
    if isinstance(executable, Interpreted) or executable.times is None:
        raise CommandError("there is nothing to profile under DLC_INTERPRET=1")
    on_gpu = entry.device != "cpu"
    entry.executable = eager.compiled(entry.graph, entry.donate, entry.device) if on_gpu else executable
    for _ in range(3):
        entry.run(call.tensors, call.numbers)
    whole = np.zeros(repeat)
    for k in range(repeat):
        start = time.perf_counter()
        entry.run(call.tensors, call.numbers)
        devices.synchronize(entry.device)
        whole[k] = time.perf_counter() - start
    entry.executable = executable
    entry.run(call.tensors, call.numbers)
    counters = np.frombuffer(executable.times, np.int64)  # nanoseconds of each launch, added up
    launches = np.zeros((repeat, len(counters)))
    for k in range(repeat):
        counters[:] = 0
        entry.run(call.tensors, call.numbers)
        launches[k] = counters
    spent = np.median(launches, 0) / 1e9
    rows = [
        Row(w.kernel.name, w.launches, float(spent[w.places].sum()), w.bytes, w.flops, lines(w.kernel))
        for w in work(executable.program)
    ]
    return rows, float(np.median(whole))
