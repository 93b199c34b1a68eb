"""The scalar operations, one row each, shared by the Graph IR (elementwise) and the Loop IR (expressions).

A row gives the arity, the operand types that are allowed, the rule for the result's type, and the meaning in NumPy.
Floating max and min propagate NaN. Integer arithmetic wraps; integer division or remainder by zero gives 0.
`floordiv` and `mod` round towards minus infinity. Shifts by the width or more give 0 (`shr` of a negative: -1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dlc.ir import dtypes
from dlc.ir.dtypes import DType


@dataclass(frozen=True)
class ScalarOp:
    """One scalar operation. `result` is 'same' (the operands' type), 'bool', or a fixed dtype name."""

    name: str
    arity: int
    kinds: str  # operand kinds allowed, letters of DType.kind
    result: str
    numpy: Callable
    symbol: str = ""  # infix spelling in Loop IR text
    cost: int = 1  # rough machine operations an element; 4 and more counts as expensive to recompute


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).astype(x.dtype)


def _sigmoid(x):
    z = np.exp(-np.abs(x))  # never overflows, so that both tails are exact
    return np.where(x < 0, z, np.ones_like(z)) / (1 + z)


def _floordiv(a, b):
    if np.issubdtype(np.result_type(a), np.integer):
        safe = np.where(b == 0, np.ones_like(b), b)
        return np.where(b == 0, np.zeros_like(a), np.floor_divide(a, safe))
    return np.floor_divide(a, b)


def _mod(a, b):
    if np.issubdtype(np.result_type(a), np.integer):
        safe = np.where(b == 0, np.ones_like(b), b)
        return np.where(b == 0, np.zeros_like(a), np.mod(a, safe))
    return np.mod(a, b)


def _shl(a, b):
    bits = a.dtype.itemsize * 8
    inside = (b >= 0) & (b < bits)
    return np.where(inside, np.left_shift(a, np.where(inside, b, 0)), 0).astype(a.dtype)


