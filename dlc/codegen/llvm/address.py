"""Addresses of elements.

An address is a pointer plus terms plus a constant. The terms are added from the outermost scope inwards, so that each
loop adds only what changes in it, and accesses that differ by a constant share everything else.
"""

from __future__ import annotations

from typing import NamedTuple

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import Expressions
from dlc.codegen.llvm.index import LinearAddress
from dlc.codegen.llvm.index_values import IndexValues
from dlc.codegen.llvm.ops import scalar
from dlc.ir.dtypes import DType, int32, int64
from dlc.ir.loops.interval import interval, interval_where
from dlc.ir.loops.ir import Buffer, Expr


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


class Addresses:
    """Emission of addresses. `pointers` has those of the buffers."""

    def __init__(self, b: Builder, env: Environment, expressions: Expressions, indices: IndexValues):
        self.b, self.env, self.index = b, env, env.index
        self.expr, self.expr32, self.narrow = expressions.expr, indices.expr32, indices.narrow
        self.pointers: dict[Buffer, Value] = {}

    def place(self, buffer: Buffer, index: tuple[Expr, ...]) -> Place:
        """The element of `buffer` at `index`."""
        return self.place_of(buffer, self.index.flat(index, buffer.shape))

    def place_of(self, buffer: Buffer, total: LinearAddress) -> Place:
        """The element of `buffer` that is `total` elements from its first one."""
        const, terms, vectors, memo = total.const, [], [], self.env.memo
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
        value = self.env.axes.get(axis)
        return None if value is None else value.const

    def _offsets(self, atoms: list[tuple[Expr, int]], lane: int) -> tuple[Value, DType]:
        """sum(factor * atom) + lane * (lane number) as a vector, of 32-bit integers where that cannot overflow."""
        lanes = self.index.vector.lanes
        reach = abs(lane) * lanes + sum(max(map(abs, interval(a))) * abs(f) for a, f in atoms)
        dtype = int32 if reach < 1 << 31 and all(self.narrow(a) for a, _ in atoms) else int64
        total = Value(lt.lane_numbers(lanes, dtype, lane), lanes) if lane else None
        for atom, factor in atoms:
            v = self.b.splat(self.expr32(atom) if dtype is int32 else self.expr(atom), dtype, lanes)
            v = scalar.apply(self.b, "mul", dtype, [v, self.b.const(factor, dtype)])
            total = v if total is None else scalar.apply(self.b, "add", dtype, [total, v])
        return total, dtype

    def pointer(self, place: Place, depth: int, extra: int = 0) -> Value:
        """The address of lane 0 plus `extra` elements. The constant is added no further out than scope `depth`."""
        element = lt.memory_type(place.buffer.dtype)
        p = self.pointers[place.buffer]
        for v, factor in place.terms:
            if factor != 1:
                v = self.b.multiple(v, lt.wrap(factor, int64))
            p = self.b.ins(f"getelementptr {element}, ptr {p.text}, i64 {v.text}", 0, p, v)
        offset = lt.wrap(place.const + extra, int64)
        if offset:
            p = self.b.emit(f"getelementptr {element}, ptr {p.text}, i64 {offset}", 0, max(depth, p.depth))
        return p

    def lane_pointers(self, place: Place, depth: int) -> Value:
        """The addresses of all lanes as a vector."""
        element, lanes = lt.memory_type(place.buffer.dtype), self.index.vector.lanes
        p = self.pointer(place, depth)
        vector, dtype = place.vector, place.vector_type
        if vector is None:
            vector, dtype = Value(lt.lane_numbers(lanes, int64, place.lane), lanes), int64
        t = lt.type_text(dtype, lanes)
        return self.b.ins(f"getelementptr {element}, ptr {p.text}, {t} {vector.text}", lanes, p, vector)
