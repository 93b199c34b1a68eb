"""Why a jitted function was traced again, in the user's words."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlc.frontend.core.location import number_text
from dlc.frontend.core.precision import get_float32_matmul_precision
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.core.trace import state
from dlc.frontend.jit.calls import Static, is_number

AUTOCAST, PRECISION = "dlc.autocast", "float32_matmul_precision"  # parts of the signature


class Described(NamedTuple):
    """One leaf of the arguments: how it looks, and which object it is where looks do not tell."""

    text: str
    object: weakref.ref | None = None

    def differs(self, other: Described) -> bool:
        if self.text != other.text:
            return True
        if self.object is None or other.object is None:
            return False
        old, new = self.object(), other.object()
        return old is None or old is not new and not _equal(old, new)


Description = dict[str, Described]  # by the leaf's path


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # an == that makes no answer: another object is another signature
        return False


def describe(paths: Sequence[str], leaves: Sequence[Any]) -> Description:
    """What the signature of a call depends on."""
    out = dict(zip(paths, map(_leaf, leaves), strict=True))
    out[AUTOCAST] = Described(getattr(state.autocast[0], "name", "off"))
    out[PRECISION] = Described(get_float32_matmul_precision())
    return out


def _leaf(leaf: Any) -> Described:
    if isinstance(leaf, (Tensor, np.ndarray)):
        flags = ", requires_grad" if isinstance(leaf, Tensor) and leaf._requires_grad else ""
        where = "" if not isinstance(leaf, Tensor) or leaf.device == "cpu" else f" on {leaf.device}"
        return Described(f"{getattr(leaf.dtype, 'name', leaf.dtype)} {tuple(leaf.shape)}{where}{flags}")
    if type(leaf) is Static:
        leaf = leaf.value
    elif is_number(leaf):
        return Described(type(leaf).__name__)
    text = number_text(leaf) if type(leaf) is int else repr(leaf)
    try:
        kept = weakref.ref(leaf)
    except TypeError:  # numbers, strings, tuples: their text tells
        return Described(text if len(text) < 60 else text[:57] + "...")
    return Described(text if len(text) < 60 and "\n" not in text else f"a {type(leaf).__name__}", kept)


def difference(before: Description, now: Description) -> str:
    """What changed between two calls, or ''."""
    changes = []
    for path, d in now.items():
        name = path if path in (AUTOCAST, PRECISION) else f"argument '{path}'"
        old = before.get(path)
        if old is None:
            changes.append(f"{name} ({d.text}) is new")
        elif old.text != d.text:
            changes.append(f"{name} changed from {old.text} to {d.text}")
        elif old.differs(d):
            kind = type(d.object()).__name__ if d.object is not None else "object"
            changes.append(f"{name} is another {kind} than before (objects are told apart by identity: pass the same, "
                           f"or give its Tensors as arguments)")
    changes += [f"argument '{path}' ({d.text}) is missing" for path, d in before.items() if path not in now]
    return "; ".join(changes[:3])
