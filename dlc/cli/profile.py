"""`dlc profile`: where the time of a compiled function goes, kernel by kernel."""

from __future__ import annotations

from contextlib import nullcontext

import click
from rich.console import Console
from rich.table import Table

import dlc
from dlc.base.errors import DeviceError, TraceError
from dlc.cli.errors import CommandError
from dlc.cli.target import blamed, find
from dlc.frontend.jit.lowered import Profile
from dlc.inspect.units import count, nbytes, plural, seconds


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
        f"{plural(len(rows), 'kernel')}, {plural(n, 'launch')}: {seconds(total)} in kernels, "
        f"{seconds(whole)} a call (median of {repeat})",
        highlight=False,
    )


def measure(text: str, repeat: int) -> Profile:
    """The kernels of a target in program order, and the seconds of a whole call."""
    target = find(text)
    with blamed(target.function.name):
        target.function(*target.args, **target.kwargs)  # gradients and state are then as in every later call
    try:
        return target.lower().profile(repeat)
    except TraceError as error:
        raise CommandError(str(error)) from None
