"""What a call of a jitted function is made of: its signature, Tensors and numbers."""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import numpy as np

from dlc.frontend import eager, placement
from dlc.frontend.tensor import Tensor, bare
from dlc.frontend.trace import state

NUMBERS = (int, float)
COROUTINES = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


class Static(NamedTuple):
    """A static argument: part of the key by value, and by type (1, 1.0 and True are different)."""

    type: type
    value: Any


class Call(NamedTuple):
    """One call's arguments, taken apart."""

    key: Any
    tensors: list[Tensor]
    numbers: list[Any]


def is_leaf(x: Any) -> bool:
    return type(x) is Static


def of_array(array: Any) -> Tensor:
    """An array given as an argument: it goes where the function runs."""
    if not placement.several:
        return Tensor(array)
    return bare(eager.following(np.asarray(array)), state.trace)


def name_of(fn: Any) -> str:
    """What a function is called in messages."""
    return getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", None) or type(fn).__name__
