"""`reg` buffers as LLVM values: no memory, no promotion pass.

A slot is one scalar of the buffer, or one row of lanes along the dimension that the kernel walks with vectors. Since
all other indices are constants, what a slot holds is known at every point of the text; a loop that changes it carries
it in a phi, which is made when the loop first reads it.
"""

from __future__ import annotations

from typing import NamedTuple

from dlc.codegen.llvm.analysis import IN_MEMORY
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import EmitError, Expressions
from dlc.codegen.llvm.ops import scalar
from dlc.codegen.llvm.ops.transpose import transpose
from dlc.ir.dtypes import DType
from dlc.ir.loops.ir import Buffer, Expr, Store


class RegisterSlot(NamedTuple):
    """A register: part of a reg buffer, or (with `fold`) the lanes that a combining store collects in."""

    buffer: Buffer
    index: tuple
    fold: str = ""


class Registers:
    """Emission of accesses to slots."""

    def __init__(self, b: Builder, env: Environment, expressions: Expressions):
        self.b, self.env, self.index = b, env, env.index
        self.expr, self.combined = expressions.expr, expressions.combined
        # buffer or fold slot -> (the scope it lives in, its first value)
        self.homes: dict[object, tuple[int, Value | None]] = {}
        self._transposed: dict[Buffer, dict[tuple, list[Value]]] = {}

    def in_registers(self, buffer: Buffer) -> bool:
        return buffer.space == "reg" and self.env.analysis.layout.get(buffer) != IN_MEMORY

    def allocate(self, buffer: Buffer) -> None:
        """A fresh lifetime of `buffer` begins in the current scope."""
        self.homes[buffer] = (self.b.depth, None)
        slots = self.b.scopes[-1].slots
        for slot in [s for s in slots if s.buffer is buffer]:
            del slots[slot]
        self.env.forget(buffer)
        self.forget_transposes(buffer)

    # the value of a slot at this point

    def read_slot(self, slot: RegisterSlot, lanes: int) -> Value:
        return self._read_slot(slot, lanes, self.b.depth)

    def _read_slot(self, slot: RegisterSlot, lanes: int, depth: int) -> Value:
        scope = self.b.scopes[depth]
        found = scope.slots.get(slot)
        if found is not None:
            return found
        home = self.homes[slot if slot.fold else slot.buffer]
        if depth <= home[0]:
            # never stored: undefined by the language, zero here, because LLVM's undef spreads in surprising ways
            return home[1] if home[1] is not None else self.b.zero(slot.buffer.dtype, lanes)
        before = self._read_slot(slot, lanes, depth - 1)
        if not (scope.loop and slot.buffer in scope.writes):
            return before
        phi = Value(self.b.name(), lanes, depth)
        scope.phis[slot] = (phi, before)
        scope.slots[slot] = phi
        return phi

    def write_slot(self, slot: RegisterSlot, value: Value) -> None:
        self.b.scopes[-1].slots[slot] = value

    def lives_outside(self, slot: RegisterSlot, depth: int) -> bool:
        """Whether the slot's value matters to the scope around the one at `depth`."""
        home = self.homes.get(slot if slot.fold else slot.buffer)
        return home is not None and home[0] < depth

    # accesses

    def locate(self, buffer: Buffer, index: tuple[Expr, ...]) -> tuple[tuple, int | None]:
        """(constant indices with None for the dimension along the lanes, that dimension)."""
        if buffer not in self.homes:
            raise EmitError(f"{self.env.kernel.name}: {buffer.name} is used outside its Alloc")
        along, found, vector, memo = None, [], self.index.vector, self.env.memo
        for d, i in enumerate(index):
            if vector is not None and i is vector.axis:
                along = d
                found.append(None)
                continue
            v = memo.get(i) or self.expr(i)
            if v.const is None or not 0 <= v.const < buffer.shape[d]:
                raise EmitError(
                    f"{self.env.kernel.name}: index {d} of reg buffer {buffer.name} must be a constant inside it"
                )
            found.append(v.const)
        return tuple(found), along

    def load(self, buffer: Buffer, index: tuple[Expr, ...]) -> Value:
        where, along = self.locate(buffer, index)
        rows = self.env.analysis.layout[buffer]
        if along == rows:
            return self.read_slot(RegisterSlot(buffer, where), 0 if rows is None else buffer.shape[rows])
        lanes = buffer.shape[rows]
        if along is None:
            row = self.read_slot(RegisterSlot(buffer, _with(where, rows, None)), lanes)
            return self.b.extract(row, where[rows], buffer.dtype)
        return self._column(buffer, where, along, rows)

    def _column(self, buffer: Buffer, where: tuple, along: int, rows: int) -> Value:
        """A vector across the rows: all columns are made at once, and kept until the tile changes."""
        position = where[rows]
        key = (_with(where, rows, -1), along)
        columns = self._transposed.setdefault(buffer, {}).get(key)
        if columns is None:
            lanes, base = buffer.shape[rows], _with(where, rows, None)
            slots = [RegisterSlot(buffer, _with(base, along, r)) for r in range(buffer.shape[along])]
            tile = [self.read_slot(slot, lanes) for slot in slots]
            columns = self._transposed[buffer][key] = transpose(self.b, tile, buffer.dtype)
        return columns[position]

    def forget_transposes(self, buffer: Buffer) -> None:
        self._transposed.pop(buffer, None)

    def forget_all_transposes(self) -> None:
        """A scope closed: columns made in it are out of reach."""
        self._transposed.clear()

    def store(self, s: Store, mask: Value | None) -> None:
        buffer, dtype = s.buffer, s.buffer.dtype
        where, along = self.locate(buffer, s.index)
        rows = self.env.analysis.layout[buffer]
        lanes = 0 if rows is None else buffer.shape[rows]
        if along == rows:
            slot = RegisterSlot(buffer, where)
            self.write_slot(slot, self._stored(s, mask, lambda: self.read_slot(slot, lanes), lanes, dtype))
        elif along is None:  # one lane of a row
            slot = RegisterSlot(buffer, _with(where, rows, None))
            row = self.read_slot(slot, lanes)
            old = self.b.extract(row, where[rows], dtype)
            value = self._stored(s, mask, lambda: old, 0, dtype)
            self.write_slot(slot, self.b.insert(row, value, where[rows], dtype))
        else:  # a column of the tile, lane by lane
            value = self._stored(s, mask, lambda: self._column(buffer, where, along, rows), buffer.shape[along], dtype)
            for r in range(buffer.shape[along]):
                slot = RegisterSlot(buffer, _with(_with(where, rows, None), along, r))
                row = self.b.insert(self.read_slot(slot, lanes), self.b.extract(value, r, dtype), where[rows], dtype)
                self.write_slot(slot, row)
        self.env.forget(buffer)
        self.forget_transposes(buffer)

    def combine_element(self, element: RegisterSlot, combine: str, value: Value) -> None:
        """element = combine(element, value); all its indices are constants."""
        buffer, rows = element.buffer, self.env.analysis.layout[element.buffer]
        if rows is None:
            old = self.read_slot(element, 0)
            self.write_slot(element, scalar.apply(self.b, combine, buffer.dtype, [old, value]))
        else:
            slot, at = RegisterSlot(buffer, _with(element.index, rows, None)), element.index[rows]
            row = self.read_slot(slot, buffer.shape[rows])
            value = scalar.apply(self.b, combine, buffer.dtype, [self.b.extract(row, at, buffer.dtype), value])
            self.write_slot(slot, self.b.insert(row, value, at, buffer.dtype))
        self.env.forget(buffer)
        self.forget_transposes(buffer)

    def _stored(self, s: Store, mask: Value | None, old, lanes: int, dtype: DType) -> Value:
        """What a store leaves in its slot."""
        if mask is not None and mask.const is False:
            return self.b.splat(old(), dtype, lanes)
        value = self.expr(s.value) if s.combine is None else self.combined(s.combine, dtype, old(), s.value)
        value = self.b.splat(value, dtype, lanes)
        if mask is None or mask.const is True:
            return value
        return self.b.splat(self.b.select(mask, value, old(), dtype), dtype, lanes)


def _with(where: tuple, d: int, i: int | None) -> tuple:
    return (*where[:d], i, *where[d + 1 :])
