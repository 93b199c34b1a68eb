"""Folds across lanes: combining stores to one place under a vector axis.

Where nobody looks at the place meanwhile (`Analysis.folds`), the lanes collect in a register, one number each, until
the vector loop is over.
"""

from __future__ import annotations

import math

from dlc.codegen.llvm.address import Addresses, Place
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.control import Control
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import Expressions
from dlc.codegen.llvm.memory import Memory
from dlc.codegen.llvm.ops import scalar
from dlc.codegen.llvm.registers import Registers, RegisterSlot
from dlc.ir import dtypes
from dlc.ir.dtypes import DType, bool_
from dlc.ir.loops.ir import For, Store


class Folds:
    """Emission of combining stores whose place is the same in all lanes."""

    def __init__(self, b: Builder, env: Environment, expressions: Expressions, addresses: Addresses,
                 registers: Registers, memory: Memory, control: Control):
        self.b, self.env, self.index = b, env, env.index
        self.expr, self.combined = expressions.expr, expressions.combined
        self.addresses, self.registers, self.memory, self.control = addresses, registers, memory, control
        self._folding: dict[int, int] = {}  # id of a combining store -> depth of the scope around its vector loop
        # fold slot -> (where the result goes, combine)
        self._folds: dict[RegisterSlot, tuple[Place | RegisterSlot, str]] = {}

    def begin(self, s: For) -> None:
        """Before the vector loop `s`."""
        self._folding.update(dict.fromkeys(self.env.analysis.folds(s), self.b.depth))

    def store(self, s: Store, mask: Value | None) -> None:
        dtype, lanes = s.buffer.dtype, self.index.vector.lanes
        home = self._folding.get(id(s))
        if home is None:  # within one group of lanes
            value = self.b.splat(self.expr(s.value), dtype, lanes)
            if mask is not None:
                value = self.b.select(
                    self.b.splat(mask, bool_, lanes), value, _identity(self.b, s.combine, dtype, lanes), dtype
                )
            result = _fold_lanes(self.b, s.combine, dtype, value)
            if mask is None or mask.const is not None:
                self._deliver(self._target(s), s.combine, result)
            else:  # without active lanes even the place may be out of bounds
                some, writes = self.b.any_lane(mask), frozenset((s.buffer,))
                self.control.branch(some, lambda: self._deliver(self._target(s), s.combine, result), writes)
            return
        target = self._target(s)
        there = isinstance(target, RegisterSlot)
        where = target.index if there else (target.const, *((v.text, c) for v, c in target.terms))
        slot = RegisterSlot(s.buffer, where, s.combine)
        if slot not in self._folds:
            self._folds[slot] = (target, s.combine)
            self.registers.homes[slot] = (home, _identity(self.b, s.combine, dtype, lanes))
        old = self.registers.read_slot(slot, lanes)
        value = self.b.splat(self.combined(s.combine, dtype, old, s.value), dtype, lanes)
        if mask is not None:
            value = self.b.select(mask, value, old, dtype)
        self.registers.write_slot(slot, value)

    def finish(self, s: For) -> None:
        """After the vector loop `s`: one scalar from the lanes of each fold."""
        home = self.b.depth
        for i in self.env.analysis.folds(s):
            del self._folding[i]
        for slot in [s for s in self._folds if self.registers.homes[s][0] == home]:
            target, combine = self._folds.pop(slot)
            lanes = self.registers.read_slot(slot, self.registers.homes[slot][1].lanes)
            self.b.scopes[-1].slots.pop(slot, None)
            del self.registers.homes[slot]
            self._deliver(target, combine, _fold_lanes(self.b, combine, slot.buffer.dtype, lanes))

    def _target(self, s: Store) -> Place | RegisterSlot:
        if not self.registers.in_registers(s.buffer):
            return self.addresses.place(s.buffer, s.index)
        where, _ = self.registers.locate(s.buffer, s.index)
        return RegisterSlot(s.buffer, where)

    def _deliver(self, target: Place | RegisterSlot, combine: str, value: Value) -> None:
        """target = combine(target, value) with a scalar value."""
        if isinstance(target, Place):
            self.memory.add_to(target, combine, value)
        else:
            self.registers.combine_element(target, combine, value)


def _identity(b: Builder, combine: str, dtype: DType, lanes: int) -> Value:
    """What leaves every number as it is, in all lanes."""
    low, high = (-math.inf, math.inf) if dtype.is_float else dtypes.limits(dtype)
    number = {"add": -0.0 if dtype.is_float else 0, "mul": 1, "max": low, "min": high, "and": -1, "or": 0}[combine]
    if dtype.is_bool:
        number = combine in ("and", "min")
    return b.splat(b.const(number, dtype), dtype, lanes)


def _fold_lanes(b: Builder, combine: str, dtype: DType, value: Value) -> Value:
    """One scalar from all lanes: halves are combined until one lane is left."""
    while value.lanes > 2:
        half = value.lanes // 2
        low = b.shuffle(value, None, tuple(range(half)), dtype)
        high = b.shuffle(value, None, tuple(range(half, 2 * half)), dtype)
        value = scalar.apply(b, combine, dtype, [low, high])
    return scalar.apply(b, combine, dtype, [b.extract(value, lane, dtype) for lane in (0, 1)])
