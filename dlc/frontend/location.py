"""The user's line: where an operation was called from, and errors that say so."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dlc.ir.errors import PACKAGE, DeviceError, DlcError, DTypeError, ShapeError
from dlc.ir.graph import Loc, located

F = TypeVar("F", bound=Callable[..., Any])


def here() -> Loc:
    """The innermost line on the stack that is not in the dlc package."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return Loc(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return Loc("<dlc>", 0)


def describe(value: Any, place: bool = False) -> str:
    """How an operand appears in an error: `float32 (3, 4)` for a tensor, the value itself for a number.

    `place` adds the device.
    """
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        where = f" on {getattr(value, 'device', 'cpu')}" if place else ""
        return f"{getattr(dtype, 'name', dtype)} {tuple(shape)}{where}"
    if isinstance(value, (list, tuple)) and value and any(hasattr(v, "shape") for v in value):
        return "[" + ", ".join(describe(v, place) for v in value) + "]"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def locate(error: DlcError, name: str, operands: tuple) -> DlcError:
    """A copy of `error` that names the public operation, its operands and the user's line."""
    reason = str(error)
    head, colon, rest = reason.partition(": ")
    if colon and head.split(" ")[0].replace(".", "").isidentifier() and " " not in head:
        reason = rest  # the name of the IR operation means nothing to the user
    text = f"{name}: {reason}"
    shown = [describe(v, isinstance(error, DeviceError)) for v in operands if v is not None]
    if shown:
        text += f"\n  operands: {', '.join(shown)}"
    loc = here()
    text += f"\n  at {loc}" + (f", in {loc.function}" if loc.function else "")
    out = type(error)(text)
    out.loc = loc  # also marks the error as complete: an outer public function passes it on unchanged
    return out


def user_errors(fn: F) -> F:
    """Decorator for a public operation: its nodes get the user's line, and errors of shape, dtype and device that and
    the operands.
    """

    @functools.wraps(fn)
    def call(*args, **kwargs):
        try:
            with located(here()):
                return fn(*args, **kwargs)
        except (ShapeError, DTypeError, DeviceError) as error:
            if getattr(error, "loc", None) is not None:
                raise
            # the name at the time of the call: functions made by a factory get theirs after decoration
            complete = locate(error, call.__name__.strip("_"), args)
        raise complete

    return call  # type: ignore[return-value]
