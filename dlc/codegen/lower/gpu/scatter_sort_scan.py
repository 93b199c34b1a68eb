"""Scatter, cumulative and sort on a GPU: one thread owns a piece of the result, so every run gives the same bits.

    scatter      with many updates: `lower_gpu_scatter`. With few, a thread owns one suffix position and a range of
                 the scattered axis; it fills them from the base and walks all the indices in order, as on the CPU
    cumulative   a thread walks the axis with a running value
    sort         a thread finds the place of one element: how many elements stand before it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlc.codegen.cost.gpu_scatter import is_binned
from dlc.codegen.lower.body import KernelBody, LoweredKernel, nest, split_axis
from dlc.codegen.lower.gpu.binned_scatter import lower_binned
from dlc.codegen.lower.gpu.map import block_axis, launch
from dlc.codegen.lower.scatter_sort_scan import COMBINE, Running, SortedRow, combined, combiner, index_at, rest
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.index import simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import product_of
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.elements import clamped

_ZERO = loops.const(0)


def lower_ordered(fused: Fused, group: Group, sched: schedule.GpuOrdered) -> LoweredKernel:
    body = KernelBody(fused, group)
    (unit,) = group.units
    make = lower_binned if unit.kind == "scatter" and is_binned(unit.node) else _FAMILIES[unit.kind]
    return body.finish(make(body, unit, sched), sched)


def _each(total: int, block: int, make: Callable[[Expr], Stmt]) -> Stmt:
    """`make(number)` by one thread for each number."""
    b, t = block_axis(-(-total // block)), loops.axis("t", block)
    number = simplify(b * block + t)
    stmt = make(number)
    if total % block:
        stmt = loops.If(loops.op("lt", number, loops.const(total)), stmt)
    return launch(b, t, stmt)


def _walk(axes: Sequence[Expr], stmt: Stmt) -> Stmt:
    return nest([a for a in axes if a.op == "axis"], stmt)


def _scatter(body: KernelBody, unit: Realization, sched: schedule.GpuOrdered) -> Stmt:
    node = unit.node
    axis, shape = node.attrs["axis"], node.shape
    if node.type.size == 0:
        return loops.Seq(())
    rank = node.inputs[1].ndim
    prefix, n, suffix = shape[:axis], shape[axis], shape[axis + 1 :]
    assert unit.base is not None
    base_index, base = unit.base
    span = -(-n // max(1, min(n, -(-sched.threads // (product_of(prefix) * product_of(suffix))))))
    ranges = -(-n // span)

    def one(number: Expr) -> Stmt:
        *before, range_at, after = unflatten(number, (*prefix, ranges, product_of(suffix)))
        behind = unflatten(after, suffix)
        first = simplify(range_at * span)
        count = rest(n, span, first)
        a = split_axis(span, "a")
        place = [*before, simplify(first + a), *behind]
        fill: Stmt = body.store(node, place, index_at(body, unit, base, base_index, place))
        if a.op == "axis":
            fill = loops.loop(a, fill, extent=count)
        walk = [split_axis(e, f"i{k}") for k, e in enumerate(unit.extents[axis : axis + rank])]
        indices = unit.index[: axis + rank]
        target = clamped(index_at(body, unit, unit.values[0], indices, [*(_ZERO for _ in prefix), *walk]), n)
        value = index_at(body, unit, unit.values[1], unit.index, [*before, *walk, *behind])
        if span == 1 and node.attrs["combine"] != "set":
            acc = Buffer("acc", node.dtype.compute, (1,), "reg")
            start = loops.cast(index_at(body, unit, base, base_index, place), acc.dtype)
            name = combiner(COMBINE[node.attrs["combine"]], node.dtype)
            update = loops.store(acc, (_ZERO,), value, name)
            if ranges > 1:
                update = loops.If(loops.op("eq", target, first), update)
            return loops.Seq((loops.Alloc(acc), loops.store(acc, (_ZERO,), start), _walk(walk, update),
                              body.store(node, place, loops.load(acc, _ZERO))))
        update = combined(body, node, [*before, target, *behind], value, node.attrs["combine"])
        if ranges > 1:
            end = simplify(first + count)
            update = loops.If(loops.op("and", loops.op("le", first, target), loops.op("lt", target, end)), update)
        return loops.seq(fill, _walk(walk, update))

    return _each(product_of(prefix) * ranges * product_of(suffix), sched.block, one)


def _cumulative(body: KernelBody, unit: Realization, sched: schedule.GpuOrdered) -> Stmt:
    node = unit.node
    axis, shape = node.attrs["axis"], node.shape
    if node.type.size == 0:
        return loops.Seq(())
    others = (*shape[:axis], *shape[axis + 1 :])

    def one(number: Expr) -> Stmt:
        row = unflatten(number, others)
        place = [*row[:axis], _ZERO, *row[axis:]]
        return Running(body, unit, (1,), True).stmt(place, (_ZERO,), lambda make: make)

    return _each(product_of(others), sched.block, one)


def _sort(body: KernelBody, unit: Realization, sched: schedule.GpuOrdered) -> Stmt:
    if unit.size == 0:
        return loops.Seq(())
    axis, shape = unit.node.attrs["axis"], unit.extents
    n = shape[axis]
    others = (*shape[:axis], *shape[axis + 1 :])

    def one(number: Expr) -> Stmt:
        *row, i = unflatten(number, (*others, n))
        code = SortedRow(body, unit, row, 1)
        if code.values is None and code.positions is None:
            return loops.Seq(())
        key, place = Buffer("key", code.key_dtype, (1,), "reg"), Buffer("place", dtypes.int64, (1,), "reg")
        j = split_axis(n, "j")
        mine, other = loops.load(key, _ZERO), code.element(j)
        earlier = loops.op("and", loops.op("lt", j, i), loops.op("not", code.before(mine, other)))
        stands_before = loops.op("or", code.before(other, mine), earlier)
        one_more = loops.op("select", stands_before, loops.const(1), loops.const(0))
        target = loops.op("min", loops.op("max", loops.load(place, _ZERO), _ZERO), loops.const(n - 1))
        return loops.Seq((
            loops.Alloc(key),
            loops.Alloc(place),
            loops.store(key, (_ZERO,), code.element(i)),
            loops.store(place, (_ZERO,), _ZERO),
            _walk([j], loops.store(place, (_ZERO,), one_more, "add")),
            code.write(target, mine, i),
        ))

    return _each(unit.size, sched.block, one)


_FAMILIES = {"scatter": _scatter, "cumulative": _cumulative, "sort": _sort}
