"""The user's line: where an operation was called from, and errors that say so."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from dlc.base.errors import (
    INTERNAL,
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
from dlc.frontend.core.arguments import misfit, uncallable
from dlc.ir.graph.graph import located
from dlc.ir.loc import Loc

__all__ = ["Located", "describe", "here", "kind_of", "locate", "user_errors", "warn"]

_CONVERSIONS = ("asarray", "from_dlpack", "tensor")  # they take arrays of other libraries
# Errors that name the operation and its operands.
_OF_OPERANDS = (ShapeError, DTypeError, DeviceError, IndexOutOfRange)
# Parts of the package that users give nothing to: what these refuse is a mistake of the package's own. (An inner
# boundary refuses nothing either; it passes on.)
_BELOW = (*(PACKAGE + part for part in ("passes", "codegen", "runtime")), __file__)
_RAISE = dis.opmap["RAISE_VARARGS"]
_FORWARDS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
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
    out = type(error)(text + f"\n{_at(here())}")
    out.loc = here()  # also marks the error as complete: an outer public function passes it on unchanged
    return out


def add_line(error: Exception) -> Exception:
    """Say the user's line at the end of an error's message, unless that has it already. Returns the error."""
    text = error.args[0] if len(error.args) == 1 else None
    loc = here()
    if isinstance(text, str) and "\n  at " not in text:
        if isinstance(error, KeyError):
            error.add_note(_at(loc))  # its message is shown as a quoted string, in one line
        else:
            error.args = (f"{text}\n{_at(loc)}",)
    error.loc = loc  # type: ignore[attr-defined]
    return error


def _at(loc: Loc) -> str:
    return f"  at {loc}" + (f", in {loc.function}" if loc.function else "")


class _Call(NamedTuple):
    """A call of a public function that failed."""

    fn: Callable
    name: str
    args: tuple
    kwargs: dict[str, Any]
    operation: bool
    caller: types.FrameType | None

    def foreign(self) -> Any:
        """The first operand that is an array of another library, or None."""
        if not self.operation or self.fn.__name__ in _CONVERSIONS:
            return None
        return next((v for v in (*self.args, *self.kwargs.values()) if is_foreign(v)), None)

    def refused(self, reason: str) -> Exception:
        """The error for arguments that are none for this function."""
        return locate(DTypeError(reason), self.name, self.args)

    def forwarded(self) -> bool:
        """Did the user choose the arguments, or a function of the package that passes on what it was given?"""
        code = self.caller.f_code if self.caller is not None else None
        return code is None or not _in_package(code) or bool(code.co_flags & _FORWARDS)


def _in_package(code: types.CodeType) -> bool:
    return code.co_filename.startswith(PACKAGE)


def _origin(error: BaseException) -> types.TracebackType | None:
    """Where an error was raised, innermost, below the boundary's own frame; None if the call did not begin."""
    at = error.__traceback__ and error.__traceback__.tb_next
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at


def _on_purpose(error: BaseException, at: types.TracebackType) -> bool:
    """Did the package find something wrong in what it was given, and say so by a `raise` of its own?"""
    code = at.tb_frame.f_code
    checks = not code.co_filename.startswith(_BELOW) and code.co_code[at.tb_lasti] == _RAISE
    return checks or isinstance(error, DlcError)


def _users_frames(at: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback without the package's frames."""
    kept = []
    while at is not None:
        if not _in_package(at.tb_frame.f_code):
            kept.append(at)
        at = at.tb_next
    out = None
    for each in reversed(kept):
        out = types.TracebackType(out, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return out


def _name_caller(error: Any, name: str) -> None:
    """Say in the error of an operation which function of the package the user called, where that is another."""
    if error.loc == here():
        text = error.operation = getattr(error, "operation", None) or str(error)
        error.args = (text if text.startswith(f"{name}:") else f"{text}\n  in {name}",)


def _for_user(error: Exception, call: _Call) -> Exception | None:
    """The error that the user is to see where `error` came out of a call: with line, operation and operands.

    None where it is to pass as it is: an error of the user's own code, or of dlc's that no argument explains.
    """
    complete = getattr(error, "loc", None) is not None  # it has been through an inner boundary
    if call.operation and isinstance(error, _OF_OPERANDS):
        foreign = call.foreign()
        if foreign is not None and not (complete and no_operand(foreign) in str(error)):
            return call.refused(no_operand(foreign))
        if not complete:
            return locate(error, call.name, call.args)
        _name_caller(error, call.name)
    if complete:
        return error
    at = _origin(error)
    if at is None:
        reason = uncallable(call.fn, call.args, call.kwargs, str(error)) if call.forwarded() else ""
        if reason and call.operation:
            return call.refused(reason)
        return add_line(error) if reason else None
    if isinstance(error, INTERNAL) or not _in_package(at.tb_frame.f_code):
        return None
    foreign = call.foreign()
    if foreign is not None:
        return call.refused(no_operand(foreign))
    if _on_purpose(error, at):
        refused = call.operation and isinstance(error, TypeError)
        return call.refused(str(error)) if refused else add_line(error)
    if call.operation and misfit(call.fn, call.args, call.kwargs):
        out = call.refused(str(error))
        out.__cause__ = error
        return out
    if not hasattr(error, "__notes__"):
        error.add_note(f"{_at(here())}\n  an error inside dlc: where no argument explains it, please report it")
    return None


def user_errors(fn: F, name: str | None = None, operation: bool = True) -> F:
    """Decorator of what users call: the boundary that errors cross on their way to them.

    What the package raises on purpose says the user's line, and shows no frames of the package. An error of shape,
    dtype, index or device, or of arguments that do not fit, also names the operation and its operands. Any other error
    passes as it is. Nodes made inside an operation get the user's line.

    `name` is the operation's in messages, by default the function's. Constructors and methods that are no `operation`
    name things in their own messages.
    """

    def passed_on(error: Exception, args: tuple, kwargs: dict[str, Any]) -> Exception:
        # the name at the time of the call: functions made by a factory get theirs after decoration
        named = (name or call.__name__).strip("_")
        below = error.__traceback__ and error.__traceback__.tb_next  # raising it adds the boundary's own frame
        out = _for_user(error, _Call(fn, named, args, kwargs, operation, sys._getframe(2)))
        if out is None:
            return error.with_traceback(below)
        out.__suppress_context__ = True
        return out.with_traceback(_users_frames(below))

    if operation:

        @functools.wraps(fn)
        def call(*args, **kwargs):
            try:
                with located(here()):
                    return fn(*args, **kwargs)
            except Exception as error:
                raise passed_on(error, args, kwargs)  # noqa: B904 (it says itself what caused it)

    else:

        @functools.wraps(fn)
        def call(*args, **kwargs):
            try:
                return fn(*args, **kwargs)
            except Exception as error:
                raise passed_on(error, args, kwargs)  # noqa: B904 (it says itself what caused it)

    return call  # type: ignore[return-value]


class Located:
    """Base of the package's classes: errors of their constructors and public methods say the user's line."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] != "dlc":
            return
        for name, value in list(vars(cls).items()):
            public = name[0] != "_" or name in ("__init__", "__getitem__", "__setitem__", "__setattr__")
            if isinstance(value, types.FunctionType) and public and name != "forward":
                setattr(cls, name, user_errors(value, operation=False))
