"""The `rows` family on a GPU: a group of threads a row (`GpuRows`), or threads across rows (`GpuColumns`).

The units of a row run in nests as on the CPU (`lower_rows`). Thread l of a group of G computes, in vectors of L
elements, the positions (k*G + l)*L + v of the row for k = 0, 1, ...; a reduction is folded in the thread and then
across the group, so that every thread knows it. What several nests read or compute at the same position stays in the
thread's registers: memory is read once. A nest that reads what another one wrote elsewhere in the row waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlc.codegen.lower.body import MONOIDS, KernelBody, LoweredKernel, guarded, identity
from dlc.codegen.lower.gpu.map import block_axis, launch
from dlc.codegen.lower.rows import Row, State
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import both, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import Place, cost_of, extents_of, inner_axes, product_of, spread
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.materialize import EXPENSIVE
from dlc.passes.fuse.row_walk import turn_of, walked
from dlc.passes.fuse.unit import Realization

REGISTERS = 96  # 4-byte registers that a thread may fill with parts of its row

_ZERO = loops.const(0)


class _Positions:
    """Where the threads of a group stand in a row of n elements, which may be walked turned (`gpu_order`)."""

    def __init__(self, n: int, lane: Expr, sched: schedule.GpuRows, turn_of: Callable[[int, int], int]):
        lanes, group = sched.lanes, sched.group
        while n % lanes:
            lanes //= 2
        turn = turn_of(n, lanes)
        self.lanes = lanes
        count = -(-n // (group * lanes))  # vectors a thread
        self.kept = count * lanes <= sched.keep
        self.v = loops.axis("v", lanes)
        self.outer = loops.axis("k", 1 if self.kept else -(-count // sched.steps))
        self.inner = loops.axis("k" if self.kept else "u", count if self.kept else sched.steps)
        k = self.inner if self.inner.attr[1] > 1 else _ZERO
        if not self.kept:
            k = self.outer * sched.steps + k
        number = simplify((k * group + lane) * lanes + self.v)
        covered = self.outer.attr[1] * self.inner.attr[1] * group * lanes
        self.inside = loops.op("lt", number, loops.const(n)) if covered != n else None
        self.at = walked(number, n, turn)

    def loop(self, body: Stmt) -> Stmt:
        stmt = loops.loop(self.inner, loops.loop(self.v, body, "vector", None, self.lanes), "unroll")
        return stmt if self.kept else loops.loop(self.outer, stmt)


class _Shared(Row):
    """The code of one thread for a row that several threads share: thread number `lane` of `sharing`."""

    lane: Expr
    sharing: int
    waits = False  # does the nest being made read what an earlier one wrote?

    def stmts(self) -> list[Stmt]:
        nests: dict[tuple, list[Realization]] = {}
        for u in self.group.units:
            nests.setdefault((self.level[u], extents_of(inner_axes(self.group, u))), []).append(u)
        made: list[Stmt] = []
        for key in sorted(nests, key=lambda k: k[0]):
            self.waits = False
            nest = self.nest(nests[key], key[1])
            made += [loops.Sync(), nest] if self.waits else [nest]
        made = self.keep_loads(made)
        return [*self.allocs, *made]

    # -- members of the group --------------------------------------------------------------------------------------

    def keep_loads(self, nests: list[Stmt]) -> list[Stmt]:
        """Loads that several nests make, made once."""
        return nests

    def local_place(self, m: Realization, index: Sequence[Expr]) -> tuple[Expr, ...] | None:
        """Where a member's value stands in its registers, or None if that is another thread's."""
        raise NotImplementedError

    def reader(self, here: dict[Realization, Expr]) -> Callable[[Realization, tuple[Expr, ...]], Expr]:
        def read(m: Realization, index: tuple[Expr, ...]) -> Expr:
            if m in here:
                return here[m]
            kept = self.local_place(m, index) if m in self.locals else None
            if kept is not None:
                return loops.cast(loops.load(self.locals[m], *kept), m.node.dtype.compute)
            if m.node in self.body.fused.stored:
                self.waits = self.sharing > 1
                buffer = self.body.buffer(m.node)
                off = simplify(self.body.fused.table.elements.offset(m.node, index))
                return loops.cast(loops.load(buffer, off), m.node.dtype.compute)
            mapping = {a: i for a, i in zip(m.index, index, strict=True) if a.op == "axis"}
            return self.body.put(m, m.values[0], mapping, read)

        return read

    def positions(self, units: Sequence[Realization], states: dict[Realization, State], places: Sequence[Place],
                  acc: tuple[Expr, ...], inside: Expr | None, writes: Expr | None) -> Stmt:
        """All units of a nest at one position: `inside` guards what is read, `writes` what is written."""
        here: dict[Realization, Expr] = {}
        out: list[Stmt] = []
        memory: list[Stmt] = []
        read = self.reader(here)
        for u in units:
            mapping = self.fixed(u) | spread(inner_axes(self.group, u), places)
            value = guarded(self.body.put(u, u.values[0], mapping, read), inside, everywhere=False)
            if u.kind == "reduce":
                out += states[u].accumulate(value, acc, places, inside)
                continue
            here[u] = value
            index = [traverse.map_expr(i, lambda *_: None, dict(mapping)) for i in u.index]
            if u in self.locals:
                at = self.local_place(u, index)
                if at is None:  # read back from memory, or computed again
                    del self.locals[u]
                else:
                    out.append(loops.store(self.locals[u], at, value))
                    here[u] = loops.load(self.locals[u], *at)
            if u.node in self.body.fused.stored:
                memory.append(self.body.store(u.node, index, here[u], writes))
        if not places and self.sharing > 1 and memory:
            # one thread may overwrite what all of them read, here and in earlier nests
            self.waits = True
            if out:
                return loops.seq(self.across(loops.seq(*out)), loops.Sync(), self.across(loops.seq(*memory)))
        return self.across(loops.seq(*out, *memory))


class _GpuRow(_Shared):
    """A group of threads along one row. `valid` says whether the row exists; all threads run along, only their stores
    are left out."""

    def __init__(self, body: KernelBody, sched: schedule.GpuRows, rows: Sequence[Expr], lane: Expr, valid: Expr | None):
        super().__init__(body, sched, rows)  # type: ignore[arg-type]
        self.lane, self.valid, self.sharing = lane, valid, sched.group
        self.places: dict[int, _Positions] = {}

    def at(self, n: int) -> _Positions:
        if n not in self.places:
            self.places[n] = _Positions(n, self.lane, self.sched, self.turn)  # type: ignore[arg-type]
        return self.places[n]

    def turn(self, n: int, lanes: int) -> int:
        return turn_of(self.body, self.group, {u: self.fixed(u) for u in self.group.units}, n, lanes)

    def state(self, u: Realization, merged: tuple[int, ...]) -> State:
        return _GpuState(self, u, merged)

    def local_place(self, m: Realization, index: Sequence[Expr]) -> tuple[Expr, ...] | None:
        inner = inner_axes(self.group, m)
        if m.kind == "reduce" or not inner:
            return (_ZERO,)
        at = {a: i for a, i in zip(m.index, index, strict=True) if a.op == "axis"}
        flat = loops.const(0)
        for a in inner:
            flat = flat * a.attr[1] + at[a]
        place = self.at(product_of(extents_of(inner)))
        return (place.inner, place.v) if simplify(flat) is place.at else None

    def local(self, u: Realization) -> None:
        """Keep u in registers if later nests read it and it is worth it."""
        if self.last_read.get(u.node, -1) <= self.level[u]:
            return
        dtype = u.node.dtype.compute
        n = product_of(extents_of(inner_axes(self.group, u)))
        if n == 1:
            self.locals[u] = Buffer(self.name(u), dtype, (1,), "reg")
        else:
            place = self.at(n)
            worth = cost_of(u.values[0]) >= EXPENSIVE or u.node in self.body.fused.stored
            if not (place.kept and worth):
                return
            self.locals[u] = Buffer(self.name(u), dtype, (place.inner.attr[1], place.lanes), "reg")
        self.allocs.append(loops.Alloc(self.locals[u]))

    # -- one loop nest ---------------------------------------------------------------------------------------------

    def along(self, units: Sequence[Realization], states: dict[Realization, State], merged: tuple[int, ...]) -> Stmt:
        n = product_of(merged)
        if n == 1:
            first = loops.op("eq", self.lane, _ZERO)
            return self.positions(units, states, [], (_ZERO,), None, both(self.valid, first))
        place = self.at(n)
        places = list(zip(unflatten(place.at, merged), merged, strict=True))
        acc = (_ZERO, place.v)
        return place.loop(self.positions(units, states, places, acc, place.inside, both(self.valid, place.inside)))

    # -- loads that several nests make at the same position --------------------------------------------------------

    def keep_loads(self, nests: list[Stmt]) -> list[Stmt]:
        """Make them once, before the first of the nests, into registers."""
        first: dict[Expr, int] = {}
        again: dict[Expr, None] = {}
        for k, nest in enumerate(nests):
            for e in _loads(nest):
                if e.attr.space == "global" and e.attr not in self.body.writes and first.setdefault(e, k) != k:
                    again[e] = None
        room = REGISTERS - sum(b.size * b.dtype.itemsize // 4 for b in self.locals.values())
        kept: dict[Expr, Expr] = {}
        out = list(nests)
        fills: dict[int, list[Stmt]] = {}
        for e in again:
            place = next((p for p in self.places.values() if p.kept and self._whole(e, p)), None)
            if place is None:
                continue
            count = place.inner.attr[1] * place.lanes
            if count * max(4, e.dtype.itemsize) // 4 > room:
                continue
            room -= count * max(4, e.dtype.itemsize) // 4
            b = Buffer(f"row_{e.attr.name}", e.dtype, (place.inner.attr[1], place.lanes), "reg")
            self.allocs.append(loops.Alloc(b))
            fills.setdefault(first[e], []).append(place.loop(loops.store(b, (place.inner, place.v), e)))
            kept[e] = loops.load(b, place.inner, place.v)
        if not kept:
            return out
        done: list[Stmt] = []
        for k, nest in enumerate(nests):
            done += fills.get(k, [])
            done.append(traverse.substitute(nest, kept))
        return done

    def _whole(self, e: Expr, place: _Positions) -> bool:
        """Is `e` a load at the thread's positions, and nothing else that varies in the nest?"""
        fixed = frozenset().union(self.lane.axes, *(r.axes for r in self.rows))
        moving = e.axes - fixed
        return bool(moving) and moving <= {place.inner, place.v}


