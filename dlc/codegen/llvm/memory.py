"""Loads and stores: addresses, access patterns, masks.

An address is a pointer plus terms plus a constant. The terms are added from the outermost scope inwards, so that each
loop adds only what changes in it, and accesses that differ by a constant share everything else.
"""

from __future__ import annotations

from typing import NamedTuple

from dlc.codegen.llvm import convert as llvm_convert
from dlc.codegen.llvm import ops as llvm_ops
from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Value
from dlc.codegen.llvm.index import Linear
from dlc.codegen.llvm.registers import Registers
from dlc.codegen.target.cpu import LINE
from dlc.ir.dtypes import DType, bfloat16, bool_, float32, int32, int64, uint8, uint32
from dlc.ir.loops.interval import interval, interval_where
from dlc.ir.loops.ir import RUNTIME, Buffer, Expr, Store, load_parts

_ONE = Linear(1, {})
WHOLE = (16, 32, 64)  # bytes that one instruction stores past the cache


class Place(NamedTuple):
    """One element, or one a lane: base + const + sum(factor * value) + lane * (lane number) + vector, in elements."""

    buffer: Buffer
    const: int
    terms: tuple[tuple[Value, int], ...]
    lane: int = 0
    vector: Value | None = None  # offsets that differ by lane in no simple way
    vector_type: DType = int64

    @property
    def varies(self) -> bool:
        return bool(self.lane) or self.vector is not None


