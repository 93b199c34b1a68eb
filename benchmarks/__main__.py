"""The command: `python -m benchmarks [case ...]`."""

from __future__ import annotations

import datetime
import functools
import itertools
import os
import platform
import signal
import sys
import traceback
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status

from benchmarks import report
from benchmarks.case import PEERS
from benchmarks.catalogue import CASES
from benchmarks.controller import CaseResult, measure
from benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results"


@click.command(epilog="Cases: " + ", ".join(CASES) + "; a name may end in * and then means all that begin so.")
@click.argument("names", nargs=-1, metavar="[CASE]...")
@click.option("--peers", default=",".join(PEERS), show_default=True, help="Which implementations to run.")
@click.option("--threads", default=2, show_default=True, help="Threads of every peer.")
@click.option("--rounds", default=15, show_default=True, help="Turns that every peer gets.")
@click.option("--turn", default=0.25, show_default=True, help="Seconds of a turn.")
@click.option("--limit", default=900.0, show_default=True, help="Seconds that a peer may take to answer.")
@click.option("--warm-start", is_flag=True, help="Time the first call also with filled disk caches.")
@click.option("--plot", is_flag=True, help="Draw a PNG beside the results.")
@click.option("--out", type=click.Path(path_type=Path), help="Results file, without its ending. [results/DATE-HOST]")
def main(
    names: tuple[str, ...],
    peers: str,
    threads: int,
    rounds: int,
    turn: float,
    limit: float,
    warm_start: bool,
    plot: bool,
    out: Path | None,
) -> None:
    """Time dlc against torch eager, torch.compile and JAX. Every peer's results are checked first, against float64.

    Results are written after every case; Ctrl-C, or `timeout`, leaves the table of what there is.
    """
    chosen = _cases(names)
    for peer in (asked := peers.split(",")):
        if peer not in PEERS:
            raise click.BadParameter(f"unknown peer {peer!r}; there are {', '.join(PEERS)}", param_hint="--peers")
    if rounds < 2:
        raise click.BadParameter("at least 2, for a median with a spread", param_hint="--rounds")
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    now = datetime.datetime.now()
    path = out or _unused(RESULTS / f"{now:%Y-%m-%d}-{platform.node()}")
    machine = describe(threads)
    results: list[CaseResult] = []
    stopped = ""
    signal.signal(signal.SIGTERM, _stop)  # `timeout` sends it
    try:
        with console.status("") as status:
            for name in chosen:
                say = functools.partial(_say, status, name)
                try:
                    result = measure(CASES[name], asked, threads=threads, rounds=rounds, turn=turn,
                                     warm_start=warm_start, limit=limit, report=say)  # fmt: skip
                except Exception:
                    result = CaseResult.failed(name, asked, traceback.format_exc().strip())
                results.append(result)
                if result.failure:
                    console.print(f"{name} failed\n{result.failure}", markup=False, highlight=False)
                for peer, got in result.peers.items():
                    if got.failure and not result.failure:
                        console.print(f"{name}: {peer} failed\n{got.failure}", markup=False, highlight=False)
                report.write(results, machine, os.getloadavg()[0], f"{now:%Y-%m-%d %H:%M}", path)
    except KeyboardInterrupt:
        stopped = f"Stopped after {len(results)} of {len(chosen)} cases."
    if results:
        console.print(report.terminal(results, machine))
        console.print(report.headline(machine, os.getloadavg()[0]), report.LEGEND, sep="\n", style="dim")
        if plot:
            report.plot(results, path.with_name(f"{path.name}.png"))
        console.print(f"Written: {path}.json, .md" + (", .png" if plot else ""))
    if stopped:
        console.print(stopped)
    sys.exit(bool(stopped) or any(got.failure for result in results for got in result.peers.values()))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _say(status: Status, name: str, text: str) -> None:
    status.update(f"{name}: {text}")


def _unused(path: Path) -> Path:
    """`path`, or with a number where results of an earlier run stand."""
    for k in itertools.count(2):
        if not path.with_name(f"{path.name}.json").exists():
            return path
        path = path.with_name(f"{path.name.removesuffix(f'-{k - 1}')}-{k}")
    raise AssertionError


def _cases(names: tuple[str, ...]) -> list[str]:
    chosen = []
    for name in names or ("*",):
        found = [case for case in CASES if case == name or (name.endswith("*") and case.startswith(name[:-1]))]
        if not found:
            raise click.BadParameter(f"unknown case {name!r}; there are {', '.join(CASES)}", param_hint="CASE")
        chosen += [case for case in found if case not in chosen]
    return chosen


if __name__ == "__main__":
    main()
