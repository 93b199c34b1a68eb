"""The user's line: where an operation was called from, and errors that say so."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

from dlc.base.errors import (
    PACKAGE,
    DeviceError,
    DlcError,
    DTypeError,
    IndexOutOfRange,
    ShapeError,
    is_foreign,
    kind_of,
    no_operand,
    warn,
)
from dlc.ir.graph.graph import located
from dlc.ir.loc import Loc

__all__ = [
    "TORCH_KEYWORDS", "Located", "describe", "here", "kind_of", "locate", "located_errors", "user_errors", "warn",
]  # fmt: skip

TORCH_KEYWORDS = {"dim": "axis", "keepdim": "keepdims"}  # PyTorch's name and ours
_CONVERSIONS = ("asarray", "from_dlpack", "tensor")  # they take arrays of other libraries
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


def number_text(x: int) -> str:
    """An integer as text, however large it is (Python itself refuses some)."""
    return str(x) if x.bit_length() <= 128 else f"of {x.bit_length()} bits"


def describe(value: Any, place: bool = False) -> str:
    """How an operand appears in an error: `float32 (3, 4)` for a tensor, the value itself for a number.

    `place` adds the device.
    """
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        where = f" on {getattr(value, 'device', 'cpu')}" if place else ""
        text = f"{getattr(dtype, 'name', dtype)} {tuple(shape)}{where}"
        return f"{kind_of(value)} {text}" if is_foreign(value) else text
    if isinstance(value, (list, tuple)) and value and any(hasattr(v, "shape") for v in value):
        return "[" + ", ".join(describe(v, place) for v in value) + "]"
    if type(value) is int:
        return number_text(value)
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


def add_line(error: Exception) -> None:
    """Say the user's line at the end of an error's message, unless that has it already."""
    text = error.args[0] if len(error.args) == 1 else None
    if getattr(error, "loc", None) is not None or not isinstance(text, str) or "\n  at " in text:
        return
    loc = here()
    at = f"at {loc}" + (f", in {loc.function}" if loc.function else "")
    if isinstance(error, KeyError):
        error.add_note(f"  {at}")  # its message is shown as a quoted string, in one line
    else:
        error.args = (f"{text}\n  {at}",)
    error.loc = loc  # type: ignore[attr-defined]


class Located:
    """Base of the package's classes: errors of their constructors and public methods say the user's line."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] != "dlc":
            return
        for name, value in list(vars(cls).items()):
            public = name[0] != "_" or name in ("__init__", "__getitem__", "__setitem__", "__setattr__")
            if isinstance(value, types.FunctionType) and public and name != "forward":
                setattr(cls, name, located_errors(value))


def located_errors(fn: F) -> F:
    """Decorator: errors that the package raises in `fn` say the user's line, if they do not yet."""

    @functools.wraps(fn)
    def call(*args, **kwargs):
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            if _raised_here(error):
                add_line(error)
            raise

    return call  # type: ignore[return-value]


def _foreign(fn: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The first operand that is an array of another library, or None."""
    if fn.__name__ in _CONVERSIONS:
        return None
    return next((v for v in (*args, *kwargs.values()) if is_foreign(v)), None)


def _name_caller(error: Any, name: str) -> None:
    """Say in the error of an operation which function of the package the user called, where that is another."""
    if error.loc == here():
        text = error.operation = getattr(error, "operation", None) or str(error)
        error.args = (text if text.startswith(f"{name}:") else f"{text}\n  in {name}",)


def _named_otherwise(fn: Callable, reason: str) -> str:
    """Python's complaint of an unknown keyword, with the name that the keyword has here."""
    for theirs, ours in (*TORCH_KEYWORDS.items(), *((ours, theirs) for theirs, ours in TORCH_KEYWORDS.items())):
        if f"unexpected keyword argument '{theirs}'" in reason and ours in inspect.signature(fn).parameters:
            return f"{reason}; here it is '{ours}'"
    return reason


def user_errors(fn: F, name: str | None = None) -> F:
    """Decorator for a public operation: its nodes get the user's line, and errors of shape, dtype, index and device
    that and the operands; so does what Python says of operands that are no tensors. `name` is the operation's in
    messages, by default the function's.
    """

    @functools.wraps(fn)
    def call(*args, **kwargs):
        try:
            with located(here()):
                return fn(*args, **kwargs)
        except (ShapeError, DTypeError, DeviceError, IndexOutOfRange) as error:
            foreign = _foreign(fn, args, kwargs)
            if getattr(error, "loc", None) is not None and (foreign is None or no_operand(foreign) in str(error)):
                _name_caller(error, (name or call.__name__).strip("_"))
                raise
            complete = error
        except (AttributeError, TypeError) as error:
            if isinstance(error, DlcError) or not _raised_here(error):
                raise
            foreign = _foreign(fn, args, kwargs)
            complete = DTypeError(_named_otherwise(fn, str(error)))
            complete.__cause__ = error
        except (ValueError, NotImplementedError) as error:
            if _raised_here(error):
                add_line(error)
            raise
        complete = complete if foreign is None else DTypeError(no_operand(foreign))
        # the name at the time of the call: functions made by a factory get theirs after decoration
        raise locate(complete, (name or call.__name__).strip("_"), args) from complete.__cause__

    return call  # type: ignore[return-value]
