"""`--resume` of a file that is damaged, or another one's: a message that names it, and no traceback."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dlc
from dlc.base.errors import DlcError
from models import checkpoint, mlp, training

pytest.importorskip("sklearn")

COMMAND = training.command(mlp.build, mlp.train_step, mlp.predict, {"digits": 1, "mnist": 1}, 700, 4e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and metadata of a finished run of two steps."""
    path = str(tmp_path_factory.mktemp("run") / "run.safetensors")
    result = CliRunner().invoke(COMMAND, ["--save", path])
    assert result.exit_code == 0, result.output
    tensors, metadata = dlc.load(path, with_metadata=True)
    return tensors, json.loads(metadata["run"])


def refused(path: Path, tensors: dict[str, Any], run: Any) -> str:
    text = run if isinstance(run, str) else json.dumps(run)
    dlc.save(tensors, path, {"run": text})
    result = CliRunner().invoke(COMMAND, ["--resume", str(path)])
    assert isinstance(result.exception, SystemExit), (run, result.exception)
    assert result.exit_code == 1 and str(path) in result.output, result.output
    assert len(result.output) < 600
    return result.output


def test_it_resumes(saved, tmp_path):
    tensors, run = saved
    dlc.save(tensors, tmp_path / "run", {"run": json.dumps(run)})
    result = CliRunner().invoke(COMMAND, ["--resume", str(tmp_path / "run"), "--lr", "0.004"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("run", ["", "{", "null", "[]", "1", '"text"', "{}", '{"settings":null}', '{"settings":[]}',
                                 "[" * 100_000, "9" * 5000, '{"settings":{}}', "\0"])  # fmt: skip
def test_metadata_that_is_no_run(run, saved, tmp_path):
    assert "no sound training run" in refused(tmp_path / "run", saved[0], run)


STRANGE = [None, "text", "", [], {}, True, -1, 1.5, 10**30, -(10**30), float("nan"), float("inf"), "7", [7]]


def test_settings(saved, tmp_path):
    tensors, run = saved
    for name in run["settings"]:
        for value in STRANGE:
            own = run["settings"][name]
            if type(value) is type(own) and name in ("autocast",) or name == "steps" and value is None:
                continue  # another setting, but one that can be
            if name == "lr" and value == 1.5:
                continue
            changed = {**run, "settings": {**run["settings"], name: value}}
            assert f"setting {name}" in refused(tmp_path / "run", tensors, changed)
        rest = {k: v for k, v in run["settings"].items() if k != name}
        assert f"setting {name} is missing" in refused(tmp_path / "run", tensors, {**run, "settings": rest})


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


def replaced(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is refused and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def test_state_of_optimizer_schedule_and_loader(saved, tmp_path):
    """Every part of the metadata missing or of another kind is an error; of the same kind, an error or another run."""
    tensors, run = saved
    options = {**run["settings"]}
    data = training.Task().load("digits", options["batch_size"], 0)
    model, optimizer = mlp.build(data, options["lr"])
    parts = {"model": model, "optimizer": optimizer, "loader": data.train,
             "scheduler": training.Task().schedule(optimizer, options["lr"], 2)}
    places = [p for name in ("optimizer", "scheduler", "loader") for p in leaves(run[name], (name,))]
    choose = random.Random(3)
    for place in choose.sample(places, 40):
        for value in [refused, *choose.sample(STRANGE, 6)]:
            text = json.dumps(replaced(run, place, value))
            if text == json.dumps(run):
                continue
            dlc.save(tensors, tmp_path / "run", {"run": text})
            try:
                checkpoint.load(str(tmp_path / "run"), parts, ["loss", "accuracy"])
            except dlc.CheckpointError as error:
                assert str(tmp_path / "run") in str(error)
            else:
                assert value != "text" and checkpoint._MOVES.intersection(place), (place, value)


def test_tensors(saved, tmp_path):
    tensors, run = saved
    for name in ("random", "history.loss", "model.1.weight", "optimizer.0.step"):
        assert name in tensors, sorted(tensors)
        own = tensors[name].numpy()
        others = [own.reshape(-1)[:-1], own[..., None], own.astype(np.int8), np.zeros((0,), own.dtype)]
        for value in others:
            if value.shape != own.shape or value.dtype != own.dtype:
                refused(tmp_path / "run", {**tensors, name: value}, run)
        refused(tmp_path / "run", {k: v for k, v in tensors.items() if k != name}, run)
    refused(tmp_path / "run", {**tensors, "optimizer.x.step": np.zeros(1)}, run)
    refused(tmp_path / "run", {**tensors, "more": np.zeros(1)}, run)


def test_a_judge_of_other_runs(saved, tmp_path):
    from models import judge

    tensors, run = saved
    for settings in (run["settings"], {}, {**run["settings"], "batch_size": "x"}, {**run["settings"], "data": "\0"}):
        dlc.save(tensors, tmp_path / "run", {"run": json.dumps({**run, "settings": settings})})
        result = CliRunner().invoke(judge.main, ["vae", str(tmp_path / "run")])
        assert isinstance(result.exception, SystemExit) and str(tmp_path / "run") in result.output, result.exception


def test_errors_are_ours():
    assert issubclass(dlc.CheckpointError, DlcError) and issubclass(dlc.data.DatasetError, DlcError)
