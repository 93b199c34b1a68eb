"""Groups of units to Loop IR kernels, in the form that a schedule asks for.

This file holds what all families share; each family has a file beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dlc.codegen.lower.long_sums import in_blocks
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.index import is_position, simplify
from dlc.ir.loops.ir import Buffer, Expr, Kernel, Stmt
from dlc.passes.fuse.access import cost_of
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization

MONOIDS = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}

Reader = Callable[[Realization, tuple[Expr, ...]], Expr]


@dataclass(frozen=True)
class LoweredKernel:
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


class KernelBody:
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

    def put(self, unit: Realization, value: Expr, mapping: dict[Expr, Expr], read: Reader) -> Expr:
        """`value` (of `unit`) with its axes replaced; reads of members of the group go through `read`."""
        memo = dict(mapping)

        def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
            if e.op == "load":
                node, index = unit.loads[e]
                member = self.group.member(node)
                if member is not None:
                    at = tuple(traverse.map_expr(i, lambda *_: None, memo) for i in index)
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

        return traverse.map_expr(value, rule, memo)

    def store(self, node: Node, index: Sequence[Expr], value: Expr, predicate: Expr | None = None) -> Stmt:
        b = self.buffer(node)
        self.writes.add(b)
        at = simplify(self.fused.table.elements.offset(node, tuple(index)))
        return loops.store(b, (at,), store_value(value, node.dtype), predicate=predicate)

    def finish(self, body: Stmt, sched: schedule.Schedule, flops: int = 0) -> LoweredKernel:
        units = self.group.units
        if getattr(sched, "lanes", None) != 0:  # the plain form adds in order
            body = in_blocks(body, self.group.kind == "contract")
        locs = tuple(dict.fromkeys(u.node.loc for u in units if u.node.loc is not None))
        # memory read and written once each
        nbytes = sum(b.nbytes for b in self.params)
        params = (*self.params, *self.sizes)
        kernel = Kernel(kernel_name(self.group), params, frozenset(self.writes), body, sched, locs,
                        flops or sum(u.size * max(1, sum(map(cost_of, u.values))) for u in units), nbytes)
        return LoweredKernel(kernel, (*self.params.values(), *self.sizes.values()), kernel.tasks)


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

    return traverse.map_expr(e, rule, {})


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


# ------------------------------------------------------------------------------------------------------ family: map


