"""The linear form of an index expression, as addresses are made of it: modulo 2**64 (see `ir/loops/index.py`).

Under a vector axis v the lane number is split off: v = base + lane, so `coefficient of lane` says how a vector access
walks through memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dlc.ir.dtypes import int64
from dlc.ir.loops.index import addends, linear_interval
from dlc.ir.loops.interval import fits
from dlc.ir.loops.ir import Expr, axis
from dlc.ir.loops.traverse import map_expr


class LinearAddress(NamedTuple):
    """const + sum of coefficient * atom + lane * (lane number). An atom is any expression that is not linear."""

    const: int
    terms: dict[Expr, int]
    lane: int = 0

    def plus(self, other: LinearAddress, factor: int = 1) -> LinearAddress:
        terms = dict(self.terms)
        for atom, c in other.terms.items():
            c = terms.get(atom, 0) + c * factor
            if c:
                terms[atom] = c
            else:
                terms.pop(atom, None)
        return LinearAddress(self.const + other.const * factor, terms, self.lane + other.lane * factor)

    def times(self, factor: int) -> LinearAddress:
        if factor == 0:
            return LinearAddress(0, {})
        return LinearAddress(self.const * factor, {a: c * factor for a, c in self.terms.items()}, self.lane * factor)


class VectorAxis:
    """The vector loop being emitted: its axis, a stand-in axis for the first lane's value, and the number of lanes."""

    def __init__(self, axis_: Expr, lanes: int):
        self.axis = axis_
        self.base = axis(f"{axis_.attr[0]}.base", axis_.attr[1])
        self.lanes = lanes
        self.linear: dict[Expr, LinearAddress] = {}
        self.flat: dict[tuple, LinearAddress] = {}
        self.narrow: dict[Expr, bool] = {}
        self.wraps: dict[Expr, bool] = {}
        self._memo: dict[Expr, Expr] = {axis_: self.base}

    def at_base(self, expr: Expr) -> Expr:
        """`expr` as it is in the first lane."""
        return map_expr(expr, lambda old, args: None, self._memo)


class IndexMath:
    """Linear forms, remembered for one kernel."""

    def __init__(self) -> None:
        self._linear: dict[Expr, LinearAddress] = {}
        self._flat: dict[tuple, LinearAddress] = {}
        self._vectors: dict[tuple[Expr, int], VectorAxis] = {}
        self.vector: VectorAxis | None = None

    def enter_vector(self, axis_: Expr, lanes: int) -> VectorAxis:
        """From now on linear forms are relative to this vector axis."""
        found = self._vectors.get((axis_, lanes))
        if found is None:
            found = self._vectors[axis_, lanes] = VectorAxis(axis_, lanes)
        self.vector = found
        return found

    def leave_vector(self) -> None:
        self.vector = None

    def is_vector(self, expr: Expr) -> bool:
        """Whether lanes may differ."""
        vector = self.vector
        return vector is not None and vector.axis in expr.axes

    def linear(self, e: Expr) -> LinearAddress:
        memo = self.vector.linear if self.is_vector(e) else self._linear
        found = memo.get(e)
        if found is None:
            found = memo[e] = self._find_linear(e)
        return found

    def flat(self, index: tuple[Expr, ...], shape: tuple[int, ...]) -> LinearAddress:
        """The offset of an element in a row-major buffer of `shape`."""
        memo = self._flat if self.vector is None else self.vector.flat
        key = (index, shape)
        total = memo.get(key)
        if total is None:
            total, stride = LinearAddress(0, {}), 1
            for i, extent in zip(reversed(index), reversed(shape), strict=True):
                total = total.plus(self.linear(i), stride)
                stride *= extent
            memo[key] = total
        return total

    def divisor(self, total: LinearAddress) -> int:
        """What divides the linear form in the first lane of every group."""
        vector = self.vector
        factors = (f * vector.lanes if vector is not None and a is vector.base else f for a, f in total.terms.items())
        return math.gcd(total.const, *factors)

    def _find_linear(self, e: Expr) -> LinearAddress:
        op, args = e.op, e.args
        if op == "const":
            return LinearAddress(int(e.attr), {})
        if op == "axis":
            if self.vector is not None and e is self.vector.axis:
                return LinearAddress(0, {self.vector.base: 1}, 1)
        elif op in ("floordiv", "mod") and args[1].op == "const" and args[1].attr > 0 and self.is_vector(e):
            split = self._split_lanes(e)
            if split is not None:
                return split
        elif (parts := addends(e)) is not None:
            (first, factor), *others = parts
            total = self.linear(first) if factor == 1 else self.linear(first).times(factor)
            for part, factor in others:
                total = total.plus(self.linear(part), factor)
            return total
        return LinearAddress(0, {e: 1})

    def _split_lanes(self, e: Expr) -> LinearAddress | None:
        """x // c or x % c where all lanes of a group lie between the same two multiples of c."""
        x, c = self.linear(e.args[0]), e.args[1].attr
        vector = self.vector
        if any(self.is_vector(a) for a in x.terms) or x.lane < 0:
            return None
        group = math.gcd(x.const, c)
        for atom, factor in x.terms.items():
            # the base of a group of lanes is a multiple of their number
            group = math.gcd(group, factor * vector.lanes if atom is vector.base else factor)
        steps = x.lane * (vector.lanes - 1)
        low, high = linear_interval(x.terms, x.const)
        if steps >= group or not fits(int64, (low, high + steps)):  # a form that might wrap knows no quotients
            return None
        first = LinearAddress(0, {vector.at_base(e): 1})
        return first if e.op == "floordiv" else first.plus(LinearAddress(0, {}, x.lane))
