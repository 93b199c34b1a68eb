"""`reg` buffers as LLVM values: no memory, no promotion pass.

A slot is one scalar of the buffer, or one row of lanes along the dimension that the kernel walks with vectors. Since
all other indices are constants, what a slot holds is known at every point of the text; a loop that changes it carries
it in a phi, which is made when the loop first reads it.
"""

from __future__ import annotations

from typing import NamedTuple

from dlc.codegen.llvm import ops as llvm_ops
from dlc.codegen.llvm.analysis import IN_MEMORY
from dlc.codegen.llvm.builder import Value
from dlc.codegen.llvm.expr import EmitError, Expressions
from dlc.codegen.llvm.transpose import transpose
from dlc.ir.dtypes import DType
from dlc.ir.loops.ir import Buffer, Expr, Store


class Slot(NamedTuple):
    """A register: part of a reg buffer, or (with `fold`) the lanes that a combining store collects in."""

    buffer: Buffer
    index: tuple
    fold: str = ""


class Registers(Expressions):
    """Emission of accesses to slots."""

    def __init__(self, kernel, target):
        super().__init__(kernel, target)
        self.homes: dict[
            object, tuple[int, Value | None]
        ] = {}  # buffer or fold slot -> (scope it lives in, first value)
        self._transposed: dict[Buffer, dict[tuple, list[Value]]] = {}

    def in_registers(self, buffer: Buffer) -> bool:
        return buffer.space == "reg" and self.analysis.layout.get(buffer) != IN_MEMORY

    def allocate_registers(self, buffer: Buffer) -> None:
        """A fresh lifetime of `buffer` begins in the current scope."""
        self.homes[buffer] = (self.depth, None)
        slots = self.scopes[-1].slots
        for slot in [s for s in slots if s.buffer is buffer]:
            del slots[slot]
        self.forget(buffer)
        self.forget_transposes(buffer)

    # the value of a slot at this point

    def read_slot(self, slot: Slot, lanes: int) -> Value:
        return self._read_slot(slot, lanes, self.depth)

    def _read_slot(self, slot: Slot, lanes: int, depth: int) -> Value:
        scope = self.scopes[depth]
        found = scope.slots.get(slot)
        if found is not None:
            return found
        home = self.homes[slot if slot.fold else slot.buffer]
        if depth <= home[0]:
            # never stored: undefined by the language, zero here, because LLVM's undef spreads in surprising ways
            return home[1] if home[1] is not None else self.zero(slot.buffer.dtype, lanes)
        before = self._read_slot(slot, lanes, depth - 1)
        if not (scope.loop and slot.buffer in scope.writes):
            return before
        phi = Value(self.name(), lanes, depth)
        scope.phis[slot] = (phi, before)
        scope.slots[slot] = phi
        return phi

    def write_slot(self, slot: Slot, value: Value) -> None:
        self.scopes[-1].slots[slot] = value

    def lives_outside(self, slot: Slot, depth: int) -> bool:
        """Whether the slot's value matters to the scope around the one at `depth`."""
        home = self.homes.get(slot if slot.fold else slot.buffer)
        return home is not None and home[0] < depth

    # accesses

    def _locate(self, buffer: Buffer, index: tuple[Expr, ...]) -> tuple[tuple, int | None]:
        """(constant indices with None for the dimension along the lanes, that dimension)."""
        if buffer not in self.homes:
            raise EmitError(f"{self.kernel.name}: {buffer.name} is used outside its Alloc")
        along, found, vector, memo = None, [], self.index.vector, self._memo
        for d, i in enumerate(index):
            if vector is not None and i is vector.axis:
                along = d
                found.append(None)
                continue
            v = memo.get(i) or self.expr(i)
            if v.const is None or not 0 <= v.const < buffer.shape[d]:
                raise EmitError(
                    f"{self.kernel.name}: index {d} of reg buffer {buffer.name} must be a constant inside it"
                )
            found.append(v.const)
        return tuple(found), along

    def load_register(self, buffer: Buffer, index: tuple[Expr, ...]) -> Value:
        where, along = self._locate(buffer, index)
        rows = self.analysis.layout[buffer]
        if along == rows:
            return self.read_slot(Slot(buffer, where), 0 if rows is None else buffer.shape[rows])
        lanes = buffer.shape[rows]
        if along is None:
            row = self.read_slot(Slot(buffer, _with(where, rows, None)), lanes)
            return self.extract(row, where[rows], buffer.dtype)
        return self._column(buffer, where, along, rows)

    def _column(self, buffer: Buffer, where: tuple, along: int, rows: int) -> Value:
        """A vector across the rows: all columns are made at once, and kept until the tile changes."""
        position = where[rows]
        key = (_with(where, rows, -1), along)
        columns = self._transposed.setdefault(buffer, {}).get(key)
        if columns is None:
            lanes, base = buffer.shape[rows], _with(where, rows, None)
            tile = [self.read_slot(Slot(buffer, _with(base, along, r)), lanes) for r in range(buffer.shape[along])]
            columns = self._transposed[buffer][key] = transpose(self, tile, buffer.dtype)
        return columns[position]

    def forget_transposes(self, buffer: Buffer) -> None:
        self._transposed.pop(buffer, None)

    def forget_all_transposes(self) -> None:
        """A scope closed: columns made in it are out of reach."""
        self._transposed.clear()

    def store_register(self, s: Store, mask: Value | None) -> None:
        buffer, dtype = s.buffer, s.buffer.dtype
        where, along = self._locate(buffer, s.index)
        rows = self.analysis.layout[buffer]
        lanes = 0 if rows is None else buffer.shape[rows]
        if along == rows:
            slot = Slot(buffer, where)
            self.write_slot(slot, self._stored(s, mask, lambda: self.read_slot(slot, lanes), lanes, dtype))
        elif along is None:  # one lane of a row
            slot = Slot(buffer, _with(where, rows, None))
            row = self.read_slot(slot, lanes)
            old = self.extract(row, where[rows], dtype)
            value = self._stored(s, mask, lambda: old, 0, dtype)
            self.write_slot(slot, self.insert(row, value, where[rows], dtype))
        else:  # a column of the tile, lane by lane
            value = self._stored(s, mask, lambda: self._column(buffer, where, along, rows), buffer.shape[along], dtype)
            for r in range(buffer.shape[along]):
                slot = Slot(buffer, _with(_with(where, rows, None), along, r))
                row = self.insert(self.read_slot(slot, lanes), self.extract(value, r, dtype), where[rows], dtype)
                self.write_slot(slot, row)
        self.forget(buffer)
        self.forget_transposes(buffer)

    def combine_element(self, element: Slot, combine: str, value: Value) -> None:
        """element = combine(element, value); all its indices are constants."""
        buffer, rows = element.buffer, self.analysis.layout[element.buffer]
        if rows is None:
            old = self.read_slot(element, 0)
            self.write_slot(element, llvm_ops.apply(self, combine, buffer.dtype, [old, value]))
        else:
            slot, at = Slot(buffer, _with(element.index, rows, None)), element.index[rows]
            row = self.read_slot(slot, buffer.shape[rows])
            value = llvm_ops.apply(self, combine, buffer.dtype, [self.extract(row, at, buffer.dtype), value])
            self.write_slot(slot, self.insert(row, value, at, buffer.dtype))
        self.forget(buffer)
        self.forget_transposes(buffer)

    def _stored(self, s: Store, mask: Value | None, old, lanes: int, dtype: DType) -> Value:
        """What a store leaves in its slot."""
        if mask is not None and mask.const is False:
            return self.splat(old(), dtype, lanes)
        value = self.expr(s.value) if s.combine is None else self.combined(s.combine, dtype, old(), s.value)
        value = self.splat(value, dtype, lanes)
        if mask is None or mask.const is True:
            return value
        return self.splat(self.select(mask, value, old(), dtype), dtype, lanes)

    def combined(self, combine: str, dtype: DType, old: Value, value: Expr) -> Value:
        raise NotImplementedError

    # folds across lanes

    def fold_lanes(self, combine: str, dtype: DType, value: Value) -> Value:
        """One scalar from all lanes: halves are combined until one lane is left."""
        while value.lanes > 2:
            half = value.lanes // 2
            low = self.shuffle(value, None, tuple(range(half)), dtype)
            high = self.shuffle(value, None, tuple(range(half, 2 * half)), dtype)
            value = llvm_ops.apply(self, combine, dtype, [low, high])
        return llvm_ops.apply(self, combine, dtype, [self.extract(value, lane, dtype) for lane in (0, 1)])


def _with(where: tuple, d: int, i: int | None) -> tuple:
    return (*where[:d], i, *where[d + 1 :])
