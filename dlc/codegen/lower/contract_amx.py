"""Contractions of pairs on a matrix unit: stack x wide tiles of sums at a time, over the whole inner range.

Rows are cut in tiles of even heights inside a run of rows at one stride. Where memory does not go on behind a run, its
last tile ends with it, and computes some rows a second time. Columns come in panels that are as wide as the tiles. The
sums go through scratch memory, where the epilogue takes them row by row as vectors.
"""

from __future__ import annotations

from dlc.base.errors import VerifyError
from dlc.codegen.cost.cpu_amx import step_of
from dlc.codegen.lower.body import nest, split_axis
from dlc.codegen.lower.contraction import LIGHT, ContractionTile, columns_left, in_bounds, over_tiles, runs_of
from dlc.codegen.lower.prefetch import prefetches
from dlc.ir import dtypes
from dlc.ir.loops import instructions, traverse
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import coefficient, simplify, unflatten
from dlc.ir.loops.ir import TILE, Buffer, Expr, Stmt
from dlc.passes.fuse.access import product_of

ROWS_AT_ONCE = 4  # of a light epilogue


def lower_tiles(tile: ContractionTile) -> Stmt:
    """The kernel's body."""
    sched, parts = tile.sched, tile.parts
    stack, wide, high = sched.stack, sched.nr // TILE, sched.mr // sched.stack
    count = tile.tile_columns(results=False)
    far, near = parts.columns[: len(parts.columns) - count], parts.columns[len(parts.columns) - count :]
    outer = parts.batch + far
    lead, last = runs_of(parts.rows, tile, sched.run)
    runs, m, n = product_of(tile.extents(lead)), product_of(tile.extents(last)), product_of(tile.extents(near))
    if high * stack != sched.mr or wide * TILE != sched.nr or high > min(m, TILE):
        raise VerifyError(f"no whole tiles for runs of {m} rows: {sched}")
    down = -(-m // high)  # tiles of a run
    stacks, panels = -(-runs * down // stack), -(-n // sched.nr)
    m_blocks, n_blocks = -(-stacks // sched.block_m), -(-panels // sched.block_n)
    task = split_axis(product_of(tile.extents(outer)) * n_blocks * m_blocks, "t")
    *outer_at, n_block, m_block = unflatten(task, (*tile.extents(outer), n_blocks, m_blocks))
    base = dict(zip(tile.axes(outer), outer_at, strict=True))
    end = dict(zip(tile.axes(last), unflatten(loops.const(down * high - 1), tile.extents(last)), strict=True))
    fits = m % high == 0 or in_bounds(tile.operand(tile.row_value, end))

    def rows_at(number: Expr) -> tuple[dict[Expr, Expr], Expr, Expr]:
        """Of tile `number`: where its run is, its own first row, and the row that the computed ones begin with."""
        run, first = simplify(number // down), simplify(number % down * high)
        where = dict(zip(tile.axes(lead), unflatten(run, tile.extents(lead)), strict=True))
        return where, first, first if fits else simplify(loops.op("min", first, loops.const(m - high)))

    def row(position: Expr) -> dict[Expr, Expr]:
        return dict(zip(tile.axes(last), unflatten(simplify(position), tile.extents(last)), strict=True))

    def column(position: Expr) -> dict[Expr, Expr]:
        return dict(zip(tile.axes(near), unflatten(simplify(position), tile.extents(near)), strict=True))

    def tiles(number: Expr, panel: Expr) -> Stmt:
        t, u, i, j = (loops.axis(x, e) for x, e in (("t", stack), ("u", wide), ("i", high), ("j", TILE)))
        ks, inner = tile.inner_loops()
        *ks, k = ks
        step = step_of(k.attr[1])
        c, p = loops.axis("k", k.attr[1] // step), loops.axis("p", step)
        which = simplify(number * stack + t)
        if runs * down % stack:
            which = simplify(loops.op("min", which, loops.const(runs * down - 1)))
        where, _, first = rows_at(which)
        # in terms of one row, column and inner position first: what is flat in memory becomes so before these are
        # known to be sums
        y, x = loops.axis("y", down * high), loops.axis("x", panels * sched.nr)
        sums_of = {y: first + i, x: panel * sched.nr + u * TILE + j, k: c * step + p}
        a, a_stride = tile_of(tile.operand(tile.row_value, base | where | row(y) | inner), sums_of, i, p)
        b, b_stride = tile_of(tile.operand(tile.col_value, base | column(x) | inner), sums_of, p, j)
        acc = Buffer("acc", dtypes.float32, (stack, wide, high, TILE), "tile")
        sums = Buffer("tile", dtypes.float32, (stack * high, sched.nr), "shared")
        zero = loops.const(0)
        at = (t, u, zero, zero)

        def each(body: Stmt) -> Stmt:  # a column's tile is dead after its last row's
            return loops.loop(u, loops.loop(t, body, "unroll"), "unroll")

        return loops.Seq((
            loops.Alloc(acc),
            *fetched(number, panel),
            nest((*ks, c), each(instructions.TileMma(acc, at, a, b, step, a_stride, b_stride))),
            loops.Alloc(sums),
            each(instructions.StoreTile(sums, (simplify(t * high), simplify(u * TILE)), acc, at)),
            finish(number, panel, sums),
        ))

    def fetched(number: Expr, panel: Expr) -> list[Stmt]:
        """Prefetches of what the epilogue touches, by the last column of each tile."""
        if not sched.ahead:
            return []
        t, u, r = loops.axis("t", stack), loops.axis("u", wide), loops.axis("r", high)
        where, first, _ = rows_at(simplify(number * stack + t))
        at = simplify(loops.op("min", simplify(panel * sched.nr + u * TILE + (TILE - 1)), loops.const(n - 1)))
        out = tile.epilogue(base | where | row(first + r) | column(at), loops.const(0, dtypes.float32), None)
        return [loops.loop(t, loops.loop(r, loops.loop(u, prefetches(out, r), "unroll")))]

    def finish(number: Expr, panel: Expr, sums: Buffer) -> Stmt:
        """The epilogue of what is in scratch memory."""
        v = loops.axis("v", sched.nr)

        def line(place: dict[Expr, Expr], at: Expr) -> Stmt:
            out = tile.epilogue(base | place | column(panel * sched.nr + v), loops.load(sums, simplify(at), v), None)
            return loops.loop(v, out, "vector", columns_left(n, sched.nr, panel), TILE)

        def lines(total: int, extent: Expr | None, make_line) -> Stmt:
            group = ROWS_AT_ONCE if extent is None and tile.epilogue_cost() <= LIGHT else 1
            group = max(d for d in range(1, group + 1) if total % d == 0)
            r, s = loops.axis("r", total // group), loops.axis("s", group)
            if group == 1:
                return loops.loop(r, make_line(r), "serial", extent)
            return loops.loop(r, loops.loop(s, make_line(r * group + s), "unroll"))

        if m % high == 0 and down % stack == 0:  # all rows of the stack follow each other in one run
            where, first, _ = rows_at(number * stack)
            return lines(stack * high, None, lambda r: line(where | row(first + r), r))
        t = loops.axis("t", stack)
        where, first, computed = rows_at(simplify(number * stack + t))
        again = simplify(first - computed)
        extent = columns_left(m, high, simplify(simplify(number * stack + t) % down))
        body = lines(high, extent, lambda r: line(where | row(first + r), t * high + again + r))
        return loops.loop(t, body, "serial", columns_left(runs * down, stack, number))

    body = over_tiles(n_block, sched.block_n, panels, "nt",
                       lambda nt: over_tiles(m_block, sched.block_m, stacks, "mt", lambda mt: tiles(mt, nt)))
    return loops.loop(task, body, "parallel") if task.op == "axis" else body


def tile_of(value: Expr, at: dict[Expr, Expr], down: Expr, along: Expr) -> tuple[Expr, int]:
    """An operand's element, with axes replaced, as the first one of a tile whose lines follow `down` and whose words
    follow `along`, and the distance of its lines."""
    loads = value.args if value.op == "pair" else (value,)
    assert all(e.op == "load" and len(e.args) == 1 for e in loads), f"no tile can be loaded of {value}"
    offset, *other = (simplify(traverse.map_expr(e.args[0], lambda *_: None, dict(at))) for e in loads)
    assert all(simplify(e - offset) is loops.const(1) for e in other), f"no pairs in memory: {value}"
    stride = coefficient(offset, down)
    assert stride is not None and coefficient(offset, along) == len(loads), f"lines of a tile are not whole: {value}"
    start = simplify(traverse.map_expr(offset, lambda *_: None, {down: loops.const(0), along: loops.const(0)}))
    return loops.load(loads[0].attr, start), stride
