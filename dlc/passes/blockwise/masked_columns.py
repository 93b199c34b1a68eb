"""Which columns of a block of rows need not be computed: those that a mask makes neutral for all that follows.

For a block of rows and the columns from some column on, all values in the body of a region have bounds: an index lies
in the block, so a comparison of two indices may be the same everywhere, a selection then gives its fill, and the
exponential of minus infinity is zero. Where every sum over the columns adds zeros there, and every maximum sees minus
infinity, the columns are left out. NaN is left out of account: a position that is masked does not count, whatever
stands there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node
from dlc.ir.graph.ops import split_spec
from dlc.passes.blockwise.body import BlockBody
from dlc.passes.blockwise.region import Labels


class Bounds(NamedTuple):
    """The least and the greatest value."""

    low: float
    high: float

    @property
    def fixed(self) -> bool:
        return self.low == self.high


ANY, FLAG, ZERO = Bounds(-math.inf, math.inf), Bounds(0, 1), Bounds(0, 0)
_NEUTRAL = {"sum": 0, "max": -math.inf, "min": math.inf, "prod": 1, "any": 0, "all": 1}


def columns_needed(body: BlockBody, first: int, rows: int, column: int, total: int, step: int) -> int:
    """How many of the `total` columns (positions of class `column`) the rows from `first` on need, in steps of `step`.
    `body` has the region's exits on any block."""
    low, high = 1, -(-total // step)
    if fills(body, first, rows, column, low * step, total) is not None:
        return min(low * step, total)
    while high - low > 1:  # low columns do not suffice, high ones do
        middle = (low + high) // 2
        if fills(body, first, rows, column, middle * step, total) is None:
            low = middle
        else:
            high = middle
    return min(high * step, total)


def fills(body: BlockBody, first: int, rows: int, column: int, start: int, total: int) -> dict[Node, float] | None:
    """What the exits that have the columns have in them from `start` on, or None if these columns count."""
    if start >= total:
        return {}
    known: dict[tuple[Node, Labels], Bounds] = {}
    for node, labels in body.done:
        operands = body.operands(node, labels)
        if operands is None:
            known[node, labels] = FLAG if node.dtype.is_bool else ANY
            continue
        found = _bounds(body, node, labels, operands, [known[k] for k in operands], (first, rows, column, start, total))
        if found is None:
            return None
        known[node, labels] = found
    out = {}
    for e in body.region.exits:
        labels = body.region.labels[e]
        if column in labels:
            if not known[e, labels].fixed:
                return None
            out[e] = known[e, labels].low
    return out


def _bounds(body: BlockBody, node: Node, labels: Labels, operands: list[tuple[Node, Labels]], ins: list[Bounds],
            where: tuple[int, int, int, int, int]) -> Bounds | None:
    first, rows, column, start, total = where
    if node.op == "const":
        value = float(node.attrs["value"])
        return ANY if math.isnan(value) else Bounds(value, value)
    if node.op == "iota":
        label = labels[node.attrs["axis"]]
        if label == column:
            return Bounds(start, total - 1)
        inside = label >= 0 and label == body.region.rows
        return Bounds(first, first + rows - 1) if inside else Bounds(0, max(0, node.shape[node.attrs["axis"]] - 1))
    if node.op == "reduce":
        monoid, own = node.attrs["monoid"], operands[0][1]
        if any(own[a] == column for a in node.attrs["axes"]):
            return ANY if ins[0] == Bounds(_NEUTRAL[monoid], _NEUTRAL[monoid]) else None
        return ins[0] if ins[0].fixed and (monoid in ("max", "min") or ins[0] == ZERO) else ANY
    if node.op == "contract":
        a, b, out = split_spec(node.attrs["spec"])
        summed = {c for spec, (_, own) in zip((a, b), operands, strict=True)
                  for c, label in zip(spec, own, strict=True) if label == column} - set(out)
        if summed:
            return ANY if ZERO in ins else None
        return ZERO if ZERO in ins else ANY
    if node.op == "cast" and node.dtype.is_bool:
        return _cast_to_bool(ins[0])
    if node.op in _BITS and not node.dtype.is_bool:
        return ANY
    found = RULES[node.op](*ins) if node.op in RULES else ins[0] if node.op in _SAME else ANY
    if node.dtype.is_bool:
        return FLAG if found.low < 0 or found.high > 1 else found
    if node.dtype.is_int and not _holds(node.dtype, found):
        return ANY
    return found


def _holds(dtype: DType, found: Bounds) -> bool:
    """Are these values of an integer type, without wrapping?"""
    low, high = dtypes.limits(dtype)
    return low <= found.low and found.high <= high


def _cast_to_bool(a: Bounds) -> Bounds:
    return ZERO if a == ZERO else Bounds(1, 1) if a.low > 0 or a.high < 0 else FLAG


def _add(a: Bounds, b: Bounds) -> Bounds:
    if a.fixed and math.isinf(a.low):
        return a
    if b.fixed and math.isinf(b.low):
        return b
    return Bounds(_sum(a.low, b.low, -math.inf), _sum(a.high, b.high, math.inf))


def _sum(a: float, b: float, unknown: float) -> float:
    out = a + b
    return unknown if math.isnan(out) else out


def _neg(a: Bounds) -> Bounds:
    return Bounds(-a.high, -a.low)


def _mul(a: Bounds, b: Bounds) -> Bounds:
    if ZERO in (a, b):
        return ZERO
    ends = [x * y for x in a for y in b]
    if any(map(math.isnan, ends)):
        return ANY
    return Bounds(min(ends), max(ends))


def _div(a: Bounds, b: Bounds) -> Bounds:
    return ZERO if a == ZERO else ANY


def _exp(a: Bounds) -> Bounds:
    return ZERO if a.high == -math.inf else Bounds(0, math.inf)


def _le(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(1, 1) if a.high <= b.low else ZERO if a.low > b.high else FLAG


def _lt(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(1, 1) if a.high < b.low else ZERO if a.low >= b.high else FLAG


def _eq(a: Bounds, b: Bounds) -> Bounds:
    if a.fixed and a == b:
        return Bounds(1, 1)
    return ZERO if a.high < b.low or b.high < a.low else FLAG


def _not(a: Bounds) -> Bounds:
    return Bounds(1 - a.high, 1 - a.low)


def _select(cond: Bounds, a: Bounds, b: Bounds) -> Bounds:
    if cond.fixed:
        return a if cond.low else b
    return Bounds(min(a.low, b.low), max(a.high, b.high))


_BITS = frozenset({"and", "or", "not"})  # bit by bit on integers
_SAME = frozenset({"cast", "reshape", "permute", "broadcast", "barrier", "stop_gradient", "tag"})
RULES = {
    "add": _add, "sub": lambda a, b: _add(a, _neg(b)), "neg": _neg, "mul": _mul, "div": _div, "exp": _exp,
    "max": lambda a, b: Bounds(max(a.low, b.low), max(a.high, b.high)),
    "min": lambda a, b: Bounds(min(a.low, b.low), min(a.high, b.high)),
    "le": _le, "lt": _lt, "ge": lambda a, b: _le(b, a), "gt": lambda a, b: _lt(b, a), "eq": _eq,
    "ne": lambda a, b: _not(_eq(a, b)), "select": _select,
    "and": lambda a, b: Bounds(min(a.low, b.low), min(a.high, b.high)),
    "or": lambda a, b: Bounds(max(a.low, b.low), max(a.high, b.high)),
    "not": _not,
}  # fmt: skip
