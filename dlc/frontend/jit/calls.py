"""What a call of a jitted function is made of: its signature, Tensors and numbers."""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlc.frontend.core import eager, places
from dlc.frontend.core.location import here
from dlc.frontend.core.tensor import Tensor, bare
from dlc.frontend.core.trace import state
from dlc.frontend.core.tree import TreeDef

_INT64 = 1 << 63
COROUTINES = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


class Static(NamedTuple):
    """A static argument: part of the key by value, and by type (1, 1.0 and True are different)."""

    type: type
    value: Any


class ByIdentity:
    """In a key: one object and no other. It is not kept alive."""

    __slots__ = ("ref", "number")

    def __init__(self, value: Any):
        self.ref, self.number = weakref.ref(value), id(value)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: Any) -> bool:
        return self is other or type(other) is ByIdentity and self.ref() is not None and self.ref() is other.ref()


def static(value: Any) -> Any:
    """An object as a part of a key: by value and type where its class says what is equal, by identity otherwise."""
    if type(value) is types.MethodType:
        return static(value.__func__), static(value.__self__)
    if type(value).__hash__ is object.__hash__ and type(value).__weakrefoffset__:
        return ByIdentity(value)
    return Static(type(value), value)


class Call(NamedTuple):
    """One call's arguments, taken apart."""

    key: Any
    tensors: list[Tensor]
    numbers: list[Any]


class Signature(NamedTuple):
    """A jitted function and the leaves of one call's arguments, with what each is called."""

    name: str
    fn: Callable[..., Any]
    leaves: list[Any]
    treedef: TreeDef
    paths: list[str]


def is_number(leaf: Any) -> bool:
    """Whether a leaf of the arguments is an input by itself. What no int64 holds is not: it is static, and means what
    it means without `jit`."""
    if isinstance(leaf, int):
        return not isinstance(leaf, bool) and -_INT64 <= leaf < _INT64
    return isinstance(leaf, float)


def is_leaf(x: Any) -> bool:
    return type(x) is Static


def of_array(array: Any) -> Tensor:
    """An array given as an argument: it goes where the function runs."""
    if not places.several:
        return Tensor(array)
    return bare(eager.following(np.asarray(array)), state.trace)


def check_static(fn: Any, numbers: int | Sequence[int], names: str | Sequence[str]) -> None:
    """Raise ValueError where `jit` is told of static arguments that its function does not have."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return  # a builtin that does not say
    kinds = [p.kind for p in parameters.values()]
    count = sum(k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)
    wrong: list[Any] = []
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        wrong += [k for k in ([numbers] if isinstance(numbers, int) else numbers) if not -count <= k < count]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        wrong += [n for n in ([names] if isinstance(names, str) else names) if n not in parameters]
    if wrong:
        raise ValueError(
            f"jit: {name_of(fn)} has no argument {', '.join(map(repr, wrong))} to be static; it takes "
            f"{', '.join(parameters) or 'none'}\n  at {here()}"
        )


def name_of(fn: Any) -> str:
    """What a function is called in messages."""
    return getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", None) or type(fn).__name__
