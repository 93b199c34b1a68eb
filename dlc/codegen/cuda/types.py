"""C spellings of types, constants and names."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from dlc.ir import dtypes
from dlc.ir.dtypes import DType

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned", "uint64": "unsigned long long",
    "float16": "half", "bfloat16": "bf16", "float32": "float", "float64": "double",
}  # fmt: skip

_RESERVED = frozenset("""
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr const_cast
    continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto
    if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
    register reinterpret_cast return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor
    xor_eq half bf16 vec bits load store blockIdx threadIdx blockDim gridDim warpSize abs max min exp log sin cos tan
    pow sqrt floor ceil round trunc signbit isnan isinf y0 y1 yn j0 j1 jn div gamma erf main printf clock assert
""".split())


def ctype(dtype: DType) -> str:
    """The C type of a value of `dtype`, in memory and in registers."""
    return C_TYPES[dtype.name]


def identifier(name: str) -> str:
    """`name` as a C identifier that is no keyword and no function of ours or CUDA's."""
    name = re.sub(r"\W", "_", name) or "_"
    if name[0].isdigit() or name.startswith("__"):
        name = "_" + name.lstrip("_")
    return name + "_" if name in _RESERVED or name.startswith(("fold", "to_", "op_")) else name


def comment(text: str) -> str:
    """Text that stays on its comment line."""
    return text.replace("\n", " ").rstrip("\\").replace("??/", "?? /")


def literal(value: Any, dtype: DType) -> str:
    """A constant of `dtype`."""
    if dtype.is_bool:
        return "true" if value else "false"
    if dtype.is_half:
        return f"to_{ctype(dtype)}({literal(value, dtypes.float32)})"
    if dtype.is_float:
        return _float(float(value), dtype)
    value = int(value)
    low, _ = dtypes.limits(dtype)
    if value == low and dtype.bits >= 32 and dtype.kind == "i":
        return f"({literal(value + 1, dtype)} - 1)"
    suffix = {"int64": "ll", "uint32": "u", "uint64": "ull"}.get(dtype.name, "")
    text = f"{value}{suffix}"
    if dtype.bits < 32:
        text = f"({ctype(dtype)}){text}"
    return f"({text})" if value < 0 and dtype.bits >= 32 else text


def _float(value: float, dtype: DType) -> str:
    single = dtype is dtypes.float32
    if math.isnan(value):
        return "__int_as_float(0x7fc00000)" if single else "__longlong_as_double(0x7ff8000000000000ll)"
    if single:
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    if math.isinf(value):
        text = "__int_as_float(0x7f800000)" if single else "__longlong_as_double(0x7ff0000000000000ll)"
        return text if value > 0 else f"(-{text})"
    text = str(np.float32(value)) if single else repr(value)
    if "e" not in text and "." not in text:
        text += ".0"
    text += "f" if single else ""
    return f"({text})" if text.startswith("-") else text
