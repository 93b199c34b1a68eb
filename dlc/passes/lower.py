"""Groups of units to Loop IR kernels, in the form that a schedule asks for.

This file holds what all families share and the `map` and `rows` families; contractions are in `lower_contract.py`,
scatter, sort and cumulative in `lower_ordered.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dlc.ir import dtypes, loops, schedule
from dlc.ir.dtypes import DType
from dlc.ir.graph import Node
from dlc.ir.loops import Buffer, Expr, Kernel, Stmt
from dlc.ir.loops_index import coefficient, is_position, simplify, unflatten
from dlc.ir.scalar import SCALAR_OPS
from dlc.passes.fuse import Fused, Group
from dlc.passes.long_sums import in_blocks
from dlc.passes.units import Unit

SCRATCH_LIMIT = 128 << 10  # bytes of thread-private scratch one row may use
MONOIDS = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}

Reader = Callable[[Unit, tuple[Expr, ...]], Expr]


@dataclass(frozen=True)
class Lowered:
    """A kernel, what stands behind each of its parameters (a node, or a number for a run-time size), and its tasks."""

    kernel: Kernel
    nodes: tuple[Node | int, ...]
    tasks: int


def identity(monoid: str, dtype: DType) -> Expr:
    """The neutral element of a reduction in the compute type `dtype`."""
    lo, hi = dtypes.limits(dtype)
    if dtype.is_float:
        lo, hi = float("-inf"), float("inf")
    value = {"sum": 0, "prod": 1, "max": lo, "min": hi, "any": False, "all": True, "argmax": lo, "argmin": hi}[monoid]
    return loops.const(value, dtype)


def cost_of(e: Expr, inner: frozenset[Expr] = frozenset()) -> int:
    """Scalar cost of an expression's operations on floats, shared parts counted once; of those that depend on axes of
    `inner`, if there are any: the others are not computed again for each element."""
    seen: set[Expr] = set()
    stack, total = [e], 0
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if inner and not inner & x.axes:
            continue
        if x.op in SCALAR_OPS and x.dtype is not dtypes.int64:
            total += SCALAR_OPS[x.op].cost
        stack.extend(x.args)
    return total


class Body:
    """What the lowering of one kernel collects: parameters, writes, and expressions put into the kernel's axes."""

    def __init__(self, fused: Fused, group: Group):
        self.fused, self.group = fused, group
        self.params: dict[Buffer, Node] = {}
        self.writes: set[Buffer] = set()
        self.sizes: dict[Buffer, int] = {}  # parameters that hold a run-time size

    def buffer(self, node: Node) -> Buffer:
        b = self.fused.table.buffers[node]
        self.params.setdefault(b, node)
        return b

    def put(self, unit: Unit, value: Expr, mapping: dict[Expr, Expr], read: Reader) -> Expr:
        """`value` (of `unit`) with its axes replaced; reads of members of the group go through `read`."""
        memo = dict(mapping)

        def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
            if e.op == "load":
                node, index = unit.loads[e]
                member = self.group.member(node)
                if member is not None:
                    at = tuple(loops.map_expr(i, lambda *_: None, memo) for i in index)
                    value = guarded(read(member, at), simplify(args[1]) if len(args) > 1 else None)
                    return store_value(value, node.dtype)  # whoever reads a unit reads what is stored of it
                return _load(self.buffer(node), args)
            if e.op == "cast" and is_position(args[0]):  # a number of an iota
                return loops.cast(simplify(args[0]), e.dtype)
            if e.op == "select":
                cond = simplify(args[0])
                if cond.op == "const":
                    return args[1] if cond.attr else args[2]
                return loops.op("select", cond, args[1], args[2])
            return None

        return loops.map_expr(value, rule, memo)

    def store(self, node: Node, index: Sequence[Expr], value: Expr, predicate: Expr | None = None) -> Stmt:
        b = self.buffer(node)
        self.writes.add(b)
        at = simplify(self.fused.table.elements.offset(node, tuple(index)))
        return loops.store(b, (at,), store_value(value, node.dtype), predicate=predicate)

    def finish(self, body: Stmt, sched: schedule.Schedule, flops: int = 0) -> Lowered:
        units = self.group.units
        if getattr(sched, "lanes", None) != 0:  # the plain form adds in order
            body = in_blocks(body, self.group.kind == "contract")
        locs = tuple(dict.fromkeys(u.node.loc for u in units if u.node.loc is not None))
        # memory read and written once each
        nbytes = sum(b.nbytes for b in self.params)
        params = (*self.params, *self.sizes)
        kernel = Kernel(kernel_name(self.group), params, frozenset(self.writes), body, sched, locs,
                        flops or sum(u.size * max(1, sum(map(cost_of, u.values))) for u in units), nbytes)
        return Lowered(kernel, (*self.params.values(), *self.sizes.values()), kernel.tasks)


