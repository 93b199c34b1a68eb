"""Loads and stores: access patterns, masks, and what loads still see."""

from __future__ import annotations

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.address import Addresses, Place
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import Expressions
from dlc.codegen.llvm.index import LinearAddress
from dlc.codegen.llvm.ops import convert, masks, scalar
from dlc.codegen.llvm.registers import Registers
from dlc.codegen.target.cpu import LINE
from dlc.ir.dtypes import DType, bfloat16, bool_, float32, uint8, uint32
from dlc.ir.loops.ir import RUNTIME, Buffer, Expr, Store, load_parts

_ONE = LinearAddress(1, {})
WHOLE = (16, 32, 64)  # bytes that one instruction stores past the cache


class Memory:
    """Emission of loads and stores."""

    def __init__(self, b: Builder, env: Environment, expressions: Expressions, addresses: Addresses,
                 registers: Registers):
        self.b, self.env, self.index = b, env, env.index
        self.expr, self.combined = expressions.expr, expressions.combined
        self.addresses, self.registers = addresses, registers
        self.place, self.pointer, self.pointers = addresses.place, addresses.pointer, addresses.pointers
        self._versions: dict[Buffer, int] = {}
        self._words: dict[Buffer, Buffer] = {}  # two-byte elements read as words
        self._alignment: dict[Buffer, int] = {}  # of the words
        self.streamed = False  # has anything been stored past the cache?
        expressions.rules |= {"load": self._load, "pair": self._load_pair}

    def touch(self, buffer: Buffer) -> None:
        """`buffer` may have changed: nothing loaded before stands for what it holds now."""
        self._versions[buffer] = self.version(buffer) + 1
        self.env.forget(buffer)
        self.registers.forget_transposes(buffer)

    def version(self, buffer: Buffer) -> int:
        """How often `buffer` may have changed so far."""
        return self._versions.get(buffer, 0)

    def _load_depth(self, buffer: Buffer, speculate: bool) -> int:
        """The outermost scope where a load of `buffer` still sees the same contents.

        It leaves a loop that may not run at all only with `speculate`: the access is safe in any case.
        """
        depth = self.b.depth
        while depth > 0:
            scope = self.b.scopes[depth]
            if buffer in scope.writes or not (scope.crossable or (speculate and scope.loop)):
                break
            depth -= 1
        return depth

    # loads

    def _load(self, e: Expr) -> Value:
        buffer, index, predicate = load_parts(e)
        pred = None if predicate is None else self.expr(predicate)
        if pred is not None and pred.const is False:
            return self.b.zero(e.dtype)
        if pred is not None and pred.const is True:
            pred = None
        if self.registers.in_registers(buffer):
            value = self.registers.load(buffer, index)
            return value if pred is None else self.b.select(pred, value, self.b.zero(e.dtype), e.dtype)
        if buffer.size == 0:
            return self.b.zero(e.dtype)
        return self._load_at(self.place(buffer, index), pred)

    def _load_at(self, place: Place, pred: Value | None) -> Value:
        if pred is not None and pred.const is not None:
            if pred.const is False:
                return self.b.zero(place.buffer.dtype)
            pred = None if pred.const is True else pred
        if not place.varies:
            return self._load_scalar(place, pred)
        mask = masks.both(self.b, self.env.mask, pred)
        return self._load_lanes(place, None if mask is None else self.b.splat(mask, bool_, self.index.vector.lanes))

    def _load_pair(self, e: Expr) -> Value | None:
        """Two neighbours in memory that nobody writes, as one word; None where they are no such thing."""
        low, high = e.args
        if low.op == high.op == "cast" and low.args[0].dtype is high.args[0].dtype is float32:
            return self._load_rounded(low.args[0], high.args[0])
        if low.op != "load" or high.op != "load" or low.attr is not high.attr or low.attr.space != "global":
            return None
        (buffer, index, predicate), (_, above, other) = load_parts(low), load_parts(high)
        if buffer in self.env.analysis.stored or buffer.size < 2 or predicate is not other:
            return None
        at = self.index.flat(index, buffer.shape)
        if self.index.flat(above, buffer.shape).plus(at, -1) != _ONE:
            return None
        if at.const % 2 or at.lane % 2 or any(f % 2 for f in at.terms.values()):
            return None
        words = self._words.get(buffer)
        if words is None:
            words = self._words[buffer] = Buffer(buffer.name, uint32, (buffer.size // 2,))
            self._alignment[words] = buffer.dtype.itemsize
            self.pointers[words] = self.pointers[buffer]
        half = LinearAddress(at.const // 2, {a: f // 2 for a, f in at.terms.items()}, at.lane // 2)
        return self._load_at(self.addresses.place_of(words, half), None if predicate is None else self.expr(predicate))

    def _load_rounded(self, low: Expr, high: Expr) -> Value | None:
        """A word in each lane of two neighbouring float32 rounded to bfloat16, all of them side by side in memory."""
        if low.op != "load" or high.op != "load" or low.attr is not high.attr or low.attr.space != "global":
            return None
        (buffer, index, predicate), (_, above, other) = load_parts(low), load_parts(high)
        if predicate is not None or other is not None or not any(map(self.index.is_vector, index)):
            return None
        place = self.place(buffer, index)
        if place.vector is not None or place.lane != 2:
            return None
        if self.index.flat(above, buffer.shape).plus(self.index.flat(index, buffer.shape), -1) != _ONE:
            return None
        lanes, mask = self.index.vector.lanes, self.env.mask
        if mask is not None and mask.const is False:
            return self.b.zero(uint32, lanes)
        whole = mask is None or mask.const is True
        depth = self._load_depth(buffer, not whole and mask.const is None)
        p = self.pointer(place, depth)
        if whole:
            floats = self._read(p, float32, 2 * lanes, place, depth)
        else:
            twice = masks.turned(self.b, self.b.splat(mask, bool_, lanes), tuple(k // 2 for k in range(2 * lanes)))
            floats = self._read_masked(p, place, twice, depth)
        halves = convert.to_half(self.b, floats, bfloat16)
        text = f"bitcast {lt.type_text(bfloat16, 2 * lanes)} {halves.text} to {lt.type_text(uint32, lanes)}"
        return self.b.ins(text, lanes, halves)

    def _load_scalar(self, place: Place, pred: Value | None) -> Value:
        dtype = place.buffer.dtype
        if pred is None:
            size = 1 if place.buffer.size == RUNTIME else place.buffer.size
            fixed = not place.terms and 0 <= place.const < size  # is there even where nobody comes
            depth = self._load_depth(place.buffer, fixed)
            return self._read(self.pointer(place, depth), dtype, 0, place, depth)
        # Where nobody wants the element, read the first one instead: a buffer is never empty.
        depth, some = self._load_depth(place.buffer, True), self.b.any_lane(pred)
        p, first = self.pointer(place, some.depth), self.pointers[place.buffer]
        safe = self.b.ins(f"select i1 {some.text}, ptr {p.text}, ptr {first.text}", 0, some, p, first)
        return self.b.select(pred, self._read(safe, dtype, 0, place, depth), self.b.zero(dtype), dtype)
    def _read(self, p: Value, dtype: DType, lanes: int, place: Place, depth: int) -> Value:
        """A plain load of one or of consecutive elements."""
        t = lt.memory_type(dtype, lanes)
        text = f"load {t}, ptr {p.text}, align {self._align(place)}"
        value = self.b.emit(text, lanes, max(depth, p.depth), self.version(place.buffer))
        return self._from_memory(value, dtype)

    def _align(self, place: Place) -> int:
        return self._alignment.get(place.buffer, place.buffer.dtype.itemsize)

    def _from_memory(self, value: Value, dtype: DType) -> Value:
        return convert.cast(self.b, value, uint8, bool_) if dtype.is_bool else value

    def _load_lanes(self, place: Place, mask: Value | None) -> Value:
        """One element for each lane; 0 where the mask is off, and memory is not touched there."""
        dtype, lanes = place.buffer.dtype, self.index.vector.lanes
        if mask is not None and mask.const is False:
            return self.b.zero(dtype, lanes)
        if mask is not None and mask.const is True:
            mask = None
        runtime = mask is not None and mask.const is None
        depth = self._load_depth(place.buffer, runtime)
        if place.vector is None and abs(place.lane) == 1:
            backwards = place.lane < 0
            p = self.pointer(place, depth, 1 - lanes if backwards else 0)
            order = tuple(range(lanes - 1, -1, -1))
            if mask is None:
                value = self._read(p, dtype, lanes, place, depth)
            else:
                value = self._read_masked(p, place, masks.turned(self.b, mask, order) if backwards else mask, depth)
            return self.b.shuffle(value, None, order, dtype) if backwards else value
        if not runtime and place.vector is None:
            return self._gather_strided(place, mask, depth)
        return self._gather(place, mask, depth)

    def _read_masked(self, p: Value, place: Place, mask: Value, depth: int) -> Value:
        dtype, lanes = place.buffer.dtype, mask.lanes
        stored = uint8 if dtype.is_bool else dtype
        t, m = lt.type_text(stored, lanes), lt.type_text(bool_, lanes)
        value = self.b.call(
            t,
            f"llvm.masked.load.{lt.suffix(stored, lanes)}.p0",
            [("ptr", p.text), (m, mask.text), (t, "zeroinitializer")],
            lanes,
            max(depth, p.depth, mask.depth),
            (f"align {self._align(place)} ", "", ""),
            self.version(place.buffer),
        )
        return self._from_memory(value, dtype)

    def _gather_strided(self, place: Place, mask: Value | None, depth: int) -> Value:
        """Lanes a fixed distance apart: scalar loads, which are faster than the gather instructions."""
        dtype, lanes = place.buffer.dtype, self.index.vector.lanes
        stored = uint8 if dtype.is_bool else dtype
        t = lt.type_text(stored, lanes)
        vector = Value("zeroinitializer" if mask is not None else "poison", lanes)
        for i in range(lanes):
            if mask is not None and not mask.const[i]:
                continue
            p = self.pointer(place, depth, i * place.lane)
            one = self._read(p, stored, 0, place, depth)
            vector = self.b.ins(
                f"insertelement {t} {vector.text}, {lt.type_text(stored)} {one.text}, i64 {i}", lanes, vector, one
            )
        return self._from_memory(vector, dtype)

    def _gather(self, place: Place, mask: Value | None, depth: int) -> Value:
        dtype, lanes = place.buffer.dtype, self.index.vector.lanes
        stored = uint8 if dtype.is_bool else dtype
        pointers = self.addresses.lane_pointers(place, depth)
        t, m, p = lt.type_text(stored, lanes), lt.type_text(bool_, lanes), f"<{lanes} x ptr>"
        active = self.b.splat(self.b.const(True, bool_), bool_, lanes) if mask is None else mask
        value = self.b.call(
            t,
            f"llvm.masked.gather.{lt.suffix(stored, lanes)}.v{lanes}p0",
            [(p, pointers.text), (m, active.text), (t, "zeroinitializer")],
            lanes,
            max(depth, pointers.depth, active.depth),
            (f"align {self._align(place)} ", "", ""),
            self.version(place.buffer),
        )
        return self._from_memory(value, dtype)

    # stores

    def store(self, s: Store, place: Place, mask: Value | None) -> None:
        """A store outside registers to `place`; `mask`: the lanes in which it happens."""
        if not place.varies:
            self._store_scalar(place, s)
        else:
            self._store_lanes(place, s, mask)
        self.touch(s.buffer)

    def _store_scalar(self, place: Place, s: Store) -> None:
        dtype = s.buffer.dtype
        p = self.pointer(place, self.b.depth)
        if s.combine is None:
            value = self.expr(s.value)
        else:
            value = self.combined(s.combine, dtype, self._read(p, dtype, 0, place, self.b.depth), s.value)
        self._write_scalar(p, value, dtype)

    def _write_scalar(self, p: Value, value: Value, dtype: DType) -> None:
        if dtype.is_bool:
            value = convert.cast(self.b, value, bool_, uint8)
        self.b.do(f"store {lt.memory_type(dtype)} {value.text}, ptr {p.text}, align {dtype.itemsize}")

    def add_to(self, place: Place, combine: str, value: Value) -> None:
        """place = combine(place, value), a scalar."""
        dtype = place.buffer.dtype
        p = self.pointer(place, self.b.depth)
        old = self._read(p, dtype, 0, place, self.b.depth)
        self._write_scalar(p, scalar.apply(self.b, combine, dtype, [old, value]), dtype)
        self.touch(place.buffer)

    def _store_lanes(self, place: Place, s: Store, mask: Value | None) -> None:
        dtype, lanes = s.buffer.dtype, self.index.vector.lanes
        if mask is not None:
            mask = self.b.splat(mask, bool_, lanes)
            if mask.const is False:
                return
            if mask.const is True:
                mask = None
        if s.combine is None:
            value = self.expr(s.value)
        else:
            value = self.combined(s.combine, dtype, self._load_lanes(place, mask), s.value)
        value = self.b.splat(value, dtype, lanes)
        stored = uint8 if dtype.is_bool else dtype
        if dtype.is_bool:
            value = convert.cast(self.b, value, bool_, uint8)
        if place.vector is None and abs(place.lane) == 1:
            order = tuple(range(lanes - 1, -1, -1))
            if place.lane < 0:
                value = self.b.shuffle(value, None, order, stored)
                mask = None if mask is None else masks.turned(self.b, mask, order)
            p = self.pointer(place, self.b.depth, 1 - lanes if place.lane < 0 else 0)
            past = mask is None and place.lane > 0 and self._streams(s)
            self.streamed = self.streamed or past
            self._write_lanes(p, value, stored, mask, past)
        elif place.vector is None and (mask is None or mask.const is not None):
            for i in range(lanes):
                if mask is None or mask.const[i]:
                    p = self.pointer(place, self.b.depth, i * place.lane)
                    self._write_scalar(p, self.b.extract(value, i, stored), stored)
        else:
            self._scatter(place, value, stored, mask)

    def _streams(self, s: Store) -> bool:
        """Is this a store past the cache? It has to be of whole vectors at multiples of their size, in a loop that
        fills the lines: half a line costs more than one that is read first."""
        size, vector = s.buffer.dtype.itemsize, self.index.vector
        if s.buffer not in self.env.kernel.streams or s.combine is not None or vector.lanes * size not in WHOLE:
            return False
        if vector.axis.attr[1] * size % LINE:
            return False
        return self.index.divisor(self.index.flat(s.index, s.buffer.shape)) % vector.lanes == 0

    def _write_lanes(self, p: Value, value: Value, dtype: DType, mask: Value | None, past: bool = False) -> None:
        """One element for each lane side by side; `past` the cache, at a multiple of their bytes."""
        t = lt.type_text(dtype, value.lanes)
        if mask is None:
            how = f"{value.lanes * dtype.itemsize}, !nontemporal !{{i32 1}}" if past else f"{dtype.itemsize}"
            self.b.do(f"store {t} {value.text}, ptr {p.text}, align {how}")
            return
        name = f"llvm.masked.store.{lt.suffix(dtype, value.lanes)}.p0"
        arguments = [(t, value.text), ("ptr", p.text), (lt.type_text(bool_, value.lanes), mask.text)]
        self.b.do(self.b.call_text("void", name, arguments, ("", f"align {dtype.itemsize} ", "")))

    def _scatter(self, place: Place, value: Value, dtype: DType, mask: Value | None) -> None:
        pointers, lanes = self.addresses.lane_pointers(place, self.b.depth), value.lanes
        active = self.b.splat(self.b.const(True, bool_), bool_, lanes) if mask is None else mask
        name = f"llvm.masked.scatter.{lt.suffix(dtype, lanes)}.v{lanes}p0"
        arguments = [
            (lt.type_text(dtype, lanes), value.text),
            (f"<{lanes} x ptr>", pointers.text),
            (lt.type_text(bool_, lanes), active.text),
        ]
        self.b.do(self.b.call_text("void", name, arguments, ("", f"align {dtype.itemsize} ", "")))
