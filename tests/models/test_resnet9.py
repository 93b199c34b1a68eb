"""resnet9, both sizes: falling loss, resumption, and PyTorch's outputs and gradients from the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dlc
import dlc.nn.functional as F
from models import resnet9, training, vit
from tests.models import tiny


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_loss_falls(size: int, channels: int):
    first, *_, last = tiny.losses(resnet9, tiny.images(channels, size))
    assert last < first


def test_the_wide_one_learns():
    first, *_, last = tiny.losses(resnet9, tiny.images(3, 32), wide=True, lr=0.05)
    assert last < first


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    tiny.same_when_resumed(resnet9, tmp_path, tiny.images(1, 8))


def test_options():
    command = training.command(
        resnet9.build, resnet9.train_step, resnet9.predict, {"digits": 1}, 128, 5e-3, resnet9.TASK
    )
    done = CliRunner().invoke(command, ["--steps", "2", "--batch-size", "16"])
    assert re.fullmatch(r"epoch  1/1  loss \d\.\d{4}  test \d+\.\d\d%  [\d,]+ samples/s\n", done.output)
    assert "epochs 20, batch_size 512, lr 0.4" in " ".join(CliRunner().invoke(command, ["--help"]).output.split())


def in_torch(make: str, *args: Any) -> Any:
    """The same model code with PyTorch's layers."""
    torch = pytest.importorskip("torch")

    class Residual(torch.nn.Module):
        def __init__(self, fn: Any):
            super().__init__()
            self.fn = fn

        def forward(self, x: Any) -> Any:
            return x + self.fn(x)

    class Scale(torch.nn.Module):
        def __init__(self, factor: float):
            super().__init__()
            self.factor = factor

        def forward(self, x: Any) -> Any:
            return x * self.factor

    layers = SimpleNamespace(**{name: getattr(torch.nn, name) for name in dir(torch.nn)} | {"Residual": Residual})
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet9, "nn", layers)
        patch.setattr(resnet9, "Scale", Scale)
        return getattr(resnet9, make)(*args)


@pytest.mark.parametrize("make", ["resnet9", "wide_resnet9"])
def test_outputs_and_gradients_are_pytorchs(make: str):
    """In float64: in float32 a value beside the kink of a ReLU may fall on its other side."""
    theirs = in_torch(make).double()
    import torch

    ours = getattr(resnet9, make)().double()
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3, 32, 32)), rng.integers(10, size=4)

    @dlc.jit
    def run(model, x, y):
        scores = model(x)
        loss = F.cross_entropy(scores, y, label_smoothing=0.1)
        loss.backward()
        return scores, loss

    scores, loss = run(ours, dlc.asarray(x), dlc.asarray(y))
    expected = theirs(torch.tensor(x))
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.tensor(y), label_smoothing=0.1)
    expected_loss.backward()
    np.testing.assert_allclose(scores.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(loss.item(), expected_loss.item(), rtol=1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-7, atol=1e-10, err_msg=name)
    for (name, b), c in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(b.numpy(), c.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
    ours.float().eval(), theirs.float().eval()
    x = x.astype(np.float32)
    np.testing.assert_array_equal(
        resnet9.predict(ours, dlc.asarray(x)).numpy(), theirs(torch.tensor(x)).argmax(1).numpy()
    )


def test_a_run_of_another_model(tmp_path: Path):
    path = str(tmp_path / "run.safetensors")
    settings = tiny.options(resnet9, epochs=1)
    task = resnet9.TASK._replace(load=tiny.images(1, 8))
    resnet9_parts = resnet9.build, resnet9.train_step, resnet9.predict
    training.train(*resnet9_parts, settings, save=path, task=task)
    with pytest.raises(dlc.CheckpointError, match="run.safetensors is a run of another model, or of one of another"):
        other = vit.TASK._replace(load=tiny.images(1, 8))
        training.train(vit.build, vit.train_step, vit.predict, settings, resume=path, task=other)
