"""The `contract` family: a contraction and its epilogue as a register-tiled loop nest.

The labels of a contraction are batch (in both operands and the result), rows (first operand and result), columns
(second operand and result) and inner (both operands only); `swap` exchanges the operands' parts. A task computes
block_m x block_n register tiles of mr x nr results. A tile keeps all its sums in registers over the whole inner range,
so the epilogue is computed on registers and every result is written once. Row operands are read one scalar at a time
from wherever they are; column operands are read as vectors and must be contiguous along the last column label (the
layout pass packs them into panels where they are not).
"""

from __future__ import annotations

from dlc.base.errors import VerifyError
from dlc.codegen.cost.cpu_contract import last_lanes
from dlc.codegen.lower.body import KernelBody, LoweredKernel, guarded, nest, split_axis
from dlc.codegen.lower.contract_amx import lower_tiles
from dlc.codegen.lower.contraction import (
    LIGHT,
    ContractionTile,
    columns_in_bounds,
    columns_left,
    in_bounds,
    multiply_add,
    over_tiles,
    runs_of,
)
from dlc.codegen.lower.prefetch import far_rows, in_parts, prefetches_of_line, streamed
from dlc.codegen.target.cpu import LINE
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.index import simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import product_of, spread
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.views.contraction import label_sizes


def lower_contract(fused: Fused, group: Group, sched: schedule.Contract) -> LoweredKernel:
    body = KernelBody(fused, group)
    tile = ContractionTile(body, sched)
    sizes = label_sizes(tile.unit.node)
    flops = 2 * product_of(sizes.values()) * (2 if tile.pairs else 1)
    if not sched.lanes:
        return body.finish(_naive(tile), sched, flops)
    if sched.along:
        return body.finish(_along(tile), sched, flops)
    if sched.stack:
        return body.finish(lower_tiles(tile), sched, flops)
    return body.finish(_tiled(tile), sched, flops)


def _naive(tile: ContractionTile) -> Stmt:
    parts = tile.parts
    out_labels = parts.batch + parts.rows + parts.columns
    axes = [loops.axis(x, e) for x, e in zip(out_labels, tile.extents(out_labels), strict=True)]
    ks = [loops.axis(x, e) for x, e in zip(parts.inner, tile.extents(parts.inner), strict=True)]
    mapping = dict(zip(tile.axes(out_labels + parts.inner), [*axes, *ks], strict=True))
    acc = Buffer("acc", tile.accumulator, (1,), "reg")
    zero = loops.const(0)
    a = tile.term(tile.operand(tile.row_value, mapping))
    b = tile.term(tile.operand(tile.col_value, mapping))
    body = loops.Seq((
        loops.Alloc(acc),
        loops.store(acc, (zero,), loops.const(0, acc.dtype)),
        nest(ks, loops.store(acc, (zero,), multiply_add(a, b, loops.load(acc, zero)))),
        tile.epilogue(mapping, loops.load(acc, zero), None),
    ))
    return nest(axes, body)


