"""What an attention kernel holds on the chip: tiles in shared memory, fragments and statistics in registers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dlc.codegen.lower.body import store_value
from dlc.ir import dtypes
from dlc.ir.loops import instructions
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import both, simplify
from dlc.ir.loops.ir import Buffer, Expr, Stmt

PIECE = 16  # bytes of an asynchronous copy
ROW = 128  # bytes of a row of a shared tile
LOG2E = math.log2(math.e)
ZERO = loops.const(0)
F32 = dtypes.float32


def f32(value: float) -> Expr:
    return loops.const(value, F32)


def op(name: str, *args: Expr) -> Expr:
    return loops.op(name, *args)


@dataclass(frozen=True)
class Side:
    """One side of the scores: its label, extent, and axis in the unit."""

    label: str
    extent: int
    axis: Expr


class Streamed(Protocol):
    """The kernel that tiles are made for: one side of the scores is held, the other streams by."""

    sched: Any
    t: Expr
    row0: Expr
    held: Side
    streamed: Side
    sizes: dict[str, int]

    def row(self, half: Expr) -> Expr: ...
    def row_inside(self, at: Expr) -> Expr | None: ...
    def column_inside(self, at: Expr) -> Expr | None: ...
    def put(self, value: Expr, mapping: dict[Expr, Expr], inside: Expr | None) -> Expr: ...


class SharedTile:
    """Rows of an operand of one side, [stage, column / 64, row, column % 64] in shared memory (32 columns of float32),
    filled up with zeros to a multiple of 16 columns. A streamed one has a ring of stages, a held one a single stage."""

    def __init__(self, kernel: Streamed, side: Side, value: Expr, label: str, name: str):
        self.kernel, self.side, self.value = kernel, side, value
        self.width, self.axis = kernel.sizes[label], kernel.at[label]
        self.padded = up(self.width, 16)
        sched = kernel.sched
        row = kernel.tile_row
        blocks = up(self.padded, row) // row
        shape = (sched.stages, blocks, sched.columns, row) if side is kernel.streamed else (1, blocks, sched.rows, row)
        self.shared = Buffer(name, kernel.half, shape, "shared", swizzled=True)

    def copy(self, first: Expr, stage: Expr) -> Stmt:
        """This thread's pieces of the rows from `first` on."""
        kernel, long = self.kernel, PIECE // self.kernel.half.itemsize
        across = self.padded // long
        pieces = self.shared.shape[2] * across
        c, v = loops.axis("c", -(-pieces // kernel.sched.block)), loops.axis("v", long)
        number = simplify(c * kernel.sched.block + kernel.t)
        exists = op("lt", number, loops.const(pieces)) if pieces % kernel.sched.block else None
        row, column = simplify(number // across), simplify((number % across) * long + v)
        at = simplify(first + row)
        inside = kernel.column_inside(at) if self.side is kernel.streamed else kernel.row_inside(at)
        if self.padded != self.width:
            inside = both(inside, op("lt", column, loops.const(self.width)))
        value = kernel.put(self.value, {self.side.axis: at, self.axis: column}, inside)
        place = (stage, simplify(column // kernel.tile_row), row, simplify(column % kernel.tile_row))
        make = loops.store(self.shared, place, store_value(value, kernel.half), None, exists)
        return loops.loop(c, loops.loop(v, make, "vector", None, long), "unroll")


    def load(self) -> Stmt:
        """Copy the rows of a held operand."""
        return instructions.Async(self.copy(self.kernel.row0, ZERO))

    def left(self, k: int) -> tuple[Expr, str]:
        """The left operand of a product over columns from `k` on, for this thread's group."""
        block = loops.const(k // self.kernel.tile_row)
        return loops.load(self.shared, ZERO, block, self.kernel.group_row, ZERO), "mk"


class Statistic:
    """A number for each row of the streamed side, [stage, row] in shared memory."""

    def __init__(self, kernel: Streamed, value: Expr, name: str):
        self.kernel, self.value = kernel, value
        self.shared = Buffer(name, F32, (kernel.sched.stages, kernel.sched.columns), "shared")

    def copy(self, first: Expr, stage: Expr) -> Stmt:
        """Four numbers a thread, as far as there are."""
        kernel, v = self.kernel, loops.axis("v", 4)
        row = simplify(kernel.t * 4 + v)
        at = simplify(first + row)
        value = kernel.put(self.value, {kernel.streamed.axis: at}, kernel.column_inside(at))
        make = loops.loop(v, loops.store(self.shared, (stage, row), value), "vector", None, 4)
        return loops.If(op("lt", kernel.t, loops.const(kernel.sched.columns // 4)), make)


class Held:
    """An operand's rows in registers, as sums are held."""

    def __init__(self, kernel: Streamed, value: Expr, label: str, name: str):
        self.kernel, self.value = kernel, value
        self.width, self.axis = kernel.sizes[label], kernel.at[label]
        self.padded = up(self.width, 16)
        self.buffer = Buffer(name, kernel.half, (self.padded // 8, 4), "reg")

    def load(self) -> Stmt:
        kernel = self.kernel

        def element(j: Expr, half: Expr, c: Expr) -> Stmt:
            row, column = kernel.row(half), simplify(j * 8 + (kernel.t % 4) * 2 + c)
            inside = kernel.row_inside(row)
            if self.padded != self.width:
                inside = both(inside, op("lt", column, loops.const(self.width)))
            value = kernel.put(self.value, {kernel.held.axis: row, self.axis: column}, inside)
            return loops.store(self.buffer, (j, simplify(half * 2 + c)), store_value(value, kernel.half))

        return each(self.padded // 8, element)


    def left(self, k: int) -> tuple[Expr, str]:
        """The left operand of a product over columns from `k` on."""
        return loops.load(self.buffer, loops.const(k // 8), ZERO), "sums"


def up(n: int, to: int) -> int:
    return -(-n // to) * to


def each(count: int, make: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
    """`make(j, half, c)` for each of a thread's elements of `count` groups of 8 columns: element half * 2 + c."""
    j, half, c = loops.axis("j", count), loops.axis("half", 2), loops.axis("c", 2)
    pair = loops.loop(c, make(j, half, c), "vector", None, 2)
    return loops.loop(j, loops.loop(half, pair, "unroll"), "unroll")
