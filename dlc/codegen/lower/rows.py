"""The `rows` family: reductions and the maps around them, one row of the group's outer loop after another.

Units are put into levels: a unit that reads a reduction of the same row comes after it; units of one level with the
same inner extents share a loop nest. With a `Rows` schedule vectors run along the inner axis and a reduction keeps
`unroll` vectors of partial results, folded at the end; with `Columns` vectors run across rows, every lane its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlc.codegen.cost.cpu_contract import SCRATCH_LIMIT
from dlc.codegen.lower.body import MONOIDS, KernelBody, LoweredKernel, guarded, identity, nest, rows_of, split_axis
from dlc.ir import dtypes
from dlc.ir.graph.graph import Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import (
    Place,
    cost_of,
    extents_of,
    inner_axes,
    levels,
    merge_axes,
    product_of,
    spread,
)
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.materialize import EXPENSIVE
from dlc.passes.fuse.unit import Realization


class Row:
    """The code of one row (or of one block of columns)."""

    def __init__(self, body: KernelBody, sched: schedule.Rows | schedule.Columns, rows: Sequence[Expr],
                 lanes: Sequence[Expr] = (), predicate: Expr | None = None):
        self.body, self.group, self.sched = body, body.group, sched
        self.rows = tuple(rows)  # where the row axes stand
        self.lanes = tuple(lanes)  # columns: (unrolled axis, vector axis)
        self.predicate = predicate
        self.locals: dict[Realization, Buffer] = {}
        self.allocs: list[Stmt] = []
        self.level = levels(body.group)
        self.last_read: dict[Node, int] = {}  # the level of the last unit that reads it
        for u in body.group.units:
            for n, _ in u.loads.values():
                self.last_read[n] = max(self.last_read.get(n, -1), self.level[u])

    def fixed(self, u: Realization) -> dict[Expr, Expr]:
        return dict(zip(self.group.row_axes[u], self.rows, strict=True))

    def stmts(self) -> list[Stmt]:
        nests: dict[tuple, list[Realization]] = {}
        for u in self.group.units:
            key = (self.level[u], extents_of(inner_axes(self.group, u)))
            nests.setdefault(key, []).append(u)
        out: list[Stmt] = []
        for key in sorted(nests, key=lambda k: k[0]):
            out.append(self.nest(nests[key], key[1]))
        return [*self.allocs, *out]

    # -- reading members -------------------------------------------------------------------------------------------

    def reader(self, here: dict[Realization, Expr]) -> Callable[[Realization, tuple[Expr, ...]], Expr]:
        def read(m: Realization, index: tuple[Expr, ...]) -> Expr:
            if m in here:
                return here[m]
            if m in self.locals:
                return loops.cast(loops.load(self.locals[m], *self.local_index(m, index)), m.node.dtype.compute)
            if m.node in self.body.fused.stored:
                buffer = self.body.buffer(m.node)
                off = simplify(self.body.fused.table.elements.offset(m.node, index))
                return guarded(loops.cast(loops.load(buffer, off), m.node.dtype.compute), self.predicate)
            mapping = {a: i for a, i in zip(m.index, index, strict=True) if a.op == "axis"}
            return self.body.put(m, m.values[0], mapping, read)

        return read

    def local_index(self, m: Realization, index: Sequence[Expr]) -> tuple[Expr, ...]:
        """Where a member's value stands in its local buffer."""
        if m.kind == "reduce":
            return self.lanes or (loops.const(0),)
        at = {a: i for a, i in zip(m.index, index, strict=True) if a.op == "axis"}
        inner = inner_axes(self.group, m)
        where = tuple(at[a] for a in inner)
        if not inner:
            return self.lanes or (loops.const(0),)
        flat = loops.const(0)
        for i, e in zip(where, extents_of(inner), strict=True):
            flat = loops.op("add", loops.op("mul", flat, loops.const(e)), i)
        if not self.lanes:
            return (simplify(flat),)
        u, lane = self.lanes
        return (simplify(flat), simplify(u * self.sched.lanes + lane))

    def local(self, u: Realization) -> None:
        """Give u a local buffer if later nests read it and it is better kept than computed again."""
        later = self.last_read.get(u.node, -1) > self.level[u]
        inner = product_of(extents_of(inner_axes(self.group, u)))
        if not later or (inner > 1 and u.node in self.body.fused.stored):
            return
        dtype = u.node.dtype.compute
        wide = self.sched.lanes * self.sched.unroll if self.lanes else 1
        if inner == 1:
            shape = (self.sched.unroll, self.sched.lanes) if self.lanes else (1,)
            self.locals[u] = Buffer(self.name(u), dtype, shape, "reg")
        elif cost_of(u.values[0]) >= EXPENSIVE and inner * wide * dtype.itemsize <= SCRATCH_LIMIT:
            shape = (inner, wide) if self.lanes else (inner,)
            self.locals[u] = Buffer(self.name(u), dtype, shape, "shared")
        else:
            return
        self.allocs.append(loops.Alloc(self.locals[u]))

    def name(self, u: Realization) -> str:
        word = u.node.attrs.get("monoid", u.node.op)
        return f"{word}{len(self.locals)}"

    # -- one loop nest ---------------------------------------------------------------------------------------------

    def state(self, u: Realization, merged: tuple[int, ...]) -> State:
        return State(self, u, merged)

    def nest(self, units: list[Realization], extents: tuple[int, ...]) -> Stmt:
        own = {u: inner_axes(self.group, u) for u in units}
        fixed = {u: self.fixed(u) for u in units}
        merged = merge_axes(self.body, units, own, extents, fixed) if extents else ()
        reduces = [u for u in units if u.kind == "reduce"]
        before: list[Stmt] = []
        after: list[Stmt] = []
        states = {u: self.state(u, merged) for u in reduces}
        for u in units:
            if u.kind == "map" and u.size:
                self.local(u)
        for st in states.values():
            before += st.start()
            after += st.end()
        if 0 in extents:
            return loops.seq(*before, *after)
        body = self.columns(units, states, merged) if self.lanes else self.along(units, states, merged)
        return loops.seq(*before, body, *after)

    def steps(self, units: Sequence[Realization], states: dict[Realization, State], places: Sequence[Place],
              acc: tuple[Expr, ...], predicate: Expr | None) -> Stmt:
        """All units of a nest at one inner position: accumulate reductions, keep or store maps."""
        here: dict[Realization, Expr] = {}
        out: list[Stmt] = []
        read = self.reader(here)
        total = predicate
        if self.predicate is not None:
            total = self.predicate if predicate is None else loops.op("and", predicate, self.predicate)
        for u in units:
            mapping = self.fixed(u) | spread(inner_axes(self.group, u), places)
            value = guarded(self.body.put(u, u.values[0], mapping, read), predicate)
            value = guarded(value, self.predicate)
            if u.kind == "reduce":
                out += states[u].accumulate(value, acc, places, predicate)
                continue
            here[u] = value
            index = [traverse.map_expr(i, lambda *_: None, dict(mapping)) for i in u.index]
            if u in self.locals:
                pred = predicate
                out.append(loops.store(self.locals[u], self.local_index(u, index), value, predicate=pred))
            if u.node in self.body.fused.stored:
                out.append(self.body.store(u.node, index, value, total))
        return loops.seq(*out)

    def columns(self, units: Sequence[Realization], states: dict[Realization, State], merged: tuple[int, ...]) -> Stmt:
        """Inner axes in order, the lanes across rows."""
        axes = [loops.axis(f"c{k}", e) for k, e in enumerate(merged)]
        u, lane = self.lanes
        body = self.steps(units, states, list(zip(axes, merged, strict=True)), (u, lane), None)
        wrapped = self.across(body)
        return nest(axes, wrapped)

    def across(self, body: Stmt) -> Stmt:
        if not self.lanes:
            return body
        u, lane = self.lanes
        return loops.loop(u, loops.loop(lane, body, "vector", None, self.sched.lanes), "unroll")

    def along(self, units: Sequence[Realization], states: dict[Realization, State], merged: tuple[int, ...]) -> Stmt:
        """Vectors along the last inner axis."""
        if not merged:
            return self.steps(units, states, [], (loops.const(0),), None)
        lanes = self.sched.lanes
        outer = [loops.axis(f"c{k}", e) for k, e in enumerate(merged[:-1])]
        places: list[Place] = list(zip(outer, merged[:-1], strict=True))
        n = merged[-1]
        if not lanes:
            c = loops.axis("c", n)
            return nest([*outer, c], self.steps(units, states, [*places, (c, n)], (loops.const(0),), None))
        if not states:
            v = loops.axis("v", n)
            body = self.steps(units, states, [*places, (v, n)], (), None)
            return nest(outer, loops.loop(v, body, "vector", None, lanes))
        unroll = self.sched.unroll
        block = lanes * unroll
        out: list[Stmt] = []
        full = n // block
        if full:
            c, u, lane = split_axis(full, "c"), loops.axis("u", unroll), loops.axis("l", lanes)
            at = simplify(c * block + u * lanes + lane)
            body = self.steps(units, states, [*places, (at, n)], (u, lane), None)
            inner: Stmt = loops.loop(u, loops.loop(lane, body, "vector", None, lanes), "unroll")
            out.append(loops.loop(c, inner) if c.op == "axis" else inner)
        for k in range(-(-(n - full * block) // lanes)):
            start = full * block + k * lanes
            lane = loops.axis("l", lanes)
            at = simplify(lane + start)
            predicate = loops.op("lt", at, loops.const(n)) if start + lanes > n else None
            body = self.steps(units, states, [*places, (at, n)], (loops.const(k), lane), predicate)
            out.append(loops.loop(lane, body, "vector", None, lanes))
        return nest(outer, loops.seq(*out))


class State:
    """The running value of one reduction: `acc` for every lane, and for argmax and argmin the position too."""

    def __init__(self, row: Row, u: Realization, inner: tuple[int, ...]):
        self.row, self.u = row, u
        self.monoid = u.node.attrs["monoid"]
        self.arg = self.monoid.startswith("arg")
        source = u.node.inputs[0].dtype.compute
        self.dtype = source
        self.columns = bool(row.lanes)
        lanes = row.sched.lanes if self.columns or inner else 0  # nothing to reduce over is one scalar step
        self.folded = self.columns or not lanes
        self.shape = (row.sched.unroll, lanes) if lanes else (1,)
        tag = f"{self.monoid}{len(row.locals)}"
        out_dtype = dtypes.int64 if self.arg else source
        self.acc = Buffer(f"acc_{tag}", source, self.shape, "reg")
        self.pos = Buffer(f"pos_{tag}", dtypes.int64, self.shape, "reg") if self.arg else None
        final = Buffer(tag, out_dtype, self.shape if self.columns else (1,), "reg")
        if not self.arg and self.folded:
            self.acc = final  # nothing left to fold
        self.final = final
        row.locals[u] = final

    def _all(self, make: Callable[[tuple[Expr, ...]], Stmt]) -> Stmt:
        if len(self.shape) == 1:
            return make((loops.const(0),))
        u, lane = loops.axis("u", self.shape[0]), loops.axis("l", self.shape[1])
        return loops.loop(u, loops.loop(lane, make((u, lane)), "vector", None, self.shape[1]), "unroll")

    def start(self) -> list[Stmt]:
        init = identity(self.monoid, self.dtype)
        pos = self.pos
        self.row.allocs += [loops.Alloc(b) for b in dict.fromkeys((self.acc, pos, self.final)) if b is not None]
        out = [self._all(lambda at: loops.store(self.acc, at, init))]
        if pos is not None:
            out.append(self._all(lambda at: loops.store(pos, at, loops.const(0))))
        return out

    def accumulate(self, value: Expr, at: tuple[Expr, ...], places: Sequence[Place],
                   predicate: Expr | None) -> list[Stmt]:
        if not self.arg:
            return [loops.store(self.acc, at, value, MONOIDS[self.monoid], predicate)]
        place = loops.const(0)
        for e, extent in places:
            place = loops.op("add", loops.op("mul", place, loops.const(extent)), e)
        place = simplify(place)
        best, where = loops.load(self.acc, *at), loops.load(self.pos, *at)
        better = self.better(value, best)
        out = [
            loops.store(self.pos, at, loops.op("select", better, place, where), None, predicate),
            loops.store(self.acc, at, loops.op("select", better, value, best), None, predicate),
        ]
        return out

    def better(self, value: Expr, best: Expr) -> Expr:
        """NaN beats everything but an earlier NaN."""
        a, b = (best, value) if self.monoid == "argmax" else (value, best)
        out = loops.op("lt", a, b)
        if value.dtype.is_float:
            fresh_nan = loops.op("and", loops.op("ne", value, value), loops.op("eq", best, best))
            out = loops.op("or", out, fresh_nan)
        return out

    def end(self) -> list[Stmt]:
        out: list[Stmt] = []
        if self.arg:
            if self.folded:
                out.append(self._all(lambda at: loops.store(self.final, at, loops.load(self.pos, *at))))
            else:
                out += self._fold_arg()
        elif not self.folded:
            op = MONOIDS[self.monoid]
            zero = loops.const(0)
            for k in range(1, self.shape[0]):
                lane = loops.axis("l", self.shape[1])
                add = loops.store(self.acc, (zero, lane), loops.load(self.acc, loops.const(k), lane), op)
                out.append(loops.loop(lane, add, "vector", None, self.shape[1]))
            lane = loops.axis("l", self.shape[1])
            out.append(loops.store(self.final, (zero,), identity(self.monoid, self.dtype)))
            fold = loops.store(self.final, (zero,), loops.load(self.acc, zero, lane), op)
            out.append(loops.loop(lane, fold, "vector", None, self.shape[1]))
        return out + self.write()

    def _fold_arg(self) -> list[Stmt]:
        """Best value over all lanes, then the first position that holds it."""
        zero = loops.const(0)
        best = Buffer(f"best_{self.final.name}", self.dtype, (1,), "reg")
        op = "max" if self.monoid == "argmax" else "min"
        value = loops.load(best, zero)

        def pick(at: tuple[Expr, ...]) -> Stmt:
            mine = loops.load(self.acc, *at)
            same = loops.op("eq", mine, value)
            if self.dtype.is_float:
                nan = loops.op("and", loops.op("ne", mine, mine), loops.op("ne", value, value))
                same = loops.op("or", same, nan)
            place = loops.op("select", same, loops.load(self.pos, *at), loops.const(1 << 62))
            return loops.store(self.final, (zero,), place, "min")

        self.row.allocs.append(loops.Alloc(best))
        return [
            loops.store(best, (zero,), identity(self.monoid, self.dtype)),
            self._all(lambda at: loops.store(best, (zero,), loops.load(self.acc, *at), op)),
            loops.store(self.final, (zero,), loops.const(1 << 62)),
            self._all(pick),
        ]

    def write(self) -> list[Stmt]:
        """Store the result if it is needed outside."""
        row, u = self.row, self.u
        if u.node not in row.body.fused.stored:
            return []
        fixed = row.fixed(u)
        gone = u.node.attrs["axes"]
        index = [fixed.get(i, i) for k, i in enumerate(u.index) if k not in gone]
        at = row.lanes or (loops.const(0),)
        value = loops.load(self.final, *at)
        return [row.across(row.body.store(u.node, index, value, row.predicate))]


def lower_rows(fused: Fused, group: Group, sched: schedule.Rows | schedule.Columns) -> LoweredKernel:
    body = KernelBody(fused, group)
    extents = group.rows or ()
    if isinstance(sched, schedule.Columns):
        return _lower_columns(body, extents, sched)
    total = product_of(extents)
    if not sched.lanes:
        axes = [loops.axis(f"r{k}", e) for k, e in enumerate(extents)]
        return body.finish(nest(axes, loops.Seq(tuple(Row(body, sched, axes).stmts()))), sched)
    per = max(1, min(sched.rows, total))
    task = split_axis(-(-total // per), "t")
    stmt = rows_of(task, per, total,
                   lambda row: loops.Seq(tuple(Row(body, sched, unflatten(row, extents)).stmts())), "r")
    if task.op == "axis":
        stmt = loops.loop(task, stmt, "parallel")
    return body.finish(stmt, sched)


def _lower_columns(body: KernelBody, extents: tuple[int, ...], sched: schedule.Columns) -> LoweredKernel:
    n = extents[sched.axis]
    wide = sched.lanes * sched.unroll
    blocks = -(-n // wide)
    others = tuple(e for k, e in enumerate(extents) if k != sched.axis)
    task = split_axis(product_of(others) * blocks, "t")
    *at, block = unflatten(task, (*others, blocks))
    u, lane = loops.axis("u", sched.unroll), loops.axis("l", sched.lanes)
    col = simplify(loops.op("add", loops.op("mul", block, loops.const(wide)), u * sched.lanes + lane))
    at.insert(sched.axis, col)
    predicate = loops.op("lt", col, loops.const(n)) if n % wide else None
    stmt: Stmt = loops.Seq(tuple(Row(body, sched, at, (u, lane), predicate).stmts()))
    if task.op == "axis":
        stmt = loops.loop(task, stmt, "parallel")
    return body.finish(stmt, sched)
