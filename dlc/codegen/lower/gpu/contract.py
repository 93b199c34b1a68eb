"""The `contract` family on a GPU: tiles of both operands in shared memory, a tile of results in each thread.

A block computes bm x bn results. In steps of bk of the inner range the threads copy a tile of each operand from global
to shared memory, element by element expression: views, windows and padding are index arithmetic and predicates there,
so a convolution is the same kernel (implicit GEMM). Two copies of the tiles alternate: the next step's elements travel
into registers while this step is computed, then to shared memory. The epilogue is computed on the registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dlc.codegen.lower.body import KernelBody, LoweredKernel, guarded
from dlc.codegen.lower.contraction import ContractionTile
from dlc.codegen.lower.gpu.map import block_axis, launch
from dlc.ir.dtypes import DType
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import both, coefficient, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt, under_casts
from dlc.passes.fuse.access import product_of
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.contraction import Parts, label_sizes

VECTOR = 4  # elements that a thread moves at once
RUN = 8  # neighbours that are worth being read together
SWATH = 8  # tiles of rows that neighbouring blocks walk before the next tile of columns: they share the cache
PAD = 4  # elements that a row of a shared tile is longer, so that columns fall into different banks

_ZERO = loops.const(0)


class GpuTile(ContractionTile):
    """One contraction being lowered for a GPU: positions along rows, columns and the inner range."""

    def __init__(self, body: KernelBody, sched: schedule.GpuContract):
        super().__init__(body, sched)  # type: ignore[arg-type]
        p = self.parts = self._in_memory_order(self.parts)
        self.m, self.n, self.k = (product_of(self.extents(x)) for x in (p.rows, p.columns, p.inner))
        self.batch = product_of(self.extents(p.batch))
        self.outer: dict[Expr, Expr] = {}  # where the batch labels stand

    def _in_memory_order(self, p: Parts) -> Parts:
        """Labels of each part from long strides to short ones: rows and columns where their operand is contiguous
        along one of them (else results are written best in the order of the result), inner ones as the operand that
        reads them contiguously has them, or the larger one."""

        def turned(labels: str, value: Expr, always: bool) -> str:
            steps = self.strides(value, labels)
            if None in steps.values() or not (always or 1 in steps.values()):
                return labels
            return "".join(sorted(labels, key=lambda x: -abs(steps[x] or 0)))

        def merit(value: Expr) -> tuple[bool, int]:
            sizes = (e.attr.size for e in traverse.loads_of(value))
            return 1 in self.strides(value, p.inner).values(), max(sizes, default=0)

        guide = max((self.row_value, self.col_value), key=merit)
        return Parts(p.batch, turned(p.rows, self.row_value, False), turned(p.columns, self.col_value, False),
                     turned(p.inner, guide, True))

    def strides(self, value: Expr, labels: str) -> dict[str, int | None]:
        """How far apart in memory an operand's neighbours along each label are; None where that is no one number."""
        out: dict[str, int | None] = {}
        for x in labels:
            found = {coefficient(simplify(e.args[0]), self.at[x]) for e in traverse.loads_of(value)}
            out[x] = found.pop() if len(found) == 1 else None
        return out

    def written_at(self, unit: Realization) -> Expr:
        """Where in memory an element of `unit`, which follows from the contraction's, is written."""
        return simplify(self.body.fused.table.elements.offset(unit.node, tuple(self.result_index(unit, {}))))

    def place(self, labels: str, at: Expr) -> dict[Expr, Expr]:
        """The axes of some labels at a position of their product."""
        return dict(zip(self.axes(labels), unflatten(at, self.extents(labels)), strict=True))

    def element(self, value: Expr, labels: str, at: Expr, k: Expr, dtype: DType, inside: Expr | None) -> Expr:
        """An operand's element, 0 outside."""
        e = self.operand(value, self.outer | self.place(labels, at) | self.place(self.parts.inner, k))
        e = loops.cast(guarded(e, inside), dtype)
        if inside is not None and not _plain(e):  # padding has a value outside, too
            e = loops.op("select", inside, e, loops.const(0, dtype))
        return e


def _plain(e: Expr) -> bool:
    """Is `e` a load, perhaps converted: 0 where its predicate is false?"""
    return under_casts(e).op == "load"


def stride_one(tile: GpuTile, value: Expr, labels: str) -> bool:
    """Does the operand lie contiguously along the last of these labels, or in runs of whole vectors?"""
    if not labels:
        return False
    axis = tile.at[labels[-1]]
    found = [e for e in traverse.loads_of(value) if axis in e.args[0].axes]
    return bool(found) and all(_runs(e.args[0], axis) for e in found)


