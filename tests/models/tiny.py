"""Training runs of a few steps on random images."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import dlc
from dlc.data import DataLoader, TensorDataset
from models import training
from models.data import Data


def images(channels: int = 1, size: int = 8, count: int = 16, classes: int = 10) -> Callable[[str, int, int], Data]:
    """In place of a model's `load`: random images with class numbers; two batches of half of them an epoch."""

    def load(name: str, batch_size: int, seed: int) -> Data:
        rng = np.random.default_rng(0)
        pixels = rng.uniform(-1, 1, (count, channels, size, size)).astype(np.float32)
        pairs = TensorDataset(pixels, rng.integers(classes, size=count))
        train = DataLoader(pairs, batch_size, shuffle=True, drop_last=True, seed=seed)
        return Data(train, DataLoader(pairs, count, seed=seed), channels, size, classes)

    return load


def options(model: ModuleType, **changes: Any) -> dict[str, Any]:
    variants = dict.fromkeys(model.TASK.variants, False)
    return {"data": "digits", "epochs": 2, "batch_size": 8, "lr": 1e-3, "seed": 3} | variants | changes


def same_when_resumed(model: ModuleType, tmp_path: Path, load: Callable[[str, int, int], Data], **changes: Any) -> None:
    """A run of four steps, stopped after the first and going on, gives the history and the file of a run at once."""
    task, settings = model.TASK._replace(load=load), options(model, **changes)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    predict = getattr(model, "predict", None)
    expected = training.train(model.build, model.train_step, predict, settings, save=str(whole), task=task)
    assert len(expected["loss"]) == 4 and len(expected[task.metric]) == 2
    assert all(np.isfinite(values).all() for values in expected.values())

    def stopping(*args: Any) -> dlc.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return model.train_step(*args)

    training.train(model.build, stopping, predict, settings, save=str(parts), task=task)
    history = training.train(
        model.build, model.train_step, predict, settings, save=str(parts), resume=str(parts), task=task
    )
    assert history == expected
    assert whole.read_bytes() == parts.read_bytes()


def losses(model: ModuleType, load: Callable[[str, int, int], Data], steps: int = 3, **changes: Any) -> list[float]:
    """The losses of some steps on one batch."""
    dlc.manual_seed(0)
    settings = options(model, **changes)
    data = load("digits", 8, 0)
    net, optimizer = model.build(data, settings["lr"], **{name: settings[name] for name in model.TASK.variants})
    batch = next(iter(data.train))
    return [model.train_step(net, optimizer, *batch).item() for _ in range(steps)]