def _along(tile: ContractionTile) -> Stmt:
    """Few rows, a long inner range, and both operands contiguous along it: neither is worth packing. Every result is a
    vector of partial sums, folded at the end of the range."""
    sched, parts = tile.sched, tile.parts
    lanes, mr, nr = sched.lanes, sched.mr, sched.nr
    m, n = product_of(tile.extents(parts.rows)), product_of(tile.extents(parts.columns))
    m_tiles, n_tiles = -(-m // mr), -(-n // nr)
    m_blocks, n_blocks = -(-m_tiles // sched.block_m), -(-n_tiles // sched.block_n)
    task = split_axis(product_of(tile.extents(parts.batch)) * n_blocks * m_blocks, "t")
    *outer_at, n_block, m_block = unflatten(task, (*tile.extents(parts.batch), n_blocks, m_blocks))
    base = dict(zip(tile.axes(parts.batch), outer_at, strict=True))

    def at(labels: str, position: Expr, total: int) -> dict[Expr, Expr]:
        inside = simplify(loops.op("min", position, loops.const(total - 1)))
        return dict(zip(tile.axes(labels), unflatten(inside, tile.extents(labels)), strict=True))

    def tiles(mt: Expr, nt: Expr) -> Stmt:
        i, j, lane = loops.axis("i", mr), loops.axis("j", nr), loops.axis("l", lanes)
        acc = Buffer("acc", tile.accumulator, (mr, nr, lanes), "reg")
        scratch = Buffer("tile", acc.dtype, (mr, nr), "shared")
        *ks, k = tile.inner_loops()[0]
        extents = [axis.attr[1] for axis in (*ks, k)]

        def each(body: Stmt) -> Stmt:
            return loops.loop(i, loops.loop(j, body, "unroll"), "unroll")

        def step(position: Expr, predicate: Expr | None) -> Stmt:
            places = list(zip((*ks, position), extents, strict=True))
            inner = base | spread(tile.axes(parts.inner), places)
            a = tile.operand(tile.row_value, inner | at(parts.rows, simplify(mt * mr + i), m))
            b = tile.operand(tile.col_value, inner | at(parts.columns, simplify(nt * nr + j), n))
            a, b = (tile.term(guarded(x, predicate)) for x in (a, b))
            add = loops.store(acc, (i, j, lane), multiply_add(a, b, loops.load(acc, i, j, lane)))
            return loops.loop(lane, each(add), "vector", None, lanes)

        full, rest = divmod(extents[-1], lanes)
        body: list[Stmt] = []
        if full:
            c = loops.axis("k", full)
            body.append(loops.loop(c, step(simplify(c * lanes + lane), None)))
        if rest:
            last = simplify(lane + full * lanes)
            body.append(step(last, loops.op("lt", last, loops.const(extents[-1]))))
        zero = loops.const(0, acc.dtype)
        clear = loops.loop(lane, each(loops.store(acc, (i, j, lane), zero)), "vector", None, lanes)
        fold = loops.store(scratch, (i, j), loops.load(acc, i, j, lane), "add")
        r, v = loops.axis("r", mr), loops.axis("v", nr)
        place = base | at(parts.rows, simplify(mt * mr + r), m) | at(parts.columns, simplify(nt * nr + v), n)
        out = tile.epilogue(place, loops.load(scratch, r, v), None)
        out = loops.loop(v, out, "vector", columns_left(n, nr, nt), min(lanes, 1 << (nr - 1).bit_length()))
        return loops.Seq((
            loops.Alloc(acc), loops.Alloc(scratch), clear, nest(ks, loops.seq(*body)),
            each(loops.seq(loops.store(scratch, (i, j), zero), loops.loop(lane, fold, "vector", None, lanes))),
            loops.loop(r, out, "serial", columns_left(m, mr, mt)),
        ))

    stmt = over_tiles(n_block, sched.block_n, n_tiles, "nt",
                       lambda nt: over_tiles(m_block, sched.block_m, m_tiles, "mt", lambda mt: tiles(mt, nt)))
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


def _tiled(tile: ContractionTile) -> Stmt:
    sched, parts = tile.sched, tile.parts
    lanes, mr, nr = sched.lanes, sched.mr, sched.nr
    if nr % lanes:
        raise VerifyError(f"tiles of {nr} columns are no whole vectors of {lanes}: {sched}")
    k = tile.tile_columns()
    far, near = parts.columns[: len(parts.columns) - k], parts.columns[len(parts.columns) - k :]
    outer = parts.batch + far
    # m: the rows of one run, in which tiles are cut; a tile number counts runs, then tiles of the run
    lead, last = runs_of(parts.rows, tile, sched.run)
    runs, m, n = product_of(tile.extents(lead)), product_of(tile.extents(last)), product_of(tile.extents(near))
    run_tiles, n_tiles = -(-m // mr), -(-n // nr)
    m_tiles = runs * run_tiles
    m_blocks, n_blocks = -(-m_tiles // sched.block_m), -(-n_tiles // sched.block_n)
    task = split_axis(product_of(tile.extents(outer)) * n_blocks * m_blocks, "t")
    *outer_at, n_block, m_block = unflatten(task, (*tile.extents(outer), n_blocks, m_blocks))

    def tiles(number: Expr, nt: Expr, wide: int, lanes: int, left: int) -> Stmt:
        """A tile of `wide` columns in vectors of so many lanes; `left` columns are beyond the last whole tile, 0 if
        this one is known to be whole."""
        i, j, lane = loops.axis("i", mr), loops.axis("j", wide // lanes), loops.axis("l", lanes)
        run, mt = simplify(number // run_tiles), simplify(number % run_tiles)
        row, col = simplify(mt * mr + i), simplify(nt * nr + j * lanes + lane)
        base = dict(zip(tile.axes(outer), outer_at, strict=True))
        base |= dict(zip(tile.axes(lead), unflatten(run, tile.extents(lead)), strict=True))
        columns = dict(zip(tile.axes(near), unflatten(col, tile.extents(near)), strict=True))
        rows = dict(zip(tile.axes(last), unflatten(row, tile.extents(last)), strict=True))
        ks, inner = tile.inner_loops()
        part, first, inner = in_parts(ks, inner, mr) if sched.ahead else (None, None, inner)
        ks = ks if first is None else [first, *ks[1:]]
        acc = Buffer("acc", tile.accumulator, (mr, wide // lanes, lanes), "reg")
        at = (i, j, lane)

        def each(body: Stmt) -> Stmt:  # rows outermost: what is read of one is dead after its last column
            return loops.loop(i, loops.loop(j, loops.loop(lane, body, "vector", None, lanes), "unroll"), "unroll")

        a = free = tile.operand(tile.row_value, base | rows | inner)
        if m % mr and not in_bounds(a):
            inmost = simplify(loops.op("min", row, loops.const(m - 1)))
            clamped = dict(zip(tile.axes(last), unflatten(inmost, tile.extents(last)), strict=True))
            a = tile.operand(tile.row_value, base | clamped | inner)
        a = tile.term(a)
        inside = loops.op("lt", col, loops.const(n)) if left % wide else None
        b = tile.operand(tile.col_value, base | columns | inner)
        b = tile.term(columns_in_bounds(b, inside))
        step = each(loops.store(acc, at, multiply_add(a, b, loops.load(acc, *at))))
        start = each(loops.store(acc, at, loops.const(0, acc.dtype)))
        if sched.stream and ks:
            width = max(lanes, LINE // tile.col_value.dtype.itemsize)
            lines = [{lane: loops.const(0), j: loops.const(c // lanes)} for c in range(0, wide, width)]
            afar = far_rows(free, ks[-1], i, mr, sched.stream)
            step = loops.seq(*streamed(b, ks[-1], sched.stream, lines), *afar, step)
        sums = (loops.Alloc(acc), start, nest([] if part is None else [part],
                                              loops.seq(*fetched(mt, nt, base, part), nest(ks, step))))
        if tile.epilogue_cost() > LIGHT:
            return loops.Seq((*sums, *spilled(mt, nt, base, acc, each, at, left)))
        out = tile.epilogue(base | columns | rows, loops.load(acc, *at), inside)
        writes: Stmt = loops.loop(j, loops.loop(lane, out, "vector", None, lanes), "unroll")
        if m % mr:
            writes = loops.If(loops.op("lt", row, loops.const(m)), writes)
        return loops.Seq((*sums, loops.loop(i, writes, "unroll")))

    def fetched(mt: Expr, nt: Expr, base: dict[Expr, Expr], part: Expr | None) -> list[Stmt]:
        """Prefetches of what the epilogue will touch: some rows of it in each part of the inner range, because the
        processor keeps track of few fetches at a time."""
        if not sched.ahead:
            return []
        per = -(-mr // part.attr[1]) if part is not None else mr
        r, c = loops.axis("r", per), loops.axis("c", nr)
        inside = r if part is None else simplify(part * per + r)
        col = simplify(loops.op("min", nt * nr + c, loops.const(n - 1))) if n % nr else simplify(nt * nr + c)
        place = base | dict(zip(tile.axes(near), unflatten(col, tile.extents(near)), strict=True))
        place |= dict(zip(tile.axes(last), unflatten(simplify(mt * mr + inside), tile.extents(last)), strict=True))
        out = tile.epilogue(place, loops.const(0, tile.accumulator), None)
        rest = None if part is None else columns_left(mr, per, part)
        return [loops.loop(r, prefetches_of_line(out, r, c), extent=rest)]

    def spilled(mt: Expr, nt: Expr, base: dict[Expr, Expr], acc: Buffer, each, at: tuple[Expr, ...],
                left: int) -> list[Stmt]:
        """A long epilogue, written once: the sums go through scratch memory, row by row."""
        i, j, lane = at
        lanes = acc.shape[2]
        wide = acc.shape[1] * lanes
        scratch = Buffer("tile", acc.dtype, (mr, wide), "shared")
        save = each(loops.store(scratch, (i, simplify(j * lanes + lane)), loops.load(acc, *at)))
        r, v = loops.axis("r", mr), loops.axis("v", wide)
        row, col = simplify(mt * mr + r), simplify(nt * nr + v)
        place = base | dict(zip(tile.axes(near), unflatten(col, tile.extents(near)), strict=True))
        place |= dict(zip(tile.axes(last), unflatten(row, tile.extents(last)), strict=True))
        out = tile.epilogue(place, loops.load(scratch, r, v), None)
        width = columns_left(n, nr, nt) if left % wide else None
        height = columns_left(m, mr, mt)
        body = loops.loop(r, loops.loop(v, out, "vector", width, lanes), "serial", height)
        return [loops.Alloc(scratch), save, body]

    def column(nt: Expr) -> Stmt:
        def rows_of(wide: int, lanes: int, left: int, nt: Expr = nt) -> Stmt:
            return over_tiles(m_block, sched.block_m, m_tiles, "mt", lambda mt: tiles(mt, nt, wide, lanes, left))

        narrow = last_lanes(n, nr, lanes, sched.tail)
        if narrow == lanes:
            return rows_of(nr, lanes, n % nr)
        last_one = rows_of(narrow, narrow, n % nr, loops.const(n // nr))
        return loops.If(loops.op("lt", nt, loops.const(n // nr)), rows_of(nr, lanes, 0), last_one)

    stmt = over_tiles(n_block, sched.block_n, n_tiles, "nt", column)
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


