"""Kernels whose elements depend on the order of the loop: scatter, cumulative and sort.

    scatter      a task owns a piece of the result (a prefix position, a block of the suffix, a range of the scattered
                 axis), fills it from the base and walks all the indices in order: deterministic, the last `set` wins
    cumulative   a running value in registers along the axis, the lanes across the suffix
    sort         one row a task, a bottom-up merge between the halves of a scratch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlc.codegen.cost.cpu_contract import SCRATCH_LIMIT
from dlc.codegen.cost.cpu_scatter import TASKS, is_long_scatter
from dlc.codegen.lower.body import KernelBody, LoweredKernel, guarded, identity, nest, rows_of, split_axis, store_value
from dlc.codegen.lower.long_sums import Compensated, blocks_of
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node, make, unique
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.index import flatten, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.ir.sum_blocks import BLOCK
from dlc.passes.fuse.access import divides, product_of
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.elements import clamped

TASK_ELEMENTS = 1 << 12  # elements below which a task is not worth its start
LINE = 64  # bytes: narrower blocks of a row would share cache lines between threads

COMBINE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}
_RUNNING = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
_OF_BOOL = {"add": "or", "mul": "and", "max": "or", "min": "and"}
_ZERO = loops.const(0)


def lower_ordered(fused: Fused, group: Group, sched: schedule.Plain) -> LoweredKernel:
    body = KernelBody(fused, group)
    (unit,) = group.units
    return body.finish(_FAMILIES[unit.kind](body, unit, sched.lanes), sched)


def index_at(body: KernelBody, unit: Realization, value: Expr, index: Sequence[Expr], place: Sequence[Expr]) -> Expr:
    """`value`, written for `index`, at `place`."""
    mapping = {i: p for i, p in zip(index, place, strict=True) if i.op == "axis"}
    return body.put(unit, value, mapping, lambda m, _: m)  # type: ignore[arg-type, return-value]


def combiner(name: str, dtype: DType) -> str:
    return _OF_BOOL[name] if dtype.is_bool else name


def _flat(body: KernelBody, unit: Realization, node: Node, parts: Sequence[tuple[Expr, Sequence[Expr]]], low: int,
          high: int) -> bool:
    """Can axes low..high-1 be walked as one without a division? `parts` are (value, its index), `node` is stored."""
    shape = tuple(node.shape[low:high])
    q = loops.axis("q", product_of(shape))
    free = [loops.axis("f", d) for d in node.shape]
    for value, index in parts:
        rank = len(index) - len(node.shape)  # a scatter's updates have more axes than its result
        place = [*(loops.axis("f", i.attr[1]) if i.op == "axis" else _ZERO for i in index[: low + rank]),
                 *unflatten(q, shape), *free[high:]]
        if divides(index_at(body, unit, value, index, place), q):
            return False
    offset = body.fused.table.elements.offset(node, (*free[:low], *unflatten(q, shape), *free[high:]))
    return not divides(simplify(offset), q)


# ------------------------------------------------------------------------------------------------------------- scatter


def _scatter(body: KernelBody, unit: Realization, lanes: int) -> Stmt:
    node = unit.node
    axis, shape = node.attrs["axis"], node.shape
    if node.type.size == 0:
        return loops.Seq(())
    index_rank = node.inputs[1].ndim
    index_extents = unit.extents[axis : axis + index_rank]
    prefix, n = shape[:axis], shape[axis]
    suffix = shape[axis + 1 :]
    assert unit.base is not None
    base_index, base = unit.base
    walk = [split_axis(e, f"i{k}") for k, e in enumerate(index_extents)]
    both = [(base, base_index), (unit.values[1], unit.index)]

    def update(before: Sequence[Expr], after: Sequence[Expr], to: Expr) -> Stmt:
        value = index_at(body, unit, unit.values[1], unit.index, [*before, *walk, *after])
        return combined(body, node, [*before, to, *after], value, node.attrs["combine"])

    def fill(place: Sequence[Expr]) -> Stmt:
        return body.store(node, place, index_at(body, unit, base, base_index, place))

    target = clamped(index_at(body, unit, unit.values[0], unit.index[: axis + index_rank],
                         [*(_ZERO for _ in prefix), *walk]), n)
    walked = [w for w in walk if w.op == "axis"]

    if not lanes:
        whole = [split_axis(e, f"o{k}") for k, e in enumerate(shape)]
        copies = nest([w for w in whole if w.op == "axis"], fill(whole))
        out = [split_axis(e, f"s{k}") for k, e in enumerate((*prefix, *suffix))]
        writes = update(out[:axis], out[axis:], target)
        return loops.seq(copies, nest([*walked, *(o for o in out if o.op == "axis")], writes))

    # the vectors run along as many of the last suffix axes as lie together
    merged = len(suffix)
    while merged > 1 and not _flat(body, unit, node, both, len(shape) - merged, len(shape)):
        merged -= 1
    far, near = suffix[: len(suffix) - merged], suffix[len(suffix) - merged :]
    wide = product_of(near)
    blocks, ranges = _pieces(product_of(prefix), n, product_of(far), wide, max(lanes, LINE // node.dtype.itemsize))
    block = -(-wide // blocks)
    block = min(wide, -(-block // lanes) * lanes)
    blocks = -(-wide // block)
    span = -(-n // ranges)
    ranges = -(-n // span)

    task = split_axis(product_of(prefix) * ranges * blocks, "t")
    *before, range_at, block_at = unflatten(task, (*prefix, ranges, blocks))
    first, start = simplify(range_at * span), simplify(block_at * block)
    rows = rest(n, span, first)
    columns = rest(wide, block, start)

    def along(make: Callable[[Sequence[Expr], Sequence[Expr]], Stmt], tag: str) -> Stmt:
        """`make` at every suffix position of this task (and its place in the task's piece), in vectors."""
        outer = [split_axis(e, f"{tag}{k}") for k, e in enumerate(far)]
        if wide == 1:
            stmt = make([*outer, *(_ZERO for _ in near)], [*outer, _ZERO])
        else:
            v = loops.axis(tag, block)
            after = [*outer, *unflatten(simplify(start + v), near)]
            stmt = loops.loop(v, make(after, [*outer, v]), "vector", columns, lanes)
        return nest([o for o in outer if o.op == "axis"], stmt)

    def over_rows(make: Callable[[Expr], Stmt]) -> Stmt:
        a = split_axis(span, "a")
        if a.op != "axis":
            return make(a)
        vectors = wide == 1 and product_of(far) == 1  # then they run along the rows
        return loops.loop(a, make(a), "vector" if vectors else "serial", rows, lanes if vectors else 0)

    def taken(make: Stmt) -> Stmt:
        """`make` if the update is of this task's rows."""
        if ranges == 1:
            return make
        inside = loops.op("and", loops.op("le", first, target), loops.op("lt", target, simplify(first + rows)))
        return loops.If(inside, make)

    piece = (span, *far, block)
    if is_long_scatter(node) and 8 * product_of(piece) <= SCRATCH_LIMIT:
        held = Buffer("held", dtypes.float64, piece, "shared")

        def begin(a: Expr) -> Stmt:
            def at(after: Sequence[Expr], own: Sequence[Expr]) -> Stmt:
                value = index_at(body, unit, base, base_index, [*before, simplify(first + a), *after])
                return loops.store(held, (a, *own), loops.cast(value, held.dtype))

            return along(at, "c")

        def add(after: Sequence[Expr], own: Sequence[Expr]) -> Stmt:
            value = index_at(body, unit, unit.values[1], unit.index, [*before, *walk, *after])
            place = (simplify(target - first), *own)
            return loops.store(held, place, loops.cast(value, held.dtype), COMBINE[node.attrs["combine"]])

        def write(a: Expr) -> Stmt:
            return along(lambda after, own: body.store(node, [*before, simplify(first + a), *after], loops.cast(
                loops.load(held, a, *own), node.dtype.compute)), "w")

        stmt = loops.Seq((loops.Alloc(held), over_rows(begin), nest(walked, taken(along(add, "v"))), over_rows(write)))
        return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt

    if product_of(suffix) == 1 or (block == wide and _flat(body, unit, node, both[:1], axis, len(shape))):
        q = split_axis(span * product_of(suffix), "q")  # the whole piece is one run of memory
        copies = fill([*before, *unflatten(simplify(first * product_of(suffix) + q), shape[axis:])])
        if q.op == "axis":
            copies = loops.loop(q, copies, "vector", simplify(rows * product_of(suffix)), lanes)
    else:
        copies = over_rows(lambda a: along(lambda after, _: fill([*before, simplify(first + a), *after]), "c"))
    stmt = loops.seq(copies, nest(walked, taken(along(lambda after, _: update(before, after, target), "v"))))
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


def _pieces(prefix: int, n: int, far: int, wide: int, narrowest: int) -> tuple[int, int]:
    """(blocks of the suffix, ranges of the scattered axis) that give enough tasks.

    Blocks are better: they share the updates evenly. Every range looks at all the indices for its own.
    """
    want = max(1, min(TASKS, prefix * n * far * wide // TASK_ELEMENTS))
    blocks = max(1, min(-(-want // prefix), wide // narrowest))
    ranges = max(1, min(want // (prefix * blocks), n))
    return blocks, ranges


def rest(total: int, per: int, start: Expr) -> Expr:
    """The extent of the piece of `total` that begins at `start` and has at most `per`."""
    if total % per == 0:
        return loops.const(per)
    return loops.op("min", loops.const(per), simplify(loops.op("sub", loops.const(total), start)))


def combined(body: KernelBody, node: Node, place: Sequence[Expr], value: Expr, combine: str) -> Stmt:
    stored = body.store(node, place, value)
    if combine == "set":
        return stored
    assert isinstance(stored, loops.Store)
    name = combiner(COMBINE[combine], node.dtype)
    if not node.dtype.is_half:
        return loops.Store(stored.buffer, stored.index, stored.value, name)
    old = loops.cast(loops.load(stored.buffer, *stored.index), node.dtype.compute)
    return loops.Store(stored.buffer, stored.index, loops.cast(loops.op(name, old, value), node.dtype))


# ---------------------------------------------------------------------------------------------------------- cumulative


def _cumulative(body: KernelBody, unit: Realization, lanes: int) -> Stmt:
    node = unit.node
    axis, shape = node.attrs["axis"], node.shape
    if node.type.size == 0:
        return loops.Seq(())
    n, value = shape[axis], unit.values[0]
    prefix, suffix = shape[:axis], shape[axis + 1 :]

    def one(row: Sequence[Expr]) -> Stmt:
        place = [*row[:axis], _ZERO, *row[axis:]]
        return Running(body, unit, (1,), bool(lanes)).stmt(place, (_ZERO,), lambda make: make)

    others = (*prefix, *suffix)
    if not lanes:
        outer = [split_axis(e, f"o{i}") for i, e in enumerate(others)]
        return nest([o for o in outer if o.op == "axis"], one(outer))
    merged = len(suffix)
    while merged > 1 and not _flat(body, unit, node, [(value, unit.index)], len(shape) - merged, len(shape)):
        merged -= 1
    near = suffix[len(suffix) - merged :]
    far = (*prefix, *suffix[: len(suffix) - merged])
    wide = product_of(near)
    if wide == 1:
        per = max(1, min(product_of(far), TASK_ELEMENTS // n))
        task = split_axis(-(-product_of(far) // per), "t")
        stmt = rows_of(task, per, product_of(far),
                       lambda row: one([*unflatten(row, far), *(_ZERO for _ in near)]), "r")
        return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt

    unroll = max(1, min(4, wide // lanes))
    while unroll > 1 and product_of(far) * -(-wide // (lanes * unroll)) < 8:
        unroll //= 2
    block = lanes * unroll
    task = split_axis(product_of(far) * -(-wide // block), "t")
    *row, block_at = unflatten(task, (*far, -(-wide // block)))
    u, v = loops.axis("u", unroll), loops.axis("v", lanes)
    column = simplify(block_at * block + u * lanes + v)
    inside = loops.op("lt", column, loops.const(wide)) if wide % block else None

    def each(make: Stmt) -> Stmt:
        return loops.loop(u, loops.loop(v, make, "vector", None, lanes), "unroll")

    place = [*row, *unflatten(column, near)]
    place.insert(axis, _ZERO)
    stmt = Running(body, unit, (unroll, lanes), True).stmt(place, (u, v), each, inside)
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


class Running:
    """The running value along the axis of a cumulative operation, in registers of some shape. Sums, where they are
    `blocked`, are those of a block added to the sum of all blocks before; products of float32 run in float64, since
    blocks would not help them."""

    def __init__(self, body: KernelBody, unit: Realization, shape: tuple[int, ...], blocked: bool):
        self.body, self.unit = body, unit
        node = unit.node
        monoid, dtype = node.attrs["monoid"], node.dtype.compute
        self.axis, self.n = node.attrs["axis"], node.shape[node.attrs["axis"]]
        self.combine = combiner(_RUNNING[monoid], node.dtype)
        self.dtype = dtypes.float64 if monoid == "prod" and dtype.is_float else dtype
        self.first = identity({"or": "any", "and": "all"}.get(self.combine, monoid), self.dtype)
        self.acc = Buffer("running", self.dtype, shape, "reg")
        lanes = shape[-1] if len(shape) > 1 else 0
        long = blocked and monoid == "sum" and dtype.is_float and self.n > BLOCK
        self.blocks = Compensated(self.acc, lanes, "reg") if long else None

    def stmt(self, place: Sequence[Expr], at: tuple[Expr, ...], each: Callable[[Stmt], Stmt],
             inside: Expr | None = None) -> Stmt:
        """The walk at `place` along the axis; `each` makes the loops over the registers' index `at`."""

        def step(k: Expr) -> Stmt:
            here = list(place)
            here[self.axis] = simplify(loops.const(self.n - 1) - k) if self.unit.node.attrs["reverse"] else k
            found = index_at(self.body, self.unit, self.unit.values[0], self.unit.index, here)
            got = loops.cast(guarded(found, inside), self.dtype)
            value = loops.load(self.acc, *at)
            if self.blocks is not None:
                value = loops.op("add", loops.load(self.blocks.total, *at), value)
            value = loops.cast(value, self.unit.node.dtype.compute)
            return each(loops.seq(loops.store(self.acc, at, got, self.combine),
                                  self.body.store(self.unit.node, here, value, inside)))

        start = (loops.Alloc(self.acc), each(loops.store(self.acc, at, self.first)))
        k = split_axis(self.n, "k")
        if self.blocks is None:
            return loops.Seq((*start, loops.loop(k, step(k)) if k.op == "axis" else step(k)))
        walk = blocks_of(k, BLOCK, "block", step, self.blocks.after_block())
        return loops.Seq((*start, *self.blocks.before(), walk))


# ---------------------------------------------------------------------------------------------------------------- sort


def _sort(body: KernelBody, unit: Realization, lanes: int) -> Stmt:
    node = unit.node
    if unit.size == 0:
        return loops.Seq(())
    axis, shape = node.attrs["axis"], unit.extents
    others = (*shape[:axis], *shape[axis + 1 :])

    def one(row: Sequence[Expr]) -> Stmt:
        return SortedRow(body, unit, row, lanes).stmt()

    if not lanes:
        outer = [split_axis(e, f"o{k}") for k, e in enumerate(others)]
        return nest([o for o in outer if o.op == "axis"], one(outer))
    total = product_of(others)
    per = max(1, min(total, TASK_ELEMENTS // (8 * shape[axis])))
    task = split_axis(-(-total // per), "t")
    stmt = rows_of(task, per, total, lambda row: one(unflatten(row, others)), "r")
    return loops.loop(task, stmt, "parallel") if task.op == "axis" else stmt


class _Scratch:
    """Two halves of n elements, in a buffer of the task or (from element `start` on) in global memory."""

    def __init__(self, buffer: Buffer, n: int, start: Expr | None):
        self.buffer, self.n, self.start = buffer, n, start
        self.allocs = (loops.Alloc(buffer),) if start is None else ()

    def at(self, half: Expr, k: Expr) -> tuple[Expr, ...]:
        return (half, k) if self.start is None else (simplify(self.start + half * self.n + k),)

    def load(self, half: Expr, k: Expr, predicate: Expr | None = None) -> Expr:
        return loops.load(self.buffer, *self.at(half, k), predicate=predicate)

    def store(self, half: Expr, k: Expr, value: Expr) -> Stmt:
        return loops.store(self.buffer, self.at(half, k), value)


class SortedRow:
    """One row being sorted. Of the results (values, positions), those that nobody uses have no buffer (None)."""

    def __init__(self, body: KernelBody, unit: Realization, row: Sequence[Expr], lanes: int):
        self.body, self.unit, self.row, self.lanes = body, unit, tuple(row), lanes
        self.axis, self.descending = unit.node.attrs["axis"], unit.node.attrs["descending"]
        self.n = unit.extents[self.axis]
        self.source = unit.node.inputs[0].dtype
        self.key_dtype = dtypes.uint8 if self.source.is_bool else self.source.compute
        items = body.fused.table.items(unit.node)
        self.values, self.positions = items.get(0), items.get(1)

    def stmt(self) -> Stmt:
        if self.values is None and self.positions is None:
            return loops.Seq(())
        if self.n == 1:
            return self.write(_ZERO, self.element(_ZERO), _ZERO)
        return self.merge(dtypes.int32 if self.n < 1 << 31 else dtypes.int64)

    def place(self, k: Expr) -> tuple[Expr, ...]:
        return (*self.row[: self.axis], k, *self.row[self.axis :])

    def element(self, k: Expr) -> Expr:
        """Element k of the row as it would be in memory, as a key."""
        value = index_at(self.body, self.unit, self.unit.values[0], self.unit.index, self.place(k))
        return loops.cast(loops.cast(store_value(value, self.source), self.source.compute), self.key_dtype)

    def before(self, a: Expr, b: Expr) -> Expr:
        """Must key a stand before key b, even if it came later?"""
        if self.descending:
            a, b = b, a
        out = loops.op("lt", a, b)
        if self.source.is_float:  # NaN counts as the largest
            out = loops.op("or", out, loops.op("and", loops.op("eq", a, a), loops.op("ne", b, b)))
        return out

    def write(self, k: Expr, key: Expr, position: Expr) -> Stmt:
        stores = []
        if self.values is not None:
            stores.append(self.body.store(self.values, self.place(k), loops.cast(key, self.source.compute)))
        if self.positions is not None:
            stores.append(self.body.store(self.positions, self.place(k), loops.cast(position, dtypes.int64)))
        return loops.seq(*stores)

    def over_row(self, k: Expr, stmt: Stmt) -> Stmt:
        return loops.loop(k, stmt, "vector" if self.lanes else "serial", None, self.lanes)

    def merge(self, small: DType) -> Stmt:
        """Runs of 1, 2, 4, ... elements are merged in pairs from one half of the scratch into the other."""
        n = self.n
        count = (n - 1).bit_length()  # levels
        keys, places = self.scratch("keys", self.key_dtype, small), self.scratch("places", small, small)
        taken = Buffer("taken", dtypes.int64, (1,), "reg")  # elements of the left run already merged

        k = loops.axis("k", n)
        read = self.over_row(k, loops.seq(
            keys.store(_ZERO, k, self.element(k)),
            places.store(_ZERO, k, loops.cast(k, small)),
        ))

        level = loops.axis("level", count)
        pair, m = loops.axis("pair", -(-n // 2)), loops.axis("m", n)
        source = loops.op("mod", level, loops.const(2))
        run = loops.op("shl", loops.const(1), level)
        start = loops.op("shl", pair, level + 1)
        left = loops.op("min", run, loops.const(n) - start)
        right = loops.op("min", run, loops.const(n) - start - run)  # negative when there is no right run
        i = loops.load(taken, _ZERO)
        j = m - i
        any_left, any_right = loops.op("lt", i, left), loops.op("lt", j, right)
        a_at, b_at = start + i, start + run + j
        a = keys.load(source, a_at, any_left)
        b = keys.load(source, b_at, any_right)
        take_right = loops.op("and", any_right, loops.op("or", loops.op("not", any_left), self.before(b, a)))
        a_place = places.load(source, a_at, any_left)
        b_place = places.load(source, b_at, any_right)
        target = loops.const(1) - source
        step = loops.seq(
            keys.store(target, start + m, loops.op("select", take_right, b, a)),
            places.store(target, start + m, loops.op("select", take_right, b_place, a_place)),
            loops.store(taken, (_ZERO,), i + loops.op("select", take_right, loops.const(0), loops.const(1))),
        )
        one_pair = loops.Seq((
            loops.Alloc(taken),
            loops.store(taken, (_ZERO,), loops.const(0)),
            loops.loop(m, step, extent=loops.op("min", run * 2, loops.const(n) - start)),
        ))
        pairs = loops.op("shr", loops.const(n - 1), level + 1) + 1
        merging = loops.loop(level, loops.loop(pair, one_pair, extent=pairs))

        o = loops.axis("o", n)
        last = loops.const(count % 2)
        write = self.over_row(o, self.write(o, keys.load(last, o), places.load(last, o)))
        return loops.Seq((*keys.allocs, *places.allocs, read, merging, write))

    def scratch(self, name: str, dtype: DType, small: DType) -> _Scratch:
        """Two halves of n elements: the task's own if that is small enough, else memory for all rows."""
        if 2 * self.n * (self.key_dtype.itemsize + small.itemsize) <= SCRATCH_LIMIT:
            return _Scratch(Buffer(name, dtype, (2, self.n), "shared"), self.n, None)
        others = (*self.unit.extents[: self.axis], *self.unit.extents[self.axis + 1 :])
        size = 2 * self.unit.size
        node = make("const", value=0, dtype=dtype, shape=(size,), uid=unique())  # only a name for its memory
        buffer = Buffer(name, dtype, (size,), note=f"scratch {dtype.short}[{size}]")
        self.body.params[buffer] = node
        self.body.writes.add(buffer)
        return _Scratch(buffer, self.n, simplify(flatten(self.row, others) * (2 * self.n)))


_FAMILIES = {"scatter": _scatter, "cumulative": _cumulative, "sort": _sort}
