"""ddpm, gan and vae: falling loss, resumption, samples, and the judge of samples."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import dlc
from models import ddpm, gan, judge, pictures, training, vae
from tests.models import tiny

MODELS = [ddpm, gan, vae]
NAMES = ["ddpm", "gan", "vae"]
LOAD = tiny.images(1, 8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    """The diffusion model in small, as it takes longest to compile."""

    def build(data, lr, wide=False):
        model = ddpm.Diffusion(1, 8, 8)
        return model, dlc.optim.AdamW(model.net.parameters(), lr=lr, weight_decay=0.0)

    monkeypatch.setattr(ddpm, "build", build)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_loss_falls(model):
    first, *_, last = tiny.losses(model, LOAD, steps=12, lr=5e-3)
    assert last < first


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one(model, tmp_path: Path):
    tiny.same_when_resumed(model, tmp_path, LOAD)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_samples_depend_on_the_seed_alone(model, tmp_path: Path):
    dlc.manual_seed(0)
    data = LOAD("digits", 8, 0)
    net, _ = model.build(data, 1e-3)
    first = model.sample(net.eval(), 3, seed=1)
    assert first.shape == (3, 1, 8, 8) and first.min() >= 0 and first.max() <= 1
    state = dlc.random.default_generator.state.numpy().copy()
    assert (model.sample(net, 3, seed=1) == first).all()
    assert (model.sample(net, 3, seed=2) != first).any()
    model.picture(net, data, str(tmp_path / "grid.png"))
    assert (dlc.random.default_generator.state.numpy() == state).all()
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_diffusion_turns_an_image_into_noise_and_back():
    signal, spread = (part.numpy().ravel() for part in ddpm.turn(dlc.asarray(np.float32([0, 0.5, 1]))))
    np.testing.assert_allclose(signal**2 + spread**2, 1, rtol=1e-6)
    np.testing.assert_allclose(signal[[0, 2]], [math.cos(0.008 / 1.008 * math.pi / 2), 0], atol=1e-6)

    class Known(dlc.nn.Module):
        """Knows what every image was."""

        def __init__(self, image):
            super().__init__()
            self.register_buffer("image", dlc.asarray(image))

        def average(self, x, t):
            signal, spread = ddpm.turn(t)
            noise = (x - signal * self.image) / spread
            return signal * noise - spread * self.image

    image = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 1, 4, 4)).astype(np.float32)
    x = dlc.random.normal(image.shape, key=dlc.random.key(0))
    for t, until in ((1.0, 0.6), (0.6, 0.3), (0.3, 0.0)):
        x = ddpm.denoise(Known(image), x, t, until)
    np.testing.assert_allclose(x.numpy(), image, atol=0.05)


def test_the_average_follows_the_weights():
    dlc.manual_seed(0)
    model = ddpm.Diffusion(1, 8, 8)
    mean, now = model.average.enter.weight, model.net.enter.weight
    assert mean is not now and (mean.numpy() == now.numpy()).all() and not mean.requires_grad
    old = now.numpy().copy()
    now.assign(now.detach() + 1)
    model.update_average()
    np.testing.assert_allclose(mean.numpy(), old + 1 - 2 / 11, rtol=1e-5)


def test_the_average_generator_follows_weights_and_statistics():
    dlc.manual_seed(0)
    data = LOAD("digits", 8, 0)
    model, optimizer = gan.build(data, 1e-2)
    before = {name: value.numpy().copy() for name, value in model.average.state_dict().items()}
    gan.train_step(model, optimizer, *next(iter(data.train)))
    now, after = model.generator.state_dict(), model.average.state_dict()
    for name in ("0.weight", "2.weight", "2.running_mean", "2.running_var"):
        assert (now[name].numpy() != before[name]).any()
        expected = 2 / 11 * before[name] + 9 / 11 * now[name].numpy()
        np.testing.assert_allclose(after[name].numpy(), expected, rtol=1e-5, atol=1e-7)
    assert after["2.num_batches_tracked"].item() == 1


def test_the_slope_of_a_linear_score_is_the_length_of_its_weights():
    weights = np.random.default_rng(0).normal(size=(16, 1)).astype(np.float32)

    def slope(w):
        return gan.slope(lambda x: (x.reshape(3, 16) @ w)[:, 0], dlc.ones(3, 1, 4, 4))

    value, gradient = dlc.value_and_grad(slope)(dlc.asarray(weights))
    np.testing.assert_allclose(value.item(), (weights**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient.numpy(), 2 * weights, rtol=1e-5)


def test_grid():
    made = pictures.grid(np.linspace(0, 1, 5 * 64 * 2).reshape(5, 64, 2), columns=3)
    assert made.shape == (2 * 66, 3 * 4, 3)
    assert (made[0] == 1).all() and (made[66:, 8:] == 1).all() and made[1, 1, 0] == 0
    assert (pictures.colours(np.array([0, 2]), 3)[0] == 0).all()


def test_judge(tmp_path: Path):
    run = str(tmp_path / "vae.safetensors")
    command = training.command(vae.build, vae.train_step, None, {"digits": 1}, 128, 2e-3, vae.TASK)
    done = CliRunner().invoke(command, ["--save", run, "--picture", str(tmp_path / "grid.png")])
    assert re.fullmatch(r"epoch  1/1  loss [\d.]+  test loss [\d.]+  [\d,]+ samples/s\n", done.output)
    assert (tmp_path / "grid.png").exists()
    judge_of, classifier = CliRunner(), tmp_path / "classifier.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judge.EPOCHS, "digits", 2)
        first = judge_of.invoke(judge.main, ["vae", run, "--classifier", str(classifier), "--count", "20"])
    assert first.exit_code == 0, first.output
    again = judge_of.invoke(judge.main, ["vae", run, "--classifier", str(classifier), "--count", "20"])
    assert "training the classifier" in first.output and "training" not in again.output
    assert first.output.endswith(again.output)
    assert re.search(r"20 samples: [\d.]+% are a digit with confidence above 0.9\nclasses that appear: \d+ of 10 \(\d",
                     again.output)
    missing = judge_of.invoke(judge.main, ["vae", str(tmp_path / "no.safetensors")])
    assert missing.exit_code == 1 and "cannot read" in missing.output
