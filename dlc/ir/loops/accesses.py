"""Every access of a kernel to memory: to which places, in which loops, under which conditions, and when.

`accesses(kernel)` lists them, with the footprints of matrix statements and copies; `Points` says at which places one is
made, from its integer expressions alone. Numbers that depend on data are taken as any number of their interval: so an
index is inside if its clamp says so. Of the loops only those matter that a place or a condition depends on; those that
depend on each other are walked together, as NumPy arrays, the others apart from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.instructions import Arrive, Async, Await, Mma, SetMaxNReg, StoreTile, TileMma, TmaCopy, Wait
from dlc.ir.loops.interp.values import operation
from dlc.ir.loops.interval import Interval, interval_given
from dlc.ir.loops.ir import (
    Alloc,
    AllReduce,
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    load_parts,
)
from dlc.ir.loops.traverse import inside_out

MOST_POINTS = 1 << 24  # that are looked at for one access
AT_ONCE = 1 << 20  # points
MOST_VALUES = 1 << 20  # of a number that depends on data

Form = dict[Expr | None, int]  # a sum of coefficient * expression, the constant under None


@dataclass(frozen=True, eq=False)
class Access:
    """`kind` is read, write or combine (read and write). `index` is that of the first element, `place` that of any in
    flat memory, in terms of the loops and of `footprint`, axes of its own. `group` is the number of threads that make
    it together. `time` grows in program order: two accesses in the same loops can be compared."""

    stmt: Stmt
    buffer: Buffer
    kind: str
    index: tuple[Expr, ...]
    place: Expr
    loops: tuple[For, ...]
    conditions: tuple[Expr, ...]
    time: Form
    footprint: tuple[Expr, ...] = ()
    group: int = 1

    @property
    def writes(self) -> bool:
        return self.kind != "read"

    @property
    def reads(self) -> bool:
        return self.kind != "write"


@dataclass(frozen=True, eq=False)
class Listed:
    """What a kernel does: accesses, the loops around each allocation, barriers, and loops whose extent is computed with
    the loops and conditions around them."""

    accesses: list[Access]
    scopes: dict[Buffer, tuple[For, ...]]
    syncs: list[tuple[tuple[For, ...], Form]]
    extents: list[tuple[For, tuple[For, ...], tuple[Expr, ...]]]


def accesses(kernel: Kernel) -> Listed:
    """List what a kernel does. Raises VerifyError for a statement that is not known."""
    lister = _Lister(kernel)
    lister.visit(kernel.body, (), (), {None: 0})
    return lister.found


class _Lister:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.found = Listed([], {}, [], [])
        self.lengths: dict[Stmt, int] = {}

    def length(self, stmt: Stmt) -> int:
        """How much time a statement takes, loops of threads as much as one of them."""
        known = self.lengths.get(stmt)
        if known is None:
            known = sum(map(self.length, traverse.children(stmt))) or 1
            if isinstance(stmt, For) and stmt.kind not in ("parallel", "grid", "lane"):
                known *= max(1, stmt.axis.attr[1])
            self.lengths[stmt] = known
        return known

    def visit(self, stmt: Stmt, around: tuple[For, ...], conditions: tuple[Expr, ...], time: Form) -> None:
        if isinstance(stmt, (Seq, Async)):
            for s in stmt.body if isinstance(stmt, Seq) else (stmt.body,):
                self.visit(s, around, conditions, time)
                time = {**time, None: time[None] + self.length(s)}
        elif isinstance(stmt, For):
            self.values(stmt, stmt.extent, around, conditions, time)
            inside = conditions
            if _constant(stmt.extent) is None:
                self.found.extents.append((stmt, around, conditions))
                inside = (*conditions, loops.op("lt", stmt.axis, stmt.extent))
            if stmt.kind not in ("parallel", "grid", "lane"):
                time = {**time, stmt.axis: self.length(stmt.body)}
            self.visit(stmt.body, (*around, stmt), inside, time)
        elif isinstance(stmt, If):
            self.values(stmt, stmt.cond, around, conditions, time)
            self.visit(stmt.then, around, (*conditions, *conjuncts(stmt.cond)), time)
            if stmt.other is not None:
                later = {**time, None: time[None] + self.length(stmt.then)}
                self.visit(stmt.other, around, (*conditions, loops.op("not", stmt.cond)), later)
        elif isinstance(stmt, Alloc):
            self.found.scopes[stmt.buffer] = around
        elif isinstance(stmt, Sync):
            self.found.syncs.append((around, time))
        elif not isinstance(stmt, (Prefetch, Wait, Arrive, Await, SetMaxNReg)):
            self.leaf(stmt, around, conditions, time)

    def leaf(self, stmt: Stmt, around: tuple[For, ...], conditions: tuple[Expr, ...], time: Form) -> None:
        def add(kind: str, buffer: Buffer, index: Sequence[Expr], place: Expr | None = None,
                footprint: Iterable[Expr] = (), group: int = 1, under: tuple[Expr, ...] = conditions) -> None:
            self.found.accesses.append(Access(stmt, buffer, kind, tuple(index),
                                              flat(buffer, index) if place is None else place, around, under, time,
                                              tuple(footprint), group))

        def box(kind: str, buffer: Buffer, index: Sequence[Expr], *axes: tuple[int, int], group: int = 1) -> None:
            """Elements at index + sum(position * stride) for axes of (extent, stride)."""
            steps = [loops.axis("x", n) for n, _ in axes]
            place = flat(buffer, index)
            for x, (_, stride) in zip(steps, axes, strict=True):
                place = place + x * stride
            add(kind, buffer, index, place, steps, group)

        if isinstance(stmt, Store):
            under = conditions + (() if stmt.predicate is None else conjuncts(stmt.predicate))
            if stmt.predicate is not None:
                self.values(stmt, stmt.predicate, around, conditions, time)
            for e in (*stmt.index, stmt.value):
                self.values(stmt, e, around, under, time)
            add("write" if stmt.combine is None else "combine", stmt.buffer, stmt.index, under=under)
        elif isinstance(stmt, AllReduce):
            for e in (*stmt.index, stmt.value):
                self.values(stmt, e, around, conditions, time)
            add("write", stmt.buffer, stmt.index)
        elif isinstance(stmt, Mma):
            box("write" if stmt.fresh else "combine", stmt.buffer, stmt.index,
                (2 * stmt.m // stmt.lanes, stmt.n // 8 * 4), (stmt.n // 8, 4), (4, 1))
            for e, count, order in ((stmt.a, stmt.m, stmt.a_order), (stmt.b, stmt.n, stmt.b_order)):
                b, index, _ = load_parts(e)
                if order == "sums":
                    box("read", b, index, (stmt.k // 8, 4), (4, 1))
                else:
                    place, axes = _shared_tile(e, count, stmt.k, order)
                    add("read", b, index, place, axes, stmt.lanes)
        elif isinstance(stmt, TileMma):
            m, n = stmt.buffer.shape[-2:]
            add("combine", stmt.buffer, stmt.index)
            halves = 1 if stmt.a.dtype is dtypes.uint32 else 2
            box("read", stmt.a.attr, load_parts(stmt.a)[1], (m, stmt.a_stride), (stmt.k * halves, 1))
            box("read", stmt.b.attr, load_parts(stmt.b)[1], (stmt.k, stmt.b_stride), (n, 1))
        elif isinstance(stmt, StoreTile):
            m, n = stmt.source.shape[-2:]
            add("read", stmt.source, stmt.at)
            box("write", stmt.buffer, stmt.index, (m, stmt.buffer.shape[-1]), (n, 1))
        elif isinstance(stmt, TmaCopy):
            box("write", stmt.buffer, stmt.index, (math.prod(stmt.view.box), 1))
        else:
            raise VerifyError(f"kernel {self.kernel.name}: what a {type(stmt).__name__} touches is not known")

    def values(self, stmt: Stmt, e: Expr, around: tuple[For, ...], conditions: tuple[Expr, ...], time: Form) -> None:
        """The loads in an expression. One with a predicate is not made elsewhere, nor what its index loads."""
        seen: set[tuple[Expr, tuple[Expr, ...]]] = set()
        stack = [(e, conditions)]
        while stack:
            x, under = stack.pop()
            if (x, under) in seen:
                continue
            seen.add((x, under))
            if x.op != "load":
                stack += ((a, under) for a in x.args)
                continue
            buffer, index, predicate = load_parts(x)
            if predicate is not None:
                stack.append((predicate, under))
                under = (*under, *conjuncts(predicate))
            stack += ((a, under) for a in index)
            self.found.accesses.append(Access(stmt, buffer, "read", index, flat(buffer, index), around, under, time))


def conjuncts(e: Expr) -> tuple[Expr, ...]:
    """The conditions that all hold where `e` does."""
    return conjuncts(e.args[0]) + conjuncts(e.args[1]) if e.op == "and" and e.dtype is dtypes.bool_ else (e,)


def flat(buffer: Buffer, index: Sequence[Expr]) -> Expr:
    """The place of an index in the buffer's memory."""
    out: Expr = loops.const(0)
    for k, i in enumerate(index):
        stride = math.prod(buffer.shape[k + 1 :])
        term = i if stride == 1 else i * stride
        out = term if k == 0 else out + term
    return out


