"""The scalar operations as LLVM instructions: one function a row, scalars and vectors alike.

Every function takes the builder, the operands' dtype and the operands (all with equally many lanes). Half floats never
arrive here: `apply` computes them in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.ops.convert import from_half, to_half
from dlc.ir import dtypes
from dlc.ir.dtypes import DType

Rule = Callable[..., Value]


def apply(b: Builder, op: str, dtype: DType, args: list[Value]) -> Value:
    """The operation `op` on operands of `dtype`."""
    lanes = max([a.lanes for a in args])
    if lanes:
        args = [b.splat(a, dtype, lanes) for a in args]
    if dtype.is_half:
        args = [from_half(b, a, dtype) for a in args]
        result = RULES[op](b, dtypes.float32, *args)
        return result if op in COMPARISONS else to_half(b, result, dtype)
    if dtype.is_int and not lanes and op in _FOLD and all(a.const is not None for a in args):
        value = _FOLD[op](*(a.const for a in args))
        if value is not None:
            return b.const(value, dtypes.bool_) if op in COMPARISONS else b.const(lt.wrap(value, dtype), dtype)
    return RULES[op](b, dtype, *args)


# Constant folding in Python keeps the text of unrolled loops short.
_FOLD: dict[str, Callable] = {
    "neg": lambda a: -a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "max": max,
    "min": min,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


def _text(dtype: DType, x: Value) -> str:
    return lt.type_text(dtype, x.lanes)


def _binary(float_name: str, int_name: str) -> Rule:
    def rule(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
        name = float_name if dtype.is_float else int_name
        return b.ins(f"{name} {_text(dtype, x)} {x.text}, {y.text}", x.lanes, x, y)

    return rule


_fadd, _fsub, _fmul = (_binary(f"f{n} contract", n) for n in ("add", "sub", "mul"))
_and, _or, _xor = (_binary("", n) for n in ("and", "or", "xor"))


def _add(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if not dtype.is_float:
        if x.const == 0:
            return y
        if y.const == 0:
            return x
    return _fadd(b, dtype, x, y)


def _sub(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    return x if not dtype.is_float and y.const == 0 else _fsub(b, dtype, x, y)


def _mul(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if not dtype.is_float:
        for p, q in ((x, y), (y, x)):
            if p.const == 1:
                return q
            if p.const == 0:
                return p
    return _fmul(b, dtype, x, y)


def _neg(b: Builder, dtype: DType, x: Value) -> Value:
    t = _text(dtype, x)
    if dtype.is_float:
        return b.ins(f"fneg {t} {x.text}", x.lanes, x)
    return b.ins(f"sub {t} {b.zero(dtype, x.lanes).text}, {x.text}", x.lanes, x)


def _abs(b: Builder, dtype: DType, x: Value) -> Value:
    if dtype.kind == "u":
        return x
    if dtype.is_float:
        return b.pure_call(dtype, "llvm.fabs", x)
    return b.pure_call(dtype, "llvm.abs", x, extra=(("i1", "false"),))


def _sign(b: Builder, dtype: DType, x: Value) -> Value:
    zero, one = b.zero(dtype, x.lanes), b.splat(b.const(1, dtype), dtype, x.lanes)
    if dtype.is_float:  # zeros and NaN stand for themselves
        keep = compare(b, "ueq", dtype, x, zero)
        return b.select(keep, x, b.pure_call(dtype, "llvm.copysign", one, x), dtype)
    positive = b.select(compare(b, "ne", dtype, x, zero), one, zero, dtype)
    if dtype.kind == "u":
        return positive
    minus = b.splat(b.const(-1, dtype), dtype, x.lanes)
    return b.select(compare(b, "slt", dtype, x, zero), minus, positive, dtype)


def compare(b: Builder, predicate: str, dtype: DType, x: Value, y: Value) -> Value:
    """fcmp or icmp with LLVM's name of the predicate."""
    name = "fcmp" if dtype.is_float else "icmp"
    return b.ins(f"{name} {predicate} {_text(dtype, x)} {x.text}, {y.text}", x.lanes, x, y)


