"""Whether arguments fit what a function says of its parameters: asked once a call has failed, so that it costs nothing
where none does.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union

import numpy as np

from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node

TORCH_KEYWORDS = {"dim": "axis", "keepdim": "keepdims"}  # PyTorch's name and ours
_NUMBERS: dict[Any, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.integer, np.floating),
}


def uncallable(fn: Callable, args: tuple, kwargs: dict[str, Any], complaint: str) -> str:
    """Python's complaint of arguments that `fn` has no parameters for, with the name that a keyword has here; '' where
    it has."""
    signature = inspect.signature(fn)
    try:
        signature.bind(*args, **kwargs)
        return ""
    except TypeError:
        for theirs, ours in (*TORCH_KEYWORDS.items(), *((ours, theirs) for theirs, ours in TORCH_KEYWORDS.items())):
            if f"unexpected keyword argument '{theirs}'" in complaint and ours in signature.parameters:
                return f"{complaint}; here it is '{ours}'"
        return complaint


def misfit(fn: Callable, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """The parameter of an operation whose argument is not what its annotation says, or, where it has neither annotation
    nor default, no operand. None where all fit."""
    signature = inspect.signature(fn)
    try:
        hints = typing.get_type_hints(fn)
    except NameError:  # a name that only type checkers import
        hints = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        parameter = signature.parameters[name]
        if name in hints:
            matches = functools.partial(fits, hint=hints[name])
        elif parameter.annotation is parameter.default is inspect.Parameter.empty:
            matches = is_operand
        else:
            continue
        several = {parameter.VAR_POSITIONAL: lambda v: v, parameter.VAR_KEYWORD: lambda v: v.values()}
        values = several.get(parameter.kind, lambda v: (v,))(value)
        if not all(map(matches, values)):
            return name
    return None


def is_operand(value: Any) -> bool:
    """Is a value a Tensor, a number, a dtype, an array of NumPy's, or a list of these?"""
    if isinstance(value, (list, tuple)):
        return all(map(is_operand, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "biufV"  # V: the float types that NumPy got from elsewhere
    known = (bool, int, float, DType, Node)
    return isinstance(value, known) or _is_tensor(value) or isinstance(value, type) and issubclass(value, np.generic)


def _is_tensor(value: Any) -> bool:
    return hasattr(type(value), "_node")  # of the class: no code of the value's runs


def fits(value: Any, hint: Any) -> bool:
    """Is a value of the kind that an annotation names? Elements of lists and tuples are looked at, those of others not.

    What the annotation cannot tell fits.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint is None or hint is type(None):
        return value is None
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) or _is_tensor(value)  # a traced number is a Tensor
    if origin in (tuple, list, collections.abc.Sequence) and isinstance(value, (tuple, list)):
        parts = tuple(part for part in parts if part is not Ellipsis)
        return len(parts) != 1 or all(fits(v, parts[0]) for v in value)
    kind = origin or hint
    if kind in (collections.abc.Callable, Callable):
        return callable(value)
    if not isinstance(kind, type) or kind is Any or getattr(kind, "_is_protocol", False):
        return True
    return isinstance(value, kind)
