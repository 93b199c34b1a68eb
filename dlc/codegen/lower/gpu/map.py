"""Groups of units to GPU kernels: the `map` family, and what all families share.

A kernel is `for b grid: shared buffers; for t lane: body`. The machinery that puts units into axes is the CPU's
(`lower.Body`); here is only how positions follow from blocks, threads and vector lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dlc.codegen.lower.body import KernelBody, LoweredKernel, guarded, split_axis
from dlc.codegen.lower.map import map_stores
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import coefficient, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import Place, map_extents, product_of, spread, transposed_axis
from dlc.passes.fuse.fuse import Fused, Group


def block_axis(count: int) -> Expr:
    """The axis of `count` blocks (the constant 0 for one)."""
    return split_axis(count, "b")


def launch(blocks: Expr, threads: Expr, body: Stmt, shared: Sequence[Buffer] = (), extent: Expr | None = None) -> Stmt:
    """The two outermost loops. `extent` is the number of blocks where that is known only at run time."""
    inner = loops.loop(threads, body, "lane")
    block: Stmt = loops.Seq((*map(loops.Alloc, shared), inner)) if shared else inner
    return loops.loop(blocks, block, "grid", extent) if blocks.op == "axis" else block


def lower_map(fused: Fused, group: Group, sched: schedule.GpuMap) -> LoweredKernel:
    """Element by element over the group's whole domain, as one range."""
    body = KernelBody(fused, group)
    extents = map_extents(fused, group)
    if sched.tile:
        return _lower_tiles(body, extents, sched)
    total = product_of(extents)
    chunk = sched.block * sched.lanes * sched.unroll
    generic = len(extents) == 1
    size: Expr = loops.const(total)
    count: Expr | None = None
    if generic:
        holder = Buffer("n", dtypes.int64, (1,), note="elements")
        body.sizes[holder] = total
        size = loops.load(holder, loops.const(0))
        b = loops.axis("b", loops.RUNTIME // chunk)
        count = loops.op("floordiv", size + (chunk - 1), loops.const(chunk))
    else:
        b = block_axis(-(-total // chunk))
    t, u, v = (loops.axis(n, e) for n, e in (("t", sched.block), ("u", sched.unroll), ("v", sched.lanes)))
    start = simplify(b * chunk)
    at = simplify(start + u * (sched.block * sched.lanes) + t * sched.lanes + v)
    places: list[Place] = list(zip(unflatten(at, extents), extents, strict=True)) if not generic else [(at, total)]

    def stores(predicate: Expr | None) -> Stmt:
        allocs, *nests = _registers_first(map_stores(body, places, predicate), v)
        made = loops.seq(*(loops.loop(v, nest, "vector", None, sched.lanes) for nest in nests))
        return loops.loop(u, loops.Seq((*allocs, made)) if allocs else made, "unroll")

    inside = loops.op("lt", at, size)
    if not generic and total % chunk == 0:
        stmt = stores(None)
    elif not generic and total % sched.lanes == 0:
        stmt = stores(inside)
    else:  # only the last block has to look at every element
        stmt = loops.If(loops.op("le", simplify(start + chunk), size), stores(None), stores(inside))
    lowered = body.finish(launch(b, t, stmt, (), count), sched)
    if not generic:
        return lowered
    flat = {p: Buffer(p.name, p.dtype, (loops.RUNTIME,), note=p.note) for p in lowered.kernel.params if p.size == total}
    flat = {p: q for p, q in flat.items() if p not in body.sizes}
    return LoweredKernel(traverse.replace_buffers(lowered.kernel, flat), lowered.nodes, 1)


def _registers_first(stores: Stmt, v: Expr) -> tuple[Any, ...]:
    """Several stores of a vector loop as two: everything is computed into registers before anything is written, so
    that a result may take the place of what the others are computed from. Gives (allocations, loop bodies...)."""
    if not isinstance(stores, loops.Seq) or len(stores.body) < 2:
        return (), stores
    allocs, computed, written = [], [], []
    for k, s in enumerate(stores.body):
        assert isinstance(s, loops.Store)
        kept = Buffer(f"new{k}", s.buffer.dtype, (v.attr[1],), "reg")
        allocs.append(loops.Alloc(kept))
        computed.append(loops.store(kept, (v,), s.value))
        written.append(loops.Store(s.buffer, s.index, loops.load(kept, v), s.combine, s.predicate))
    return tuple(allocs), loops.seq(*computed), loops.seq(*written)


def _lower_tiles(body: KernelBody, extents: tuple[int, ...], sched: schedule.GpuMap) -> LoweredKernel:
    """Square tiles over the last axis and the axis that transposed reads run along, turned in shared memory.

    A tile is read with the threads along the reads' axis and written with them along the last one. Rows of the tile
    are one element longer than the tile, so that columns fall into different banks.
    """
    fused, group, n = body.fused, body.group, sched.tile
    across = transposed_axis(fused, group, extents)
    assert across is not None
    last = len(extents) - 1
    n_a, n_b = extents[across], extents[last]
    outer = [e for k, e in enumerate(extents) if k not in (across, last)]
    tiles = (-(-n_a // n), -(-n_b // n))
    b, t = block_axis(product_of(outer) * tiles[0] * tiles[1]), loops.axis("t", sched.block)
    *outer_at, tile_a, tile_b = unflatten(b, (*outer, *tiles))
    wide = n // sched.lanes  # threads along a row of the tile
    step = sched.block // wide  # rows of the tile at a time

    def places(a: Expr, c: Expr) -> list[Place]:
        rest = iter(zip(outer_at, outer, strict=True))
        return [(a, e) if k == across else (c, e) if k == last else next(rest) for k, e in enumerate(extents)]

    def inside(a: Expr, c: Expr) -> Expr | None:
        p = loops.op("lt", a, loops.const(n_a)) if n_a % n else None
        if n_b % n:
            q = loops.op("lt", c, loops.const(n_b))
            p = q if p is None else loops.op("and", p, q)
        return p

    def threads(make: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """`make(row, column)` at every element of a tile, columns along the threads."""
        u, v = loops.axis("u", -(-n // step)), loops.axis("v", sched.lanes)
        row = simplify(u * step + t // wide)
        column = simplify((t % wide) * sched.lanes + v)
        stmt: Stmt = loops.loop(v, make(row, column), "vector", None, sched.lanes)
        if n % step:
            stmt = loops.If(loops.op("lt", row, loops.const(n)), stmt)
        return loops.loop(u, stmt, "unroll")

    probe = [loops.axis("q", e) for e in extents]
    shared: list[Buffer] = []
    stmts: list[Stmt] = []
    preset: dict[Expr, Callable[[Expr, Expr], Expr]] = {}
    for unit in group.units:
        mapping = spread(unit.axes, list(zip(probe, extents, strict=True)))
        for e, (node, _) in unit.loads.items():
            if group.member(node) is not None:
                continue
            off = simplify(traverse.map_expr(e.args[0], lambda *_: None, dict(mapping)))
            if coefficient(off, probe[across]) != 1 or coefficient(off, probe[last]) in (0, 1):
                continue
            tile = Buffer(f"tile{len(shared)}", node.dtype, (n, n + 1), "shared")
            shared.append(tile)

            def fill(row: Expr, column: Expr, unit=unit, e=e, tile=tile) -> Stmt:
                a, c = simplify(tile_a * n + column), simplify(tile_b * n + row)
                value = body.put(unit, e, spread(unit.axes, places(a, c)), lambda m, _: m)  # type: ignore[arg-type]
                return loops.store(tile, (row, column), guarded(value, inside(a, c)))

            stmts.append(threads(fill))
            preset[e] = lambda row, column, tile=tile: loops.load(tile, column, row)

    def write(row: Expr, column: Expr) -> Stmt:
        a, c = simplify(tile_a * n + row), simplify(tile_b * n + column)
        return map_stores(body, places(a, c), inside(a, c), {e: f(row, column) for e, f in preset.items()})

    stmt = loops.seq(*stmts, loops.Sync(), threads(write))
    return body.finish(launch(b, t, stmt, shared), sched)