def _shared_tile(e: Expr, count: int, k: int, order: str) -> tuple[Expr, tuple[Expr, ...]]:
    """The places that an Mma reads of a shared tile (see `loops_matrix`), and the axes of its footprint."""
    x, y = loops.axis("x", count), loops.axis("y", k)
    buffer, index, _ = load_parts(e)
    start, width = flat(buffer, index), buffer.shape[-1]
    if order[1] == "k":
        return start + x * width + y, (x, y)
    if e.dtype is dtypes.float32 and not buffer.swizzled:
        return start + y * width + x, (x, y)
    return start + x // width * (buffer.shape[-2] * width) + y * width + x % width, (x, y)


# ---------------------------------------------------------------------------------------------------------- points


def extent_of(loop: For) -> int:
    """The extent of a loop, at most."""
    known = _constant(loop.extent)
    return loop.axis.attr[1] if known is None else known


def _constant(e: Expr) -> int | None:
    if e.op == "const":
        return e.attr
    if e.axes or any(x.op == "load" for x in traverse.subexpressions(e)):
        return None
    return int(evaluate(e, {}))


class World:
    """What is known while one kernel is checked: intervals, and axes for numbers that depend on data."""

    def __init__(self, kernel: Kernel):
        self.intervals: dict[Expr, Interval] = {}
        for s in traverse.walk(kernel.body):
            if isinstance(s, For) and s.kind in ("parallel", "grid"):  # its axis may be as long as any tensor
                self.intervals[s.axis] = 0, max(extent_of(s) - 1, 0)
        self.data: dict[Expr, Expr | None] = {}
        self.of_data: set[Expr] = set()  # the axes of such numbers
        self.pure: dict[Expr, bool] = {}

    def interval(self, e: Expr) -> Interval:
        return interval_given(e, self.intervals)

    def known(self, e: Expr) -> Expr | None:
        """The expression in terms of axes: the smallest parts that depend on data and have bounds become axes over
        their interval, or larger parts that have fewer values. None where something has too many values."""
        if not self.loads(e):
            return e
        if e not in self.data:
            args = [None] if e.op == "load" else [self.known(a) for a in e.args]
            found = None if None in args else loops.op(e.op, *args, dtype=e.dtype)  # type: ignore[arg-type]
            own = () if found is None else found.axes & self.of_data
            if found is None or math.prod(a.attr[1] for a in own) > MOST_VALUES:
                found = self._any_of(e) or found
            self.data[e] = found
        return self.data[e]

    def _any_of(self, e: Expr) -> Expr | None:
        if e.dtype.is_float or e.dtype.is_bool:
            return None
        low, high = self.interval(e)
        if high - low >= MOST_VALUES:
            return None
        axis = loops.axis("any", high - low + 1)
        self.of_data.add(axis)
        return loops.cast(axis + low, e.dtype)

    def loads(self, e: Expr) -> bool:
        """Does it depend on memory?"""
        for x in inside_out(e, self.pure):
            self.pure[x] = x.op == "load" or any(self.pure[a] for a in x.args)
        return self.pure[e]


