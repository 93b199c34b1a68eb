"""The exceptions and warnings that users see: they name the operation, the operands and the user's own line."""

from __future__ import annotations

import os
import sys
import types
import warnings

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """A warning at the user's line."""
    warnings.warn(message, category, stacklevel=1 + _user_frame()[1])


def user_line() -> str:
    """file:line of the innermost line on the stack that is not in the dlc package."""
    frame, _ = _user_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def kind_of(value: object) -> str:
    """The class of a value, for messages: with its module, unless that is Python's own or dlc's."""
    cls = type(value)
    own = cls.__module__ == "builtins" or cls.__module__.partition(".")[0] == "dlc"
    return cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}"


def is_foreign(value: object) -> bool:
    """Is a value an array of another library than NumPy (PyTorch's, JAX's, CuPy's)?"""
    cls = type(value)
    known = any(base.__module__.partition(".")[0] in ("dlc", "numpy") for base in cls.__mro__)
    return hasattr(cls, "__dlpack__") and not known


def no_operand(value: object) -> str:
    """What to say of an array of another library."""
    return (
        f"dlc does not convert a {kind_of(value)} by itself: use dlc.from_dlpack(x), which shares its memory, or "
        "dlc.asarray(x), which copies"
    )


def _user_frame() -> tuple[types.FrameType, int]:
    """The frame of the user's line, and how far above the caller it stands."""
    frame, level = sys._getframe(1), 0
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    return frame, level


class DlcError(Exception):
    """Base of every error that dlc raises on purpose."""


class ShapeError(DlcError, ValueError):
    """Operand shapes that do not fit the operation."""


class DTypeError(DlcError, TypeError):
    """Operand dtypes that do not fit the operation."""


class IndexOutOfRange(DlcError, IndexError):
    """A concrete index outside its axis."""


class TraceError(DlcError, RuntimeError):
    """A traced value used where only a concrete one can be: `if`, `item()`, or after its trace has ended."""


class GradientError(DlcError, RuntimeError):
    """A Tensor that gradients are taken at was changed in place, or one that was computed told not to have any."""


class DeviceError(DlcError, RuntimeError):
    """A device that does not exist here, operands on different devices, or a failure that a device reports."""


class OutOfMemory(DlcError, MemoryError):
    """A device has no memory left: says how much was asked, and what holds the rest."""


class VerifyError(DlcError):
    """An IR that breaks its own rules: a bug in a pass, named with the pass and the node."""


class ParseError(DlcError, ValueError):
    """Text that is not valid IR; names the line."""


class InterpError(DlcError):
    """A kernel that did what no kernel may: an access outside a buffer, or a read of what was never written."""


# What tells of a mistake of dlc's own: it reaches the user as it is.
INTERNAL = (VerifyError, InterpError, AssertionError)
