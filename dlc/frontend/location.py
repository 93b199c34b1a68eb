"""The user's line: where an operation was called from, and errors that say so."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dlc.ir.errors import PACKAGE, DeviceError, DlcError, DTypeError, IndexOutOfRange, ShapeError
from dlc.ir.graph import Loc, located

F = TypeVar("F", bound=Callable[..., Any])


def _raised_here(error: BaseException) -> bool:
    """Does an error come from a line of the package, not from one of the user's function that it calls?"""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and at.tb_frame.f_code.co_filename.startswith(PACKAGE)


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
    """Decorator for a public operation: its nodes get the user's line, and errors of shape, dtype, index and device
    that and the operands; so does what Python says of operands that are no tensors.
    """

    @functools.wraps(fn)
    def call(*args, **kwargs):
        try:
            with located(here()):
                return fn(*args, **kwargs)
        except (ShapeError, DTypeError, DeviceError, IndexOutOfRange) as error:
            if getattr(error, "loc", None) is not None:
                raise
            # the name at the time of the call: functions made by a factory get theirs after decoration
            complete = locate(error, call.__name__.strip("_"), args)
        except (AttributeError, TypeError) as error:
            if isinstance(error, DlcError) or not _raised_here(error):
                raise
            raise locate(DTypeError(str(error)), call.__name__.strip("_"), args) from error
        raise complete

    return call  # type: ignore[return-value]
