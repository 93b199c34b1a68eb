"""A training run in one safetensors file: everything that decides how it goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import dlc

# What changes while a run goes on, of the settings of optimizer, schedule and loader: these also move momenta.
_MOVES = {"last_epoch", "_last_lr", "lr", "momentum", "betas", "epoch", "batch"}


def save(path: str, settings: dict[str, Any], parts: dict[str, Any], history: dict[str, list[float]]) -> None:
    """Write a run. `parts` has model, optimizer, scheduler and loader, and may have `carried`: a dict of the Tensors
    that one step hands to the next. The file is replaced whole or not at all."""
    tensors, rest = _content(parts)
    tensors["history"] = {name: np.array(values, np.float64) for name, values in history.items()}
    dlc.save(tensors, path, {"run": json.dumps({"settings": settings, **rest})})


def settings(path: str) -> dict[str, Any]:
    """The settings that a run was started with. Raises dlc.CheckpointError."""
    return _read(path)[1]["settings"]


def setting(path: str, saved: dict[str, Any], name: str, kind: type) -> Any:
    """One of the settings of a run. Raises dlc.CheckpointError where it is missing or no sensible `kind`."""
    value = saved.get(name)
    if type(value) not in ((int, float) if kind is float else (kind,)) or not _is_sensible(value):
        shown = f"is {value!r}"[:60] if name in saved else "is missing"
        raise dlc.CheckpointError(f"{path} is no sound training run: its setting {name} {shown}")
    return value


def load(path: str, parts: dict[str, Any], history: Iterable[str]) -> dict[str, list[float]]:
    """Put a run's state into `parts` and the random numbers; returns its history, the lists called `history`.

    Raises dlc.CheckpointError unless the file has all that a run of these parts has, and nothing else. One of the
    lists is "loss", with a number for each step.
    """
    tensors, rest = _read(path)
    own_tensors, own_rest = _content(parts)
    curves = {name: value.numpy() for name, value in _under(tensors, "history").items()}
    own_rest = json.loads(json.dumps(own_rest))
    alike = (
        _types(dict(_named(own_tensors))) == _types({k: t for k, t in tensors.items() if not k.startswith("history.")})
        and curves.keys() == set(history)
        and all(curve.ndim == 1 and curve.dtype == np.float64 for curve in curves.values())
        and all(_is_alike(own_rest[name], rest.get(name)) for name in own_rest)
        and rest["scheduler"]["last_epoch"] == len(curves["loss"])
    )
    if not alike:
        raise dlc.CheckpointError(f"{path} is a run of another model, or of one of another size")
    state: dict[int, dict[str, Any]] = {}
    for name, value in _under(tensors, "optimizer").items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = value
    try:
        parts["loader"].load_state_dict(rest["loader"])
        parts["scheduler"].load_state_dict(rest["scheduler"])
        parts["optimizer"].load_state_dict({"state": state, "param_groups": rest["optimizer"]})
    except (ValueError, ArithmeticError) as error:
        raise dlc.CheckpointError(f"{path} is a run of another model, or damaged: {error}") from None
    parts["model"].load_state_dict(_under(tensors, "model"))
    dlc.random.default_generator.state.assign(tensors["random"])
    for name, value in _under(tensors, "carried").items():
        parts["carried"][name].assign(value)
    return {name: values.tolist() for name, values in curves.items()}


def _content(parts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be kept of `parts` and the random numbers: Tensors, and what JSON can hold."""
    optimizer = parts["optimizer"].state_dict()
    tensors = {
        "model": parts["model"].state_dict(),
        "optimizer": optimizer["state"],
        "random": dlc.random.default_generator.state,
        "carried": parts.get("carried", {}),
    }
    rest = {
        "optimizer": optimizer["param_groups"],
        "scheduler": parts["scheduler"].state_dict(),
        "loader": parts["loader"].state_dict(),
    }
    return tensors, rest


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors, metadata = dlc.load(path, with_metadata=True)
    if "run" not in metadata:
        raise dlc.CheckpointError(f"{path} holds tensors, but no training run")
    try:
        rest = json.loads(metadata["run"])
    except (ValueError, RecursionError) as error:
        raise dlc.CheckpointError(f"{path} is no sound training run: {error}") from None
    if not isinstance(rest, dict) or not isinstance(rest.get("settings"), dict):
        raise dlc.CheckpointError(f"{path} is no sound training run: it has no settings")
    return tensors, rest


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}


def _types(tensors: dict[str, Any]) -> dict[str, tuple]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _named(tensors: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested Tensors by the names that `dlc.save` gives them."""
    for name, value in tensors.items():
        if isinstance(value, dict):
            yield from _named(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_alike(own: Any, found: Any, moves: bool = False) -> bool:
    """Can what was read from JSON be a later state of `own`? What a run moves may be another sensible number."""
    if isinstance(own, dict):
        return (isinstance(found, dict) and own.keys() == found.keys()
                and all(_is_alike(own[name], found[name], name in _MOVES) for name in own))
    if isinstance(own, list):
        return (isinstance(found, list) and len(own) == len(found)
                and all(_is_alike(*pair, moves) for pair in zip(own, found, strict=True)))
    if not moves or isinstance(own, bool | str | None):
        return type(own) is type(found) and own == found
    return type(found) in ((int, float) if type(own) is float else (int,)) and _is_sensible(found)


def _is_sensible(value: Any) -> bool:
    return not isinstance(value, (int, float)) or math.isfinite(value) and abs(value) < 1 << 63
