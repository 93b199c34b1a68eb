"""What the tiles of a contraction share: operands, runs of columns, tails, products."""

from __future__ import annotations

from dlc.codegen.lower.body import KernelBody, guarded
from dlc.ir.dtypes import DType, float32
from dlc.ir.graph.ops import split_spec
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import coefficient, flatten, simplify, unflatten
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Expr, Stmt
from dlc.passes.fuse.access import cost_of, divides, product_of, spread
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.contraction import column_run, label_sizes, parts_of

LIGHT = 6  # cost of an epilogue up to which it is unrolled over the register tile


class ContractionTile:
    """One contraction being lowered."""

    def __init__(self, body: KernelBody, sched: schedule.Contract):
        self.body, self.sched = body, sched
        self.unit: Realization = body.group.units[0]
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
        axes, n = self.axes(labels), product_of(self.extents(labels))
        t, j = loops.axis("t", -(-n // self.sched.nr)), loops.axis("j", self.sched.nr)
        mapping = dict(zip(axes, unflatten(simplify(t * self.sched.nr + j), self.extents(labels)), strict=True))
        loads = [e.args[0] for e in self.unit.loads if set(axes) & e.axes]
        offs = [simplify(traverse.map_expr(e, lambda *_: None, dict(mapping))) for e in loads]
        offs += [self._result_offset(u, mapping) for u in self.body.group.units if results]
        return not any(divides(off, j) for off in offs)

    def _result_offset(self, u: Realization, mapping: dict[Expr, Expr]) -> Expr:
        index = self.result_index(u, mapping)
        return simplify(self.body.fused.table.elements.offset(u.node, index))

    def result_index(self, u: Realization, mapping: dict[Expr, Expr]) -> list[Expr]:
        """The index of u's element for a position of the anchor's axes."""
        if u is self.unit:
            out = split_spec(u.node.attrs["spec"])[2]
            return [mapping.get(self.at[x], self.at[x]) for x in out]
        own = self.unit_mapping(u, mapping)
        return [own.get(i, i) for i in u.index]

    def unit_mapping(self, u: Realization, mapping: dict[Expr, Expr]) -> dict[Expr, Expr]:
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
            places = [e.args[0] for e in self.operand_loads()]
            loads = [simplify(traverse.map_expr(place, lambda *_: None, dict(mapping))) for place in places]
            if not any(divides(off, q) for off in loads for q in probe):
                extents = trial
            k -= 1
        ks = [loops.axis(f"k{n}" if len(extents) > 1 else "k", e) for n, e in enumerate(extents)]
        return ks, spread(axes, list(zip(ks, extents, strict=True)))

    def operand_loads(self) -> list[Expr]:
        return traverse.loads_of(self.row_value, self.col_value)

    def operand(self, value: Expr, mapping: dict[Expr, Expr]) -> Expr:
        return self.body.put(self.unit, value, mapping, lambda m, _: m)  # type: ignore[arg-type, return-value]

    def epilogue(self, mapping: dict[Expr, Expr], result: Expr, predicate: Expr | None) -> Stmt:
        """Everything computed from one result in registers."""
        node = self.unit.node
        rounded = loops.cast(loops.cast(result, node.dtype), node.dtype.compute)
        values: dict[Realization, Expr] = {self.unit: rounded}
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


def runs_of(rows: str, tile: ContractionTile, run: int) -> tuple[str, str]:
    """The row labels before and inside the runs."""
    k = len(rows)
    while run and k and product_of(tile.extents(rows[k:])) < run:
        k -= 1
    return (rows[:k], rows[k:]) if run else ("", rows)


def columns_left(total: int, per: int, tile: Expr) -> Expr | None:
    """How much of tile number `tile` lies inside, or None where all of every tile does."""
    if total % per == 0:
        return None
    return loops.op("min", loops.const(per), loops.op("sub", loops.const(total), tile * per))


def over_tiles(block: Expr, per: int, total: int, name: str, body) -> Stmt:
    """A loop over the tiles of one block, the last block cut short."""
    if per == 1:
        return body(block)
    t = loops.axis(name, min(per, total))
    base = loops.op("mul", block, loops.const(per))
    extent: Expr = loops.const(min(per, total))
    if total % per and total > per:
        extent = loops.op("min", extent, loops.op("sub", loops.const(total), base))
    return loops.loop(t, body(simplify(loops.op("add", base, t))), extent=extent)


def in_bounds(value: Expr) -> bool:
    """Do all unguarded loads stay in their buffers, whatever the axes?"""
    for e in traverse.loads_of(value):
        if len(e.args) == 1:
            low, high = interval(e.args[0])
            if low < 0 or high >= e.attr.size:
                return False
    return True


def columns_in_bounds(value: Expr, inside: Expr | None) -> Expr:
    """Guard the loads of the column operand at the edge, unless the memory is padded far enough."""
    if inside is None or all(interval(e.args[0])[1] < e.attr.size for e in traverse.loads_of(value)):
        return value

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if e.op != "load":
            return None
        own = args[1] if len(args) > 1 else None
        return loops.load(e.attr, args[0], predicate=inside if own is None else loops.op("and", own, inside))

    return traverse.map_expr(value, rule, {})


def contiguous_columns(fused: Fused, group: Group, swap: bool) -> bool:
    """Can the column operand be read as vectors where it lies?"""
    sched = schedule.Contract(lanes=1, nr=1, swap=swap)
    tile = ContractionTile(KernelBody(fused, group), sched)
    if not tile.parts.columns:
        return False
    axis = tile.at[tile.parts.columns[-1]]
    return all(coefficient(flatten((e.args[0],), (e.attr.size,)), axis) in (0, 1)
               for e in tile.operand_loads() if axis in e.axes)
