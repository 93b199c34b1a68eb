"""What an attention does to its scores: the scale, and which of them a mask leaves out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from dlc.codegen.lower.gpu.attention_tiles import ZERO, op
from dlc.ir import dtypes
from dlc.ir.loops.index import linear, simplify
from dlc.ir.loops.ir import Expr
from dlc.passes.fuse.attention_unit import SCORE


@dataclass(frozen=True)
class Condition:
    """row * of row + column * of column + constant >= 0, where of row and of column are -1, 0 or 1."""

    row: int
    column: int
    constant: int

    def at(self, row: Expr, column: Expr) -> Expr:
        return op("le", ZERO, simplify(row * self.row + column * self.column + self.constant))


class Scores(NamedTuple):
    """The scores as select(conditions, inner * factor, -inf). `raw`: inner is the contraction's result itself."""

    inner: Expr
    factor: float
    conditions: tuple[Condition, ...]
    known: frozenset[Expr]  # the conditions as they stand in expressions
    raw: bool


def scores_of(score: Expr, row: Expr, column: Expr) -> Scores:
    """Take the body of the scores apart; `row` and `column` are the unit's axes."""
    found: list[Condition] = []
    known: set[Expr] = set()
    inner = score
    while inner.op == "select" and _is_low(inner.args[2]):
        parts = {c: _condition(c, row, column) for c in _conjuncts(inner.args[0])}
        if None in parts.values():
            break
        found += [c for c in parts.values() if c is not None]
        known |= {inner.args[0], *parts}
        inner = inner.args[1]
    inner, factor = factored(inner)
    return Scores(inner, factor, tuple(found), frozenset(known), inner is SCORE)


def _is_low(e: Expr) -> bool:
    return e.op == "const" and e.attr == -math.inf


def _conjuncts(e: Expr) -> list[Expr]:
    return _conjuncts(e.args[0]) + _conjuncts(e.args[1]) if e.op == "and" else [e]


def _condition(e: Expr, row: Expr, column: Expr) -> Condition | None:
    if e.op not in ("lt", "le") or e.args[0].dtype is not dtypes.int64:
        return None
    terms, constant = linear(e.args[1] - e.args[0])
    if set(terms) - {row, column} or set(terms.values()) - {1, -1}:
        return None
    return Condition(terms.get(row, 0), terms.get(column, 0), constant - (e.op == "lt"))


def factored(e: Expr) -> tuple[Expr, float]:
    """`e` as an expression times a positive constant."""
    if e.op == "mul":
        for k in (0, 1):
            c = e.args[k]
            if c.op == "const" and 0 < c.attr < math.inf:
                inner, factor = factored(e.args[1 - k])
                return inner, factor * c.attr
    if e.op == "select" and _is_low(e.args[2]):
        inner, factor = factored(e.args[1])
        return op("select", e.args[0], inner, e.args[2]), factor
    return e, 1.0
