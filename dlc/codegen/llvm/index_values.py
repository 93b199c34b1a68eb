"""The values of index expressions (int64), which are linear forms mostly.

Index arithmetic that ends in a comparison, a cast or a gather is narrowed to 32 bits where its bounds allow, which
halves the number of vector registers that it takes.
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import Expressions
from dlc.codegen.llvm.index import LinearAddress
from dlc.codegen.llvm.ops import convert, scalar
from dlc.ir.dtypes import int32, int64
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Expr

_REACH = 1 << 61  # differences of index values below this cannot overflow
_NARROW = frozenset(("add", "sub", "mul", "neg", "max", "min"))


class IndexValues:
    """Emission of index expressions."""

    def __init__(self, b: Builder, env: Environment, expressions: Expressions):
        self.b, self.env, self.index = b, env, env.index
        self.expr = expressions.expr
        expressions.rules |= {"cast": self._cast, "floordiv": self._divmod, "mod": self._divmod}
        expressions.rules |= dict.fromkeys(("lt", "le", "eq", "ne"), self._compare)

    def _divmod(self, e: Expr) -> Value | None:
        """A quotient that is the same in all lanes, by constants: see IndexMath."""
        if e.dtype is not int64 or not self.index.is_vector(e):
            return None
        linear = self.index.linear(e)
        if len(linear.terms) == 1 and e in linear.terms:
            return None
        value = self._linear_value(linear)
        if not linear.lane:
            return value
        lanes = Value(lt.lane_numbers(self.index.vector.lanes, int64, linear.lane), self.index.vector.lanes)
        return scalar.RULES["add"](self.b, int64, self.b.splat(value, int64, lanes.lanes), lanes)

    def _linear_value(self, linear: LinearAddress) -> Value:
        """const + terms (not the lanes) as an int64 scalar."""
        total, add, mul = linear.const, scalar.RULES["add"], scalar.RULES["mul"]
        parts = []
        for atom, factor in linear.terms.items():
            v = self.expr(atom)
            if v.const is not None:
                total += factor * v.const
            else:
                parts.append((v, factor))
        parts.sort(key=lambda p: p[0].depth)
        sum_: Value | None = None
        for v, factor in parts:
            v = mul(self.b, int64, v, self.b.const(lt.wrap(factor, int64), int64))
            sum_ = v if sum_ is None else add(self.b, int64, sum_, v)
        constant = self.b.const(lt.wrap(total, int64), int64)
        return constant if sum_ is None else add(self.b, int64, sum_, constant)

    # narrow index vectors

    def _cast(self, e: Expr) -> Value | None:
        x = e.args[0]
        if x.dtype is not int64 or not self.index.is_vector(x) or x.op == "cast":
            return None
        if e.dtype.is_int and e.dtype.bits <= 32 and self._wraps(x):
            return convert.cast(self.b, self.expr32(x), int32, e.dtype)
        if e.dtype.is_float and self.narrow(x):
            return convert.cast(self.b, self.expr32(x), int32, e.dtype)
        return None

    def narrow(self, e: Expr) -> bool:
        """Whether an int64 expression and all its parts can be computed in 32 bits."""
        memo = self.index.vector.narrow
        if e not in memo:
            memo[e] = self._is_narrow(e)
        return memo[e]

    def _is_narrow(self, e: Expr) -> bool:
        low, high = interval(e)
        if low < -(1 << 31) or high >= 1 << 31:
            return False
        if not self.index.is_vector(e) or e.op in ("axis", "const"):
            return True
        if e.op == "cast":
            source = e.args[0].dtype
            return source is int32 or (source.is_int and source.bits < 32)
        if e.op in ("floordiv", "mod"):
            return e.args[1].op == "const" and e.args[1].attr > 0 and self.narrow(e.args[0])
        return e.op in _NARROW and all(self.narrow(a) for a in e.args)

    def _wraps(self, e: Expr) -> bool:
        """Whether the low 32 bits of `e` follow from the low 32 bits of the axes and constants in it."""
        memo = self.index.vector.wraps
        if e not in memo:
            arithmetic = e.op in ("add", "sub", "mul", "neg") and all(map(self._wraps, e.args))
            memo[e] = e.op in ("axis", "const") or arithmetic
        return memo[e]

    def expr32(self, e: Expr) -> Value:
        """The low 32 bits of an int64 index expression, for which `narrow` or `wraps` holds, in every lane."""
        key = (e, 32)
        found = self.env.memo.get(key)
        if found is None:
            found = self._find32(e)
            self.env.remember(e, found, key)
        return found

    def _find32(self, e: Expr) -> Value:
        if not self.index.is_vector(e):
            return convert.cast(self.b, self.expr(e), int64, int32)
        lanes = self.index.vector.lanes
        linear = self.index.linear(e)
        if not any(self.index.is_vector(a) for a in linear.terms):
            value = convert.cast(self.b, self._linear_value(linear), int64, int32)
            if not linear.lane:
                return value
            steps = Value(lt.lane_numbers(lanes, int32, linear.lane), lanes)
            return scalar.RULES["add"](self.b, int32, self.b.splat(value, int32, lanes), steps)
        if e.op == "cast":
            return convert.cast(self.b, self.expr(e.args[0]), e.args[0].dtype, int32)
        args = [self.b.splat(self.expr32(a), int32, lanes) for a in e.args]
        if e.op in ("floordiv", "mod") and interval(e.args[0])[0] >= 0:
            return scalar.unsigned_divmod(self.b, int32, e.op, *args)
        return scalar.apply(self.b, e.op, int32, args)

    def _compare(self, e: Expr) -> Value | None:
        """A comparison of index expressions that differs by lane."""
        a, b = e.args
        if a.dtype is not int64 or not self.index.is_vector(e):
            return None
        difference = self.index.linear(a).plus(self.index.linear(b), -1)
        reach = max(map(abs, (*interval(a), *interval(b))))
        if abs(difference.lane) == 1 and reach < _REACH and not any(map(self.index.is_vector, difference.terms)):
            return self._compare_lane(e.op, difference)
        if not difference.lane and reach < _REACH and not any(map(self.index.is_vector, difference.terms)):
            return scalar.apply(self.b, e.op, int64, [self._linear_value(difference), self.b.const(0, int64)])
        if self.narrow(a) and self.narrow(b):
            return scalar.apply(self.b, e.op, int32, [self.expr32(a), self.expr32(b)])
        return None

    def _compare_lane(self, op: str, difference: LinearAddress) -> Value:
        """difference OP 0 as a comparison of the lane number with one scalar."""
        lanes, up = self.index.vector.lanes, difference.lane == 1
        # lane OP -s for a difference of s + lane, s OP lane for one of s - lane
        bound = LinearAddress(difference.const, difference.terms).times(-1 if up else 1)
        if op in ("lt", "le"):
            # lane < t, or not (lane < t)
            shift = (0 if op == "lt" else 1) if up else (1 if op == "lt" else 0)
            predicate = "ult" if up else "uge"
            low = 0
        else:
            shift, predicate, low = 0, op, -1
        bound = LinearAddress(bound.const + shift, bound.terms)
        t = self._linear_value(bound)
        if t.const is not None:
            test: Callable[[int], bool] = {
                "ult": lambda lane: lane < t.const,
                "uge": lambda lane: lane >= t.const,
                "eq": lambda lane: lane == t.const,
                "ne": lambda lane: lane != t.const,
            }[predicate]
            return self.b.constant_mask(tuple(test(lane) for lane in range(lanes)))
        t = scalar.apply(self.b, "max", int64, [t, self.b.const(low, int64)])
        t = scalar.apply(self.b, "min", int64, [t, self.b.const(lanes, int64)])
        t = self.b.splat(convert.cast(self.b, t, int64, int32), int32, lanes)
        return scalar.compare(self.b, predicate, int32, Value(lt.lane_numbers(lanes, int32), lanes), t)
