"""The exceptions that users see. Each message names the operation, the operands and the user's own line."""

from __future__ import annotations


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
