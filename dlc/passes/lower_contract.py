"""The `contract` family: a contraction and its epilogue as a register-tiled loop nest.

The labels of a contraction are batch (in both operands and the result), rows (first operand and result), columns
(second operand and result) and inner (both operands only); `swap` exchanges the operands' parts. A task computes
mb x nb register tiles of mr x nr results. A tile keeps all its sums in registers over the whole inner range, so the
epilogue is computed on registers and every result is written once. Row operands are read one scalar at a time from
wherever they are; column operands are read as vectors and must be contiguous along the last column label (the layout
pass packs them into panels where they are not).
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from dlc.ir import loops, schedule
from dlc.ir.dtypes import DType, float32
from dlc.ir.errors import VerifyError
from dlc.ir.graph import Node, settings
from dlc.ir.loops import Buffer, Expr, Stmt, under_casts
from dlc.ir.loops_index import coefficient, flatten, interval, simplify, unflatten
from dlc.ir.ops import split_spec
from dlc.passes.fuse import Fused, Group
from dlc.passes.lower import Body, Lowered, _divides, _product, cost_of, guarded, nest, split_axis, spread
from dlc.passes.lower_contract_tiles import lower_tiles
from dlc.passes.scalarize import Elements, strides_in_memory
from dlc.passes.units import Unit, base_of, fresh_index

LINE, PAGE = 64, 4096  # bytes that a cache fetches at once, and inside which it guesses what comes next
LIGHT = 6  # cost of an epilogue up to which it is unrolled over the register tile


@dataclass(frozen=True)
class Parts:
    """The label groups of a contraction, without labels of extent 1, in the order of the result, then the operands."""

    batch: str
    rows: str
    columns: str
    inner: str


def parts_of(spec: str, sizes: dict[str, int], swap: bool) -> Parts:
    a, b, out = split_spec(spec)
    if swap:
        a, b = b, a
    wide = [x for x in dict.fromkeys(out + a + b) if sizes[x] != 1]
    return Parts(
        "".join(x for x in wide if x in a and x in b and x in out),
        "".join(x for x in wide if x in a and x not in b),
        "".join(x for x in wide if x in b and x not in a),
        "".join(x for x in wide if x in a and x in b and x not in out),
    )


def label_sizes(node: Node) -> dict[str, int]:
    a, b, _ = split_spec(node.attrs["spec"])
    return dict(zip(a + b, node.inputs[0].shape + node.inputs[1].shape, strict=True))


class _Tile:
    """One contraction being lowered."""

    def __init__(self, body: Body, sched: schedule.Contract):
        self.body, self.sched = body, sched
        self.unit: Unit = body.group.units[0]
        self.parts = parts_of(self.unit.node.attrs["spec"], label_sizes(self.unit.node), sched.swap)
        self.at = dict(zip(self.unit.labels, self.unit.index, strict=True))
        a, b = self.unit.values
        self.row_value, self.col_value = (b, a) if sched.swap else (a, b)

    def axes(self, labels: str) -> tuple[Expr, ...]:
        return tuple(self.at[x] for x in labels)

    def extents(self, labels: str) -> tuple[int, ...]:
        return tuple(a.attr[1] for a in self.axes(labels))

    def tile_columns(self, results: bool = True) -> int:
        """How many of the last column labels form one contiguous range (the tiled columns), in operands and results.
        With the results these are among the `column_run` that schedules are chosen by; what else the kernel reads and
        writes may leave fewer."""
        labels = column_run(self.unit.node, self.sched.swap) if results else self.parts.columns
        for k in range(len(labels)):
            if self._merges(labels[k:], results):
                return len(labels) - k
        return 1

    def _merges(self, labels: str, results: bool) -> bool:
        axes, n = self.axes(labels), _product(self.extents(labels))
        t, j = loops.axis("t", -(-n // self.sched.nr)), loops.axis("j", self.sched.nr)
        mapping = dict(zip(axes, unflatten(simplify(t * self.sched.nr + j), self.extents(labels)), strict=True))
        loads = [e.args[0] for e in self.unit.loads if set(axes) & e.axes]
        offs = [simplify(loops.map_expr(e, lambda *_: None, dict(mapping))) for e in loads]
        offs += [self._result_offset(u, mapping) for u in self.body.group.units if results]
        return not any(_divides(off, j) for off in offs)

    def _result_offset(self, u: Unit, mapping: dict[Expr, Expr]) -> Expr:
        index = self.result_index(u, mapping)
        return simplify(self.body.fused.table.elements.offset(u.node, index))

    def result_index(self, u: Unit, mapping: dict[Expr, Expr]) -> list[Expr]:
        """The index of u's element for a position of the anchor's axes."""
        if u is self.unit:
            out = split_spec(u.node.attrs["spec"])[2]
            return [mapping.get(self.at[x], self.at[x]) for x in out]
        own = self.unit_mapping(u, mapping)
        return [own.get(i, i) for i in u.index]

    def unit_mapping(self, u: Unit, mapping: dict[Expr, Expr]) -> dict[Expr, Expr]:
        """u's own axes in terms of the position of the anchor's axes."""
        anchors = self.body.group.row_axes[u]
        return {a: mapping.get(x, x) for a, x in zip(u.axes, anchors, strict=True)}

    def inner_loops(self) -> tuple[list[Expr], dict[Expr, Expr]]:
        """Loops over the inner labels, neighbours merged where both operands allow it."""
        labels = self.parts.inner
        # the order in which the column operand lies in memory keeps its panel streaming
        extents = list(self.extents(labels))
        axes = self.axes(labels)
        k = len(extents) - 1
        while k > 0:
            trial = [*extents[: k - 1], extents[k - 1] * extents[k], *extents[k + 1 :]]
            probe = [loops.axis("q", e) for e in trial]
            mapping = spread(axes, list(zip(probe, trial, strict=True)))
            loads = [simplify(loops.map_expr(e.args[0], lambda *_: None, dict(mapping))) for e in self.operand_loads()]
            if not any(_divides(off, q) for off in loads for q in probe):
                extents = trial
            k -= 1
        ks = [loops.axis(f"k{n}" if len(extents) > 1 else "k", e) for n, e in enumerate(extents)]
        return ks, spread(axes, list(zip(ks, extents, strict=True)))

    def operand_loads(self) -> list[Expr]:
        return loops.loads_of(self.row_value, self.col_value)

    def operand(self, value: Expr, mapping: dict[Expr, Expr]) -> Expr:
        return self.body.put(self.unit, value, mapping, lambda m, _: m)  # type: ignore[arg-type, return-value]

    def epilogue(self, mapping: dict[Expr, Expr], result: Expr, predicate: Expr | None) -> Stmt:
        """Everything computed from one result in registers."""
        node = self.unit.node
        rounded = loops.cast(loops.cast(result, node.dtype), node.dtype.compute)
        values: dict[Unit, Expr] = {self.unit: rounded}
        stores: list[Stmt] = []
        for u in self.body.group.units:
            if u is not self.unit:
                own = self.unit_mapping(u, mapping)
                value = self.body.put(u, u.values[0], own, lambda m, _: values[m])
                values[u] = guarded(value, predicate, everywhere=False)
            if u.node in self.body.fused.stored:
                stores.append(self.body.store(u.node, self.result_index(u, mapping), values[u], predicate))
        return loops.seq(*stores)

    def epilogue_cost(self) -> int:
        """Scalar operations and memory accesses that follow each sum."""
        units = self.body.group.units
        stores = sum(u.node in self.body.fused.stored for u in units)
        return stores + sum(cost_of(u.values[0]) + len(u.loads) for u in units if u is not self.unit)

    @property
    def pairs(self) -> bool:
        """Are the operands pairs of bfloat16, two inner positions each?"""
        return bool(self.unit.node.attrs.get("pairs"))

    def term(self, value: Expr) -> Expr:
        """An operand's element as `multiply_add` takes it."""
        return value if self.pairs else loops.cast(value, self.accumulator)

    @property
    def accumulator(self) -> DType:
        node = self.unit.node
        if self.pairs:
            return float32
        wide = node.inputs[0].dtype.compute
        return node.dtype.compute if node.dtype.compute.bits > wide.bits else wide


def multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
    if a.dtype is not c.dtype:
        return loops.op("dot2", a, b, c)
    if c.dtype.is_float:
        return loops.op("fma", a, b, c)
    return loops.op("add", loops.op("mul", a, b), c)


def lower_contract(fused: Fused, group: Group, sched: schedule.Contract) -> Lowered:
    body = Body(fused, group)
    tile = _Tile(body, sched)
    sizes = label_sizes(tile.unit.node)
    flops = 2 * _product(sizes.values()) * (2 if tile.pairs else 1)
    if not sched.lanes:
        return body.finish(_naive(tile), sched, flops)
    if sched.along:
        return body.finish(_along(tile), sched, flops)
    if sched.stack:
        return body.finish(lower_tiles(tile), sched, flops)
    return body.finish(_tiled(tile), sched, flops)


def _naive(tile: _Tile) -> Stmt:
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


def _along(tile: _Tile) -> Stmt:
    """Few rows, a long inner range, and both operands contiguous along it: neither is worth packing. Every result is a
    vector of partial sums, folded at the end of the range."""
    sched, parts = tile.sched, tile.parts
    lanes, mr, nr = sched.lanes, sched.mr, sched.nr
    m, n = _product(tile.extents(parts.rows)), _product(tile.extents(parts.columns))
    m_tiles, n_tiles = -(-m // mr), -(-n // nr)
    m_blocks, n_blocks = -(-m_tiles // sched.mb), -(-n_tiles // sched.nb)
    task = split_axis(_product(tile.extents(parts.batch)) * n_blocks * m_blocks, "t")
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
        out = loops.loop(v, out, "vector", _left(n, nr, nt), min(lanes, 1 << (nr - 1).bit_length()))
        return loops.Seq((
            loops.Alloc(acc), loops.Alloc(scratch), clear, nest(ks, loops.seq(*body)),
            each(loops.seq(loops.store(scratch, (i, j), zero), loops.loop(lane, fold, "vector", None, lanes))),
            loops.loop(r, out, "serial", _left(m, mr, mt)),
        ))

    stmt = _over_tiles(n_block, sched.nb, n_tiles, "nt",
                       lambda nt: _over_tiles(m_block, sched.mb, m_tiles, "mt", lambda mt: tiles(mt, nt)))
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


def runs_along_inner(node: Node, swap: bool) -> bool:
    """Do both operands lie contiguous along the same inner label?"""
    spec = split_spec(node.attrs["spec"])
    parts = parts_of(node.attrs["spec"], label_sizes(node), swap)
    if not parts.inner:
        return False
    return all(
        strides_of(x)[own.index(parts.inner[-1])] == 1 for x, own in zip(node.inputs, spec, strict=False)
    )


def _runs(rows: str, tile: _Tile, run: int) -> tuple[str, str]:
    """The row labels before and inside the runs."""
    k = len(rows)
    while run and k and _product(tile.extents(rows[k:])) < run:
        k -= 1
    return (rows[:k], rows[k:]) if run else ("", rows)


_strides: weakref.WeakKeyDictionary[Node, tuple[int | None, ...]] = weakref.WeakKeyDictionary()
_strides_of_view: dict[Hashable, tuple[int | None, ...]] = {}
KNOWN_VIEWS = 4096  # of a program with more, they are found anew


def strides_of(node: Node) -> tuple[int | None, ...]:
    """The memory stride of each axis of a view of memory, in elements; None where it is not one number. An element of
    pairs that lie side by side in memory is a word."""
    found = _strides.get(node)
    if found is None:
        key = view_key(node)
        found = _strides_of_view.get(key)
        if found is None:
            if len(_strides_of_view) >= KNOWN_VIEWS:
                _strides_of_view.clear()
            found = _strides_of_view[key] = tuple(_strides_of(node))
        _strides[node] = found
    return found


def view_key(node: Node) -> Hashable:
    """What the strides of a view follow from: equal for the same view of the operands of a model's equal layers."""
    base, views = base_of(node), []
    while node is not base:
        views.append((node.op, node.shape, settings(node)))
        node = node.inputs[0]
    return base.type, strides_in_memory(base), tuple(views)


def _strides_of(node: Node) -> list[int | None]:
    base = base_of(node)
    buffer = Buffer("probe", base.dtype, (base.type.size,))
    index = fresh_index(node.shape)
    value = under_casts(Elements(lambda x: buffer if x is base else None).value(node, index))
    parts = value.args if value.op == "pair" else (value,)
    if any(x.op != "load" or len(x.args) > 1 or x.attr is not buffer for x in parts):
        return [None] * node.ndim
    offset = simplify(parts[0].args[0])
    strides = [0 if i.op == "const" else coefficient(offset, i) for i in index]
    if value.op != "pair":
        return strides
    words = simplify(parts[1].args[0] - offset) is loops.const(1) and not any(s is None or s % 2 for s in strides)
    return [s // 2 for s in strides] if words else [None] * node.ndim  # type: ignore[operator]


def column_run(node: Node, swap: bool) -> str:
    """The column labels that are one range of the result's memory: the vectors run along all of them."""
    sizes = label_sizes(node)
    columns = parts_of(node.attrs["spec"], sizes, swap).columns
    out = [x for x in split_spec(node.attrs["spec"])[2] if sizes[x] != 1]
    k = len(columns)
    while k and columns[k - 1 :] == "".join(out[len(out) - len(columns) + k - 1 :]):
        k -= 1
    return columns[min(k, len(columns) - 1) :]


def row_run(node: Node, swap: bool) -> int:
    """How many rows, counted over the last row labels, lie at one stride in the row operand (0: all of them)."""
    spec = split_spec(node.attrs["spec"])
    operand, own = (node.inputs[1], spec[1]) if swap else (node.inputs[0], spec[0])
    sizes = label_sizes(node)
    rows = parts_of(node.attrs["spec"], sizes, swap).rows
    strides = strides_of(operand)
    total = 1
    for k in range(len(rows) - 1, -1, -1):
        own_stride = strides[own.index(rows[k])]
        if own_stride is None:
            return 0
        if k < len(rows) - 1 and own_stride != strides[own.index(rows[k + 1])] * sizes[rows[k + 1]]:
            return total
        total *= sizes[rows[k]]
    return 0


def last_lanes(n: int, nr: int, lanes: int, fewest: int) -> int:
    """Lanes of the vectors of the last of n columns in tiles of nr: `lanes`, or from `fewest` on (unless that is 0) as
    few as reach over all that is left, in one vector."""
    rest = n % nr
    narrow = max(fewest, 1 << (rest - 1).bit_length()) if rest else lanes
    return narrow if fewest and n > nr and narrow < lanes else lanes


def _tiled(tile: _Tile) -> Stmt:
    sched, parts = tile.sched, tile.parts
    lanes, mr, nr = sched.lanes, sched.mr, sched.nr
    if nr % lanes:
        raise VerifyError(f"tiles of {nr} columns are no whole vectors of {lanes}: {sched}")
    k = tile.tile_columns()
    far, near = parts.columns[: len(parts.columns) - k], parts.columns[len(parts.columns) - k :]
    outer = parts.batch + far
    # m: the rows of one run, in which tiles are cut; a tile number counts runs, then tiles of the run
    lead, last = _runs(parts.rows, tile, sched.run)
    runs, m, n = _product(tile.extents(lead)), _product(tile.extents(last)), _product(tile.extents(near))
    run_tiles, n_tiles = -(-m // mr), -(-n // nr)
    m_tiles = runs * run_tiles
    m_blocks, n_blocks = -(-m_tiles // sched.mb), -(-n_tiles // sched.nb)
    task = split_axis(_product(tile.extents(outer)) * n_blocks * m_blocks, "t")
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
        part, first, inner = _in_parts(ks, inner, mr) if sched.ahead else (None, None, inner)
        ks = ks if first is None else [first, *ks[1:]]
        acc = Buffer("acc", tile.accumulator, (mr, wide // lanes, lanes), "reg")
        at = (i, j, lane)

        def each(body: Stmt) -> Stmt:  # rows outermost: what is read of one is dead after its last column
            return loops.loop(i, loops.loop(j, loops.loop(lane, body, "vector", None, lanes), "unroll"), "unroll")

        a = free = tile.operand(tile.row_value, base | rows | inner)
        if m % mr and not _in_bounds(a):
            inmost = simplify(loops.op("min", row, loops.const(m - 1)))
            clamped = dict(zip(tile.axes(last), unflatten(inmost, tile.extents(last)), strict=True))
            a = tile.operand(tile.row_value, base | clamped | inner)
        a = tile.term(a)
        inside = loops.op("lt", col, loops.const(n)) if left % wide else None
        b = tile.operand(tile.col_value, base | columns | inner)
        b = tile.term(_columns_in_bounds(b, inside))
        step = each(loops.store(acc, at, multiply_add(a, b, loops.load(acc, *at))))
        start = each(loops.store(acc, at, loops.const(0, acc.dtype)))
        if sched.stream and ks:
            width = max(lanes, LINE // tile.col_value.dtype.itemsize)
            lines = [{lane: loops.const(0), j: loops.const(c // lanes)} for c in range(0, wide, width)]
            afar = _far_rows(free, ks[-1], i, mr, sched.stream)
            step = loops.seq(*_streamed(b, ks[-1], sched.stream, lines), *afar, step)
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
        return [loops.loop(r, prefetches_of_line(out, r, c), extent=None if part is None else _left(mr, per, part))]

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
        width = _left(n, nr, nt) if left % wide else None
        height = _left(m, mr, mt)
        body = loops.loop(r, loops.loop(v, out, "vector", width, lanes), "serial", height)
        return [loops.Alloc(scratch), save, body]

    def column(nt: Expr) -> Stmt:
        def rows_of(wide: int, lanes: int, left: int, nt: Expr = nt) -> Stmt:
            return _over_tiles(m_block, sched.mb, m_tiles, "mt", lambda mt: tiles(mt, nt, wide, lanes, left))

        narrow = last_lanes(n, nr, lanes, sched.tail)
        if narrow == lanes:
            return rows_of(nr, lanes, n % nr)
        last_one = rows_of(narrow, narrow, n % nr, loops.const(n // nr))
        return loops.If(loops.op("lt", nt, loops.const(n // nr)), rows_of(nr, lanes, 0), last_one)

    stmt = _over_tiles(n_block, sched.nb, n_tiles, "nt", column)
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


def _streamed(value: Expr, k: Expr, ahead: int, lines: Sequence[dict[Expr, Expr]]) -> list[Stmt]:
    """Prefetches of what a vector operand reads `ahead` positions of axis k later; `lines` are the vectors' axes at the
    start of each line of a cache."""
    found: dict[tuple[Buffer, Expr], None] = {}
    for e in loops.loads_of(value):
        if coefficient(e.args[0], k):
            for line in lines:
                later = {**line, k: simplify(k + ahead)}
                found[e.attr, simplify(loops.map_expr(e.args[0], lambda *_: None, later))] = None
    return [loops.Prefetch(b, (at,)) for b, at in found]


def _far_rows(value: Expr, k: Expr, i: Expr, mr: int, ahead: int) -> list[Stmt]:
    """Prefetches of rows that run along axis k and lie pages apart (axis i, of extent mr): no processor follows so many
    by itself. The rows take turns, so that each comes by once a line."""
    found: list[Stmt] = []
    for e in loops.loads_of(value):
        line = LINE // e.dtype.itemsize
        apart = coefficient(e.args[0], i)
        if coefficient(e.args[0], k) == 1 and apart and apart * e.dtype.itemsize >= PAGE:
            turns = -(-mr // line)
            for c in range(turns):
                later = {i: simplify((k * turns + c) % mr), k: simplify(k + ahead)}
                found.append(loops.Prefetch(e.attr, (simplify(loops.map_expr(e.args[0], lambda *_: None, later)),)))
    return found


def _in_parts(ks: Sequence[Expr], inner: dict[Expr, Expr],
              rows: int) -> tuple[Expr | None, Expr | None, dict[Expr, Expr]]:
    """The outermost inner loop cut in as many equal parts as there are, up to `rows`: an axis of parts, one inside a
    part, and the inner labels in terms of these. None where it has no parts."""
    extent = ks[0].attr[1] if ks else 1
    parts = max(p for p in range(1, rows + 1) if extent % p == 0)
    if parts == 1:
        return None, None, inner
    part, first = loops.axis("part", parts), loops.axis(ks[0].attr[0], extent // parts)
    where = {ks[0]: simplify(part * (extent // parts) + first)}
    return part, first, {a: simplify(loops.map_expr(e, lambda *_: None, dict(where))) for a, e in inner.items()}


def prefetches(stmt: Stmt, axis: Expr) -> Stmt:
    """Prefetches of all global memory that `stmt` touches at places that depend on `axis`."""
    return loops.seq(*(loops.Prefetch(b, (at,)) for b, at in _places(stmt) if axis in at.axes))


def prefetches_of_line(stmt: Stmt, row: Expr, column: Expr) -> Stmt:
    """The same for all values of the axis `column`: once for each line of a cache, counted from the last column."""
    columns = column.attr[1]
    places: dict[tuple[Buffer, Expr], None] = {}
    for b, at in _places(stmt):
        if row in at.axes:
            for c in range(columns - 1, -1, -LINE // b.dtype.itemsize):
                places[b, simplify(loops.map_expr(at, lambda *_: None, {column: loops.const(c)}))] = None
    return loops.seq(*(loops.Prefetch(b, (at,)) for b, at in places))


def _places(stmt: Stmt) -> dict[tuple[Buffer, Expr], None]:
    """Where a statement reads and writes global memory."""
    places: dict[tuple[Buffer, Expr], None] = {}
    for s in loops.walk(stmt):
        if isinstance(s, loops.Store):
            places[s.buffer, s.index[0]] = None
        places.update({(e.attr, e.args[0]): None for e in loops.loads_of(*loops.exprs(s))})
    return {(b, at): None for b, at in places if b.space == "global"}


def _left(total: int, per: int, tile: Expr) -> Expr | None:
    """How much of tile number `tile` lies inside, or None where all of every tile does."""
    if total % per == 0:
        return None
    return loops.op("min", loops.const(per), loops.op("sub", loops.const(total), tile * per))


def _over_tiles(block: Expr, per: int, total: int, name: str, body) -> Stmt:
    """A loop over the tiles of one block, the last block cut short."""
    if per == 1:
        return body(block)
    t = loops.axis(name, min(per, total))
    base = loops.op("mul", block, loops.const(per))
    extent: Expr = loops.const(min(per, total))
    if total % per and total > per:
        extent = loops.op("min", extent, loops.op("sub", loops.const(total), base))
    return loops.loop(t, body(simplify(loops.op("add", base, t))), extent=extent)


def _in_bounds(value: Expr) -> bool:
    """Do all unguarded loads stay in their buffers, whatever the axes?"""
    for e in loops.loads_of(value):
        if len(e.args) == 1:
            low, high = interval(e.args[0])
            if low < 0 or high >= e.attr.size:
                return False
    return True


def _columns_in_bounds(value: Expr, inside: Expr | None) -> Expr:
    """Guard the loads of the column operand at the edge, unless the memory is padded far enough."""
    if inside is None or all(interval(e.args[0])[1] < e.attr.size for e in loops.loads_of(value)):
        return value

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if e.op != "load":
            return None
        own = args[1] if len(args) > 1 else None
        return loops.load(e.attr, args[0], predicate=inside if own is None else loops.op("and", own, inside))

    return loops.map_expr(value, rule, {})


def contiguous_columns(fused: Fused, group: Group, swap: bool) -> bool:
    """Can the column operand be read as vectors where it lies?"""
    sched = schedule.Contract(lanes=1, nr=1, swap=swap)
    tile = _Tile(Body(fused, group), sched)
    if not tile.parts.columns:
        return False
    axis = tile.at[tile.parts.columns[-1]]
    return all(coefficient(flatten((e.args[0],), (e.attr.size,)), axis) in (0, 1)
               for e in tile.operand_loads() if axis in e.axes)
