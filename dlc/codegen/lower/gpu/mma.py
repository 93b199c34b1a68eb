"""Contractions of half floats, and of float32 as TF32, by matrix instructions (`GpuMma`).

The tiles of both operands lie in shared memory in rows of 128 bytes, along the inner range or along rows (columns),
whichever way memory runs, and so the matrix instructions take them. A ring of `stages` tiles is filled by asynchronous
copies, stages - 2 steps ahead of the products: at the Sync of a step every thread has finished the product before the
last one, whose tiles may then be overwritten. Results pass through shared memory to be written in vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.codegen.cost.gpu_waves import STAGED
from dlc.codegen.lower.body import KernelBody, LoweredKernel, store_value
from dlc.codegen.lower.gpu.contract import GpuTile, blocks_of, stride_one
from dlc.codegen.lower.gpu.map import launch
from dlc.codegen.lower.gpu.tma import lower_bulk, panels
from dlc.ir.dtypes import DType, float32
from dlc.ir.loops import instructions, schedule, traverse
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import both, coefficient, simplify
from dlc.ir.loops.ir import Buffer, Expr, Stmt, under_casts
from dlc.passes.fuse.access import product_of
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.views.contraction import label_sizes

PIECE = 8  # halves of an asynchronous copy
ROW = 64  # halves of a row of a shared tile
APART = 8  # float32 that a row along rows (columns) is longer, for the banks

FAR = 4096  # bytes between neighbours from which it does not matter how many
MOST_WORDS = 128  # that a thread reads before it needs the first: more do not fit beside the sums

_ZERO = loops.const(0)


@dataclass
class Ring:
    """One operand's tiles: [stage, row, inner] or [stage, row / 64, inner, row % 64], float32: [stage, inner, row]."""

    tile: GpuTile
    value: Expr
    labels: str  # rows or columns
    width: int  # bm or bn
    start: Expr  # the block's first row or column
    name: str
    t: Expr

    def __post_init__(self) -> None:
        tile, sched = self.tile, self.sched
        self.along_k = stride_one(tile, self.value, tile.parts.inner) or not stride_one(tile, self.value, self.labels)
        self.dtype: DType = tile.unit.node.inputs[0].dtype
        self.whole = self.dtype is float32
        piece = PIECE // (1 + self.whole)
        self.along_k = self.along_k or (self.width % ROW != 0 and not self.whole)
        shape = (self.width, ROW // (1 + self.whole)) if self.along_k else (self.width // ROW, sched.bk, ROW)
        if self.whole and not self.along_k:
            shape = (sched.bk, self.width + APART)
        self.shared = Buffer(self.name, self.dtype, (sched.stages, *shape), "shared",
                             swizzled=self.along_k or not self.whole)
        self.limit = tile.m if self.labels is tile.parts.rows else tile.n
        across = (sched.bk if self.along_k else self.width) // piece
        self.pieces = self.width * sched.bk // piece
        self.c, self.v = loops.axis("c", -(-self.pieces // sched.threads)), loops.axis("v", piece)
        number = simplify(self.c * sched.threads + self.t)
        self.exists = loops.op("lt", number, loops.const(self.pieces)) if self.pieces % sched.threads else None
        fast, slow = simplify((number % across) * piece + self.v), simplify(number // across)
        self.w, self.k = (slow, fast) if self.along_k else (fast, slow)

    @property
    def sched(self) -> schedule.GpuMma:
        return self.tile.sched  # type: ignore[return-value]

    def place(self, stage: Expr, w: Expr, k: Expr) -> tuple[Expr, ...]:
        if self.along_k or self.whole:
            return (stage, w, k) if self.along_k else (stage, k, w)
        return stage, simplify(w // ROW), k, simplify(w % ROW)

    def copy(self, step: Expr, stage: Expr) -> Stmt:
        """Copy this thread's pieces of inner step number `step` into a stage."""
        tile, bk = self.tile, self.sched.bk
        at, inner = simplify(self.start + self.w), simplify(step * bk + self.k)
        inside: Expr | None = None
        if self.limit % self.width:
            inside = both(inside, loops.op("lt", at, loops.const(self.limit)))
        if tile.k % bk:
            inside = both(inside, loops.op("lt", inner, loops.const(tile.k)))
        e = tile.element(self.value, self.labels, at, inner, self.dtype.compute, inside)
        value = store_value(_without_padding(e), self.dtype)
        make = loops.store(self.shared, self.place(stage, self.w, self.k), value, None, self.exists)
        return loops.loop(self.c, loops.loop(self.v, make, "vector", None, self.v.attr[1]), "unroll")

    def operand(self, stage: Expr, first: Expr) -> Expr:
        """The load of the tile's first element for rows (columns) from `first` on."""
        return loops.load(self.shared, *self.place(stage, first, _ZERO))


def _without_padding(e: Expr) -> Expr:
    """select(c, x, 0) as x, where x is a load that is not made unless c holds and so gives 0 by itself."""
    if e.op != "select" or e.args[2].op != "const" or e.args[2].attr != 0:
        return e
    x = _without_padding(e.args[1])
    inner = under_casts(x)
    if inner.op != "load" or len(inner.args) < 2:
        return e
    return x if _conjuncts(e.args[0]) <= _conjuncts(inner.args[1]) else e


def _conjuncts(e: Expr) -> set[Expr]:
    return _conjuncts(e.args[0]) | _conjuncts(e.args[1]) if e.op == "and" else {e}


def lower_mma(fused: Fused, group: Group, sched: schedule.GpuMma) -> LoweredKernel:
    """One contraction and its epilogue."""
    body = KernelBody(fused, group)
    tile = GpuTile(body, sched)  # type: ignore[arg-type]
    flops = 2 * product_of(label_sizes(tile.unit.node).values())
    both = panels(tile) if sched.bulk else None
    if both is not None:
        code = lower_bulk(tile, both, lambda *args: _results(tile, sched, *args))
    else:
        sched = replace(sched, bulk=False, persistent=0, stages=max(sched.stages, 3))
        tile.sched = sched  # type: ignore[assignment]
        code = _ring(tile, sched)
    lowered = body.finish(code, sched, flops)
    return replace(lowered, kernel=replace(lowered.kernel, blocks_per_sm=sched.blocks))


def _ring(tile: GpuTile, sched: schedule.GpuMma) -> Stmt:
    p, group = tile.parts, sched.lanes
    t = loops.axis("t", sched.threads)
    b, row0, col0 = blocks_of(tile, sched.bm, sched.bn)
    rings = [
        Ring(tile, tile.row_value, p.rows, sched.bm, row0, "a_tile", t),
        Ring(tile, tile.col_value, p.columns, sched.bn, col0, "b_tile", t),
    ]
    steps = -(-tile.k // sched.bk)
    ahead = sched.stages - 2
    high = group // 2  # rows of one product: 64 or 16
    rows, columns = sched.bm // sched.gm, sched.bn // sched.gn
    number = t // group if sched.gm * sched.gn > 1 else _ZERO
    group_row, group_col = simplify((number // sched.gn) * rows), simplify((number % sched.gn) * columns)
    acc = Buffer("acc", tile.accumulator, (rows // high, columns // 8, 4), "reg")
    i, j, r = (loops.axis(x, e) for x, e in zip(("i", "j", "r"), acc.shape, strict=True))

    def every(make: Stmt) -> Stmt:
        return loops.loop(i, loops.loop(j, loops.loop(r, make, "unroll"), "unroll"), "unroll")

    def copies(step: Expr, stage: Expr) -> Stmt:
        return loops.seq(*(x.copy(step, stage) for x in rings))

    def product(stage: Expr) -> Stmt:
        orders = ("mk" if rings[0].along_k else "km", "nk" if rings[1].along_k else "kn")
        if rings[0].whole:
            return instructions.Mma(acc, (_ZERO, _ZERO, _ZERO), rings[0].operand(stage, group_row),
                             rings[1].operand(stage, group_col), rows, columns, sched.bk, *orders, group)
        first = simplify(group_row + i * high)
        return loops.loop(i, instructions.Mma(acc, (i, _ZERO, _ZERO), rings[0].operand(stage, first),
                                       rings[1].operand(stage, group_col), high, columns, sched.bk, *orders, group),
                          "unroll")

    step = loops.axis("step", steps)
    fill = simplify(step + ahead)
    start: list[Stmt] = []
    for s in range(ahead):
        at = loops.const(s)
        start.append(instructions.Async(copies(at, at) if s < steps else loops.Seq(())))
    more: Stmt = loops.Seq(())
    if steps > ahead:
        more = loops.If(loops.op("lt", fill, loops.const(steps)), copies(fill, simplify(fill % sched.stages)))
    main = loops.loop(step, loops.seq(
        instructions.Wait("copy", ahead - 1),
        loops.Sync(),
        product(simplify(step % sched.stages)),
        instructions.Async(more),
        instructions.Wait("mma", rows // high),
    ))

    results, staged = _results(tile, sched, acc, t, (row0, col0), (group_row, number % sched.gn))
    code = loops.Seq((
        loops.Alloc(acc),
        every(loops.store(acc, (i, j, r), loops.const(0, tile.accumulator))),
        *start,
        main,
        instructions.Wait("mma", 0),
        results,
    ))
    return launch(b, t, code, [*(x.shared for x in rings), staged])


def _results(tile: GpuTile, sched: schedule.GpuMma, acc: Buffer, t: Expr, origin: tuple[Expr, Expr],
             group: tuple[Expr, Expr]) -> tuple[Stmt, Buffer]:
    """The sums (see Mma) go through shared memory, a part of each group's columns at a time, and there threads take
    neighbours along whichever way the result lies: the epilogue reads and writes memory in vectors. `group` is the
    first row of a thread's group in the tile and the group's number along columns."""
    p, dtype, high = tile.parts, tile.unit.node.dtype, sched.lanes // 2
    columns = sched.bn // sched.gn
    count = columns // 8
    while sched.bm * count * 8 * sched.gn * dtype.itemsize > STAGED and count % 2 == 0:
        count //= 2  # groups of eight columns that are staged at once
    part = count * 8
    width = part * sched.gn
    pad = 16 if dtype.itemsize <= 2 else 32  # bytes, so that rows fall into different banks
    staged = Buffer("staged", dtype, (sched.bm, width + pad // dtype.itemsize), "shared")
    i, j, half, c = (loops.axis(x, n) for x, n in (("i", acc.shape[0]), ("j", count), ("half", 2), ("c", 2)))
    q = loops.axis("q", columns // part)
    lane = t % 32
    row = simplify(group[0] + i * high + ((t % sched.lanes) // 32) * 16 + lane // 4 + half * 8)
    col = simplify(group[1] * part + j * 8 + (lane % 4) * 2 + c)
    value = loops.cast(loops.load(acc, i, simplify(q * count + j), simplify(half * 2 + c)), dtype)
    put = loops.loop(c, loops.store(staged, (row, col), value), "vector", None, 2)
    put = loops.loop(i, loops.loop(half, loops.loop(j, put, "unroll"), "unroll"), "unroll")

    along_rows = _result_along_rows(tile)
    lanes = max(1, 16 // max(u.node.dtype.itemsize for u in tile.body.group.units))
    run, other = (sched.bm, width) if along_rows else (width, sched.bm)
    vectors = run * other // lanes
    each = -(-vectors // sched.threads)
    most = max(1, MOST_WORDS // _words(tile, lanes))
    together = next(n for n in range(min(each, most), 0, -1) if each % n == 0)
    again, u, v = (loops.axis(x, n) for x, n in (("again", each // together), ("u", together), ("v", lanes)))
    at = simplify((again * together + u if together < each else u) * sched.threads + t)
    fast, slow = simplify((at % (run // lanes)) * lanes + v), simplify(at // (run // lanes))
    row, col = (fast, slow) if along_rows else (slow, fast)
    inside = loops.op("lt", at, loops.const(vectors)) if vectors % sched.threads else None
    to_row = simplify(origin[0] + row)
    to_col = simplify(origin[1] + (col // part) * columns + q * part + col % part)
    if tile.m % sched.bm:
        inside = both(inside, loops.op("lt", to_row, loops.const(tile.m)))
    if tile.n % sched.bn:
        inside = both(inside, loops.op("lt", to_col, loops.const(tile.n)))
    position = tile.outer | tile.place(p.rows, to_row) | tile.place(p.columns, to_col)
    take = tile.epilogue(position, loops.load(staged, row, col, predicate=inside), inside)
    take = loops.loop(u, loops.loop(v, take, "vector", None, lanes), "unroll")
    if together < each:
        take = loops.loop(again, take)
    sync = loops.Sync(sched.threads if sched.bulk else 0)
    steps: list[Stmt] = [put, sync, take]
    if columns > part or sched.persistent:
        steps.append(sync)  # before the next part is put there
    return loops.loop(q, loops.seq(*steps), "unroll"), staged


def _words(tile: GpuTile, lanes: int) -> int:
    """Words that the epilogue reads for a vector of `lanes` results, and halves that it rounds on the way: they wait in
    registers."""
    dtype = tile.unit.node.dtype
    code = tile.epilogue({}, loops.const(0, dtype), None)
    parts = list(traverse.subexpressions(*(e for s in traverse.walk(code) for e in traverse.exprs(s))))
    read = [e.dtype.itemsize for e in parts if e.op == "load" and e.axes]
    rounded = [e.dtype.itemsize for e in parts if e.op == "cast" and e.axes and e.args[0].dtype.is_half
               and e.args[0].op == "cast"]
    return lanes * (dtype.itemsize + sum(read) + sum(rounded)) // 4


def _result_along_rows(tile: GpuTile) -> bool:
    """Is what the epilogue writes nearer together in memory along rows than along columns?"""
    def apart(labels: str) -> int:
        """Bytes between neighbours, as far as these count: beyond a sector each has one for itself, and each page."""
        if not labels:
            return 1 << 30
        axis, units = tile.at[labels[-1]], tile.body.group.units
        written = [u for u in units if u.node in tile.body.fused.stored]
        steps = [(abs(coefficient(tile.written_at(u), axis) or FAR), u.node.dtype.itemsize) for u in written]
        return sum(min(step * size, FAR) for step, size in steps)

    return apart(tile.parts.rows) < apart(tile.parts.columns)
