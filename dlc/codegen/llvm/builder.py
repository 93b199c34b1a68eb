"""The text of one LLVM function under construction: values, nested scopes, numbering.

An instruction is a line of text. It is appended to the outermost open scope that knows all its operands, and equal text
gives the same value: loop-invariant code motion and common subexpressions therefore cost nothing extra. The text of an
inner scope is composed when it closes, so a line that it sends outwards lands before it.
"""

from __future__ import annotations

from typing import Any

from dlc.codegen.llvm import types as lt
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.dtypes import DType, bool_


class Value:
    """An operand: its text, its number of lanes (0: scalar), the depth of its scope, its value where constant."""

    __slots__ = ("const", "depth", "lanes", "text")

    def __init__(self, text: str, lanes: int = 0, depth: int = 0, const: Any = None):
        self.text = text
        self.lanes = lanes
        self.depth = depth
        self.const = const

    def __repr__(self) -> str:
        return self.text


class LlvmScope:
    """A region of code that is entered and left as a whole: the function, a loop body, a branch."""

    __slots__ = ("counter", "crossable", "entry", "inmost", "label", "lines", "loop", "multiples", "numbered", "phis",
                 "slots", "writes")

    def __init__(self, label: str, loop: bool, crossable: bool, writes: frozenset):
        self.lines: list[str] = []
        self.entry = label  # of its first block
        self.label = label  # of the block that is being written
        self.loop = loop
        self.crossable = crossable  # certain to be executed when its parent is
        self.inmost = True  # no loop inside
        self.writes = writes  # buffers stored to anywhere inside
        self.counter: Value | None = None  # of a loop
        self.multiples: dict[int, Value] = {}  # factor -> counter * factor, for addresses
        self.numbered: list[str] = []
        self.phis: dict = {}  # slot -> (phi, its value before the loop)
        self.slots: dict = {}  # slot -> its value now