class Memory(Registers):
    """Emission of loads and stores."""

    def __init__(self, kernel, target):
        super().__init__(kernel, target)
        self.pointers: dict[Buffer, Value] = {}
        self._versions: dict[Buffer, int] = {}
        self._words: dict[Buffer, Buffer] = {}  # two-byte elements read as words
        self._alignment: dict[Buffer, int] = {}  # of the words
        self.streamed = False  # has anything been stored past the cache?

    def touch(self, buffer: Buffer) -> None:
        """`buffer` may have changed: nothing loaded before stands for what it holds now."""
        self._versions[buffer] = self._versions.get(buffer, 0) + 1
        self.forget(buffer)
        self.forget_transposes(buffer)

    # addresses

    def place(self, buffer: Buffer, index: tuple[Expr, ...]) -> Place:
        return self._place(buffer, self.index.flat(index, buffer.shape))

    def _place(self, buffer: Buffer, total: Linear) -> Place:
        const, terms, vectors, memo = total.const, [], [], self._memo
        atoms = list(total.terms.items())
        for atom, factor in atoms:
            one = self._settled(atom) if atom.op in ("min", "max") else None
            if one is not None:
                more = self.index.linear(one).times(factor)
                const += more.const
                atoms += more.terms.items()
            elif self.index.is_vector(atom):
                vectors.append((atom, factor))
            else:
                v = memo.get(atom) or self.expr(atom)
                if v.const is not None:
                    const += factor * v.const
                else:
                    terms.append((v, factor))
        if len(terms) > 1:
            terms.sort(key=lambda t: t[0].depth)
        if not vectors:
            return Place(buffer, const, tuple(terms), total.lane)
        vector, vector_type = self._offsets(vectors, total.lane)
        return Place(buffer, const, tuple(terms), 0, vector, vector_type)

    def _settled(self, e: Expr) -> Expr | None:
        """Which operand a minimum or maximum is in this copy of an unrolled loop: a row that is clamped in one copy
        only is addressed in the others as if there were no clamp."""
        if e.dtype is not int64 or self.index.is_vector(e):
            return None
        (low, high), (least, most) = (interval_where(a, self._constant) for a in e.args)
        if high <= least or most <= low:
            return e.args[(high <= least) is (e.op == "max")]
        return None

    def _constant(self, axis: Expr) -> int | None:
        value = self._axes.get(axis)
        return None if value is None else value.const

    def _offsets(self, atoms: list[tuple[Expr, int]], lane: int) -> tuple[Value, DType]:
        """sum(factor * atom) + lane * (lane number) as a vector, of 32-bit integers where that cannot overflow."""
        lanes = self.index.vector.lanes
        reach = abs(lane) * lanes + sum(max(map(abs, interval(a))) * abs(f) for a, f in atoms)
        dtype = int32 if reach < 1 << 31 and all(self.narrow(a) for a, _ in atoms) else int64
        total = Value(lt.lane_numbers(lanes, dtype, lane), lanes) if lane else None
        for atom, factor in atoms:
            v = self.splat(self.expr32(atom) if dtype is int32 else self.expr(atom), dtype, lanes)
            v = llvm_ops.apply(self, "mul", dtype, [v, self.const(factor, dtype)])
            total = v if total is None else llvm_ops.apply(self, "add", dtype, [total, v])
        return total, dtype

    def pointer(self, place: Place, depth: int, extra: int = 0) -> Value:
        """The address of lane 0 plus `extra` elements. The constant is added no further out than scope `depth`."""
        element = lt.memory_type(place.buffer.dtype)
        p = self.pointers[place.buffer]
        for v, factor in place.terms:
            if factor != 1:
                v = self.multiple(v, lt.wrap(factor, int64))
            p = self.ins(f"getelementptr {element}, ptr {p.text}, i64 {v.text}", 0, p, v)
        offset = lt.wrap(place.const + extra, int64)
        if offset:
            p = self.emit(f"getelementptr {element}, ptr {p.text}, i64 {offset}", 0, max(depth, p.depth))
        return p

    def _pointers(self, place: Place, depth: int) -> Value:
        """A vector of addresses."""
        element, lanes = lt.memory_type(place.buffer.dtype), self.index.vector.lanes
        p = self.pointer(place, depth)
        vector, dtype = place.vector, place.vector_type
        if vector is None:
            vector, dtype = Value(lt.lane_numbers(lanes, int64, place.lane), lanes), int64
        t = lt.type_text(dtype, lanes)
        return self.ins(f"getelementptr {element}, ptr {p.text}, {t} {vector.text}", lanes, p, vector)

    def _load_depth(self, buffer: Buffer, speculate: bool) -> int:
        """The outermost scope where a load of `buffer` still sees the same contents.

        It leaves a loop that may not run at all only with `speculate`: the access is safe in any case.
        """
        depth = self.depth
        while depth > 0:
            scope = self.scopes[depth]
            if buffer in scope.writes or not (scope.crossable or (speculate and scope.loop)):
                break
            depth -= 1
        return depth

    # loads

    def load(self, e: Expr) -> Value:
        buffer, index, predicate = load_parts(e)
        pred = None if predicate is None else self.expr(predicate)
        if pred is not None and pred.const is False:
            return self.zero(e.dtype)
        if pred is not None and pred.const is True:
            pred = None
        if self.in_registers(buffer):
            value = self.load_register(buffer, index)
            return value if pred is None else self.select(pred, value, self.zero(e.dtype), e.dtype)
        if buffer.size == 0:
            return self.zero(e.dtype)
        return self._load_at(self.place(buffer, index), pred)

    def _load_at(self, place: Place, pred: Value | None) -> Value:
        if pred is not None and pred.const is not None:
            if pred.const is False:
                return self.zero(place.buffer.dtype)
            pred = None if pred.const is True else pred
        if not place.varies:
            return self._load_scalar(place, pred)
        mask = self.both(self.mask, pred)
        return self.load_lanes(place, None if mask is None else self.splat(mask, bool_, self.index.vector.lanes))

    def load_pair(self, low: Expr, high: Expr) -> Value | None:
        """Two neighbours in memory that nobody writes, as one word; None where they are no such thing."""
        if low.op == high.op == "cast" and low.args[0].dtype is high.args[0].dtype is float32:
            return self._load_rounded(low.args[0], high.args[0])
        if low.op != "load" or high.op != "load" or low.attr is not high.attr or low.attr.space != "global":
            return None
        (buffer, index, predicate), (_, above, other) = load_parts(low), load_parts(high)
        if buffer in self.analysis.stored or buffer.size < 2 or predicate is not other:
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
        half = Linear(at.const // 2, {a: f // 2 for a, f in at.terms.items()}, at.lane // 2)
        return self._load_at(self._place(words, half), None if predicate is None else self.expr(predicate))

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
        lanes, mask = self.index.vector.lanes, self.mask
        if mask is not None and mask.const is False:
            return self.zero(uint32, lanes)
        whole = mask is None or mask.const is True
        depth = self._load_depth(buffer, not whole and mask.const is None)
        p = self.pointer(place, depth)
        if whole:
            floats = self._read(p, float32, 2 * lanes, place, depth)
        else:
            twice = self._turn(self.splat(mask, bool_, lanes), tuple(k // 2 for k in range(2 * lanes)))
            floats = self._read_masked(p, place, twice, depth)
        halves = llvm_convert.to_half(self, floats, bfloat16)
        text = f"bitcast {lt.type_text(bfloat16, 2 * lanes)} {halves.text} to {lt.type_text(uint32, lanes)}"
        return self.ins(text, lanes, halves)

    def _load_scalar(self, place: Place, pred: Value | None) -> Value:
        dtype = place.buffer.dtype
        if pred is None:
            size = 1 if place.buffer.size == RUNTIME else place.buffer.size
            fixed = not place.terms and 0 <= place.const < size  # is there even where nobody comes
            depth = self._load_depth(place.buffer, fixed)
            return self._read(self.pointer(place, depth), dtype, 0, place, depth)
        # Where nobody wants the element, read the first one instead: a buffer is never empty.
        depth, some = self._load_depth(place.buffer, True), self.any_lane(pred)
        p, first = self.pointer(place, some.depth), self.pointers[place.buffer]
        safe = self.ins(f"select i1 {some.text}, ptr {p.text}, ptr {first.text}", 0, some, p, first)
        return self.select(pred, self._read(safe, dtype, 0, place, depth), self.zero(dtype), dtype)

    def _version(self, place: Place) -> str:
        return f"{self._versions.get(place.buffer, 0)}"

    def _read(self, p: Value, dtype: DType, lanes: int, place: Place, depth: int) -> Value:
        """A plain load of one or of consecutive elements."""
        t = lt.memory_type(dtype, lanes)
        value = self.emit(
            f"load {t}, ptr {p.text}, align {self._align(place)}", lanes, max(depth, p.depth), self._version(place)
        )
        return self._from_memory(value, dtype)

    def _align(self, place: Place) -> int:
        return self._alignment.get(place.buffer, place.buffer.dtype.itemsize)

    def _from_memory(self, value: Value, dtype: DType) -> Value:
        return llvm_convert.cast(self, value, uint8, bool_) if dtype.is_bool else value

    def load_lanes(self, place: Place, mask: Value | None) -> Value:
        """One element for each lane; 0 where the mask is off, and memory is not touched there."""
        dtype, lanes = place.buffer.dtype, self.index.vector.lanes
        if mask is not None and mask.const is False:
            return self.zero(dtype, lanes)
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
                value = self._read_masked(p, place, self._turn(mask, order) if backwards else mask, depth)
            return self.shuffle(value, None, order, dtype) if backwards else value
        if not runtime and place.vector is None:
            return self._gather_strided(place, mask, depth)
        return self._gather(place, mask, depth)

    def _turn(self, mask: Value, order: tuple[int, ...]) -> Value:
        if isinstance(mask.const, tuple):
            return self.constant_mask(tuple(mask.const[i] for i in order))
        return self.shuffle(mask, None, order, bool_)

    def _read_masked(self, p: Value, place: Place, mask: Value, depth: int) -> Value:
        dtype, lanes = place.buffer.dtype, mask.lanes
        stored = uint8 if dtype.is_bool else dtype
        t, m = lt.type_text(stored, lanes), lt.type_text(bool_, lanes)
        value = self.call(
            t,
            f"llvm.masked.load.{lt.suffix(stored, lanes)}.p0",
            [("ptr", p.text), (m, mask.text), (t, "zeroinitializer")],
            lanes,
            max(depth, p.depth, mask.depth),
            (f"align {self._align(place)} ", "", ""),
            self._version(place),
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
            vector = self.ins(
                f"insertelement {t} {vector.text}, {lt.type_text(stored)} {one.text}, i64 {i}", lanes, vector, one
            )
        return self._from_memory(vector, dtype)

    def _gather(self, place: Place, mask: Value | None, depth: int) -> Value:
        dtype, lanes = place.buffer.dtype, self.index.vector.lanes
        stored = uint8 if dtype.is_bool else dtype
        pointers = self._pointers(place, depth)
        t, m, p = lt.type_text(stored, lanes), lt.type_text(bool_, lanes), f"<{lanes} x ptr>"
        active = self.splat(self.const(True, bool_), bool_, lanes) if mask is None else mask
        value = self.call(
            t,
            f"llvm.masked.gather.{lt.suffix(stored, lanes)}.v{lanes}p0",
            [(p, pointers.text), (m, active.text), (t, "zeroinitializer")],
            lanes,
            max(depth, pointers.depth, active.depth),
            (f"align {self._align(place)} ", "", ""),
            self._version(place),
        )
        return self._from_memory(value, dtype)

    # stores

    def store_memory(self, s: Store, place: Place, mask: Value | None) -> None:
        """A store outside registers to `place`; `mask`: the lanes (or the condition) under which it happens."""
        if not place.varies:
            self._store_scalar(place, s, mask)
        else:
            self._store_lanes(place, s, mask)
        self.touch(s.buffer)

    def _store_scalar(self, place: Place, s: Store, pred: Value | None) -> None:
        if pred is not None and pred.const is None:
            self.branch(pred, lambda: self._store_scalar(place, s, None), frozenset((s.buffer,)))
            return
        dtype = s.buffer.dtype
        p = self.pointer(place, self.depth)
        if s.combine is None:
            value = self.expr(s.value)
        else:
            value = self.combined(s.combine, dtype, self._read(p, dtype, 0, place, self.depth), s.value)
        self.write_scalar(p, value, dtype)

    def write_scalar(self, p: Value, value: Value, dtype: DType) -> None:
        if dtype.is_bool:
            value = llvm_convert.cast(self, value, bool_, uint8)
        self.do(f"store {lt.memory_type(dtype)} {value.text}, ptr {p.text}, align {dtype.itemsize}")

    def add_to(self, place: Place, combine: str, value: Value) -> None:
        """place = combine(place, value), a scalar."""
        dtype = place.buffer.dtype
        p = self.pointer(place, self.depth)
        old = self._read(p, dtype, 0, place, self.depth)
        self.write_scalar(p, llvm_ops.apply(self, combine, dtype, [old, value]), dtype)
        self.touch(place.buffer)

    def _store_lanes(self, place: Place, s: Store, mask: Value | None) -> None:
        dtype, lanes = s.buffer.dtype, self.index.vector.lanes
        if mask is not None:
            mask = self.splat(mask, bool_, lanes)
            if mask.const is False:
                return
            if mask.const is True:
                mask = None
        if s.combine is None:
            value = self.expr(s.value)
        else:
            value = self.combined(s.combine, dtype, self.load_lanes(place, mask), s.value)
        value = self.splat(value, dtype, lanes)
        stored = uint8 if dtype.is_bool else dtype
        if dtype.is_bool:
            value = llvm_convert.cast(self, value, bool_, uint8)
        if place.vector is None and abs(place.lane) == 1:
            order = tuple(range(lanes - 1, -1, -1))
            if place.lane < 0:
                value = self.shuffle(value, None, order, stored)
                mask = None if mask is None else self._turn(mask, order)
            p = self.pointer(place, self.depth, 1 - lanes if place.lane < 0 else 0)
            past = mask is None and place.lane > 0 and self._streams(s)
            self.streamed = self.streamed or past
            self._write_lanes(p, value, stored, mask, past)
        elif place.vector is None and (mask is None or mask.const is not None):
            for i in range(lanes):
                if mask is None or mask.const[i]:
                    p = self.pointer(place, self.depth, i * place.lane)
                    self.write_scalar(p, self.extract(value, i, stored), stored)
        else:
            self._scatter(place, value, stored, mask)

    def _streams(self, s: Store) -> bool:
        """Is this a store past the cache? It has to be of whole vectors at multiples of their size, in a loop that
        fills the lines: half a line costs more than one that is read first."""
        size, vector = s.buffer.dtype.itemsize, self.index.vector
        if s.buffer not in self.kernel.streams or s.combine is not None or vector.lanes * size not in WHOLE:
            return False
        if vector.axis.attr[1] * size % LINE:
            return False
        return self.index.divisor(self.index.flat(s.index, s.buffer.shape)) % vector.lanes == 0

    def _write_lanes(self, p: Value, value: Value, dtype: DType, mask: Value | None, past: bool = False) -> None:
        """One element for each lane side by side; `past` the cache, at a multiple of their bytes."""
        t = lt.type_text(dtype, value.lanes)
        if mask is None:
            how = f"{value.lanes * dtype.itemsize}, !nontemporal !{{i32 1}}" if past else f"{dtype.itemsize}"
            self.do(f"store {t} {value.text}, ptr {p.text}, align {how}")
            return
        name = f"llvm.masked.store.{lt.suffix(dtype, value.lanes)}.p0"
        arguments = [(t, value.text), ("ptr", p.text), (lt.type_text(bool_, value.lanes), mask.text)]
        self.do(self.call_text("void", name, arguments, ("", f"align {dtype.itemsize} ", "")))

    def _scatter(self, place: Place, value: Value, dtype: DType, mask: Value | None) -> None:
        pointers, lanes = self._pointers(place, self.depth), value.lanes
        active = self.splat(self.const(True, bool_), bool_, lanes) if mask is None else mask
        name = f"llvm.masked.scatter.{lt.suffix(dtype, lanes)}.v{lanes}p0"
        arguments = [
            (lt.type_text(dtype, lanes), value.text),
            (f"<{lanes} x ptr>", pointers.text),
            (lt.type_text(bool_, lanes), active.text),
        ]
        self.do(self.call_text("void", name, arguments, ("", f"align {dtype.itemsize} ", "")))

    def combined(self, combine: str, dtype: DType, old: Value, value: Expr) -> Value:
        """combine(old, value), with a product fused into a sum."""
        fused = combine == "add" and value.op == "mul" and dtype.is_float and not dtype.is_half
        if fused and self.target.has_fma:
            a, b = (self.expr(x) for x in value.args)
            lanes = max(a.lanes, b.lanes, old.lanes)
            return llvm_ops.fma(self, dtype, *(self.splat(x, dtype, lanes) for x in (a, b, old)))
        return llvm_ops.apply(self, combine, dtype, [old, self.expr(value)])

    def branch(self, cond: Value, body, writes: frozenset[Buffer]) -> None:
        raise NotImplementedError