def _load(buffer: Buffer, args: tuple[Expr, ...]) -> Expr:
    at = simplify(args[0])
    predicate = simplify(args[1]) if len(args) > 1 else None
    if predicate is not None and predicate.op == "const" and predicate.attr:
        predicate = None
    return loops.load(buffer, at, predicate=predicate)


def store_value(value: Expr, dtype: DType) -> Expr:
    """`value` (in the compute type) as what is written to memory of `dtype`; a round trip through it is dropped."""
    if value.op == "cast" and dtype.is_half and value.args[0].dtype is dtype:
        return value.args[0]
    return loops.cast(value, dtype)


def kernel_name(group: Group) -> str:
    """The operations of a group in a name: reduce_max_exp_sum_div."""
    words: list[str] = []
    for u in group.units:
        word = u.node.attrs["monoid"] if u.node.op == "reduce" else u.node.op
        if word not in words:
            words.append(word)
    return "_".join(words[:5]) or "empty"


def guarded(e: Expr, predicate: Expr | None, everywhere: bool = True) -> Expr:
    """`e` with every load of memory made under `predicate` too; unless `everywhere`, not those of a place that has
    nothing to do with it and is always there (a row's label is then read once, not under a condition for each
    element)."""
    if predicate is None or (predicate.op == "const" and predicate.attr):
        return e

    def rule(old: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if old.op == "load" and old.attr.space != "reg":
            rank = len(old.attr.shape)
            if not everywhere and not any(i.axes & predicate.axes for i in args[:rank]):
                return None
            own = args[rank] if len(args) > rank else None
            if own is predicate or (own is not None and own.op == "and" and own.args[1] is predicate):
                return None
            both = predicate if own is None else loops.op("and", own, predicate)
            return loops.load(old.attr, *args[:rank], predicate=both)
        return None

    return loops.map_expr(e, rule, {})


def nest(axes: Iterable[Expr], body: Stmt) -> Stmt:
    for a in reversed(list(axes)):
        body = loops.loop(a, body)
    return body


def split_axis(total: int, name: str) -> Expr:
    return loops.axis(name, total) if total != 1 else loops.const(0)


def rows_of(axis: Expr, per_task: int, total: int, inner: Callable[[Expr], Stmt], name: str) -> Stmt:
    """A loop over rows axis*per_task .. min(total, that + per_task)."""
    if per_task == 1:
        return inner(axis)
    r = loops.axis(name, per_task)
    base = loops.op("mul", axis, loops.const(per_task))
    row = loops.op("add", base, r)
    extent: Expr = loops.const(per_task)
    if total % per_task:
        extent = loops.op("min", loops.const(per_task), loops.op("sub", loops.const(total), base))
    return loops.loop(r, inner(row), extent=extent)


# ---------------------------------------------------------------------------------------------------- merging axes


def offsets(body: Body, unit: Unit, mapping: dict[Expr, Expr]) -> list[Expr]:
    """Every global offset and predicate of a unit, its axes replaced."""
    out = []
    memo = dict(mapping)
    for e, (node, _) in unit.loads.items():
        if body.group.member(node) is None:
            out.extend(simplify(loops.map_expr(a, lambda *_: None, memo)) for a in e.args)
    return out + _writes(body, unit, mapping)


def _writes(body: Body, unit: Unit, mapping: dict[Expr, Expr]) -> list[Expr]:
    """The offset at which a map stores its result, if it does."""
    if unit.kind != "map" or unit.node not in body.fused.stored:
        return []
    memo = dict(mapping)
    index = tuple(loops.map_expr(i, lambda *_: None, memo) for i in unit.index)
    return [simplify(body.fused.table.elements.offset(unit.node, index))]


def _divides(e: Expr, axis: Expr) -> bool:
    """Does `e` divide something that depends on `axis`?"""
    stack = [e]
    while stack:
        x = stack.pop()
        if axis not in x.axes:
            continue
        if x.op in ("floordiv", "mod"):
            return True
        stack.extend(x.args)
    return False


Place = tuple[Expr, int]  # where a loop stands, and the extent of the whole axis that it walks


def merge_axes(body: Body, units: Sequence[Unit], own: dict[Unit, tuple[Expr, ...]], extents: tuple[int, ...],
               fixed: dict[Unit, dict[Expr, Expr]]) -> tuple[int, ...]:
    """Extents of the loops over axes `own[u]` after merging neighbours wherever no offset then needs a division."""
    parts = list(extents)
    k = len(parts) - 1
    while k > 0:
        trial = [*parts[: k - 1], parts[k - 1] * parts[k], *parts[k + 1 :]]
        if _affine(body, units, own, trial, fixed):
            parts = trial
        k -= 1
    return tuple(parts)


def _affine(body: Body, units: Sequence[Unit], own: dict[Unit, tuple[Expr, ...]], parts: list[int],
            fixed: dict[Unit, dict[Expr, Expr]]) -> bool:
    axes = [loops.axis("q", p) for p in parts]
    places = list(zip(axes, parts, strict=True))
    for u in units:
        mapping = dict(fixed[u]) | spread(own[u], places)
        for off in (*offsets(body, u, mapping), *_through_members(body, u, mapping, units)):
            if any(_divides(off, a) for a in axes):
                return False
    return True


def _through_members(body: Body, unit: Unit, mapping: dict[Expr, Expr], here: Sequence[Unit]) -> list[Expr]:
    """The predicates with which a unit reads members of its group, and the offsets of those that are neither computed
    `here` nor stored: they are computed once more where they are read."""
    out: list[Expr] = []
    memo = dict(mapping)
    for e, (node, index) in unit.loads.items():
        member = body.group.member(node)
        if member is None:
            continue
        out += (simplify(loops.map_expr(a, lambda *_: None, memo)) for a in e.args[1:])
        if member.kind == "map" and member not in here and node not in body.fused.stored:
            at = {i: loops.map_expr(x, lambda *_: None, memo)
                  for i, x in zip(member.index, index, strict=True) if i.op == "axis"}
            out += offsets(body, member, at) + _through_members(body, member, at, here)
    return out


def spread(own: Sequence[Expr], places: Sequence[Place]) -> dict[Expr, Expr]:
    """Map the axes `own` of a unit to loop positions that each stand for one or several neighbours of them."""
    if any(a.attr[1] == 0 for a in own):  # never computed
        return dict.fromkeys(own, loops.const(0))
    mapping: dict[Expr, Expr] = {}
    left = list(own)
    for e, extent in places:
        group, total = [], 1
        while left and total < extent:
            group.append(left.pop(0))
            total *= group[-1].attr[1]
        shape = tuple(g.attr[1] for g in group)
        mapping.update(zip(group, unflatten(e, shape), strict=True))
    return mapping


def _product(values: Iterable[int]) -> int:
    out = 1
    for v in values:
        out *= v
    return out


def contiguous(body: Body, units: Sequence[Unit], mappings: dict[Unit, dict[Expr, Expr]], axis: Expr,
               once: bool = False) -> int:
    """How many elements are read or written with stride 1 along `axis`, less those with a larger stride. `once`: one
    that is read again and again (for every row) counts once, since it stays in a cache."""
    score = 0
    for u in units:
        for off in offsets(body, u, mappings[u]):
            if off.dtype.is_bool:
                continue
            k = coefficient(off, axis)
            if k != 0:
                size = min(u.size, _product(a.attr[1] for a in off.axes)) if once else u.size
                score += size if k in (1, -1) else -size
    return score


# ------------------------------------------------------------------------------------------------------ family: map


def map_extents(fused: Fused, group: Group) -> tuple[int, ...]:
    """The loop extents of a map group after merging axes. Schedules and lowering ask for them."""
    if group.merged is None:
        first = group.units[0]
        group.merged = merge_axes(Body(fused, group), group.units, {u: u.axes for u in group.units},
                                  tuple(a.attr[1] for a in first.axes), {u: {} for u in group.units})
    return group.merged


def lower_map(fused: Fused, group: Group, sched: schedule.Map) -> Lowered:
    """Element by element over one common domain."""
    body = Body(fused, group)
    extents = map_extents(fused, group)
    if sched.tile:
        return _lower_tiles(body, extents, sched)
    if not sched.lanes or not extents:
        axes = [loops.axis(f"i{k}", e) for k, e in enumerate(extents)]
        stores = _map_stores(body, list(zip(axes, extents, strict=True)))
        return body.finish(nest(axes, stores), sched)
    inner = extents[-1]
    if len(extents) == 1:
        return _lower_flat(body, inner, sched)
    *far, rows, _ = extents
    outer = _product(far)
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
            return loops.loop(v, _map_stores(body, places), "vector", None, sched.lanes)

        return rows_of(piece, part, rows, row, "r")

    stmt = rows_of(group, groups, outer, one, "g")
    if task.op == "axis":
        stmt = loops.loop(task, stmt, "parallel")
    return body.finish(stmt, sched)


def _lower_flat(body: Body, n: int, sched: schedule.Map) -> Lowered:
    """One axis: the size is a parameter, so that one kernel serves tensors of every size (all parameters that an
    optimizer updates, in one launch)."""
    size = Buffer("n", dtypes.int64, (1,), note="elements")
    total = loops.load(size, loops.const(0))
    task = loops.axis("t", loops.RUNTIME // sched.chunk)
    v = loops.axis("v", sched.chunk)
    base = loops.op("mul", task, loops.const(sched.chunk))
    at = simplify(loops.op("add", base, v))
    left = loops.op("min", loops.const(sched.chunk), loops.op("sub", total, base))
    stores = _map_stores(body, [(at, n)])
    stmt: Stmt = loops.loop(v, stores, "vector", left, sched.lanes)
    tasks = loops.op("floordiv", loops.op("add", total, loops.const(sched.chunk - 1)), loops.const(sched.chunk))
    stmt = loops.loop(task, stmt, "parallel", tasks)
    body.sizes[size] = n
    lowered = body.finish(stmt, sched)
    flat = {b: Buffer(b.name, b.dtype, (loops.RUNTIME,), note=b.note) for b in lowered.kernel.params if b.size == n}
    return Lowered(loops.replace_buffers(lowered.kernel, flat), lowered.nodes, -(-n // sched.chunk))


def _map_stores(body: Body, places: Sequence[Place], predicate: Expr | None = None,
                preset: dict[Expr, Expr] | None = None) -> Stmt:
    """Compute every unit at the loop positions and store those needed outside; `preset` replaces whole loads."""
    values: dict[Unit, Expr] = {}
    stores: list[Stmt] = []
    for u in body.group.units:
        mapping = spread(u.axes, places)
        values[u] = body.put(u, u.values[0], mapping | (preset or {}), lambda m, _: values[m])
        if u.node in body.fused.stored:
            index = [loops.map_expr(i, lambda *_: None, dict(mapping)) for i in u.index]
            stores.append(body.store(u.node, index, guarded(values[u], predicate, everywhere=False), predicate))
    return loops.seq(*stores)


def transposed_axis(fused: Fused, group: Group, extents: tuple[int, ...]) -> int | None:
    """The axis, other than the last, along which most memory is read with stride 1, if reads along the last are
    strided: the kernel then wants a register transpose."""
    if len(extents) < 2:
        return None
    body = Body(fused, group)
    axes = [loops.axis("q", e) for e in extents]
    places = list(zip(axes, extents, strict=True))
    strided: dict[int, int] = {}
    for u in group.units:
        mapping = spread(u.axes, places)
        for off, step in [*(r[1:] for r in _reads(body, u, mapping)), *((o, 1) for o in _writes(body, u, mapping))]:
            if coefficient(off, axes[-1]) in (0, step):
                continue
            for k in range(len(axes) - 1):
                if coefficient(off, axes[k]) == step:
                    strided[k] = strided.get(k, 0) + 1
    return max(strided, key=lambda k: strided[k]) if strided else None


def _reads(body: Body, unit: Unit, mapping: dict[Expr, Expr]) -> list[tuple[Expr, Expr, int]]:
    """What a unit reads from memory outside its group: the expression, its offset with the unit's axes replaced, and
    its width in elements: neighbours that are paired are read together."""
    memo = dict(mapping)

    def offset(load: Expr) -> Expr:
        return simplify(loops.map_expr(load.args[0], lambda *_: None, memo))

    words: dict[Expr, tuple[Expr, Expr]] = {}  # load -> (the pair that it is half of, the load of its low half)
    for e in loops.subexpressions(*unit.values):
        halves = [a.args[0] if a.op == "cast" else a for a in e.args] if e.op == "pair" else ()
        first = halves[0] if halves else e
        if halves and all(h.op == "load" and h.attr is first.attr and h.args[1:] == first.args[1:] for h in halves):
            if simplify(offset(halves[1]) - offset(halves[0])) is loops.const(1):
                words |= dict.fromkeys(halves, (e, halves[0]))
    found: dict[Expr, tuple[Expr, Expr, int]] = {}
    for e, (node, _) in unit.loads.items():
        if body.group.member(node) is None:
            whole, low = words.get(e, (e, e))
            found.setdefault(whole, (whole, offset(low), 1 if whole is e else 2))
    return list(found.values())


def _lower_tiles(body: Body, extents: tuple[int, ...], sched: schedule.Map) -> Lowered:
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
    task = split_axis(_product(outer) * strips, "t")
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
        for e, off, step in _reads(body, u, mapping):
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
    out = _map_stores(body, places(a, b), inside(a, b), preset)
    stmts.append(loops.loop(row, loops.loop(lane, out, "vector", None, t), "unroll"))
    stmt: Stmt = loops.loop(ta, loops.Seq(tuple(stmts)))
    if tb.op == "axis":
        stmt = loops.loop(tb, stmt)
    if task.op == "axis":
        stmt = loops.loop(task, stmt, "parallel")
    return body.finish(stmt, sched)
