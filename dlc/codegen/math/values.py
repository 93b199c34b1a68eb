"""Loop IR expressions written as arithmetic, and the facts of the two float types that formulas are written in.

    y = fma(x, x, 1.0) / (x.abs() + 2)          a `Value` wraps an Expr; Python numbers take the other operand's type

A `Format` is a float type with its bit layout, its split constants and its column of `math_tables`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlc.codegen.math.tables import TABLES
from dlc.ir.dtypes import DType, float32, float64, int32, int64
from dlc.ir.loops.ir import Expr, const, op


class Value:
    """An expression with operators. Comparisons give bool values; `==` too, so never use one as a key."""

    __slots__ = ("e",)
    __hash__ = None

    def __init__(self, e: Expr):
        self.e = e

    def _lift(self, other: Value | float) -> Expr:
        return other.e if isinstance(other, Value) else const(other, self.e.dtype)

    def _do(self, name: str, other: Value | float) -> Value:
        return Value(op(name, self.e, self._lift(other)))

    def _from(self, name: str, other: float) -> Value:
        return Value(op(name, self._lift(other), self.e))

    def __add__(self, other: Value | float) -> Value:
        return self._do("add", other)

    __radd__ = __add__

    def __sub__(self, other: Value | float) -> Value:
        return self._do("sub", other)

    def __rsub__(self, other: Value | float) -> Value:
        return self._from("sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._do("mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Value | float) -> Value:
        return self._do("div", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._from("div", other)

    def __neg__(self) -> Value:
        return Value(op("neg", self.e))

    def __and__(self, other: Value | int) -> Value:
        return self._do("and", other)

    def __or__(self, other: Value | int) -> Value:
        return self._do("or", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._do("xor", other)

    def __lshift__(self, other: Value | int) -> Value:
        return self._do("shl", other)

    def __rshift__(self, other: Value | int) -> Value:
        return self._do("shr", other)

    def __invert__(self) -> Value:
        return Value(op("not", self.e))

    def __lt__(self, other: Value | float) -> Value:
        return self._do("lt", other)

    def __le__(self, other: Value | float) -> Value:
        return self._do("le", other)

    def __gt__(self, other: Value | float) -> Value:
        return Value(op("lt", self._lift(other), self.e))

    def __eq__(self, other: Value | float) -> Value:  # type: ignore[override]
        return self._do("eq", other)

    def __ne__(self, other: Value | float) -> Value:  # type: ignore[override]
        return self._do("ne", other)

    def max(self, other: Value | float) -> Value:
        return self._do("max", other)

    def min(self, other: Value | float) -> Value:
        return self._do("min", other)

    def abs(self) -> Value:
        return Value(op("abs", self.e))

    def sqrt(self) -> Value:
        return Value(op("sqrt", self.e))

    def round(self) -> Value:
        return Value(op("round", self.e))

    def floor(self) -> Value:
        return Value(op("floor", self.e))

    def cast(self, dtype: DType) -> Value:
        return Value(op("cast", self.e, dtype=dtype))

    def bitcast(self, dtype: DType) -> Value:
        return Value(op("bitcast", self.e, dtype=dtype))


def fma(a: Value, b: Value | float, c: Value | float) -> Value:
    """a * b + c, rounded once where the machine can."""
    return Value(op("fma", a.e, a._lift(b), a._lift(c)))


def select(c: Value, a: Value | float, b: Value | float) -> Value:
    """a where c holds, else b; at least one of them is a Value."""
    typed = a if isinstance(a, Value) else b
    return Value(op("select", c.e, typed._lift(a), typed._lift(b)))


def horner(z: Value, cs: tuple[float, ...]) -> Value:
    """The polynomial with coefficients `cs`, constant term first."""
    total: Value | float = cs[-1]
    for c in reversed(cs[:-1]):
        total = fma(total, z, c) if isinstance(total, Value) else fma(z, total, c)
    return total


@dataclass(frozen=True)
class Format:
    """A float type: `digits` stored mantissa bits, exponent `bias`, and which column of the tables serves it."""

    dtype: DType
    ints: DType
    digits: int
    bias: int
    column: str
    ln2: tuple[float, float]  # ln 2 as high + low; high times a small integer is exact

    @property
    def magic(self) -> float:
        """x + magic - magic rounds x to an integer, which then stands in the low bits of x + magic."""
        return 1.5 * 2.0**self.digits

    @property
    def least_normal(self) -> float:
        return 2.0 ** (1 - self.bias)

    @property
    def one_bits(self) -> int:
        return self.bias << self.digits

    @property
    def sign_bit(self) -> int:
        return -(1 << (self.dtype.bits - 1))

    def table(self, name: str) -> tuple[float, ...]:
        return TABLES[name, self.column]

    def bits_of(self, x: float) -> int:
        return int(np.array(x, self.dtype.np).view(self.ints.np))

    def floats(self, i: Value) -> Value:
        return i.bitcast(self.dtype)

    def bits(self, x: Value) -> Value:
        return x.bitcast(self.ints)

    def sign_of(self, x: Value, y: Value) -> Value:
        """y >= 0 with the sign of x."""
        return self.floats(self.bits(y) | (self.bits(x) & self.sign_bit))

    def number(self, x: float) -> Value:
        return Value(const(x, self.dtype))


# ln 2 in two parts from mpmath: 15 bits and the rest, 32 bits and the rest
F32 = Format(float32, int32, 23, 127, "f32", (0.693145751953125, 1.4286068203094173e-06))
F64 = Format(float64, int64, 52, 1023, "f64", (0.6931471806019545, -4.2009150726810846e-11))
MID = Format(float64, int64, 52, 1023, "mid", F64.ln2)  # float64 arithmetic for what is then rounded to float32