class Builder:
    """Appends instructions to scopes. `declared` maps intrinsics to their declarations."""

    def __init__(self, target: CpuTarget) -> None:
        self.target = target
        self.scopes = [LlvmScope("entry", False, True, frozenset())]
        self.declared: dict[str, str] = {}
        self._numbered: dict[str, Value] = {}
        self._serial = 0
        self._blocks = 0

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def name(self) -> str:
        self._serial += 1
        return f"%v{self._serial}"

    def block(self, prefix: str) -> str:
        self._blocks += 1
        return f"{prefix}{self._blocks}"

    def emit(self, text: str, lanes: int, depth: int, version: Any = None) -> Value:
        """The value of the instruction `text` (its right-hand side), in the scope `depth`.

        `version` tells apart loads with the same text between which memory was written.
        """
        key = text if version is None else f"{text} @{version}"
        value = self._numbered.get(key)
        if value is None:
            self._serial += 1
            name, scope = f"%v{self._serial}", self.scopes[depth]
            scope.lines.append(f"  {name} = {text}")
            scope.numbered.append(key)
            value = self._numbered[key] = Value(name, lanes, depth)
        return value

    def numbered(self, key: str) -> Value | None:
        """The value known by `key`, where it is known."""
        return self._numbered.get(key)

    def number(self, key: str, value: Value) -> Value:
        """From here on, as long as its scope is open, `value` is known by `key`."""
        self.scopes[value.depth].numbered.append(key)
        self._numbered[key] = value
        return value

    def ins(self, text: str, lanes: int, *operands: Value) -> Value:
        """A pure instruction, as far out as its operands allow."""
        depth = 0
        for v in operands:
            if v.depth > depth:
                depth = v.depth
        return self.emit(text, lanes, depth)

    def multiple(self, value: Value, factor: int) -> Value:
        """value * factor. The multiple of a loop's counter is known by the loop, which counts it."""
        scope = self.scopes[value.depth]
        if scope.counter is not value:
            return self.ins(f"mul i64 {value.text}, {factor}", 0, value)
        found = scope.multiples.get(factor)
        if found is None:
            found = scope.multiples[factor] = Value(self.name(), 0, value.depth)
        return found

    def do(self, text: str) -> None:
        """An instruction without a result, here and now."""
        self.scopes[-1].lines.append("  " + text)

    def call(
        self,
        result: str,
        name: str,
        arguments: list[tuple[str, str]],
        lanes: int,
        depth: int,
        attributes: tuple[str, ...] = (),
        version: Any = None,
    ) -> Value:
        """A call of the intrinsic `name`; `arguments` are (type, operand), `attributes` theirs (align)."""
        return self.emit(self.call_text(result, name, arguments, attributes), lanes, depth, version)

    def call_text(
        self, result: str, name: str, arguments: list[tuple[str, str]], attributes: tuple[str, ...] = ()
    ) -> str:
        if name not in self.declared:
            self.declared[name] = f"declare {result} @{name}({', '.join(t for t, _ in arguments)})"
        if attributes:
            operands = ", ".join(f"{t} {a}{v}" for (t, v), a in zip(arguments, attributes, strict=True))
        else:
            operands = ", ".join(f"{t} {v}" for t, v in arguments)
        return f"call {result} @{name}({operands})"

    def pure_call(self, dtype: DType, name: str, *operands: Value, extra: tuple[tuple[str, str], ...] = ()) -> Value:
        """An intrinsic from operands of one type to the same type; `name` without its type suffix."""
        lanes = operands[0].lanes
        t = lt.type_text(dtype, lanes)
        text = self.call_text(t, f"{name}.{lt.suffix(dtype, lanes)}", [(t, v.text) for v in operands] + list(extra))
        return self.ins(text, lanes, *operands)

    # scopes

    def push(
        self, label: str, *, loop: bool = False, crossable: bool = False, writes: frozenset = frozenset()
    ) -> LlvmScope:
        scope = LlvmScope(label, loop, crossable, writes)
        self.scopes.append(scope)
        return scope

    def pop(self) -> LlvmScope:
        scope = self.scopes.pop()
        for key in scope.numbered:
            del self._numbered[key]
        return scope

    # small vector tools

    def const(self, value: Any, dtype: DType) -> Value:
        return Value(lt.literal(value, dtype), 0, 0, value)

    def splat(self, value: Value, dtype: DType, lanes: int) -> Value:
        """`value` in every lane."""
        if value.lanes or not lanes:
            return value
        scalar = lt.type_text(dtype)
        if value.const is not None:
            return Value(f"splat ({scalar} {value.text})", lanes, 0, value.const)
        vector = f"<{lanes} x {scalar}>"
        one = self.ins(f"insertelement {vector} poison, {scalar} {value.text}, i64 0", lanes, value)
        return self.ins(
            f"shufflevector {vector} {one.text}, {vector} poison, <{lanes} x i32> zeroinitializer", lanes, one
        )

    def shuffle(self, a: Value, b: Value | None, order: tuple[int, ...], dtype: DType) -> Value:
        """The lanes `order` of a and b side by side."""
        vector = lt.type_text(dtype, a.lanes)
        other = b.text if b is not None else "poison"
        operands = (a,) if b is None else (a, b)
        text = f"shufflevector {vector} {a.text}, {vector} {other}, {lt.shuffle_text(order)}"
        return self.ins(text, len(order), *operands)

    def extract(self, vector: Value, lane: int, dtype: DType) -> Value:
        """One lane as a scalar."""
        if not vector.lanes:
            return vector
        return self.ins(f"extractelement {lt.type_text(dtype, vector.lanes)} {vector.text}, i64 {lane}", 0, vector)

    def insert(self, vector: Value, value: Value, lane: int, dtype: DType) -> Value:
        t = lt.type_text(dtype, vector.lanes)
        text = f"insertelement {t} {vector.text}, {lt.type_text(dtype)} {value.text}, i64 {lane}"
        return self.ins(text, vector.lanes, vector, value)

    def select(self, cond: Value, a: Value, b: Value, dtype: DType) -> Value:
        """Lane by lane `cond ? a : b`; scalars among the operands are spread."""
        if isinstance(cond.const, bool):
            return a if cond.const else b
        if a.text == b.text and a.lanes == b.lanes:
            return a
        lanes = max(a.lanes, b.lanes, cond.lanes)
        a, b = self.splat(a, dtype, lanes), self.splat(b, dtype, lanes)
        c = "i1" if not cond.lanes else f"<{lanes} x i1>"
        t = lt.type_text(dtype, lanes)
        return self.ins(f"select {c} {cond.text}, {t} {a.text}, {t} {b.text}", lanes, cond, a, b)

    def zero(self, dtype: DType, lanes: int = 0) -> Value:
        return self.splat(self.const(0, dtype), dtype, lanes)

    def constant_mask(self, active: tuple[bool, ...]) -> Value:
        """A mask known now; True or False where all lanes agree, so that selects and branches fold."""
        const = active if any(active) and not all(active) else active[0]
        return Value(lt.mask_text(active) if const is not False else "zeroinitializer", len(active), 0, const)

    def any_lane(self, mask: Value) -> Value:
        """Whether a mask holds anywhere, as a scalar."""
        if not mask.lanes:
            return mask
        if mask.const is not None:
            return self.const(mask.const is not False, bool_)
        t = lt.type_text(bool_, mask.lanes)
        name = f"llvm.vector.reduce.or.{lt.suffix(bool_, mask.lanes)}"
        return self.ins(self.call_text("i1", name, [(t, mask.text)]), 0, mask)
