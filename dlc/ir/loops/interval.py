"""Bounds of integer expressions, which know that every integer type wraps."""

from __future__ import annotations

from collections.abc import Callable

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loops import traverse
from dlc.ir.loops.ir import Expr

Interval = tuple[int, int]  # the lowest and the highest value, both included
HIGHEST = (1 << 63) - 1
ITSELF = "itself"
POSITION = frozenset(("axis", "const", "add", "sub", "mul", "floordiv", "mod", "min", "max"))
WHOLE: dict[DType, Interval] = {
    d: tuple(map(int, dtypes.limits(d if not d.is_float else dtypes.int64))) for d in dtypes.ALL  # type: ignore[misc]
}  # that of a float is never looked at


def interval(e: Expr) -> Interval:
    """The least and the greatest value of an integer or bool expression, from its axes' extents and its types."""
    found = e.bounds
    if found is not None:
        return found
    stack = [e]
    while stack:
        top = stack[-1]
        if top.bounds is None:
            missing = [a for a in _bounding(top) if a.bounds is None]
            if missing:
                stack += missing
                continue
            top.bounds = _interval(top)
        stack.pop()
    return e.bounds  # type: ignore[return-value]


def _bounding(e: Expr) -> tuple[Expr, ...]:
    """The operands that say something about the interval of `e`."""
    return e.args if e.op in _RULES and not any(a.dtype.is_float for a in e.args) else ()


def _interval(e: Expr) -> Interval:
    if e.op == "const" and not e.dtype.is_float:
        return int(e.attr), int(e.attr)
    if e.op == "axis":
        return 0, max(e.attr[1] - 1, 0)
    operands = _bounding(e)
    return _within(e.dtype, _RULES[e.op](e, *(a.bounds for a in operands)) if operands else None)  # type: ignore


def _within(dtype: DType, exact: Interval | None) -> Interval:
    """The interval of a result that would be `exact` if nothing wrapped; None where that is not known."""
    return exact if exact is not None and fits(dtype, exact) else WHOLE[dtype]


def fits(dtype: DType, exact: Interval) -> bool:
    """Are the values of an interval values of the type?"""
    low, high = WHOLE[dtype]
    return low <= exact[0] and exact[1] <= high


def wraps(e: Expr) -> bool:
    """May the integer operation `e` leave its type? (Not its operands: these are the values that they are.)"""
    return interval(e) == WHOLE[e.dtype]


def interval_given(e: Expr, known: dict[Expr, Interval]) -> Interval:
    """The same where some expressions (axes of loops that end before the axis does) have intervals that are `known`;
    those of all parts of `e` are put there."""
    for x in traverse.inside_out(e, known):
        operands = _bounding(x)
        known[x] = (_within(x.dtype, _RULES[x.op](x, *(known[a] for a in operands))) if operands  # type: ignore
                    else interval(x))
    return known[e]


def interval_where(e: Expr, known: Callable[[Expr], int | None]) -> Interval:
    """The interval of a sum of products where some axes have the values that `known` tells."""
    if e.op == "axis":
        value = known(e)
        return interval(e) if value is None else (value, value)
    if e.op in ("add", "sub", "mul"):
        return _within(e.dtype, _RULES[e.op](e, *(interval_where(a, known) for a in e.args)))
    return interval(e)


def _add(e: Expr, a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _sub(e: Expr, a: Interval, b: Interval) -> Interval:
    return a[0] - b[1], a[1] - b[0]


def _mul(e: Expr, a: Interval, b: Interval) -> Interval:
    ends = (a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])
    return min(ends), max(ends)


def _neg(e: Expr, a: Interval) -> Interval:
    return -a[1], -a[0]


def _abs(e: Expr, a: Interval) -> Interval:
    return max(a[0], -a[1], 0), max(-a[0], a[1])


def _sign(e: Expr, a: Interval) -> Interval:
    return (a[0] > 0) - (a[0] < 0), (a[1] > 0) - (a[1] < 0)


def _max(e: Expr, a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), max(a[1], b[1])


def _min(e: Expr, a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), min(a[1], b[1])


def _floordiv(e: Expr, a: Interval, b: Interval) -> Interval:
    low, high = b
    ends = [x // y for x in a for y in (low, high, -1, 1) if y and low <= y <= high]
    if low <= 0 <= high:  # a division by zero gives 0
        ends.append(0)
    return min(ends), max(ends)


def _mod(e: Expr, a: Interval, b: Interval) -> Interval:
    """A remainder lies between 0 and its divisor, and is its dividend where that does so already."""
    low, high = b
    if 0 <= a[0]:
        if 0 < low and a[1] < low:
            return a
        if 0 <= low:
            return 0, max(0, min(a[1], high - 1))
    return min(0, low + 1), max(0, high - 1)


def _and(e: Expr, a: Interval, b: Interval) -> Interval | None:
    bounds = [i[1] for i in (a, b) if i[0] >= 0]
    return (0, min(bounds)) if bounds else None


def _or(e: Expr, a: Interval, b: Interval) -> Interval | None:
    if min(a[0], b[0]) < 0:
        return None
    return (max(a[0], b[0]) if e.op == "or" else 0), (1 << max(a[1], b[1]).bit_length()) - 1


def _not(e: Expr, a: Interval) -> Interval:
    ones = WHOLE[e.dtype][1] if e.dtype.kind != "i" else -1
    return ones - a[1], ones - a[0]


def _shl(e: Expr, a: Interval, b: Interval) -> Interval | None:
    if b[0] != b[1]:
        return None
    return (a[0] << b[0], a[1] << b[0]) if 0 <= b[0] < e.dtype.bits else (0, 0)


def _shr(e: Expr, a: Interval, b: Interval) -> Interval:
    if b[0] == b[1] and 0 <= b[0] < e.dtype.bits:
        return a[0] >> b[0], a[1] >> b[0]
    return min(a[0], 0), max(a[1], 0)


# The interval of an operation from those of its operands, as if nothing wrapped; None: not known.
_RULES: dict[str, Callable[..., Interval | None]] = {
    "add": _add, "sub": _sub, "mul": _mul, "neg": _neg, "abs": _abs, "sign": _sign, "max": _max, "min": _min,
    "floordiv": _floordiv, "mod": _mod, "and": _and, "or": _or, "xor": _or, "not": _not, "shl": _shl, "shr": _shr,
    "cast": lambda e, a: a,
    "select": lambda e, c, a, b: (min(a[0], b[0]), max(a[1], b[1])),
}  # fmt: skip