def _runs(offset: Expr, axis: Expr) -> bool:
    if coefficient(simplify(offset), axis) == 1:
        return True
    if axis.attr[1] % RUN:
        return False
    lane = loops.axis("lane", RUN)
    place = loops.axis("vector", axis.attr[1] // RUN) * RUN + lane
    return coefficient(simplify(traverse.map_expr(offset, lambda *_: None, {axis: place})), lane) == 1


@dataclass
class Panel:
    """The copying of one operand's tile, [2, bk, width + PAD] in shared memory, by `threads` threads."""

    tile: GpuTile
    value: Expr
    labels: str  # rows or columns
    width: int  # bm or bn
    start: Expr  # the block's first row or column
    shared: Buffer
    dtype: DType
    threads: int
    t: Expr

    def __post_init__(self) -> None:
        bk, tile = self.tile.sched.bk, self.tile  # type: ignore[attr-defined]
        self.along_k = stride_one(tile, self.value, tile.parts.inner) and not stride_one(tile, self.value, self.labels)
        last = (tile.parts.inner if self.along_k else self.labels)[-1:]
        extent = tile.extents(last)[0] if last else 1
        run = bk if self.along_k else self.width
        self.vector = VECTOR if extent % VECTOR == 0 and run % VECTOR == 0 else 1
        self.across = run // self.vector  # threads along the contiguous direction
        other = self.width if self.along_k else bk
        self.vectors = run * other // self.vector
        self.count = -(-self.vectors // self.threads)
        self.c, self.v = loops.axis("c", self.count), loops.axis("v", self.vector)
        self.staged = Buffer(f"next_{self.shared.name}", self.dtype, (self.count, self.vector), "reg")
        self.limit = tile.m if self.labels is tile.parts.rows else tile.n

    def where(self) -> tuple[Expr, Expr, Expr | None]:
        """(position in the tile along width, along k, whether it exists) of this thread's element."""
        number = simplify(self.c * self.threads + self.t)
        fast = simplify((number % self.across) * self.vector + self.v)
        slow = simplify(number // self.across)
        exists = loops.op("lt", number, loops.const(self.vectors)) if self.vectors % self.threads else None
        return (slow, fast, exists) if self.along_k else (fast, slow, exists)

    def each(self, make: Stmt) -> Stmt:
        return loops.loop(self.c, loops.loop(self.v, make, "vector", None, self.vector), "unroll")

    def stage(self, step: Expr) -> Stmt:
        """Load the elements of inner step number `step` into registers."""
        tile, bk = self.tile, self.tile.sched.bk  # type: ignore[attr-defined]
        w, k, exists = self.where()
        at, inner = simplify(self.start + w), simplify(step * bk + k)
        inside = exists
        if self.limit % self.width:
            inside = both(inside, loops.op("lt", at, loops.const(self.limit)))
        if tile.k % bk:
            inside = both(inside, loops.op("lt", inner, loops.const(tile.k)))
        value = tile.element(self.value, self.labels, at, inner, self.dtype, inside)
        return self.each(loops.store(self.staged, (self.c, self.v), value))

    def commit(self, half: Expr) -> Stmt:
        """Write them to a half of the shared tile."""
        w, k, exists = self.where()
        return self.each(loops.store(self.shared, (half, k, w), loops.load(self.staged, self.c, self.v), None, exists))


def lower_contract(fused: Fused, group: Group, sched: schedule.GpuContract) -> LoweredKernel:
    body = KernelBody(fused, group)
    tile = GpuTile(body, sched)
    flops = 2 * product_of(label_sizes(tile.unit.node).values())
    lowered = body.finish(_tiled(tile, sched), sched, flops)
    return replace(lowered, kernel=replace(lowered.kernel, blocks_per_sm=sched.blocks))


def blocks_of(tile: GpuTile, bm: int, bn: int) -> tuple[Expr, Expr, Expr]:
    """(grid axis, first row, first column) of a block; the batch labels are placed. Neighbouring blocks share rows and
    columns that the second-level cache keeps."""
    b = block_axis(tile.batch * -(-tile.m // bm) * -(-tile.n // bn))
    return b, *tile_origin(tile, bm, bn, b)


def tile_origin(tile: GpuTile, bm: int, bn: int, number: Expr) -> tuple[Expr, Expr]:
    """First row and first column of tile `number`; the batch labels are placed."""
    p = tile.parts
    m_tiles, n_tiles = -(-tile.m // bm), -(-tile.n // bn)
    outer, at = unflatten(number, (tile.batch, m_tiles * n_tiles))
    tile.outer = tile.place(p.batch, outer)
    deep = next((d for d in (SWATH, 12, 6, 10, 7, 5, 16) if m_tiles % d == 0), 1)
    if deep > 1 and n_tiles > 1:
        swath, within = unflatten(at, (m_tiles // deep, deep * n_tiles))
        n_tile, m_in = unflatten(within, (n_tiles, deep))
        m_tile = simplify(swath * deep + m_in)
    else:
        m_tile, n_tile = unflatten(at, (m_tiles, n_tiles))
    return simplify(m_tile * bm), simplify(n_tile * bn)


def _tiled(tile: GpuTile, sched: schedule.GpuContract) -> Stmt:
    p, threads = tile.parts, sched.block
    t = loops.axis("t", threads)
    b, row0, col0 = blocks_of(tile, sched.bm, sched.bn)
    acc_dtype = tile.accumulator
    a_tile = Buffer("a_tile", acc_dtype, (2, sched.bk, sched.bm + PAD), "shared")
    b_tile = Buffer("b_tile", acc_dtype, (2, sched.bk, sched.bn + PAD), "shared")
    panels = [
        Panel(tile, tile.row_value, p.rows, sched.bm, row0, a_tile, acc_dtype, threads, t),
        Panel(tile, tile.col_value, p.columns, sched.bn, col0, b_tile, acc_dtype, threads, t),
    ]
    steps = -(-tile.k // sched.bk)

    # a thread's results are groups of `wide` neighbours, spread evenly over the tile; a warp covers 4 x 8 threads
    wide_m, wide_n = min(VECTOR, sched.tm), min(VECTOR, sched.tn)
    groups_m, groups_n = sched.tm // wide_m, sched.tn // wide_n
    across = sched.bn // sched.tn
    if across % 8 == 0 and threads % 32 == 0 and (sched.bm // sched.tm) % 4 == 0:
        warp, lane = t // 32, t % 32
        tm = simplify((warp // (across // 8)) * 4 + lane // 8)
        tn = simplify((warp % (across // 8)) * 8 + lane % 8)
    else:
        tm, tn = simplify(t // across), simplify(t % across)
    acc = Buffer("acc", acc_dtype, (groups_m, wide_m, groups_n, wide_n), "reg")
    a_part = Buffer("a", acc_dtype, (groups_m, wide_m), "reg")
    b_part = Buffer("b", acc_dtype, (groups_n, wide_n), "reg")
    i, ii, j, jj = (loops.axis(x, e) for x, e in zip(("i", "ii", "j", "jj"), acc.shape, strict=True))
    row = simplify(i * (sched.bm // groups_m) + tm * wide_m + ii)
    col = simplify(j * (sched.bn // groups_n) + tn * wide_n + jj)

    def every(make: Stmt) -> Stmt:
        inner = loops.loop(j, loops.loop(jj, make, "vector", None, wide_n), "unroll")
        return loops.loop(i, loops.loop(ii, inner, "unroll"), "unroll")

    def compute(half: Expr) -> Stmt:
        k = loops.axis("k", sched.bk)
        body = loops.seq(
            loops.loop(i, loops.loop(ii, loops.store(a_part, (i, ii), loops.load(a_tile, half, k, row)),
                                     "vector", None, wide_m), "unroll"),
            loops.loop(j, loops.loop(jj, loops.store(b_part, (j, jj), loops.load(b_tile, half, k, col)),
                                     "vector", None, wide_n), "unroll"),
            every(loops.store(acc, (i, ii, j, jj),
                              loops.op("mul", loops.load(a_part, i, ii), loops.load(b_part, j, jj)), "add")),
        )
        return loops.loop(k, body, "unroll")

    step = loops.axis("step", steps)
    more = loops.op("lt", step + 1, loops.const(steps))
    half, other = step % 2, loops.const(1) - step % 2

    def all_panels(make: Callable[[Panel], Stmt]) -> Stmt:
        return loops.seq(*map(make, panels))

    main: Stmt
    if steps == 1:
        main = compute(_ZERO)
    else:
        main = loops.loop(step, loops.seq(
            loops.If(more, all_panels(lambda x: x.stage(simplify(step + 1)))),
            compute(half),
            loops.If(more, all_panels(lambda x: x.commit(other))),
            loops.Sync(),
        ))
    at_row, at_col = simplify(row0 + row), simplify(col0 + col)
    inside: Expr | None = None
    if tile.m % sched.bm:
        inside = loops.op("lt", at_row, loops.const(tile.m))
    if tile.n % sched.bn:
        inside = both(inside, loops.op("lt", at_col, loops.const(tile.n)))
    position = tile.outer | tile.place(p.rows, at_row) | tile.place(p.columns, at_col)
    code = loops.Seq((
        *(loops.Alloc(x) for x in (acc, a_part, b_part, *(x.staged for x in panels))),
        every(loops.store(acc, (i, ii, j, jj), loops.const(0, acc_dtype))),
        all_panels(lambda x: x.stage(_ZERO)),
        all_panels(lambda x: x.commit(_ZERO)),
        loops.Sync(),
        main,
        every(tile.epilogue(position, loops.load(acc, i, ii, j, jj), inside)),
    ))
    return launch(b, t, code, (a_tile, b_tile))
