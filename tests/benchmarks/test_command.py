"""`python -m benchmarks` keeps what it has measured, whatever happens to the rest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks import controller
from benchmarks.case import Floor
from benchmarks.controller import CaseResult, Measured, PeerFailed
from benchmarks.machine import Machine
from benchmarks.worker import Started

CASES = ("one", "two", "three")
MACHINE = Machine("here", "a processor", 2, {"python": "3"}, 0.0, 1e11, 1e10)


def timed(name: str) -> CaseResult:
    peers = {peer: Measured(Started(0.0, 0.1, 1, 1), None, {}, [k + 1.0, k + 1.1, k + 1.2])
             for k, peer in enumerate(("torch", "dlc"))}
    return CaseResult(name, Floor(1e9, 1e6), peers, 0.0)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command with cases that `outcome(name)` measures."""
    monkeypatch.setattr(command, "CASES", {name: name for name in CASES})
    monkeypatch.setattr(command, "describe", lambda threads: MACHINE)
    before = signal.getsignal(signal.SIGTERM)

    def go(outcome, *args):
        monkeypatch.setattr(command, "measure", lambda case, peers, **options: outcome(case))
        return CliRunner().invoke(command.main, ["--out", str(tmp_path / "results"), *args])

    yield go
    signal.signal(signal.SIGTERM, before)


def written(tmp_path) -> list[str]:
    return [case["name"] for case in json.loads((tmp_path / "results.json").read_text())["cases"]]


def test_a_case_that_fails_does_not_stop_the_others(run, tmp_path):
    def outcome(name):
        if name == "two":
            raise ValueError("no such layer")
        return timed(name)

    result = run(outcome)
    assert result.exit_code == 1
    assert "two failed" in result.output and "ValueError: no such layer" in result.output
    assert written(tmp_path) == list(CASES)
    table = (tmp_path / "results.md").read_text()
    assert "| two | failed |" in table and "| three | floor |" in table


def test_what_was_measured_before_it_was_stopped(run, tmp_path):
    def outcome(name):
        if name == "three":
            assert written(tmp_path) == ["one", "two"]  # already there
            signal.raise_signal(signal.SIGTERM)
        return timed(name)

    result = run(outcome)
    assert result.exit_code == 1 and "Stopped after 2 of 3 cases." in result.output
    assert "one" in result.output and "2.1e+03" not in result.output
    assert written(tmp_path) == ["one", "two"]


def test_results_of_an_earlier_run_stay(tmp_path):
    path = tmp_path / "2026-01-02-host.name"
    assert command._unused(path) == path
    for _ in range(2):
        used = command._unused(path)
        used.with_name(f"{used.name}.json").write_text("{}")
    assert command._unused(path).name == "2026-01-02-host.name-3"


def test_a_peer_that_does_not_answer_or_dies_leaves_the_others(monkeypatch):
    class Fake:
        def __init__(self, after):
            self.after = after

        def ask(self, order, count=1):
            self.after -= 1
            if self.after < 0:
                raise PeerFailed("no answer in 1 s")
            return 0.4 * count

    monkeypatch.setattr(controller, "_processor_time", lambda workers: (0, 0, 0))
    result = timed("one")
    result.peers = {peer: Measured() for peer in ("slow", "dying", "good")}
    ready = {"slow": Fake(0), "dying": Fake(4), "good": Fake(99)}
    controller._time(ready, result, 5, 0.4, lambda text: None)
    assert result.peers["slow"].failure == result.peers["dying"].failure == "no answer in 1 s"
    assert result.peers["good"].rounds == [0.4] * 5 and not result.peers["dying"].rounds


def test_the_command_itself_can_be_stopped(tmp_path):
    """A real process in its first case: SIGTERM ends it and its workers, with a word on what there is."""
    pytest.importorskip("torch")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "k_softmax", "--peers", "dlc", "--rounds", "100000", "--out",
         str(tmp_path / "results")], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 120
    while not children.read_text().strip():  # its first worker
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped after 0 of 1 cases." in out
