"""Collecting and loading the state of a module tree."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from dlc import Tensor
from dlc.base.errors import kind_of
from dlc.frontend.core.detached import Detached


class Module(Protocol):
    """What is needed of a Module here."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _temporary_buffers: set[str]
    _modules: dict[str, Any]


class IncompatibleKeys(NamedTuple):
    """Names that a module has and the state lacks, and the other way round."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _tensors(module: Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Depth first; each module's parameters, then its buffers, then its children. Shared ones under every name."""
    for name, param in module._parameters.items():
        if param is not None:
            yield prefix + name, param
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._temporary_buffers:
            yield prefix + name, buffer
    for name, child in module._modules.items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def collect(module: Module, prefix: str = "") -> OrderedDict[str, Tensor]:
    """Name -> cell without gradients."""
    return OrderedDict((name, Detached(tensor)) for name, tensor in _tensors(module, prefix))


def load(module: Module, state: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Assign the values of `state` by name; all or nothing."""
    if not isinstance(state, Mapping):
        raise TypeError(f"load_state_dict: needs a dict of names and values, got {kind_of(state)}")
    own = OrderedDict(_tensors(module, ""))
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    problems = []
    if strict and missing:
        problems.append(f"missing keys: {', '.join(missing)}")
    if strict and unexpected:
        problems.append(f"unexpected keys: {', '.join(unexpected)}")
    for name, tensor in own.items():
        if name in state and not hasattr(state[name], "shape"):
            problems.append(f"{name} is a {kind_of(state[name])}, not an array")
        elif name in state and tuple(state[name].shape) != tuple(tensor.shape):
            problems.append(f"{name} has shape {tuple(state[name].shape)}, the module's is {tuple(tensor.shape)}")
    if problems:
        raise ValueError(f"load_state_dict of {type(module).__name__}:\n  " + "\n  ".join(problems))
    values = {name: value_of(state[name], tensor.dtype, tensor.device) for name, tensor in own.items() if name in state}
    for name, value in values.items():
        own[name].assign(value)
    return IncompatibleKeys(missing, unexpected)


def value_of(value: Any, dtype, device: str) -> Tensor:
    """A dlc Tensor of `dtype` on `device` with the content of a dlc or torch tensor, a NumPy array or a number."""
    if isinstance(value, Tensor):
        return Tensor(value.detach(), dtype).to(device)
    if hasattr(value, "detach"):  # a torch tensor; NumPy has no bfloat16 of its own
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return Tensor(np.array(value), dtype, device=device)