def _shr(a, b):
    bits = a.dtype.itemsize * 8
    return np.right_shift(a, np.where((b >= 0) & (b < bits), b, bits - 1)) if a.dtype.kind == "i" else np.where(
        (b >= 0) & (b < bits), np.right_shift(a, np.where((b >= 0) & (b < bits), b, 0)), 0).astype(a.dtype)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(k0, k1, c0, c1):
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, Random123): uint32 key and counter words -> two uint32 words.

    Works on anything that has uint32 `+ ^ << >> |`: NumPy arrays here, expressions in code generation.
    """
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = c0 + keys[0], c1 + keys[1]
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << r) | (x1 >> (32 - r))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def _threefry(k0, k1, c0, c1):
    with np.errstate(over="ignore"):
        u32 = [np.asarray(v, np.uint32) for v in (k0, k1, c0, c1)]
        a, b = threefry2x32(*u32)
    return (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)


def _not(a):
    return np.logical_not(a) if a.dtype == np.bool_ else np.invert(a)


_ROWS = [
    ScalarOp("neg", 1, "iuf", "same", np.negative),
    ScalarOp("abs", 1, "iuf", "same", np.abs),
    ScalarOp("sign", 1, "iuf", "same", np.sign, cost=2),
    ScalarOp("floor", 1, "f", "same", np.floor),
    ScalarOp("ceil", 1, "f", "same", np.ceil),
    ScalarOp("trunc", 1, "f", "same", np.trunc),
    ScalarOp("round", 1, "f", "same", np.rint),
    ScalarOp("sqrt", 1, "f", "same", np.sqrt, cost=5),
    ScalarOp("rsqrt", 1, "f", "same", lambda x: (1 / np.sqrt(x)).astype(x.dtype), cost=6),
    ScalarOp("exp", 1, "f", "same", np.exp, cost=12),
    ScalarOp("expm1", 1, "f", "same", np.expm1, cost=16),
    ScalarOp("log", 1, "f", "same", np.log, cost=16),
    ScalarOp("log2", 1, "f", "same", np.log2, cost=16),
    ScalarOp("log1p", 1, "f", "same", np.log1p, cost=18),
    ScalarOp("sin", 1, "f", "same", np.sin, cost=20),
    ScalarOp("cos", 1, "f", "same", np.cos, cost=20),
    ScalarOp("tan", 1, "f", "same", np.tan, cost=24),
    ScalarOp("asin", 1, "f", "same", np.arcsin, cost=20),
    ScalarOp("acos", 1, "f", "same", np.arccos, cost=20),
    ScalarOp("atan", 1, "f", "same", np.arctan, cost=20),
    ScalarOp("sinh", 1, "f", "same", np.sinh, cost=20),
    ScalarOp("cosh", 1, "f", "same", np.cosh, cost=20),
    ScalarOp("tanh", 1, "f", "same", np.tanh, cost=14),
    ScalarOp("sigmoid", 1, "f", "same", _sigmoid, cost=16),
    ScalarOp("asinh", 1, "f", "same", np.arcsinh, cost=24),
    ScalarOp("acosh", 1, "f", "same", np.arccosh, cost=24),
    ScalarOp("atanh", 1, "f", "same", np.arctanh, cost=24),
    ScalarOp("erf", 1, "f", "same", _erf, cost=18),
    ScalarOp("not", 1, "biu", "same", _not),
    ScalarOp("add", 2, "iuf", "same", np.add, "+"),
    ScalarOp("sub", 2, "iuf", "same", np.subtract, "-"),
    ScalarOp("mul", 2, "iuf", "same", np.multiply, "*"),
    ScalarOp("div", 2, "f", "same", np.divide, "/", cost=4),
    ScalarOp("floordiv", 2, "iuf", "same", _floordiv, "//", cost=6),
    ScalarOp("mod", 2, "iuf", "same", _mod, "%", cost=6),
    ScalarOp("pow", 2, "f", "same", np.power, cost=40),
    ScalarOp("atan2", 2, "f", "same", np.arctan2, cost=24),
    ScalarOp("max", 2, "biuf", "same", np.maximum),
    ScalarOp("min", 2, "biuf", "same", np.minimum),
    ScalarOp("eq", 2, "biuf", "bool", np.equal, "=="),
    ScalarOp("ne", 2, "biuf", "bool", np.not_equal, "!="),
    ScalarOp("lt", 2, "biuf", "bool", np.less, "<"),
    ScalarOp("le", 2, "biuf", "bool", np.less_equal, "<="),
    ScalarOp("and", 2, "biu", "same", np.bitwise_and, "&"),
    ScalarOp("or", 2, "biu", "same", np.bitwise_or, "|"),
    ScalarOp("xor", 2, "biu", "same", np.bitwise_xor, "^"),
    ScalarOp("shl", 2, "iu", "same", _shl, "<<"),
    ScalarOp("shr", 2, "iu", "same", _shr, ">>"),
    # (key0, key1, counter0, counter1), all uint32 -> both result words as one uint64
    ScalarOp("threefry", 4, "u", "uint64", _threefry, cost=80),
]

SCALAR_OPS: dict[str, ScalarOp] = {row.name: row for row in _ROWS}


def scalar_result(op: str, operands: tuple[DType, ...]) -> DType:
    """The result type of a scalar operation on operands of equal type. Raises TypeError where the row forbids it."""
    row = SCALAR_OPS[op]
    if len(operands) != row.arity:
        raise TypeError(f"{op} takes {row.arity} operands, got {len(operands)}")
    first = operands[0]
    if operands.count(first) != len(operands):
        raise TypeError(f"{op} needs operands of one dtype, got {', '.join(d.name for d in operands)}")
    if first.kind not in row.kinds:
        raise TypeError(f"{op} is not defined for {first.name}")
    return first if row.result == "same" else dtypes.by_name(row.result)
