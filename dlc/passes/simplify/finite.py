"""Bounds of the values of a graph's float nodes, NaN aside, from what they are made of: whether one can be infinite."""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.ir import dtypes
from dlc.ir.graph.graph import Node

Bounds = tuple[float, float]

_ANY: Bounds = (-math.inf, math.inf)
_SAME = frozenset(("broadcast", "reshape", "permute", "slice", "flip", "gather", "stop_gradient", "tag", "barrier"))
_CHOICES = frozenset(("select", "max", "min", "neg", "abs"))  # nothing is rounded
_RANGES: dict[str, Bounds] = {
    "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "erf": (-1.0, 1.0), "sin": (-1.0, 1.0), "cos": (-1.0, 1.0),
    "sign": (-1.0, 1.0), "atan": (-1.6, 1.6),
}  # fmt: skip


def never_infinite(x: Node, depth: int = 8) -> bool:
    """Can no element of `x` be infinite? It may be NaN."""
    low, high = bounds(x, depth)
    return -math.inf < low and high < math.inf


def bounds(x: Node, depth: int = 8) -> Bounds:
    """(lowest, highest) that an element may be, infinite where that is not known."""
    if x.op == "const":
        v = float(x.attrs["value"])
        return _ANY if math.isnan(v) else _held(x, v, v)
    if x.op in _RANGES:
        return _RANGES[x.op]
    if not x.dtype.is_float:
        return (0.0, 1.0) if x.dtype.is_bool else tuple(map(float, dtypes.limits(x.dtype)))
    rule = _RULES.get(x.op)
    if not depth or rule is None and x.op not in _SAME:
        return _ANY
    if rule is None:
        return bounds(x.inputs[0], depth - 1)
    return rule(x, depth - 1) if x.op in _CHOICES else _held(x, *rule(x, depth - 1))


def _held(x: Node, low: float, high: float) -> Bounds:
    """Bounds near the end of the type's range are none: rounding may pass it."""
    end = dtypes.limits(x.dtype)[1] / 2
    return low if low >= -end else -math.inf, high if high <= end else math.inf


def _of(x: Node, depth: int) -> list[Bounds]:
    return [bounds(i, depth) for i in x.inputs]


def _corners(a: Bounds, b: Bounds, f: Callable[[float, float], float]) -> Bounds:
    found = [f(p, q) for p in a for q in b]
    return _ANY if any(map(math.isnan, found)) else (min(found), max(found))


def _add(x: Node, depth: int) -> Bounds:
    (a, b), (c, d) = _of(x, depth)
    return a + c, b + d


def _sub(x: Node, depth: int) -> Bounds:
    (a, b), (c, d) = _of(x, depth)
    return a - d, b - c


def _mul(x: Node, depth: int) -> Bounds:
    left, right = _of(x, depth)
    low, high = _corners(left, right, lambda p, q: 0.0 if p == 0 or q == 0 else p * q)
    return (0.0 if x.inputs[0] is x.inputs[1] else low), high


def _div(x: Node, depth: int) -> Bounds:
    top, (low, high) = _of(x, depth)
    if low <= 0 <= high:
        return _ANY
    return _corners(top, (low, high), lambda p, q: p / q if math.isfinite(q) else 0.0 if math.isfinite(p) else math.nan)


def _neg(x: Node, depth: int) -> Bounds:
    low, high = bounds(x.inputs[0], depth)
    return -high, -low


def _abs(x: Node, depth: int) -> Bounds:
    low, high = bounds(x.inputs[0], depth)
    return max(low, -high, 0.0), max(-low, high)


def _sqrt(x: Node, depth: int) -> Bounds:
    low, high = (math.sqrt(max(v, 0.0)) for v in bounds(x.inputs[0], depth))
    return low, high


def _rsqrt(x: Node, depth: int) -> Bounds:
    low, _ = bounds(x.inputs[0], depth)
    return 0.0, 1 / math.sqrt(low) if low > 0 else math.inf


def _exp(x: Node, depth: int) -> Bounds:
    _, high = bounds(x.inputs[0], depth)
    return 0.0, math.exp(high) if high < 700 else math.inf


def _select(x: Node, depth: int) -> Bounds:
    cond, a, b = x.inputs
    low, high = bounds(a, depth)
    if cond.op == "lt" and cond.inputs[0].op == "abs" and cond.inputs[0].inputs[0] is a:  # |a| < limit ? a : b
        limit = min(bounds(cond.inputs[1], depth)[1], dtypes.limits(a.dtype)[1])
        low, high = max(low, -limit), min(high, limit)
    if b.op == "const" and math.isnan(b.attrs["value"]):
        return low, high
    other = bounds(b, depth)
    return min(low, other[0]), max(high, other[1])


def _max(x: Node, depth: int) -> Bounds:
    (a, b), (c, d) = _of(x, depth)
    return max(a, c), max(b, d)


def _min(x: Node, depth: int) -> Bounds:
    (a, b), (c, d) = _of(x, depth)
    return min(a, c), min(b, d)


def _reduce(x: Node, depth: int) -> Bounds:
    low, high = bounds(x.inputs[0], depth)
    if x.attrs["monoid"] in ("max", "min"):
        return low, high
    if x.attrs["monoid"] != "sum":
        return _ANY
    return (0.0 if low >= 0 else -math.inf), (0.0 if high <= 0 else math.inf)


_RULES: dict[str, Callable[[Node, int], Bounds]] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "abs": _abs, "sqrt": _sqrt, "rsqrt": _rsqrt,
    "exp": _exp, "select": _select, "max": _max, "min": _min, "reduce": _reduce,
    "cast": lambda x, depth: bounds(x.inputs[0], depth),
}  # fmt: skip