@dataclass
class Points:
    """Where one access is made. `decided`: its conditions depend on loops alone."""

    world: World
    loops: Sequence[For]
    conditions: Sequence[Expr]
    footprint: Sequence[Expr] = ()
    decided: bool = True
    kept: list[Expr] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.extents = {f.axis: extent_of(f) for f in self.loops}
        for c in self.conditions:
            found = self.world.known(c)
            if found is None:
                self.decided = False
            elif found.op != "const" or not found.attr:
                self.kept.append(found)
        if any(c.axes & self.world.of_data for c in self.kept):
            self.decided = False

    def loosely(self, axes: frozenset[Expr]) -> Points:
        """The same with those conditions alone that depend on nothing but these axes: more points, sooner found."""
        loose = Points(self.world, self.loops, (), self.footprint)
        loose.kept = [c for c in self.kept if c.axes <= axes]
        return loose

    def relevant(self, *forms: Form) -> set[Expr]:
        """The axes that these forms and the conditions depend on."""
        atoms = [a for form in forms for a in form if a is not None]
        return set().union(*(e.axes for e in (*self.kept, *atoms)))

    def repeats(self, axes: set[Expr]) -> int:
        """How often the loops that are not among `axes` repeat an access."""
        return math.prod(n for a, n in self.extents.items() if a not in axes)

    def bounds(self, form: Form) -> Interval | None:
        """The smallest and largest value of a form, None where the access is never made. Raises TooMany."""
        low = high = form.get(None, 0)
        if self.never():
            return None
        for _, (values,) in self._walk((form,), (), {}):
            if not values.size:
                return None
            low, high = low + int(values.min()), high + int(values.max())
        return low, high

    def at(self, forms: Sequence[Form], also: Iterable[Expr] = (), first: Mapping[Expr, int] | None = None
           ) -> list[np.ndarray]:
        """The values of several forms at all points. Axes that nothing depends on count as 0, unless they are among
        `also`; of those in `first` only so many values are looked at. Raises TooMany."""
        out = [np.array([form.get(None, 0)], np.int64) for form in forms]
        if self.never():
            return [x[:0] for x in out]
        for _, values in self._walk(forms, tuple(also), first or {}):
            if out[0].size * values[0].size > MOST_POINTS:
                raise TooMany
            out = [(x[:, None] + v[None, :]).ravel() for x, v in zip(out, values, strict=True)]
        return out

    def never(self) -> bool:
        return any(n <= 0 for n in self.extents.values())

    def extent(self, axis: Expr) -> int:
        return self.extents.get(axis, axis.attr[1])

    def _walk(self, forms: Sequence[Form], also: tuple[Expr, ...], first: Mapping[Expr, int]
              ) -> Iterator[tuple[list[Expr], list[np.ndarray]]]:
        """For each set of axes that depend on each other: they, and their part of each form at all points."""
        atoms = list(dict.fromkeys(a for form in forms for a in form if a is not None))
        for axes in _together([e.axes for e in (*self.kept, *atoms)] + [frozenset((a,)) for a in also]):
            counts = [min(self.extent(a), first.get(a, 1 << 62)) for a in axes]
            if math.prod(counts) > MOST_POINTS or len(axes) > 30:
                raise TooMany
            longest = max(range(len(axes)), key=lambda k: counts[k])
            step = max(1, AT_ONCE * counts[longest] // max(1, math.prod(counts)))
            parts = [self._part(axes, [range(n) if k != longest else range(start, min(n, start + step))
                                       for k, n in enumerate(counts)], forms)
                     for start in range(0, max(1, counts[longest]), step)]
            yield axes, parts[0] if len(parts) == 1 else [np.concatenate(some) for some in zip(*parts, strict=True)]
        empty: dict[Expr, np.ndarray] = {}
        if not all(evaluate(c, empty).item() for c in self.kept if not c.axes):
            yield [], [np.zeros(0, np.int64)] * len(forms)


    def _part(self, axes: Sequence[Expr], ranges: Sequence[range], forms: Sequence[Form]) -> list[np.ndarray]:
        """The part of each form that these axes give where the conditions hold, for some values of the axes."""
        shape = [len(r) for r in ranges]
        memo = {a: np.arange(r.start, r.stop, dtype=np.int64).reshape([-1 if k == d else 1 for d in range(len(axes))])
                for k, (a, r) in enumerate(zip(axes, ranges, strict=True))}
        here = set(axes)
        inside: np.ndarray | None = None
        for c in self.kept:
            if c.axes and c.axes <= here:
                holds = evaluate(c, memo)
                inside = holds if inside is None else inside & holds
        if inside is not None:
            inside = np.broadcast_to(inside, shape)
        values = []
        for form in forms:
            total: np.ndarray | int = 0
            for a, k in form.items():
                if a is not None and a.axes and a.axes <= here:
                    total = total + evaluate(a, memo).astype(np.int64) * k
            full = np.broadcast_to(total, shape)
            values.append((full if inside is None else full[inside]).ravel())
        return values


class TooMany(Exception):
    """There are more points than are looked at."""


def _together(sets: Sequence[frozenset[Expr]]) -> list[list[Expr]]:
    """Axes that share a set, directly or by others."""
    groups: list[set[Expr]] = []
    for s in sets:
        if s:
            joined = set(s)
            rest = []
            for g in groups:
                if g & joined:
                    joined |= g
                else:
                    rest.append(g)
            groups = [*rest, joined]
    return [sorted(g, key=lambda a: a.attr[2]) for g in groups]


def evaluate(e: Expr, memo: dict[Expr, np.ndarray]) -> np.ndarray:
    """An expression without loads on arrays that `memo` has for its axes."""
    with np.errstate(all="ignore"):
        for x in inside_out(e, memo):
            if x.op == "const":
                memo[x] = np.array(x.attr, x.dtype.np)
            elif x.op in ("floordiv", "mod") and x.args[1].op == "const" and x.args[1].attr > 0:
                of = memo[x.args[0]]
                memo[x] = of // x.args[1].attr if x.op == "floordiv" else of % x.args[1].attr
            else:
                memo[x] = np.asarray(operation(x, [memo[a] for a in x.args]))
    return memo[e]


def form_of(e: Expr) -> Form:
    """An integer expression as a sum. (int64: places are far from where they would wrap.)"""
    out: Form = {None: 0}
    stack = [(e, 1)]
    while stack:
        x, k = stack.pop()
        if not x.axes:
            out[None] += k * int(evaluate(x, {}))
        elif x.dtype is not dtypes.int64:
            out[x] = out.get(x, 0) + k
        elif x.op == "add":
            stack += (x.args[0], k), (x.args[1], k)
        elif x.op == "sub":
            stack += (x.args[0], k), (x.args[1], -k)
        elif x.op == "mul" and x.args[1].op == "const":
            stack.append((x.args[0], k * x.args[1].attr))
        elif x.op == "mul" and x.args[0].op == "const":
            stack.append((x.args[1], k * x.args[0].attr))
        else:
            out[x] = out.get(x, 0) + k
    return {a: k for a, k in out.items() if k or a is None}
