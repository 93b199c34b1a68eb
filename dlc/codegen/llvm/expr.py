"""Expressions of the Loop IR as LLVM values.

An expression that depends on the current vector axis becomes a vector, everything else a scalar that is spread where
it meets a vector.
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.base.errors import DlcError
from dlc.codegen.llvm import quadrants
from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.ops import bf16_dot, convert, scalar
from dlc.ir.dtypes import DType, float64, int64
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Expr, sums_products
from dlc.ir.quadrants import PARTS

Rule = Callable[[Expr], Value | None]  # None: the general rule applies


class EmitError(DlcError):
    """A kernel that the LLVM emitter cannot express."""


class Expressions:
    """Emission of expressions.

    `rules` has the operations whose value does not follow from the values of their operands alone. What knows about
    index arithmetic and about memory adds its own (`IndexValues`, `Memory`).
    """

    def __init__(self, b: Builder, env: Environment):
        self.b, self.env, self.index = b, env, env.index
        self.rules: dict[str, Rule] = {"const": self._const, "axis": self._axis}
        self._memo = env.memo

    def close(self) -> None:
        """No more expressions. The rules know this object, a cycle that would keep all values for a while."""
        self.rules.clear()

    def expr(self, e: Expr) -> Value:
        """The value of `e` in the current scope."""
        memo = self._memo
        found = memo.get(e)
        if found is not None:
            return found
        stack, rules, remember = [e], self.rules, self.env.remember
        while stack:
            x = stack.pop()
            if x in memo:
                continue
            rule = rules.get(x.op)
            value = rule(x) if rule is not None else None
            if value is None:
                missing = [a for a in x.args if a not in memo]
                if missing:
                    stack.append(x)
                    stack += missing
                    continue
                value = self._plain(x, [memo[a] for a in x.args])
            remember(x, value)
        return memo[e]

    def _plain(self, e: Expr, args: list[Value]) -> Value:
        if e.op == "cast":
            return convert.cast(self.b, args[0], e.args[0].dtype, e.dtype)
        if e.op == "bitcast":
            return convert.bitcast(self.b, args[0], e.args[0].dtype, e.dtype)
        if e.op == "select":
            return self.b.select(*args, e.dtype)
        if e.op in ("min", "max") and e.dtype.is_int:
            low, high = interval(e)
            if low == high:  # LLVM (to 22 at least) fails at a float as an integer between 0 and 0
                return self.b.const(low, e.dtype)
        if e.op == "pair":
            return bf16_dot.pair(self.b, *args)
        if e.op == "dot2":
            return bf16_dot.dot2(self.b, *args)
        if e.op in PARTS:
            lanes = max(a.lanes for a in args)
            return quadrants.emit(self.b, e.op, *(self.b.splat(a, float64, lanes) for a in args))
        if args[0].const is None and self._unsigned_divmod(e):
            return scalar.unsigned_divmod(self.b, int64, e.op, args[0], self.b.splat(args[1], int64, args[0].lanes))
        if e.op not in scalar.RULES:
            kernel = self.env.kernel.name
            raise EmitError(f"{kernel}: {e.op!r} must be expanded into primitive operations before emission")
        name = f"unfused {e.op}" if sums_products(e) else e.op
        return scalar.apply(self.b, name, e.args[0].dtype, args)

    def _unsigned_divmod(self, e: Expr) -> bool:
        divides = e.op in ("floordiv", "mod") and e.dtype is int64 and e.args[1].op == "const" and e.args[1].attr > 0
        return divides and interval(e.args[0])[0] >= 0

    def _const(self, e: Expr) -> Value:
        return self.b.const(e.attr, e.dtype)

    def _axis(self, e: Expr) -> Value:
        if not self.index.is_vector(e):
            if e not in self.env.axes:
                raise EmitError(f"{self.env.kernel.name}: axis {e.attr[0]} is used outside its loop")
            return self.env.axes[e]
        vector = self.index.vector
        base = self.env.axes[vector.base]
        lanes = Value(lt.lane_numbers(vector.lanes, int64), vector.lanes)
        return scalar.RULES["add"](self.b, int64, self.b.splat(base, int64, vector.lanes), lanes)

    def combined(self, combine: str, dtype: DType, old: Value, value: Expr) -> Value:
        """combine(old, value), with a product fused into a sum."""
        fused = combine == "add" and value.op == "mul" and dtype.is_float and not dtype.is_half
        if fused and self.b.target.has_fma:
            a, b = (self.expr(x) for x in value.args)
            lanes = max(a.lanes, b.lanes, old.lanes)
            return scalar.fma(self.b, dtype, *(self.b.splat(x, dtype, lanes) for x in (a, b, old)))
        return scalar.apply(self.b, combine, dtype, [old, self.expr(value)])
