"""The README's dump is what `dlc dump` prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from dlc.cli import main
from dlc.inspect.stages import STAGES

README = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "weights.py").write_text(next(block for block in blocks("python") if "def weights(" in block))
    monkeypatch.chdir(tmp_path)
    return "weights.py:weights"


@pytest.mark.parametrize("stage", ["fused", "loops"])
def test_the_dump_is_real(stage: str, weights: str):
    printed = CliRunner().invoke(main, ["dump", weights, "--stage", stage]).output
    shown = blocks("text")[stage == "loops"]
    # the schedule is this machine's
    assert re.sub(r"schedule .*", "", printed) == re.sub(r"schedule .*", "", shown)


def test_every_stage_is_listed():
    table = re.findall(r"^\| (`[^|]*) \|", README.partition("| `--stage` |")[2], re.MULTILINE)
    assert set(STAGES) <= set(re.findall(r"`([a-z-]+)`", " ".join(table)))