def _loads(stmt: Stmt) -> list[Expr]:
    """The distinct loads of a statement and all in it."""
    seen: set[Expr] = set()
    out: list[Expr] = []
    for s in traverse.walk(stmt):
        stack = list(traverse.exprs(s))
        while stack:
            e = stack.pop()
            if e in seen:
                continue
            seen.add(e)
            if e.op == "load":
                out.append(e)
            stack.extend(e.args)
    return out


class _GpuState(State):
    """A reduction by the threads of a group: each folds its own part, then all of them."""

    row: _GpuRow

    def __init__(self, row: _GpuRow, u: Realization, inner: tuple[int, ...]):
        n = product_of(inner)
        self.across = n > 1
        super().__init__(row, u, inner if n > 1 else ())
        if not self.folded:  # a row may need narrower vectors than the schedule's
            lanes = row.at(n).lanes
            self.shape = (1, lanes)
            self.acc = Buffer(self.acc.name, self.acc.dtype, self.shape, "reg")
            if self.pos is not None:
                self.pos = Buffer(self.pos.name, self.pos.dtype, self.shape, "reg")

    def group_fold(self, b: Buffer, combine: str) -> Stmt:
        return loops.AllReduce(b, (_ZERO,), loops.load(b, _ZERO), combine, self.row.sched.group)  # type: ignore[union-attr]

    def _fold_arg(self) -> list[Stmt]:
        start, gather, *rest = super()._fold_arg()
        assert isinstance(start, loops.Store)
        best = self.group_fold(start.buffer, "max" if self.monoid == "argmax" else "min")
        return [start, gather, best, *rest]

    def write(self) -> list[Stmt]:
        row, u = self.row, self.u
        out: list[Stmt] = []
        if not self.folded:
            out.append(self.group_fold(self.final, "min" if self.arg else MONOIDS[self.monoid]))
        if u.node in row.body.fused.stored:
            fixed = row.fixed(u)
            index = [fixed.get(i, i) for k, i in enumerate(u.index) if k not in u.node.attrs["axes"]]
            first = both(row.valid, loops.op("eq", row.lane, _ZERO))
            out.append(row.body.store(u.node, index, loops.load(self.final, _ZERO), first))
        return out


