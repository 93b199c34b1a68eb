"""Results as a table on the terminal, as JSON, as Markdown, and as a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from benchmarks.controller import CaseResult, Measured
from benchmarks.machine import Machine

COLUMNS = ("case", "peer", "ms", "+-", "vs fastest", "x floor", "GFLOP/s", "GB/s", "first call s", "warm s", "peak MB")


def floor_seconds(case: CaseResult, machine: Machine) -> float:
    """The time that the machine's limits allow, if all products of a bf16 case are of that type."""
    rate = machine.flops * (machine.bf16 if case.name.endswith("bf16") else 1)
    return max(case.floor.flops / rate, case.floor.bytes / machine.bandwidth)


def rows(case: CaseResult, machine: Machine) -> list[list[str]]:
    """The table's rows of one case: first its floor, then its peers."""
    if case.failure:
        return [[case.name, "failed", *[""] * (len(COLUMNS) - 2)]]
    floor = floor_seconds(case, machine)
    busy = "" if case.disturbance is None else f"others {case.disturbance:.0%}"
    work = [f"{case.floor.flops / 1e9:.3g} GFLOP", f"{case.floor.bytes / 1e6:.3g} MB"]
    table = [[case.name, "floor", f"{floor * 1e3:.3g}", "", busy, "", *work, "", "", ""]]
    table += [["", peer, *_cells(case, peer, got, floor)] for peer, got in case.peers.items()]
    return table


def _cells(case: CaseResult, peer: str, got: Measured, floor: float) -> list[str]:
    if got.failure or got.started is None:
        return ["failed", *[""] * 8]
    speedup = case.speedup(peer)
    over_import = (got.started.memory - got.started.memory_at_import) / 1e6
    return [
        f"{got.seconds * 1e3:.3g}" if got.seconds < 1 else f"{got.seconds * 1e3:.0f}",
        f"{got.spread:.1%}",
        "" if speedup is None else f"{speedup:.2f}x",
        f"{got.seconds / floor:.2f}",
        f"{case.floor.flops / got.seconds / 1e9:.3g}",
        f"{case.floor.bytes / got.seconds / 1e9:.3g}",
        f"{got.started.first_call:.2f}",
        "" if got.warm_start is None else f"{got.warm_start:.2f}",
        f"{got.started.memory / 1e6:.0f} (+{over_import:.0f})",
    ]


def headline(machine: Machine, load_after: float) -> str:
    software = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.cpu}, {machine.threads} threads; {software}; limits {machine.flops / 1e9:.0f} GFLOP/s fp32 "
        f"(bf16: {machine.bf16} times that), {machine.bandwidth / 1e9:.1f} GB/s; "
        f"load before {machine.load:.1f}, after {load_after:.1f}"
    )


LEGEND = (
    "ms: median over the rounds; +-: half the interquartile range; vs fastest: median over the rounds of the fastest "
    "other peer's time (dlc not counted) over this one's; x floor: time over what the machine's limits allow; others: "
    "processor time that other processes took meanwhile; peak MB: "
    "resident memory up to the end of the first call, and what of it came after the import."
)


def terminal(cases: Sequence[CaseResult], machine: Machine) -> Table:
    table = Table(*COLUMNS, box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for case in cases:
        for row in rows(case, machine):
            table.add_row(*row, style="dim" if row[1] == "floor" else "bold" if row[1] == "dlc" else "")
    return table


def write(cases: Sequence[CaseResult], machine: Machine, load_after: float, date: str, path: Path) -> None:
    """Write `path`.json, with every round's time, and `path`.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"date": date, "machine": asdict(machine), "load_after": load_after, "cases": [asdict(c) for c in cases]}
    _replace(path.with_name(f"{path.name}.json"), json.dumps(record, indent=1) + "\n")
    lines = [f"# Benchmarks, {date}, {machine.host}", "", headline(machine, load_after), "", LEGEND, ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    lines += [f"| {' | '.join(row)} |" for case in cases for row in rows(case, machine)]
    _replace(path.with_name(f"{path.name}.md"), "\n".join(lines) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole: a run that is killed leaves the last one."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text)
    os.replace(aside, path)


def plot(cases: Sequence[CaseResult], path: Path) -> None:
    """Bars of speed relative to the fastest peer other than dlc, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [case for case in cases if not case.failure]
    peers = list(dict.fromkeys(peer for case in cases for peer, got in case.peers.items() if got.rounds))
    figure, axes = pyplot.subplots(figsize=(max(6, 1.1 * len(cases)), 4))
    for k, peer in enumerate(peers):
        heights = []
        for case in cases:
            got, best = case.peers.get(peer), case.rival("dlc")
            heights.append(case.peers[best].seconds / got.seconds if got and got.rounds and best else 0)
        axes.bar(
            [x + (k + 0.5) / len(peers) * 0.8 - 0.4 for x in range(len(cases))], heights, 0.8 / len(peers), label=peer
        )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(cases)), [case.name for case in cases], rotation=40, ha="right")
    axes.set_ylabel("speed against the fastest peer")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(peers), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
