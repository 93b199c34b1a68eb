"""A training run in one safetensors file: everything that decides how it goes on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import dlc


def save(path: str, settings: dict[str, Any], parts: dict[str, Any], history: dict[str, list[float]]) -> None:
    """Write a run. `parts` has model, optimizer, scheduler and loader, and may have `carried`: a dict of the Tensors
    that one step hands to the next. The file is replaced whole or not at all."""
    optimizer = parts["optimizer"].state_dict()
    tensors = {
        "model": parts["model"].state_dict(),
        "optimizer": optimizer["state"],
        "history": {name: np.array(values, np.float64) for name, values in history.items()},
        "random": dlc.random.default_generator.state,
        "carried": parts.get("carried", {}),
    }
    rest = {
        "settings": settings,
        "optimizer": optimizer["param_groups"],
        "scheduler": parts["scheduler"].state_dict(),
        "loader": parts["loader"].state_dict(),
    }
    dlc.save(tensors, path, {"run": json.dumps(rest)})


def settings(path: str) -> dict[str, Any]:
    """The settings that a run was started with. Raises dlc.CheckpointError."""
    return _read(path)[1]["settings"]


def load(path: str, parts: dict[str, Any]) -> dict[str, list[float]]:
    """Put a run's state into `parts` and the random numbers; returns its history."""
    tensors, rest = _read(path)
    state: dict[int, dict[str, Any]] = {}
    for name, value in _under(tensors, "optimizer").items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = value
    parts["model"].load_state_dict(_under(tensors, "model"))
    parts["optimizer"].load_state_dict({"state": state, "param_groups": rest["optimizer"]})
    parts["scheduler"].load_state_dict(rest["scheduler"])
    parts["loader"].load_state_dict(rest["loader"])
    dlc.random.default_generator.state.assign(tensors["random"])
    for name, value in _under(tensors, "carried").items():
        parts["carried"][name].assign(value)
    return {name: value.numpy().tolist() for name, value in _under(tensors, "history").items()}


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors, metadata = dlc.load(path, with_metadata=True)
    if "run" not in metadata:
        raise dlc.CheckpointError(f"{path} holds tensors, but no training run")
    return tensors, json.loads(metadata["run"])


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
