"""The vision transformer: falling loss and resumption."""

from __future__ import annotations

from pathlib import Path

import dlc
from models import vit
from tests.models import tiny


def small(data, lr):
    model = vit.ViT(data.channels, data.size, patch=2, width=16, depth=2, heads=2)
    return model, dlc.optim.AdamW(model.parameters(), lr=lr)


def test_loss_falls(monkeypatch):
    monkeypatch.setattr(vit, "build", small)
    first, *_, last = tiny.losses(vit, tiny.images(1, 8), steps=5, lr=1e-2)
    assert last < first


def test_a_resumed_run_equals_an_uninterrupted_one(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(vit, "build", small)  # with dropout, whose random numbers go on as well
    tiny.same_when_resumed(vit, tmp_path, tiny.images(1, 8))


def test_sizes():
    for channels, size in ((1, 8), (1, 28), (3, 32)):
        assert vit.vit(channels, size)(dlc.zeros(2, channels, size, size)).shape == (2, 10)
