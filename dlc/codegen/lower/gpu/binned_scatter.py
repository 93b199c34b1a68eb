"""Scatter with many updates on a GPU: rows of the result in shared memory, updates binned by row first.

A block owns a range of rows and `columns` columns, one a thread, and holds them in shared memory. It looks at all the
indices, a chunk at a time, each thread at a few: those of its rows are put into a list, in their order. Then every
thread walks the list and combines its column of each update. So a result has one owner, who sees the updates in their
order: every run gives the same bits, `set` keeps the last, and how often a row is hit matters little. Half floats are
combined in float32, sums of many updates a row in float64, and rounded once.

A list's place for an index: the warp's indices that match are a mask (an AllReduce with `or` of one bit a lane), and
the ones before it in the mask, in the warp and in the warps before are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.cost.gpu_scatter import held_dtype, rows_and_columns
from dlc.codegen.lower.body import KernelBody, guarded
from dlc.codegen.lower.gpu.map import block_axis, launch
from dlc.codegen.lower.scatter_sort_scan import COMBINE, combiner, index_at
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.index import both, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import product_of
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.elements import clamped

EACH = 8  # indices that a thread looks at in a chunk
AHEAD = 4  # updates that a thread has under way

_ZERO = loops.const(0)
_U32 = dtypes.uint32


def popcount(x: Expr) -> Expr:
    """The number of bits of a uint32."""

    def word(n: int) -> Expr:
        return loops.const(n, _U32)

    def shift(a: Expr, n: int) -> Expr:
        return loops.op("shr", a, word(n))

    x = x - loops.op("and", shift(x, 1), word(0x55555555))
    x = loops.op("and", x, word(0x33333333)) + loops.op("and", shift(x, 2), word(0x33333333))
    x = loops.op("and", x + shift(x, 4), word(0x0F0F0F0F))
    return loops.cast(shift(x * word(0x01010101), 24), dtypes.int64)


def lower_binned(body: KernelBody, unit: Realization, sched: schedule.GpuOrdered) -> Stmt:
    return _Binned(body, unit).stmt()


def _within(x: Expr, extent: int) -> Expr:
    return loops.op("min", loops.op("max", loops.cast(x, dtypes.int64), _ZERO), loops.const(extent - 1))


class _Binned:
    def __init__(self, body: KernelBody, unit: Realization):
        self.body, self.unit, node = body, unit, unit.node
        axis, shape = node.attrs["axis"], node.shape
        self.prefix, self.n, self.suffix = shape[:axis], shape[axis], shape[axis + 1 :]
        self.index_extents = unit.extents[axis : axis + node.inputs[1].ndim]
        self.updates = product_of(self.index_extents)
        self.rows, self.columns, self.block = rows_and_columns(node)
        self.warps, self.chunk = self.block // 32, self.block * EACH
        self.dtype = held_dtype(node)
        self.ranges, wide = -(-self.n // self.rows), product_of(self.suffix)
        self.t = loops.axis("t", self.block)
        self.b = block_axis(product_of(self.prefix) * self.ranges * -(-wide // self.columns))
        *self.before, range_at, column_at = unflatten(self.b, (*self.prefix, self.ranges, -(-wide // self.columns)))
        self.first = simplify(range_at * self.rows)
        column = simplify(column_at * self.columns + self.t)
        self.exists = loops.op("lt", column, loops.const(wide)) if wide % self.columns else None
        self.behind = unflatten(column, self.suffix)
        self.held = Buffer("held", self.dtype, (self.rows, self.columns), "shared")
        self.list = Buffer("list", dtypes.int32, (self.chunk,), "shared", "row * chunk + place in the chunk")
        self.counts = Buffer("counts", dtypes.int32, (self.warps,), "shared")
        self.step = loops.axis("step", -(-self.updates // self.chunk))

    def stmt(self) -> Stmt:
        code = loops.Seq((
            self.all_rows(self.read_row),
            loops.loop(self.step, loops.Seq((*self.bin(), loops.Sync(), *self.walk(), loops.Sync()))),
            self.all_rows(self.write_row),
        ))
        return launch(self.b, self.t, code, (self.held, self.list, self.counts))

    # -- the rows that the block holds ---------------------------------------------------------------------------------

    def all_rows(self, make) -> Stmt:
        r = loops.axis("r", self.rows)
        here = both(self.exists, loops.op("lt", simplify(self.first + r), loops.const(self.n))
                    if self.n % self.rows else None)
        return loops.loop(r, make(r, [*self.before, simplify(self.first + r), *self.behind], here))

    def read_row(self, r: Expr, place: Sequence[Expr], here: Expr | None) -> Stmt:
        assert self.unit.base is not None
        index, base = self.unit.base
        value = guarded(index_at(self.body, self.unit, base, index, place), here)
        return loops.store(self.held, (r, self.t), loops.cast(value, self.dtype))

    def write_row(self, r: Expr, place: Sequence[Expr], here: Expr | None) -> Stmt:
        node = self.unit.node
        return self.body.store(node, place, loops.cast(loops.load(self.held, r, self.t), node.dtype.compute), here)

    # -- the list ------------------------------------------------------------------------------------------------------

    def bin(self) -> tuple[Stmt, ...]:
        """Put the chunk's indices of this block's rows into the list."""
        unit, axis = self.unit, self.unit.node.attrs["axis"]
        lane, warp = simplify(self.t % 32), simplify(self.t // 32)
        u = loops.axis("u", EACH)
        local = simplify(warp * (32 * EACH) + u * 32 + lane)
        position = simplify(self.step * self.chunk + local)
        inside = loops.op("lt", position, loops.const(self.updates)) if self.updates % self.chunk else None
        index = unit.index[: axis + len(self.index_extents)]
        place = [*(_ZERO for _ in self.prefix), *unflatten(position, self.index_extents)]
        target = clamped(guarded(index_at(self.body, unit, unit.values[0], index, place), inside), self.n)

        row = Buffer("row", dtypes.int64, (EACH,), "reg")  # -1: of another block
        mask = Buffer("mask", _U32, (EACH,), "reg")
        mine = Buffer("mine", dtypes.int64, (1,), "reg")
        at = loops.load(row, u)
        own = simplify(target - self.first)
        fits = both(inside, loops.op("and", loops.op("le", _ZERO, own), loops.op("lt", own, loops.const(self.rows))))
        assert fits is not None
        matches = loops.op("le", _ZERO, at)
        bit = loops.op("shl", loops.const(1, _U32), loops.cast(lane, _U32))
        none = loops.const(0, _U32)
        find = loops.seq(
            loops.store(row, (u,), loops.op("select", fits, own, loops.const(-1))),
            loops.AllReduce(mask, (u,), loops.op("select", matches, bit, none), "or", 32),
        )
        count = loops.store(mine, (_ZERO,), popcount(loops.load(mask, u)), "add")

        # places before this warp's, then before this lane's
        w = loops.axis("w", self.warps)
        theirs = loops.cast(loops.load(self.counts, w), dtypes.int64)
        earlier = loops.op("select", loops.op("lt", w, warp), theirs, _ZERO)
        below = loops.op("and", loops.load(mask, u), bit - loops.const(1, _U32))
        slot = loops.load(mine, _ZERO) + popcount(below)
        entry = loops.cast(at * self.chunk + local, dtypes.int32)
        return (
            loops.Alloc(row), loops.Alloc(mask), loops.Alloc(mine),
            loops.loop(u, find, "unroll"),
            loops.store(mine, (_ZERO,), _ZERO),
            loops.loop(u, count, "unroll"),
            loops.store(self.counts, (warp,), loops.cast(loops.load(mine, _ZERO), dtypes.int32), None,
                        loops.op("eq", lane, _ZERO)),
            loops.Sync(),
            loops.store(mine, (_ZERO,), _ZERO),
            loops.loop(w, loops.store(mine, (_ZERO,), earlier, "add"), "unroll"),
            loops.loop(u, loops.seq(
                loops.store(self.list, (loops.op("min", slot, loops.const(self.chunk - 1)),), entry, None, matches),
                count,
            ), "unroll"),
        )

    def walk(self) -> tuple[Stmt, ...]:
        """Combine the listed updates, a column a thread."""
        unit, node = self.unit, self.unit.node
        total = Buffer("total", dtypes.int64, (1,), "reg")
        w = loops.axis("w", self.warps)
        add = loops.store(total, (_ZERO,), loops.cast(loops.load(self.counts, w), dtypes.int64), "add")
        m, a = loops.axis("m", self.chunk // AHEAD), loops.axis("a", AHEAD)
        number = simplify(m * AHEAD + a)
        listed = loops.op("lt", number, loops.load(total, _ZERO))
        entries = Buffer("entries", dtypes.int32, (AHEAD,), "reg")
        values = Buffer("values", self.dtype, (AHEAD,), "reg")
        entry = loops.load(entries, a)
        # within bounds whatever the memory holds
        bits = self.chunk.bit_length() - 1
        row = _within(loops.op("shr", entry, loops.const(bits, dtypes.int32)), self.rows)
        local = _within(loops.op("and", entry, loops.const(self.chunk - 1, dtypes.int32)), self.chunk)
        position = loops.op("min", self.step * self.chunk + local, loops.const(self.updates - 1))
        place = [*self.before, *unflatten(position, self.index_extents), *self.behind]
        here = both(listed, self.exists)
        update = guarded(index_at(self.body, unit, unit.values[1], unit.index, place), here)
        combine = node.attrs["combine"]
        name = None if combine == "set" else combiner(COMBINE[combine], node.dtype)
        fetch = loops.store(entries, (a,), loops.load(self.list, number, predicate=listed))
        steps = loops.seq(
            loops.loop(a, fetch, "unroll"),
            loops.loop(a, loops.store(values, (a,), loops.cast(update, self.dtype)), "unroll"),
            loops.loop(a, loops.store(self.held, (row, self.t), loops.load(values, a), name, listed), "unroll"),
        )
        extent = loops.op("floordiv", loops.load(total, _ZERO) + (AHEAD - 1), loops.const(AHEAD))
        return (
            loops.Alloc(total), loops.Alloc(entries), loops.Alloc(values),
            loops.store(total, (_ZERO,), _ZERO),
            loops.loop(w, add, "unroll"),
            loops.loop(m, steps, "serial", extent),
        )
