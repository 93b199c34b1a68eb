"""The training commands: exact repetition and resumption, Ctrl-C, mistakes, and real accuracy (slow)."""

from __future__ import annotations

import errno
import gzip
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

import dlc
from dlc.data import mnist
from models import cnn, loop, mlp, training

MODELS = [mlp, cnn]
needs_mnist = pytest.mark.skipif(not (mnist.data_folder() / "mnist").is_dir(), reason="no MNIST under DLC_DATA")


def options(**changes: Any) -> dict[str, Any]:
    return {"data": "digits", "epochs": 2, "batch_size": 200, "lr": 4e-3, "seed": 3} | changes


def train(model: ModuleType, settings: dict[str, Any], step=None, **kwargs: Any) -> dict[str, list[float]]:
    return training.train(model.build, step or model.train_step, model.predict, settings, **kwargs)


@pytest.mark.parametrize("model", MODELS, ids=["mlp", "cnn"])
def test_interrupted_and_resumed_equals_uninterrupted(model: ModuleType, tmp_path: Path):
    whole, parts = str(tmp_path / "whole.safetensors"), str(tmp_path / "parts.safetensors")
    expected = train(model, options(), save=whole)
    assert len(expected["loss"]) == 14 and len(expected["accuracy"]) == 2
    assert expected["loss"][-1] < expected["loss"][0]
    taken = 0

    def step(*args: Any):
        nonlocal taken
        taken += 1
        if taken in (3, 7, 8):  # inside an epoch, with its last step, and with the first of the next
            os.kill(os.getpid(), signal.SIGINT)
        return model.train_step(*args)

    history = train(model, options(), step, save=parts)
    for steps, tests in ((3, 0), (7, 1), (8, 1)):
        assert (len(history["loss"]), len(history["accuracy"])) == (steps, tests)
        history = train(model, options(), step, save=parts, resume=parts)
    assert history == expected
    assert Path(whole).read_bytes() == Path(parts).read_bytes()


def test_equal_seeds_give_equal_runs():
    first, again, other = (train(mlp, options(epochs=1, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first["loss"] != other["loss"]


def test_a_finished_run_resumes_to_itself(tmp_path: Path):
    path = str(tmp_path / "run.safetensors")
    done = train(mlp, options(epochs=1), save=path)
    assert train(mlp, options(epochs=1), resume=path) == done


def command(model: ModuleType):
    return training.command(model.build, model.train_step, model.predict, {"digits": 1, "mnist": 1}, 200, 4e-3)


def run(*args: str):
    return CliRunner().invoke(command(mlp), list(args))


def test_command(tmp_path: Path):
    saved, plot = str(tmp_path / "run.safetensors"), tmp_path / "curve.png"
    result = run("--save", saved, "--plot", str(plot))
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"epoch  1/1  loss \d\.\d{4}  test \d+\.\d\d%  [\d,]+ samples/s\n", result.output)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run("--resume", saved, "--seed", "0").exit_code == 0
    result = run("--resume", saved, "--lr", "0.5")
    assert result.exit_code == 2
    assert "--lr 0.5 cannot be changed in a resumed run, which has 0.004" in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "cifar"], "'cifar' is not one of 'digits', 'mnist'"),
        (["--device", "abacus"], "'abacus' is not"),
        (["--epochs", "0"], "0 is not in the range"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--plot", "curve.foo"], "curve.foo: a picture ends in .png"),
        (["--resume", "missing.safetensors"], "cannot read missing.safetensors"),
        (["--save", "no/such/folder/run.safetensors"], "there is no folder no/such/folder"),
        (["--plot", "no/such/folder/curve.png"], "there is no folder no/such/folder"),
        (["--save", "models"], "models is a folder"),
        (["--batch-size", "-3"], "-3 is not in the range"),
        (["--lr", "nan"], "nan is no number"),
        (["--lr", "-1"], "-1.0 is not in the range"),
    ],
)
def test_mistakes(args: list[str], message: str):
    result = run(*args)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("--plot", "curve.png")
    assert result.exit_code == 2 and "--plot needs the package matplotlib" in result.output


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def full(history: Any, path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(loop, "draw", full)
    result = run("--epochs", "1", "--steps", "1", "--plot", str(tmp_path / "curve.png"))
    assert result.exit_code == 1 and "No space left on device" in result.output
    assert isinstance(result.exception, SystemExit)


def test_files_that_are_no_runs(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    dlc.save({"w": dlc.ones(3)}, path)
    assert f"{path} holds tensors, but no training run" in run("--resume", str(path)).output
    path.write_bytes(path.read_bytes()[:-5])
    assert "no whole safetensors file" in run("--resume", str(path)).output


def test_truncated_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DLC_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for name in mnist.MD5:
        (tmp_path / "mnist" / name).write_bytes(gzip.compress(b"\0" * 1000)[:-3])
    result = run("--data", "mnist")
    assert result.exit_code == 1
    assert "train-images-idx3-ubyte.gz is truncated" in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_saves_and_leaves(tmp_path: Path):
    path = tmp_path / "run.safetensors"
    args = [sys.executable, "-m", "models.mlp", "--epochs", "100000", "--save", str(path)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.endswith(f"stopped; go on with --resume {path}\n")
    assert err == ""
    assert dlc.load(path)["history.accuracy"].shape[0] >= 1


def trained(name: str, *args: str) -> tuple[float, float]:
    """Last test accuracy of a training command as users run it, and the seconds it took."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"models.{name}", *args], capture_output=True, text=True, check=True)
    return float(re.findall(r"test ([\d.]+)%", done.stdout)[-1]), time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_digits(name: str):
    accuracy, seconds = trained(name)
    assert accuracy >= 97.0
    assert seconds < 60


@pytest.mark.slow
@needs_mnist
@pytest.mark.parametrize(("name", "least"), [("mlp", 98.0), ("cnn", 99.2)])
def test_mnist(name: str, least: float):
    assert trained(name, "--data", "mnist")[0] >= least
