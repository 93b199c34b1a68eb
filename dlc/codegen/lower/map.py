"""Maps as loops: flat, vectorised, or in tiles that are turned in registers."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.lower.body import KernelBody, LoweredKernel, guarded, nest, rows_of, split_axis
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import coefficient, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import Place, map_extents, product_of, reads, spread, transposed_axis
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization


def lower_map(fused: Fused, group: Group, sched: schedule.Map) -> LoweredKernel:
    """Element by element over one common domain."""
    body = KernelBody(fused, group)
    extents = map_extents(fused, group)
    if sched.tile:
        return _lower_tiles(body, extents, sched)
    if not sched.lanes or not extents:
        axes = [loops.axis(f"i{k}", e) for k, e in enumerate(extents)]
        stores = map_stores(body, list(zip(axes, extents, strict=True)))
        return body.finish(nest(axes, stores), sched)
    inner = extents[-1]
    if len(extents) == 1:
        return _lower_flat(body, inner, sched)
    *far, rows, _ = extents
    outer = product_of(far)
    per = max(1, sched.chunk // inner)
    # a task takes whole rows of axes before the last two, or an even part of one: no division inside its loops
    pieces = -(-rows // min(per, rows))
    part = -(-rows // pieces)
    groups = max(1, min(outer, per // rows))
    task = split_axis(-(-outer // groups) * pieces, "t")
    group, piece = unflatten(task, (-(-outer // groups), pieces))
    v = loops.axis("v", inner)

    def one(position: Expr) -> Stmt:
        at = list(zip(unflatten(position, tuple(far)), far, strict=True))

        def row(r: Expr) -> Stmt:
            places = [*at, (r, rows), (v, inner)]
            return loops.loop(v, map_stores(body, places), "vector", None, sched.lanes)

        return rows_of(piece, part, rows, row, "r")

    stmt = rows_of(group, groups, outer, one, "g")
    if task.op == "axis":
        stmt = loops.loop(task, stmt, "parallel")
    return body.finish(stmt, sched)


def _lower_flat(body: KernelBody, n: int, sched: schedule.Map) -> LoweredKernel:
    """One axis: the size is a parameter, so that one kernel serves tensors of every size (all parameters that an
    optimizer updates, in one launch)."""
    size = Buffer("n", dtypes.int64, (1,), note="elements")
    total = loops.load(size, loops.const(0))
    task = loops.axis("t", loops.RUNTIME // sched.chunk)
    v = loops.axis("v", sched.chunk)
    base = loops.op("mul", task, loops.const(sched.chunk))
    at = simplify(loops.op("add", base, v))
    left = loops.op("min", loops.const(sched.chunk), loops.op("sub", total, base))
    stores = map_stores(body, [(at, n)])
    stmt: Stmt = loops.loop(v, stores, "vector", left, sched.lanes)
    tasks = loops.op("floordiv", loops.op("add", total, loops.const(sched.chunk - 1)), loops.const(sched.chunk))
    stmt = loops.loop(task, stmt, "parallel", tasks)
    body.sizes[size] = n
    lowered = body.finish(stmt, sched)
    flat = {b: Buffer(b.name, b.dtype, (loops.RUNTIME,), note=b.note) for b in lowered.kernel.params if b.size == n}
    return LoweredKernel(traverse.replace_buffers(lowered.kernel, flat), lowered.nodes, -(-n // sched.chunk))


def map_stores(body: KernelBody, places: Sequence[Place], predicate: Expr | None = None,
                preset: dict[Expr, Expr] | None = None) -> Stmt:
    """Compute every unit at the loop positions and store those needed outside; `preset` replaces whole loads."""
    values: dict[Realization, Expr] = {}
    stores: list[Stmt] = []
    for u in body.group.units:
        mapping = spread(u.axes, places)
        values[u] = body.put(u, u.values[0], mapping | (preset or {}), lambda m, _: values[m])
        if u.node in body.fused.stored:
            index = [traverse.map_expr(i, lambda *_: None, dict(mapping)) for i in u.index]
            stores.append(body.store(u.node, index, guarded(values[u], predicate, everywhere=False), predicate))
    return loops.seq(*stores)


def _lower_tiles(body: KernelBody, extents: tuple[int, ...], sched: schedule.Map) -> LoweredKernel:
    """Square tiles over the last axis and the axis that transposed reads run along, turned in registers."""
    fused, group, t = body.fused, body.group, sched.tile
    across = transposed_axis(fused, group, extents)
    assert across is not None
    last = len(extents) - 1
    n_a, n_b = extents[across], extents[last]
    tiles_a, tiles_b = -(-n_a // t), -(-n_b // t)
    outer = [e for k, e in enumerate(extents) if k not in (across, last)]
    strip = min(tiles_a, max(1, 64 // t))  # neighbouring tiles read whole cache lines
    strips = -(-tiles_a // strip)
    task = split_axis(product_of(outer) * strips, "t")
    # in the order of the axes: neighbouring tasks write to the same lines and pages
    outer_at = list(unflatten(task, (*outer[:across], strips, *outer[across:])))
    strip_at = outer_at.pop(across)
    ta, tb = loops.axis("ta", strip), split_axis(tiles_b, "tb")
    base_a = simplify(loops.op("mul", loops.op("add", loops.op("mul", strip_at, loops.const(strip)), ta),
                               loops.const(t)))
    base_b = simplify(loops.op("mul", tb, loops.const(t)))

    def places(a: Expr, b: Expr) -> list[Place]:
        rest = iter(zip(outer_at, outer, strict=True))
        out: list[Place] = []
        for k, e in enumerate(extents):
            out.append((a, e) if k == across else (b, e) if k == last else next(rest))
        return out

    def inside(a: Expr, b: Expr) -> Expr | None:
        p = None
        if n_a % (t * strip):
            p = loops.op("lt", a, loops.const(n_a))
        if n_b % t:
            q = loops.op("lt", b, loops.const(n_b))
            p = q if p is None else loops.op("and", p, q)
        return p

    probe = [loops.axis("q", e) for e in extents]
    stmts: list[Stmt] = []
    preset: dict[Expr, Expr] = {}
    tiles: dict[Expr, Buffer] = {}  # what is read into each
    row, lane = loops.axis("a", t), loops.axis("l", t)
    k, v = loops.axis("k", t), loops.axis("v", t)  # rows of a tile run along the last axis
    for u in group.units:
        mapping = spread(u.axes, list(zip(probe, extents, strict=True)))
        for e, off, step in reads(body, u, mapping):
            if coefficient(off, probe[across]) != step or coefficient(off, probe[last]) in (0, step):
                continue
            a, b = simplify(base_a + v), simplify(base_b + k)
            at = spread(u.axes, places(a, b))
            value = guarded(body.put(u, e, at, lambda m, _: m), inside(a, b))  # type: ignore[arg-type, return-value]
            tile = tiles.get(value)
            if tile is None:
                tile = tiles[value] = Buffer(f"tile{len(tiles)}", e.dtype, (t, t), "reg")
                fill = loops.loop(v, loops.store(tile, (k, v), value), "vector", None, t)
                stmts += [loops.Alloc(tile), loops.loop(k, fill, "unroll")]
            preset[e] = loops.load(tile, lane, row)
    a, b = simplify(base_a + row), simplify(base_b + lane)
    out = map_stores(body, places(a, b), inside(a, b), preset)
    stmts.append(loops.loop(row, loops.loop(lane, out, "vector", None, t), "unroll"))
    stmt: Stmt = loops.loop(ta, loops.Seq(tuple(stmts)))
    if tb.op == "axis":
        stmt = loops.loop(tb, stmt)
    if task.op == "axis":
        stmt = loops.loop(task, stmt, "parallel")
    return body.finish(stmt, sched)
