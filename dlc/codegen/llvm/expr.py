"""Expressions of the Loop IR as LLVM values.

An expression that depends on the current vector axis becomes a vector, everything else a scalar that is spread where
it meets a vector. Index arithmetic (int64) that ends in a comparison, a cast or a gather is narrowed to 32 bits where
its bounds allow, which halves the number of vector registers that it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from dlc.base.errors import DlcError
from dlc.codegen.llvm import bf16_dot as llvm_dot
from dlc.codegen.llvm import convert as llvm_convert
from dlc.codegen.llvm import ops as llvm_ops
from dlc.codegen.llvm import quadrants as llvm_quadrants
from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.analysis import Analysis
from dlc.codegen.llvm.builder import Builder, Scope, Value
from dlc.codegen.llvm.index import IndexMath, Linear
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.dtypes import bool_, float64, int32, int64
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Buffer, Expr, Kernel, sums_products
from dlc.ir.quadrants import PARTS

_REACH = 1 << 61  # differences of index values below this cannot overflow


class EmitError(DlcError):
    """A kernel that the LLVM emitter cannot express."""


class Expressions(Builder):
    """Emission of expressions; `load` is left to the subclass that knows about memory."""

    def __init__(self, kernel: Kernel, target: CpuTarget):
        super().__init__(target)
        self.kernel = kernel
        self.analysis = Analysis(kernel)
        self.index = IndexMath()
        self.mask: Value | None = None  # the active lanes, under a vector axis with a tail or a condition
        self._memo: dict = {}
        self._frames: list[list] = [[]]  # what to forget when a binding ends
        self._scope_frame = [0]
        self._axes: dict[Expr, Value] = {}
        self._axis_frame: dict[Expr, int] = {}
        self._dependent: dict[Buffer, list] = {}  # remembered expressions that load a buffer

    def load(self, e: Expr) -> Value:
        raise NotImplementedError

    def load_pair(self, low: Expr, high: Expr) -> Value | None:
        raise NotImplementedError

    # bindings and what is remembered under them

    def bind(self, axis: Expr, value: Value) -> None:
        """From here to the end of the current frame `axis` is `value`; that of a vector loop is made by `_axis`."""
        self._axes[axis] = value
        self._axis_frame[axis] = len(self._frames) - 1
        if not value.lanes:
            self._memo[axis] = value
            self._frames[-1].append(axis)

    def push_frame(self) -> None:
        self._frames.append([])

    def pop_frame(self) -> None:
        memo = self._memo
        for key in self._frames.pop():
            memo.pop(key, None)

    def push(
        self, label: str, *, loop: bool = False, crossable: bool = False, writes: frozenset = frozenset()
    ) -> Scope:
        self.push_frame()
        self._scope_frame.append(len(self._frames) - 1)
        return super().push(label, loop=loop, crossable=crossable, writes=writes)

    def pop(self) -> Scope:
        self._scope_frame.pop()
        self.pop_frame()
        return super().pop()

    def remember(self, e: Expr, value: Value, key: object = None) -> None:
        key = e if key is None else key
        frame = self._scope_frame[value.depth]
        for a in e.axes:
            at = self._axis_frame[a]
            if at > frame:
                frame = at
        self._memo[key] = value
        self._frames[frame].append(key)
        for buffer in self.analysis.changing(e):
            self._dependent.setdefault(buffer, []).append(key)

    def forget(self, buffer: Buffer) -> None:
        """The contents of `buffer` change here."""
        for key in self._dependent.pop(buffer, ()):
            self._memo.pop(key, None)

    # expressions

    def expr(self, e: Expr) -> Value:
        """The value of `e` in the current scope."""
        memo = self._memo
        found = memo.get(e)
        if found is not None:
            return found
        stack = [e]
        while stack:
            x = stack.pop()
            if x in memo:
                continue
            rule = self._SPECIAL.get(x.op)
            value = rule(self, x) if rule is not None else None
            if value is None:
                missing = [a for a in x.args if a not in memo]
                if missing:
                    stack.append(x)
                    stack += missing
                    continue
                value = self._plain(x, [memo[a] for a in x.args])
            self.remember(x, value)
        return memo[e]

    def _plain(self, e: Expr, args: list[Value]) -> Value:
        if e.op == "cast":
            return llvm_convert.cast(self, args[0], e.args[0].dtype, e.dtype)
        if e.op == "bitcast":
            return llvm_convert.bitcast(self, args[0], e.args[0].dtype, e.dtype)
        if e.op == "select":
            return self.select(*args, e.dtype)
        if e.op in ("min", "max") and e.dtype.is_int:
            low, high = interval(e)
            if low == high:  # LLVM (to 22 at least) fails at a float as an integer between 0 and 0
                return self.const(low, e.dtype)
        if e.op == "pair":
            return llvm_dot.pair(self, *args)
        if e.op == "dot2":
            return llvm_dot.dot2(self, *args)
        if e.op in PARTS:
            lanes = max(a.lanes for a in args)
            return llvm_quadrants.emit(self, e.op, *(self.splat(a, float64, lanes) for a in args))
        if args[0].const is None and self._unsigned_divmod(e):
            return llvm_ops.unsigned_divmod(self, int64, e.op, args[0], self.splat(args[1], int64, args[0].lanes))
        if e.op not in llvm_ops.RULES:
            raise EmitError(f"{self.kernel.name}: {e.op!r} must be expanded into primitive operations before emission")
        name = f"unfused {e.op}" if sums_products(e) else e.op
        return llvm_ops.apply(self, name, e.args[0].dtype, args)

    def _unsigned_divmod(self, e: Expr) -> bool:
        divides = e.op in ("floordiv", "mod") and e.dtype is int64 and e.args[1].op == "const" and e.args[1].attr > 0
        return divides and interval(e.args[0])[0] >= 0

    def _const(self, e: Expr) -> Value:
        return self.const(e.attr, e.dtype)

    def _axis(self, e: Expr) -> Value:
        if not self.index.is_vector(e):
            if e not in self._axes:
                raise EmitError(f"{self.kernel.name}: axis {e.attr[0]} is used outside its loop")
            return self._axes[e]
        vector = self.index.vector
        base = self._axes[vector.base]
        lanes = Value(lt.lane_numbers(vector.lanes, int64), vector.lanes)
        return llvm_ops.RULES["add"](self, int64, self.splat(base, int64, vector.lanes), lanes)

    def _load(self, e: Expr) -> Value:
        return self.load(e)

    def _pair(self, e: Expr) -> Value | None:
        return self.load_pair(*e.args)

    def _divmod(self, e: Expr) -> Value | None:
        """A quotient that is the same in all lanes, by constants: see IndexMath."""
        if e.dtype is not int64 or not self.index.is_vector(e):
            return None
        linear = self.index.linear(e)
        if len(linear.terms) == 1 and e in linear.terms:
            return None
        value = self.linear_value(linear)
        if not linear.lane:
            return value
        lanes = Value(lt.lane_numbers(self.index.vector.lanes, int64, linear.lane), self.index.vector.lanes)
        return llvm_ops.RULES["add"](self, int64, self.splat(value, int64, lanes.lanes), lanes)

    def linear_value(self, linear: Linear) -> Value:
        """const + terms (not the lanes) as an int64 scalar."""
        total, add, mul = linear.const, llvm_ops.RULES["add"], llvm_ops.RULES["mul"]
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
            v = mul(self, int64, v, self.const(lt.wrap(factor, int64), int64))
            sum_ = v if sum_ is None else add(self, int64, sum_, v)
        constant = self.const(lt.wrap(total, int64), int64)
        return constant if sum_ is None else add(self, int64, sum_, constant)

    # narrow index vectors

    def _cast(self, e: Expr) -> Value | None:
        x = e.args[0]
        if x.dtype is not int64 or not self.index.is_vector(x) or x.op == "cast":
            return None
        if e.dtype.is_int and e.dtype.bits <= 32 and self.wraps(x):
            return llvm_convert.cast(self, self.expr32(x), int32, e.dtype)
        if e.dtype.is_float and self.narrow(x):
            return llvm_convert.cast(self, self.expr32(x), int32, e.dtype)
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

    def wraps(self, e: Expr) -> bool:
        """Whether the low 32 bits of `e` follow from the low 32 bits of the axes and constants in it."""
        memo = self.index.vector.wraps
        if e not in memo:
            arithmetic = e.op in ("add", "sub", "mul", "neg") and all(map(self.wraps, e.args))
            memo[e] = e.op in ("axis", "const") or arithmetic
        return memo[e]

    def expr32(self, e: Expr) -> Value:
        """The low 32 bits of an int64 index expression, for which `narrow` or `wraps` holds, in every lane."""
        key = (e, 32)
        found = self._memo.get(key)
        if found is None:
            found = self._find32(e)
            self.remember(e, found, key)
        return found

    def _find32(self, e: Expr) -> Value:
        if not self.index.is_vector(e):
            return llvm_convert.cast(self, self.expr(e), int64, int32)
        lanes = self.index.vector.lanes
        linear = self.index.linear(e)
        if not any(self.index.is_vector(a) for a in linear.terms):
            value = llvm_convert.cast(self, self.linear_value(linear), int64, int32)
            if not linear.lane:
                return value
            steps = Value(lt.lane_numbers(lanes, int32, linear.lane), lanes)
            return llvm_ops.RULES["add"](self, int32, self.splat(value, int32, lanes), steps)
        if e.op == "cast":
            return llvm_convert.cast(self, self.expr(e.args[0]), e.args[0].dtype, int32)
        args = [self.splat(self.expr32(a), int32, lanes) for a in e.args]
        if e.op in ("floordiv", "mod") and interval(e.args[0])[0] >= 0:
            return llvm_ops.unsigned_divmod(self, int32, e.op, *args)
        return llvm_ops.apply(self, e.op, int32, args)

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
            return llvm_ops.apply(self, e.op, int64, [self.linear_value(difference), self.const(0, int64)])
        if self.narrow(a) and self.narrow(b):
            return llvm_ops.apply(self, e.op, int32, [self.expr32(a), self.expr32(b)])
        return None

    def _compare_lane(self, op: str, difference: Linear) -> Value:
        """difference OP 0 as a comparison of the lane number with one scalar."""
        lanes, up = self.index.vector.lanes, difference.lane == 1
        # lane OP -s for a difference of s + lane, s OP lane for one of s - lane
        bound = Linear(difference.const, difference.terms).times(-1 if up else 1)
        if op in ("lt", "le"):
            # lane < t, or not (lane < t)
            shift = (0 if op == "lt" else 1) if up else (1 if op == "lt" else 0)
            predicate = "ult" if up else "uge"
            low = 0
        else:
            shift, predicate, low = 0, op, -1
        bound = Linear(bound.const + shift, bound.terms)
        t = self.linear_value(bound)
        if t.const is not None:
            test: Callable[[int], bool] = {
                "ult": lambda lane: lane < t.const,
                "uge": lambda lane: lane >= t.const,
                "eq": lambda lane: lane == t.const,
                "ne": lambda lane: lane != t.const,
            }[predicate]
            return self.constant_mask(tuple(test(lane) for lane in range(lanes)))
        t = llvm_ops.apply(self, "max", int64, [t, self.const(low, int64)])
        t = llvm_ops.apply(self, "min", int64, [t, self.const(lanes, int64)])
        t = self.splat(llvm_convert.cast(self, t, int64, int32), int32, lanes)
        return llvm_ops.compare(self, predicate, int32, Value(lt.lane_numbers(lanes, int32), lanes), t)

    # masks

    def constant_mask(self, active: tuple[bool, ...]) -> Value:
        """A mask known now; True or False where all lanes agree, so that selects and branches fold."""
        const = active if any(active) and not all(active) else active[0]
        return Value(lt.mask_text(active) if const is not False else "zeroinitializer", len(active), 0, const)

    def both(self, a: Value | None, b: Value | None) -> Value | None:
        """The lanes where both masks (or conditions) hold; None stands for all."""
        if a is None or a.const is True:
            return b
        if b is None or b.const is True:
            return a
        if a.const is False or b.const is False:
            return a if a.const is False else b
        lanes = max(a.lanes, b.lanes)
        if isinstance(a.const, tuple) and isinstance(b.const, tuple):
            return self.constant_mask(tuple(x and y for x, y in zip(a.const, b.const, strict=True)))
        a, b = self.splat(a, bool_, lanes), self.splat(b, bool_, lanes)
        t = lt.type_text(bool_, lanes)
        return self.ins(f"and {t} {a.text}, {b.text}", lanes, a, b)

    def any_lane(self, mask: Value) -> Value:
        """Whether a mask holds anywhere, as a scalar."""
        if not mask.lanes:
            return mask
        if mask.const is not None:
            return self.const(mask.const is not False, bool_)
        t = lt.type_text(bool_, mask.lanes)
        name = f"llvm.vector.reduce.or.{lt.suffix(bool_, mask.lanes)}"
        return self.ins(self.call_text("i1", name, [(t, mask.text)]), 0, mask)

    _SPECIAL: ClassVar = {
        "const": _const,
        "axis": _axis,
        "load": _load,
        "pair": _pair,
        "cast": _cast,
        "floordiv": _divmod,
        "mod": _divmod,
        "lt": _compare,
        "le": _compare,
        "eq": _compare,
        "ne": _compare,
    }


_NARROW = frozenset(("add", "sub", "mul", "neg", "max", "min"))
