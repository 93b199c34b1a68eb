"""How the Loop IR's types, constants and names are spelled in LLVM IR.

In registers a bool is `i1` and a half float is the `i16` of its bits (its arithmetic happens in `float`); in memory a
bool is an `i8` that holds 0 or 1.
"""

from __future__ import annotations

import functools
import re
import struct

import numpy as np

from dlc.ir import dtypes
from dlc.ir.dtypes import DType

_SCALAR = {d: f"i{d.bits}" for d in dtypes.ALL} | {dtypes.float32: "float", dtypes.float64: "double"}
_SUFFIX = {d: f"i{d.bits}" for d in dtypes.ALL} | {dtypes.float32: "f32", dtypes.float64: "f64"}
_SIGNED = {d: dtypes.by_name(f"int{d.bits}") for d in dtypes.ALL if d.is_int}


@functools.cache
def type_text(dtype: DType, lanes: int = 0) -> str:
    """The register type: a scalar for 0 lanes, else a vector."""
    return f"<{lanes} x {_SCALAR[dtype]}>" if lanes else _SCALAR[dtype]


@functools.cache
def memory_type(dtype: DType, lanes: int = 0) -> str:
    """The type in memory, which differs from `type_text` for bool."""
    return type_text(dtypes.uint8 if dtype.is_bool else dtype, lanes)


@functools.cache
def suffix(dtype: DType, lanes: int = 0) -> str:
    """How an intrinsic's name spells the register type: v16f32, i64."""
    return f"v{lanes}{_SUFFIX[dtype]}" if lanes else _SUFFIX[dtype]


@functools.lru_cache(4096)
def _half_bits(value: float, dtype: DType) -> int:
    with np.errstate(over="ignore"):
        return int(np.array(value, dtype.np).view(np.int16))


def literal(value: float, dtype: DType) -> str:
    """A scalar constant. Floats are spelled by their bits, so that nothing is rounded on the way."""
    if dtype.is_bool:
        return "true" if value else "false"
    if dtype.is_int:
        return str(value) if -128 <= value < 128 else str(wrap(int(value), _SIGNED[dtype]))
    if dtype.is_half:
        return str(_half_bits(float(value), dtype))
    number = float(value)
    if dtype is dtypes.float32:
        with np.errstate(over="ignore"):
            number = float(np.float32(number))
    return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"


def wrap(value: int, dtype: DType) -> int:
    """`value` reduced to the range of an integer type, as two's complement arithmetic would."""
    bits = dtype.bits
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype.kind == "i" and value >> (bits - 1) else value


@functools.lru_cache(4096)
def lane_numbers(lanes: int, dtype: DType, step: int = 1) -> str:
    """The constant <0, step, 2 step, ...>."""
    t = _SCALAR[dtype]
    return "<" + ", ".join(f"{t} {wrap(i * step, dtype)}" for i in range(lanes)) + ">"


@functools.lru_cache(4096)
def mask_text(active: tuple[bool, ...]) -> str:
    """A constant vector of i1."""
    if all(active):
        return "splat (i1 true)"
    return "<" + ", ".join("i1 1" if a else "i1 0" for a in active) + ">"


@functools.lru_cache(4096)
def shuffle_text(order: tuple[int, ...]) -> str:
    """The mask operand of a shufflevector."""
    return f"<{len(order)} x i32> <" + ", ".join(f"i32 {i}" for i in order) + ">"


def symbol(name: str) -> str:
    """`name` as LLVM spells a global symbol, without the @."""
    return name if re.fullmatch(r"[A-Za-z_.$][\w.$]*", name) else '"' + name.replace('"', "'") + '"'


def one_line(text: str) -> str:
    """A comment's text."""
    return text.replace("\n", " ").rstrip()