def _comparison(float_name: str, signed: str, unsigned: str) -> Rule:
    def rule(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
        return compare(b, float_name if dtype.is_float else signed if dtype.kind == "i" else unsigned, dtype, x, y)

    return rule


# Rounding to an integer. SSE2 has no instruction for it and LLVM would call libm for every lane; adding and taking off
# 2**mantissa bits rounds to nearest even there, and the other directions correct that by one.


def _rounding(name: str) -> Rule:
    def rule(b: Builder, dtype: DType, x: Value) -> Value:
        if b.target.level != "sse2":
            return b.pure_call(dtype, f"llvm.{name}", x)
        return _round_sse2(b, dtype, x, name)

    return rule


def _round_sse2(b: Builder, dtype: DType, x: Value, name: str) -> Value:
    t, lanes = _text(dtype, x), x.lanes
    big = b.splat(b.const(2.0 ** (23 if dtype is dtypes.float32 else 52), dtype), dtype, lanes)
    size = b.pure_call(dtype, "llvm.fabs", x)
    up = b.ins(f"fadd {t} {size.text}, {big.text}", lanes, size, big)
    whole = b.ins(f"fsub {t} {up.text}, {big.text}", lanes, up, big)
    one, zero = b.splat(b.const(1.0, dtype), dtype, lanes), b.zero(dtype, lanes)
    if name == "trunc":
        whole = _fsub(b, dtype, whole, b.select(compare(b, "ogt", dtype, whole, size), one, zero, dtype))
    whole = b.pure_call(dtype, "llvm.copysign", whole, x)
    if name == "floor":
        whole = _fsub(b, dtype, whole, b.select(compare(b, "ogt", dtype, whole, x), one, zero, dtype))
    elif name == "ceil":
        whole = _fadd(b, dtype, whole, b.select(compare(b, "olt", dtype, whole, x), one, zero, dtype))
        whole = b.pure_call(dtype, "llvm.copysign", whole, x)
    return b.select(compare(b, "olt", dtype, size, big), whole, x, dtype)


def _sqrt(b: Builder, dtype: DType, x: Value) -> Value:
    return b.pure_call(dtype, "llvm.sqrt", x)


def _rsqrt(b: Builder, dtype: DType, x: Value) -> Value:
    return _div(b, dtype, b.splat(b.const(1.0, dtype), dtype, x.lanes), _sqrt(b, dtype, x))


def _div(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    return b.ins(f"fdiv {_text(dtype, x)} {x.text}, {y.text}", x.lanes, x, y)


def _not(b: Builder, dtype: DType, x: Value) -> Value:
    ones = b.splat(b.const(True if dtype.is_bool else -1, dtype), dtype, x.lanes)
    return _xor(b, dtype, x, ones)


def _extreme(name: str, float_predicate: str, bool_rule: Rule) -> Rule:
    def rule(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
        if dtype.is_bool:
            return bool_rule(b, dtype, x, y)
        if dtype.is_int:
            return b.pure_call(dtype, f"llvm.{'s' if dtype.kind == 'i' else 'u'}{name}", x, y)
        # `x OP y ? x : y` is one instruction of the SSE family and gives y where either is NaN: right unless x is the
        # NaN. A constant x needs no check.
        if y.const is not None and not math.isnan(y.const):
            x, y = y, x
        best = b.select(compare(b, float_predicate, dtype, x, y), x, y, dtype)
        if x.const is not None and not math.isnan(x.const):
            return best
        return b.select(compare(b, "uno", dtype, x, x), x, best, dtype)

    return rule


# Integer division: no operand may trap, so the divisor is made harmless first and the result repaired.


def _divide_vector(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    """Truncated quotient of vectors of at most 32 bits by float division, which is exact there. y is not 0."""
    wide = dtypes.float64 if dtype.bits > 16 else dtypes.float32
    t, w, s = _text(dtype, x), lt.type_text(wide, x.lanes), "s" if dtype.kind == "i" else "u"
    fx = b.ins(f"{s}itofp {t} {x.text} to {w}", x.lanes, x)
    fy = b.ins(f"{s}itofp {t} {y.text} to {w}", x.lanes, y)
    q = _div(b, wide, fx, fy)
    return b.ins(f"fpto{s}i {w} {q.text} to {t}", x.lanes, q)


def _truncated(b: Builder, dtype: DType, x: Value, y: Value) -> tuple[Value, Value]:
    """(quotient, remainder) rounded towards zero; y is neither 0 nor part of the overflowing pair."""
    t, s, n = _text(dtype, x), "s" if dtype.kind == "i" else "u", x.lanes
    if n and dtype.bits <= 32 and y.const is None:
        q = _divide_vector(b, dtype, x, y)
    else:
        q = b.ins(f"{s}div {t} {x.text}, {y.text}", n, x, y)
    product = b.ins(f"mul {t} {q.text}, {y.text}", n, q, y)
    return q, b.ins(f"sub {t} {x.text}, {product.text}", n, x, product)


def _harmless(b: Builder, dtype: DType, x: Value, y: Value) -> tuple[Value, Value | None]:
    """(y with 1 in place of 0 and of the -1 that would overflow, where y was 0); (y, None) where nothing can happen."""
    if y.const not in (None, 0, -1):
        return y, None
    n, one = x.lanes, b.splat(b.const(1, dtype), dtype, x.lanes)
    zero = compare(b, "eq", dtype, y, b.zero(dtype, n))
    bad = zero
    if dtype.kind == "i":
        lowest = b.splat(b.const(dtypes.limits(dtype)[0], dtype), dtype, n)
        minus = compare(b, "eq", dtype, y, b.splat(b.const(-1, dtype), dtype, n))
        bad = _or(b, dtypes.bool_, bad, _and(b, dtypes.bool_, minus, compare(b, "eq", dtype, x, lowest)))
    return b.select(bad, one, y, dtype), zero


def _power_of_two(y: Value) -> int | None:
    c = y.const
    return c.bit_length() - 1 if c is not None and c > 0 and c & (c - 1) == 0 else None


def _floor_correction(b: Builder, dtype: DType, r: Value, y: Value) -> Value:
    """Where a truncated remainder r (of division by y) has the wrong sign for floor division."""
    n, zero = r.lanes, b.zero(dtype, r.lanes)
    differ = compare(b, "slt", dtype, _xor(b, dtype, r, y), zero)
    return _and(b, dtypes.bool_, differ, compare(b, "ne", dtype, r, b.zero(dtype, n)))


def _floordiv(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return _float_floordiv(b, dtype, x, y)
    shift = _power_of_two(y)
    if shift is not None:
        if shift == 0:
            return x
        by = b.splat(b.const(shift, dtype), dtype, x.lanes)
        return b.ins(f"{'ashr' if dtype.kind == 'i' else 'lshr'} {_text(dtype, x)} {x.text}, {by.text}", x.lanes, x)
    y, was_zero = _harmless(b, dtype, x, y)
    q, r = _truncated(b, dtype, x, y)
    if dtype.kind == "i":
        minus = b.splat(b.const(-1, dtype), dtype, x.lanes)
        q = b.select(_floor_correction(b, dtype, r, y), _add(b, dtype, q, minus), q, dtype)
    return q if was_zero is None else b.select(was_zero, b.zero(dtype, x.lanes), q, dtype)


def _mod(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return _float_mod(b, dtype, x, y)
    shift = _power_of_two(y)
    if shift is not None:
        return _and(b, dtype, x, b.splat(b.const((1 << shift) - 1, dtype), dtype, x.lanes))
    y, _ = _harmless(b, dtype, x, y)  # x % 1 is 0, which is what x % 0 shall be
    _, r = _truncated(b, dtype, x, y)
    return b.select(_floor_correction(b, dtype, r, y), _add(b, dtype, r, y), r, dtype) if dtype.kind == "i" else r


def unsigned_divmod(b: Builder, dtype: DType, op: str, x: Value, y: Value) -> Value:
    """floordiv or mod of an x >= 0 by a constant y > 0 (index arithmetic)."""
    if _power_of_two(y) is not None:
        return RULES[op](b, dtype, x, y)
    q = b.ins(f"udiv {_text(dtype, x)} {x.text}, {y.text}", x.lanes, x, y)
    if op == "floordiv":
        return q
    product = b.ins(f"mul {_text(dtype, x)} {q.text}, {y.text}", x.lanes, q, y)
    return b.ins(f"sub {_text(dtype, x)} {x.text}, {product.text}", x.lanes, x, product)


def _float_remainder(b: Builder, dtype: DType, x: Value, y: Value) -> tuple[Value, Value]:
    """(fmod(x, y), whether it is not 0 and its sign is not y's)."""
    r = b.ins(f"frem {_text(dtype, x)} {x.text}, {y.text}", x.lanes, x, y)
    zero = b.zero(dtype, x.lanes)
    negative_r, negative_y = compare(b, "olt", dtype, r, zero), compare(b, "olt", dtype, y, zero)
    differ = _xor(b, dtypes.bool_, negative_r, negative_y)
    return r, _and(b, dtypes.bool_, differ, compare(b, "one", dtype, r, zero))


def _float_mod(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    """Python's %: the sign of y, exact (fmod)."""
    r, differ = _float_remainder(b, dtype, x, y)
    zero = b.zero(dtype, x.lanes)
    signed_zero = b.pure_call(dtype, "llvm.copysign", zero, y)
    fixed = b.select(differ, _fadd(b, dtype, r, y), r, dtype)
    return b.select(compare(b, "oeq", dtype, r, zero), signed_zero, fixed, dtype)


def _float_floordiv(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    """floor(x / y) by way of the exact remainder, as NumPy has it; x / y where y is 0."""
    zero, one = b.zero(dtype, x.lanes), b.splat(b.const(1.0, dtype), dtype, x.lanes)
    r, differ = _float_remainder(b, dtype, x, y)
    near = _div(b, dtype, _fsub(b, dtype, x, r), y)  # a whole number but for rounding
    near = RULES["round"](b, dtype, _fsub(b, dtype, near, b.select(differ, one, zero, dtype)))
    quotient = _div(b, dtype, x, y)
    near = b.select(
        compare(b, "oeq", dtype, near, zero), b.pure_call(dtype, "llvm.copysign", zero, quotient), near, dtype
    )
    return b.select(compare(b, "oeq", dtype, y, zero), quotient, near, dtype)


# Shifts by the width or more are poison in LLVM; a select that does not choose poison is not poison.


def _shl(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    t = _text(dtype, x)
    if y.const is not None:
        if not 0 <= y.const < dtype.bits:
            return b.zero(dtype, x.lanes)
        return b.ins(f"shl {t} {x.text}, {y.text}", x.lanes, x)
    inside = compare(b, "ult", dtype, y, b.splat(b.const(dtype.bits, dtype), dtype, x.lanes))
    return b.select(inside, b.ins(f"shl {t} {x.text}, {y.text}", x.lanes, x, y), b.zero(dtype, x.lanes), dtype)


def _shr(b: Builder, dtype: DType, x: Value, y: Value) -> Value:
    t, n = _text(dtype, x), x.lanes
    last = b.splat(b.const(dtype.bits - 1, dtype), dtype, n)
    if y.const is not None and 0 <= y.const < dtype.bits:
        return b.ins(f"{'ashr' if dtype.kind == 'i' else 'lshr'} {t} {x.text}, {y.text}", n, x)
    inside = compare(b, "ult", dtype, y, b.splat(b.const(dtype.bits, dtype), dtype, n))
    if dtype.kind == "i":
        by = b.select(inside, y, last, dtype)
        return b.ins(f"ashr {t} {x.text}, {by.text}", n, x, by)
    return b.select(inside, b.ins(f"lshr {t} {x.text}, {y.text}", n, x, y), b.zero(dtype, n), dtype)


def fma(b: Builder, dtype: DType, x: Value, y: Value, z: Value) -> Value:
    """x * y + z, rounded once where the target can."""
    if not dtype.is_float or not b.target.has_fma:
        return _add(b, dtype, _mul(b, dtype, x, y), z)
    return b.pure_call(dtype, "llvm.fma", x, y, z)


COMPARISONS = frozenset(("eq", "ne", "lt", "le"))

RULES: dict[str, Rule] = {
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "trunc": _rounding("trunc"),
    "round": _rounding("roundeven"),
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "not": _not,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "floordiv": _floordiv,
    "mod": _mod,
    "max": _extreme("max", "ogt", _or),
    "min": _extreme("min", "olt", _and),
    "eq": _comparison("oeq", "eq", "eq"),
    "ne": _comparison("une", "ne", "ne"),
    "lt": _comparison("olt", "slt", "ult"),
    "le": _comparison("ole", "sle", "ule"),
    "and": _and,
    "or": _or,
    "xor": _xor,
    "shl": _shl,
    "shr": _shr,
    "fma": fma,
    "unfused add": _binary("fadd", "add"),  # `loops.sums_products`
    "unfused sub": _binary("fsub", "sub"),
}
