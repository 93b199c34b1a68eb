"""What holds of every language model: falling loss, exact resumption, a text to read."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dlc
from dlc.data import Vocabulary
from models import language


def text(length: int = 1200) -> language.Text:
    """Characters with something to learn: words of a small language."""
    rng = np.random.default_rng(0)
    words = " ".join(rng.choice(["tensor", "kernel", "graph", "loop", "fuse\n"], length))[:length]
    vocabulary = Vocabulary.of(words)
    tokens = vocabulary.encode(words)
    return language.Text(tokens[: length * 9 // 10], tokens[length * 9 // 10 :], vocabulary)


def common(**changes: Any) -> dict[str, Any]:
    return {"data": "tests", "seed": 3, "autocast": False, "lr": 1e-2, "dropout": 0.1} | changes


def check_resumes_exactly(start: language.Start, options: dict[str, Any], tmp_path: Path) -> None:
    """A run that Ctrl-C ends twice, inside an epoch and at its end, and that is resumed, equals a whole one."""
    whole, parts = str(tmp_path / "whole.safetensors"), str(tmp_path / "parts.safetensors")
    run, expected = language.train(start, options, text(), save=whole)
    steps = options["steps"]
    assert len(expected["loss"]) == steps > len(run.loader) + 1
    assert expected["loss"][-1] < expected["loss"][0] and expected["nats"][-1] < expected["loss"][0]
    stops = {2, len(run.loader), steps}
    taken = 0

    def stopping(options: dict[str, Any], text: language.Text) -> language.Run:
        run = start(options, text)
        step = run.step

        def stop(x, y):
            nonlocal taken
            taken += 1
            if taken in stops:
                os.kill(os.getpid(), signal.SIGINT)
            return step(x, y)

        run.step = stop  # type: ignore[method-assign]
        return run

    _, history = language.train(stopping, options, text(), save=parts)
    for stop in sorted(stops)[:-1]:
        assert len(history["loss"]) == stop
        _, history = language.train(stopping, options, text(), save=parts, resume=parts)
    assert history == expected
    assert Path(whole).read_bytes() == Path(parts).read_bytes()


def check_command(presets: language.Presets, start: language.Start, tmp_path: Path, *sizes: str) -> None:
    """The command line: training on a folder, a plot, a saved run that writes on from a prompt, mistakes."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("to be or not to be, that is the question\n" * 40)
    saved, plot = tmp_path / "run.safetensors", tmp_path / "curves.png"
    command = language.command(presets, start)

    def invoke(*args: str):
        return CliRunner().invoke(command, list(args))

    training = ["--data", str(tmp_path / "texts"), "--steps", "3", *sizes]
    result = invoke(*training, "--save", str(saved), "--plot", str(plot), "--sample", "5")
    assert result.exit_code == 0, result.output
    assert "step 3/3  loss" in result.output and "tokens/s" in result.output and "perplexity" in result.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    result = invoke(*training, "--autocast")
    assert result.exit_code == 0 and "step 3/3  loss" in result.output, result.output
    first, again = (
        invoke("--resume", str(saved), "--prompt", "to ", "--sample", "9", "--temperature", str(t)) for t in (0, 0)
    )
    assert first.exit_code == 0, first.output
    assert first.output == again.output and first.output.splitlines()[2].startswith("to ")
    for args, message in (
        (["--resume", str(saved), "--prompt", "\u00e9"], "has no '\u00e9'"),
        (["--resume", str(saved), "--lr", "0.5"], "--lr 0.5 cannot be changed in a resumed run"),
        (["--data", str(tmp_path / "none")], "none cannot be read"),
        (["--save", str(tmp_path / "no" / "run")], "there is no folder"),
        (["--save", str(tmp_path)], "is a folder"),
        (["--lr", "inf"], "inf is no number"),
    ):
        result = invoke(*args)
        assert result.exit_code != 0 and message in result.output, result.output
        assert "Traceback" not in result.output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert "--plot needs the package matplotlib" in invoke("--plot", str(plot)).output
        patch.setattr(dlc, "device", without_gpu)
        result = invoke("--device", "cuda")
    assert result.exit_code == 2 and "--device cuda: there is no GPU" in result.output
    (tmp_path / "texts" / "a.txt").write_text("something else\n" * 200)
    assert "has changed since" in invoke("--resume", str(saved)).output


def without_gpu(name: str) -> None:
    raise dlc.DeviceError("there is no GPU\nlong advice")


def assert_gradients_close(model: Any, reference: Any, rtol: float = 1e-3, atol: float = 1e-5) -> None:
    """The gradients of a dlc model equal those of a torch one with the same parameter names."""
    for name, p in model.named_parameters():
        theirs = dict(reference.named_parameters())[name].grad.numpy()
        np.testing.assert_allclose(p.grad.numpy(), theirs, rtol=rtol, atol=atol, err_msg=name)
