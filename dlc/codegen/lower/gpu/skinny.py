"""Contractions with few rows on a GPU: a step of a recurrent network, a small batch through a wide layer.

What such a product costs is reading its large operand once, from the second-level cache if a loop comes back to it,
and waiting for that. So a block takes all rows and few columns, which gives every multiprocessor a block without
cutting the inner range between blocks (that would need a second kernel). Inside the block the range is dealt out:
`slices` groups of threads compute all of the block's results, each over its part of a chunk in shared memory, and add
up at the end. While a chunk is computed the next one travels into registers.

Chunks lie in shared memory as the operand does in global memory: along the inner range or along rows (columns).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.codegen.lower.body import KernelBody, LoweredKernel
from dlc.codegen.lower.gpu.contract import GpuTile, blocks_of, stride_one
from dlc.codegen.lower.gpu.map import launch
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.index import both, simplify
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import product_of
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.views.contraction import label_sizes

_ZERO = loops.const(0)


@dataclass
class _Chunk:
    """The travel of one operand's chunks: global memory, registers, shared memory."""

    tile: GpuTile
    value: Expr
    labels: str
    total: int  # rows (columns) of the contraction
    width: int  # of the block
    start: Expr  # the block's first row (column)
    t: Expr
    name: str

    def __post_init__(self) -> None:
        sched: schedule.GpuSkinny = self.tile.sched  # type: ignore[assignment]
        inner = self.tile.parts.inner
        self.along = stride_one(self.tile, self.value, inner) and not stride_one(self.tile, self.value, self.labels)
        run, other = (sched.bk, self.width) if self.along else (self.width, sched.bk)
        extent = self.tile.extents((inner if self.along else self.labels)[-1:])
        vector = 4
        while vector > 1 and (run % vector or (extent and extent[0] % vector)):
            vector //= 2
        self.vectors, self.across = run * other // vector, run // vector
        self.count = -(-self.vectors // sched.block)
        self.c, self.v = loops.axis("c", self.count), loops.axis("v", vector)
        dtype = self.tile.accumulator
        # a row is 16 bytes longer, so that threads which read neighbouring rows use different banks
        shape = (2, self.width, sched.bk + 4) if self.along else (2, sched.bk, self.width + -self.width % 4)
        self.shared = Buffer(self.name, dtype, shape, "shared")
        self.staged = Buffer(f"next_{self.name}", dtype, (self.count, vector), "reg")

    def where(self) -> tuple[Expr, Expr, Expr | None]:
        """(position along the width, along the inner range, whether it exists) of this thread's element."""
        sched: schedule.GpuSkinny = self.tile.sched  # type: ignore[assignment]
        number = simplify(self.c * sched.block + self.t)
        exists = loops.op("lt", number, loops.const(self.vectors)) if self.vectors % sched.block else None
        far = simplify(number // self.across)
        near = simplify((number % self.across) * self.v.attr[1] + self.v)
        return (far, near, exists) if self.along else (near, far, exists)

    def each(self, make: Stmt) -> Stmt:
        return loops.loop(self.c, loops.loop(self.v, make, "vector", None, self.v.attr[1]), "unroll")

    def stage(self, step: Expr) -> Stmt:
        """Load the elements of a chunk into registers."""
        sched: schedule.GpuSkinny = self.tile.sched  # type: ignore[assignment]
        w, k, inside = self.where()
        at, inner = simplify(self.start + w), simplify(step * sched.bk + k)
        if self.total % self.width:
            inside = both(inside, loops.op("lt", at, loops.const(self.total)))
        if self.tile.k % sched.bk:
            inside = both(inside, loops.op("lt", inner, loops.const(self.tile.k)))
        value = self.tile.element(self.value, self.labels, at, inner, self.tile.accumulator, inside)
        return self.each(loops.store(self.staged, (self.c, self.v), value))

    def commit(self, half: Expr) -> Stmt:
        """Write them to a half of the shared buffer."""
        w, k, exists = self.where()
        place = (half, w, k) if self.along else (half, k, w)
        return self.each(loops.store(self.shared, place, loops.load(self.staged, self.c, self.v), None, exists))

    def position(self, i: Expr, group: Expr, groups: int) -> Expr:
        """The row (column) number i of a thread: neighbours where they are read as a vector, else spread out."""
        return simplify(i * groups + group) if self.along else simplify(group * i.attr[1] + i)

    def fetch(self, half: Expr, at: Expr, k0: Expr, part: Buffer, i: Expr, kk: Expr) -> Stmt:
        """Read a thread's part of the chunk at inner positions k0 + kk into registers."""
        k = simplify(k0 + kk)
        if self.along:
            copy = loops.store(part, (i, kk), loops.load(self.shared, half, at, k))
            return loops.loop(i, loops.loop(kk, copy, "vector", None, kk.attr[1]), "unroll")
        copy = loops.store(part, (i, kk), loops.load(self.shared, half, k, at))
        return loops.loop(kk, loops.loop(i, copy, "vector", None, i.attr[1]), "unroll")


def lower_skinny(fused: Fused, group: Group, sched: schedule.GpuSkinny) -> LoweredKernel:
    """All rows and `bn` columns a block."""
    body = KernelBody(fused, group)
    tile = GpuTile(body, sched)  # type: ignore[arg-type]
    flops = 2 * product_of(label_sizes(tile.unit.node).values())
    lowered = body.finish(_skinny(tile, sched), sched, flops)
    # blocks are fewer than multiprocessors; not told so, the compiler saves registers for a second one, and spills
    return replace(lowered, kernel=replace(lowered.kernel, blocks_per_sm=1))


def _skinny(tile: GpuTile, sched: schedule.GpuSkinny) -> Stmt:
    p, t = tile.parts, loops.axis("t", sched.block)
    b, row0, col0 = blocks_of(tile, sched.bm, sched.bn)
    a = _Chunk(tile, tile.row_value, p.rows, tile.m, sched.bm, row0, t, "rows")
    c = _Chunk(tile, tile.col_value, p.columns, tile.n, sched.bn, col0, t, "columns")
    groups_m, groups_n, slices = sched.bm // sched.tm, sched.bn // sched.tn, sched.slices
    results = groups_m * groups_n
    slice_, place = simplify(t // results), simplify(t % results)
    own_m, own_n = simplify(place // groups_n), simplify(place % groups_n)
    working = loops.op("lt", slice_, loops.const(slices)) if slices * results < sched.block else None

    dtype = tile.accumulator
    i, j = loops.axis("i", sched.tm), loops.axis("j", sched.tn)
    kk = loops.axis("kk", sched.along)
    acc = Buffer("acc", dtype, (sched.tm, sched.tn), "reg")
    a_part, c_part = (Buffer(x, dtype, (n, sched.along), "reg") for x, n in (("a", sched.tm), ("b", sched.tn)))
    row, col = a.position(i, own_m, groups_m), c.position(j, own_n, groups_n)

    def every(make: Stmt) -> Stmt:
        return loops.loop(i, loops.loop(j, make, "unroll"), "unroll")

    def guarded(make: Stmt) -> Stmt:
        return make if working is None else loops.If(working, make)

    def compute(half: Expr) -> Stmt:
        q = loops.axis("q", sched.bk // (sched.along * slices))
        k0 = simplify((q * slices + slice_) * sched.along)
        product = loops.op("mul", loops.load(a_part, i, kk), loops.load(c_part, j, kk))
        work = loops.seq(a.fetch(half, row, k0, a_part, i, kk), c.fetch(half, col, k0, c_part, j, kk),
                         loops.loop(kk, every(loops.store(acc, (i, j), product, "add")), "unroll"))
        return guarded(loops.loop(q, work, "unroll"))

    steps = -(-tile.k // sched.bk)
    step = loops.axis("step", steps)
    more = loops.op("lt", step + 1, loops.const(steps))
    main: Stmt = compute(_ZERO) if steps == 1 else loops.loop(step, loops.seq(
        loops.If(more, loops.seq(*(x.stage(simplify(step + 1)) for x in (a, c)))),
        compute(step % 2),
        loops.If(more, loops.seq(*(x.commit(loops.const(1) - step % 2) for x in (a, c)))),
        loops.Sync(),
    ))

    # the slices' sums, folded in their order by one thread for each result
    partial = Buffer("partial", dtype, (slices, sched.bm, sched.bn), "shared")
    count = -(-sched.bm * sched.bn // sched.block)
    o, s = loops.axis("o", count), loops.axis("s", slices)
    number = simplify(o * sched.block + t)
    r, x = simplify(number // sched.bn), simplify(number % sched.bn)
    total = Buffer("total", dtype, (count,), "reg")
    at_row, at_col = simplify(row0 + r), simplify(col0 + x)
    exists = loops.op("lt", number, loops.const(sched.bm * sched.bn)) if sched.bm * sched.bn % sched.block else None
    inside = exists
    if tile.m % sched.bm:
        inside = both(inside, loops.op("lt", at_row, loops.const(tile.m)))
    if tile.n % sched.bn:
        inside = both(inside, loops.op("lt", at_col, loops.const(tile.n)))
    position = tile.outer | tile.place(p.rows, at_row) | tile.place(p.columns, at_col)
    fold = loops.store(total, (o,), loops.load(partial, s, r, x, predicate=exists), "add")
    code = loops.Seq((
        *(loops.Alloc(buffer) for buffer in (acc, a_part, c_part, a.staged, c.staged, total)),
        every(loops.store(acc, (i, j), loops.const(0, dtype))),
        a.stage(_ZERO), c.stage(_ZERO), a.commit(_ZERO), c.commit(_ZERO),
        loops.Sync(),
        main,
        guarded(every(loops.store(partial, (slice_, row, col), loops.load(acc, i, j)))),
        loops.Sync(),
        loops.loop(o, loops.seq(loops.store(total, (o,), loops.const(0, dtype)), loops.loop(s, fold, "unroll"),
                                tile.epilogue(position, loops.load(total, o), inside)), "unroll"),
    ))
    return launch(b, t, code, (a.shared, c.shared, partial))