class _GpuColumns(_Shared):
    """Threads across rows, as the lanes of a vector loop, and `depth` threads along each."""

    def __init__(self, body: KernelBody, sched: schedule.GpuColumns, rows: Sequence[Expr], lanes: tuple[Expr, Expr],
                 inside: Expr | None, x: Expr, lane: Expr):
        super().__init__(body, sched, rows, lanes, inside)  # type: ignore[arg-type]
        self.x, self.lane, self.sharing = x, lane, sched.depth
        self.shared: list[Buffer] = []

    def state(self, u: Realization, merged: tuple[int, ...]) -> State:
        return _ColumnState(self, u, merged)

    def local(self, u: Realization) -> None:
        if product_of(extents_of(inner_axes(self.group, u))) == 1:
            super().local(u)

    def local_place(self, m: Realization, index: Sequence[Expr]) -> tuple[Expr, ...] | None:
        return self.lanes

    def columns(self, units: Sequence[Realization], states: dict[Realization, State], merged: tuple[int, ...]) -> Stmt:
        n, depth, steps = product_of(merged), self.sharing, self.sched.steps  # type: ignore[union-attr]
        if n == 1:
            return self.positions(units, states, [], self.lanes, self.predicate, self.writes())
        count = -(-n // depth)
        steps = min(steps, count)
        c, k = loops.axis("c", -(-count // steps)), loops.axis("k", steps)
        at = simplify((c * steps + k) * depth + self.lane)
        inside = loops.op("lt", at, loops.const(n)) if c.attr[1] * steps * depth != n else None
        inside = both(inside, self.predicate)
        places = list(zip(unflatten(at, merged), merged, strict=True))
        body = self.positions(units, states, places, self.lanes, inside, inside)
        return loops.loop(c, loops.loop(k, body, "unroll"))

    def writes(self) -> Expr | None:
        """What one thread of a row does for all of them."""
        return both(self.predicate, loops.op("eq", self.lane, _ZERO)) if self.sharing > 1 else self.predicate


class _ColumnState(State):
    """A reduction along a column: the threads that share it exchange their results in shared memory."""

    row: _GpuColumns

    def __init__(self, row: _GpuColumns, u: Realization, inner: tuple[int, ...]):
        super().__init__(row, u, inner)
        self.split = row.sharing > 1 and product_of(inner) > 1

    def exchange(self, b: Buffer) -> tuple[Stmt, Buffer]:
        """The statement that shows every thread's `b` to the others, and where they find it."""
        row, lanes = self.row, self.shape[1]
        wide = row.sched.block // row.sharing  # type: ignore[union-attr]
        shown = Buffer(f"all_{b.name}", b.dtype, (row.sharing, wide * lanes), "shared")
        row.shared.append(shown)
        return self._all(lambda at: loops.store(shown, (row.lane, self.place(at)), loops.load(b, *at))), shown

    def place(self, at: tuple[Expr, ...]) -> Expr:
        return simplify(self.row.x * self.shape[1] + at[1])

    def over(self, make: Callable[[Expr, tuple[Expr, ...]], Stmt]) -> Stmt:
        """`make(thread, place)` for every thread of the column."""
        d = loops.axis("d", self.row.sharing)
        return loops.loop(d, self._all(lambda at: make(d, at)), "unroll")

    def end(self) -> list[Stmt]:
        if not self.split:
            return super().end()
        if not self.arg:
            show, shown = self.exchange(self.final)
            start = identity(self.monoid, self.dtype)
            return [show, loops.Sync(), self._all(lambda at: loops.store(self.final, at, start)),
                    self.over(lambda d, at: loops.store(self.final, at, loops.load(shown, d, self.place(at)),
                                                        MONOIDS[self.monoid])), *self.write()]
        assert self.pos is not None
        show, values = self.exchange(self.acc)
        show_places, positions = self.exchange(self.pos)
        best = Buffer(f"best_{self.final.name}", self.dtype, self.shape, "reg")
        self.row.allocs.append(loops.Alloc(best))
        op = "max" if self.monoid == "argmax" else "min"

        def pick(d: Expr, at: tuple[Expr, ...]) -> Stmt:
            mine, top = loops.load(values, d, self.place(at)), loops.load(best, *at)
            same = loops.op("eq", mine, top)
            if self.dtype.is_float:
                same = loops.op("or", same, loops.op("and", loops.op("ne", mine, mine), loops.op("ne", top, top)))
            position = loops.op("select", same, loops.load(positions, d, self.place(at)), loops.const(1 << 62))
            return loops.store(self.final, at, position, "min")

        return [show, show_places, loops.Sync(),
                self._all(lambda at: loops.store(best, at, identity(self.monoid, self.dtype))),
                self.over(lambda d, at: loops.store(best, at, loops.load(values, d, self.place(at)), op)),
                self._all(lambda at: loops.store(self.final, at, loops.const(1 << 62))),
                self.over(pick), *self.write()]

    def write(self) -> list[Stmt]:
        row, u = self.row, self.u
        if u.node not in row.body.fused.stored:
            return []
        fixed = row.fixed(u)
        index = [fixed.get(i, i) for k, i in enumerate(u.index) if k not in u.node.attrs["axes"]]
        return [row.across(row.body.store(u.node, index, loops.load(self.final, *row.lanes), row.writes()))]


def lower_rows(fused: Fused, group: Group, sched: schedule.GpuRows | schedule.GpuColumns) -> LoweredKernel:
    body = KernelBody(fused, group)
    extents = group.rows or ()
    t = loops.axis("t", sched.block)
    if isinstance(sched, schedule.GpuColumns):
        return _lower_columns(body, extents, sched, t)
    total, per = product_of(extents), sched.block // sched.group
    b = block_axis(-(-total // per))
    row = simplify(b * per + t // sched.group) if per > 1 else b
    valid = loops.op("lt", row, loops.const(total)) if total % per else None
    safe = simplify(loops.op("min", row, loops.const(total - 1))) if valid is not None else row
    lane = simplify(t % sched.group)
    code = _GpuRow(body, sched, unflatten(safe, extents), lane, valid).stmts()
    return body.finish(launch(b, t, loops.Seq(tuple(code))), sched)


def _lower_columns(body: KernelBody, extents: tuple[int, ...], sched: schedule.GpuColumns, t: Expr) -> LoweredKernel:
    n, lanes, threads = extents[sched.axis], sched.lanes, sched.block // sched.depth
    wide = threads * lanes
    blocks = -(-n // wide)
    others = tuple(e for k, e in enumerate(extents) if k != sched.axis)
    b = block_axis(product_of(others) * blocks)
    *at, block = unflatten(b, (*others, blocks))
    u, v = loops.axis("u", 1), loops.axis("v", lanes)
    x, lane = simplify(t % threads), simplify(t // threads)
    column = simplify(block * wide + x * lanes + v)
    at.insert(sched.axis, column)
    inside = loops.op("lt", column, loops.const(n)) if n % wide else None
    row = _GpuColumns(body, sched, at, (u, v), inside, x, lane)
    code = loops.Seq(tuple(row.stmts()))
    return body.finish(launch(b, t, code, row.shared), sched)
