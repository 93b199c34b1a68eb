"""The U-Net: its data, falling loss, resumption, and PyTorch's outputs and gradients from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc.data import DataLoader, DatasetError, Digits, TensorDataset
from models import unet
from models.data import Data
from tests.models import tiny


def load(name: str, batch_size: int, seed: int) -> Data:
    """Sixteen images of 8 x 8 with masks of three classes, which brightness tells."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (16, 1, 8, 8)).astype(np.float32)
    pairs = TensorDataset(pixels, np.digitize(pixels[:, 0], [-0.3, 0.3]))
    train = DataLoader(pairs, batch_size, shuffle=True, drop_last=True, seed=seed)
    return Data(train, DataLoader(pairs, 16, seed=seed), 1, 8, 3)


def test_loss_falls():
    first, *_, last = tiny.losses(unet, load)
    assert last < first


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    tiny.same_when_resumed(unet, tmp_path, load)


def test_composed_digits():
    data = unet.compose(Digits(), 20, 24, each=4, seed=5)
    images, masks = data.arrays
    assert images.shape == (20, 1, 24, 24) and images.dtype == np.uint8 and masks.shape == (20, 24, 24)
    assert (images[:, 0][masks > 0] >= 128).all()
    found = [len(np.unique(mask)) - 1 for mask in masks]
    assert 1 <= min(found) and max(found) <= 4
    assert set(np.unique(masks)) == set(range(11))
    assert all((a == b).all() for a, b in zip(data.arrays, unet.compose(Digits(), 20, 24, 4, 5).arrays, strict=True))


def test_mean_iou(monkeypatch: pytest.MonkeyPatch):
    truth = np.array([[[0, 0, 1, 1]], [[0, 2, 2, 2]]])
    guess = np.array([[[0, 1, 1, 1]], [[0, 2, 2, 0]]])
    data = Data(None, [(dlc.zeros(2), dlc.asarray(truth))], 1, 4, classes=4)
    monkeypatch.setattr(unet, "predict", lambda model, x: dlc.asarray(guess))
    assert unet.mean_iou(None, data) == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)  # no pixel of the fourth anywhere


def test_folder_and_picture(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for k in range(10):
        pixels = rng.integers(256, size=(8, 12, 3), dtype=np.uint8)
        image.fromarray(pixels).save(tmp_path / "images" / f"{k}.png")
        image.fromarray(np.uint8(255 * (pixels[..., 0] > 128))).save(tmp_path / "masks" / f"{k}.png")
    data = unet.load(str(tmp_path), 4, 0)
    assert (len(data.train), len(data.test), data.channels, data.classes) == (2, 1, 3, 2)
    model, _ = unet.build(data, 1e-2)
    assert 0 <= unet.mean_iou(model.eval(), data) <= 1
    unet.picture(model, data, str(tmp_path / "seen.png"))
    with image.open(tmp_path / "seen.png") as seen:
        assert seen.width == 2 * (12 * 8 + 2) and seen.height == 3 * (8 * 8 + 2)  # two are held out
    (tmp_path / "images" / "3.png").unlink()
    with pytest.raises(DatasetError, match="3 pairs are too few"):
        for k in range(7):
            (tmp_path / "images" / f"{k}.png").unlink(missing_ok=True)
        unet.load(str(tmp_path), 2, 0)


def in_torch() -> Any:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def double(inputs: int, outputs: int) -> Any:
        layers: list[Any] = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2, self.bottom = double(3, 16), double(16, 32), double(32, 64)
            self.pool = nn.MaxPool2d(2)
            self.up2, self.merge2 = nn.ConvTranspose2d(64, 32, 2, 2), double(64, 32)
            self.up1, self.merge1 = nn.ConvTranspose2d(32, 16, 2, 2), double(32, 16)
            self.out = nn.Conv2d(16, 5, 1)

        def forward(self, x: Any) -> Any:
            fine = self.down1(x)
            middle = self.down2(self.pool(fine))
            x = self.merge2(torch.cat((middle, self.up2(self.bottom(self.pool(middle)))), 1))
            return self.out(self.merge1(torch.cat((fine, self.up1(x)), 1)))

    torch.manual_seed(0)
    return UNet()


def test_outputs_and_gradients_are_pytorchs():
    theirs = in_torch()
    import torch

    ours = unet.UNet(3, 5)
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 16, 12), np.float32), rng.integers(5, size=(2, 16, 12))

    @dlc.jit
    def run(model, x, y):
        scores = model(x)
        loss = F.cross_entropy(scores, y)
        loss.backward()
        return scores, loss

    scores, loss = run(ours, dlc.asarray(x), dlc.asarray(y))
    expected = theirs(torch.tensor(x))
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.tensor(y))
    expected_loss.backward()
    np.testing.assert_allclose(scores.numpy(), expected.detach().numpy(), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(loss.item(), expected_loss.item(), rtol=1e-5)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = max(1e-4, float(q.grad.abs().max()))
        np.testing.assert_allclose(p.grad.numpy() / scale, q.grad.numpy() / scale, atol=1e-3, err_msg=name)
