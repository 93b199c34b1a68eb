"""Fusion: units are gathered into groups, one group a kernel.

Units are taken in order. A unit joins the group of something it reads (or of a sibling that reads the same memory)
when all it needs from that group is row-local: computed by the same row of the group's outer loop. Three kinds:

    map       units over one common domain, element by element
    rows      reductions with the same surviving axes, and maps over those axes and inner ones; inside one row the
              units run in order, so softmax, layernorm, batchnorm and cross-entropy are one group each
    contract  one contraction and the maps over its result (the epilogue)

Anything else (scatter, sort, cumulative, scan) stands alone. Joining must not create a cycle between groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dlc.ir.graph.graph import Graph, Node
from dlc.ir.loops import traverse
from dlc.ir.loops.index import flatten, simplify
from dlc.ir.loops.ir import Expr
from dlc.passes.fuse.materialize import UnitTable, cuts_runs
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.views import memory_of

SERIAL_LIMIT = 1 << 15  # elements below which a kernel may run without parallel rows
MIN_ROWS = 8  # rows needed to keep the threads busy
SCATTERED = 1 << 18  # elements of a map from which writing short runs apart costs more than another kernel
LONGEST = 240  # scalar operations one after another in a kernel: longer chains are cut into several


# (rows, elements of a unit, whether neighbouring elements are of different rows): may the rows be all the parallelism?
Enough = Callable[[int, int, bool], bool]


@dataclass(eq=False)
class Group:
    """Units computed by one kernel. `rows` are the extents of the shared outer axes (None while undetermined) and
    `row_axes[u]` the axes of u's own domain that stand for them."""

    kind: str
    units: list[Realization] = field(default_factory=list)
    rows: tuple[int, ...] | None = None
    row_axes: dict[Realization, tuple[Expr, ...]] = field(default_factory=dict)
    deps: set[Group] = field(default_factory=set)
    depth: dict[Realization, int] = field(default_factory=dict)  # longest chain of operations that ends in the unit
    merged: tuple[int, ...] | None = None  # extents of the loops over a finished group of maps (`lower.map_extents`)

    def __post_init__(self) -> None:
        self._of_node = {u.node: u for u in self.units}

    def add(self, u: Realization) -> None:
        self.units.append(u)
        self._of_node[u.node] = u

    def member(self, node: Node) -> Realization | None:
        return self._of_node.get(node)


@dataclass(eq=False)
class Fused:
    """The grouped graph: groups in execution order and, per node, whether its memory is needed outside its group."""

    graph: Graph
    table: UnitTable
    groups: list[Group]
    stored: set[Node]
    threads: int = 0  # that a kernel may use, if not all of the target's


def extents_of(axes: tuple[Expr, ...]) -> tuple[int, ...]:
    return tuple(a.attr[1] for a in axes)


def hits_of(u: Realization, g: Group) -> list[tuple[Realization, tuple[Expr, ...]]]:
    """Members of g that u reads, with the index (axes of extent 1 left out)."""
    found = []
    for node, index in u.loads.values():
        m = g.member(node)
        if m is not None:
            found.append((m, tuple(i for i, d in zip(index, node.shape, strict=True) if d != 1)))
    return found


def shared_loads(u: Realization, m: Realization) -> bool:
    """Do two units over equal domains read some big memory at the same place?"""
    if extents_of(u.axes) != extents_of(m.axes):
        return False
    as_u: dict[Expr, Expr] = dict(zip(m.axes, u.axes, strict=True))
    places: dict[Node, list[Expr]] = {}
    for node, index in u.loads.values():
        if node.type.size * 2 > u.size:
            places.setdefault(node, []).append(flatten(index, node.shape))
    return any(
        simplify(traverse.map_expr(flatten(index, node.shape), lambda *_: None, as_u)) in places[node]
        for node, index in m.loads.values() if node in places
    )


def _fit_map(u: Realization, g: Group) -> bool:
    """Can u join a group of plain maps (as a map)?"""
    first = g.units[0]
    if extents_of(u.axes) != extents_of(first.axes):
        return False
    hits = hits_of(u, g)
    here = flatten(u.index, u.extents)
    if any(flatten(index, tuple(d for d in m.node.shape if d != 1)) is not here for m, index in hits):
        return False
    return bool(hits) or any(shared_loads(u, m) for m in g.units) or u.size <= 1


def _row_position(m: Realization, g: Group) -> list[int]:
    """Where the group's row axes stand among the result axes (extent above 1) of member m."""
    axes = m.kept if m.kind == "reduce" else m.axes
    return [axes.index(a) for a in g.row_axes[m]]


def _rows_from_hits(u: Realization, g: Group) -> tuple[Expr, ...] | None:
    """The axes of u that must be the group's rows for everything u reads from g to be row-local."""
    rows: tuple[Expr, ...] | None = None
    for m, index in hits_of(u, g):
        where = _row_position(m, g)
        got = tuple(index[k] for k in where)
        if any(i.op != "axis" or i not in u.axes for i in got) or len(set(got)) != len(got):
            return None
        if any(set(got) & i.axes for k, i in enumerate(index) if k not in where):
            return None
        if rows is not None and rows != got:
            return None
        rows = got
    return rows


def few_threads(rows: int, size: int, across: bool) -> bool:
    """`Enough` for a CPU."""
    return rows >= MIN_ROWS or size <= SERIAL_LIMIT


def _parallel_enough(rows: tuple[Expr, ...], u: Realization, enough: Enough) -> bool:
    wide = [a for a in u.axes if a.attr[1] != 1]
    return enough(math.prod(extents_of(rows)), u.size, bool(wide) and wide[-1] in rows)


def _fit_rows(u: Realization, g: Group, enough: Enough) -> tuple[Expr, ...] | None:
    """The row axes with which u joins a rows group, or None."""
    hits = hits_of(u, g)
    if hits:
        rows = _rows_from_hits(u, g)
        if rows is None or extents_of(rows) != g.rows or (u.kind == "reduce" and rows != u.kept):
            return None
        return rows if _parallel_enough(rows, u, enough) else None
    for m in g.units:
        if u.kind == m.kind == "reduce" and extents_of(u.kept) == g.rows and shared_loads(u, m):
            if [u.axes.index(a) for a in u.kept] == [m.axes.index(a) for a in m.kept]:
                return u.kept if _parallel_enough(u.kept, u, enough) else None
    return None


def _turn_to_rows(u: Realization, g: Group, enough: Enough) -> dict[Realization, tuple[Expr, ...]] | None:
    """The row axes of each member when reduction u joins a group of maps, or None."""
    if u.node.attrs["monoid"].startswith("arg") and not u.kept:
        return None
    hits = hits_of(u, g)
    if not hits or not _parallel_enough(u.kept, u, enough):
        return None
    here = flatten(u.index, u.extents)
    for m, index in hits:
        if flatten(index, tuple(d for d in m.node.shape if d != 1)) is not here:
            return None
    out = {u: u.kept}
    for m in g.units:
        if extents_of(m.axes) != extents_of(u.axes):
            return None
        out[m] = tuple(m.axes[u.axes.index(a)] for a in u.kept)
    return out


def _scattered(u: Realization, rows: tuple[Expr, ...], short: int) -> bool:
    """Would a large map that joins a group be written in pieces, since its neighbours in memory, fewer than `short`,
    stand apart in the group's order (its axes for the group's, in `rows`)?"""
    wide = [a for a in u.axes if a.attr[1] != 1]
    others = [a for a in rows if a.attr[1] != 1]
    return (u.kind == "map" and u.size >= SCATTERED and wide[-1].attr[1] < short and wide[-1] in others
            and others[-1] is not wide[-1])


def _fit_epilogue(u: Realization, g: Group, in_order: int, short: int) -> bool:
    """u maps the contraction's result element by element, and in its order if it is large?"""
    anchor = g.units[0]
    out_rank = len(anchor.node.shape)
    extents = sorted(e for e in anchor.extents[:out_rank] if e != 1)
    if u.kind != "map" or sorted(extents_of(u.axes)) != extents:
        return False
    order = None
    for m, index in hits_of(u, g):
        if any(i.op != "axis" for i in index) or len(set(index)) != len(index) or len(index) != len(u.axes):
            return False
        # the axes of the anchor that this member's result axes stand for
        own = g.row_axes[m]
        here = dict(zip(own, index, strict=True))
        if extents_of(own) != extents_of(index):  # reads a part of it, or beyond it
            return False
        if order is not None and order != here:
            return False
        order = here
    if order is None:
        return False
    # every read other than of the group must be of memory, which is checked by the hits above
    anchor_axes = [i for i in anchor.index[:out_rank] if i.op == "axis"]
    back = {axis: a for a, axis in order.items()}
    if any(a not in order for a in anchor_axes):
        return False
    if u.size >= in_order and order[anchor_axes[-1]] is not u.axes[-1]:
        return False
    if short and _scattered(u, tuple(order[a] for a in anchor_axes), short):
        return False
    g.row_axes[u] = tuple(back[a] for a in u.axes)
    return True


def reached_of(start: Group) -> set[Group]:
    """The groups that `start` depends on, and itself."""
    seen, stack = {start}, [start]
    while stack:
        new = stack.pop().deps - seen
        seen |= new
        stack += new
    return seen


class _Reach:
    """`reached_of` every group, as bits, kept up to date: a group that comes to depend on others tells those that
    depend on it, of which there are few while it is young."""

    def __init__(self) -> None:
        self._own: dict[Group, int] = {}
        self._bits: dict[Group, int] = {}
        self._users: dict[Group, list[Group]] = {}

    def add(self, g: Group) -> None:
        self._own[g] = self._bits[g] = 1 << len(self._own)
        self._users[g] = []

    def own(self, g: Group) -> int:
        """The group's own bit."""
        return self._own[g]

    def of(self, g: Group) -> int:
        """The groups that `g` depends on, and itself."""
        return self._bits[g]

    def of_all(self, groups: Sequence[Group]) -> int:
        return functools.reduce(int.__or__, map(self.of, groups), 0)

    def depend(self, g: Group, others: Sequence[Group]) -> None:
        """Let `g` depend on `others`."""
        new = [h for h in others if h not in g.deps]
        g.deps.update(new)
        for h in new:
            self._users[h].append(g)
        stack, more = [g], self.of_all(others)
        while stack:
            top = stack.pop()
            if more & ~self._bits[top]:
                self._bits[top] |= more
                stack += self._users[top]


def _join(u: Realization, g: Group, enough: Enough, in_order: int, short: int) -> bool:
    """Add u to g if it fits."""
    depth = u.chain + max([g.depth[m] for m, _ in hits_of(u, g)], default=0)
    if depth > LONGEST:
        return False
    if g.kind == "contract":
        if not _fit_epilogue(u, g, in_order, short):
            return False
    elif g.kind == "map":
        if u.kind == "map":
            if cuts_runs(u.node) or cuts_runs(g.units[0].node) or not _fit_map(u, g):
                return False
        elif u.kind == "reduce":
            rows = _turn_to_rows(u, g, enough)
            if rows is None:
                return False
            g.kind, g.rows, g.row_axes = "rows", extents_of(u.kept), rows
        else:
            return False
    elif g.kind == "rows":
        if u.kind not in ("map", "reduce"):
            return False
        axes = _fit_rows(u, g, enough)
        if axes is None or (short and _scattered(u, axes, short)):
            return False
        g.row_axes[u] = axes
    else:
        return False
    g.add(u)
    g.depth[u] = depth
    return True


def _new_group(u: Realization) -> Group:
    depth = {u: u.chain}
    if u.kind == "reduce":
        return Group("rows", [u], extents_of(u.kept), {u: u.kept}, depth=depth)
    g = Group(u.kind, [u], depth=depth)
    if u.kind == "contract":
        g.row_axes[u] = tuple(i for i in u.index[: len(u.node.shape)] if i.op == "axis")
    return g


def fuse(graph: Graph, layout: dict[Node, tuple[int, ...]] | None = None, enough: Enough = few_threads,
         in_order: int = 1 << 13, short: int = 0) -> Fused:
    """Group the units of a graph. The graph's outputs have memory of their own (`units.own_outputs`). The others are
    the target's: which units may be computed by the rows of a group alone; from which size on an epilogue must walk
    memory in the order in which the contraction's vectors run; below which length runs of memory are too short to be
    written apart by a group with another order."""
    table = UnitTable(graph, layout)
    groups: list[Group] = []
    place: dict[Group, int] = {}  # in `groups`
    home: dict[Node, Group] = {}
    reach = _Reach()
    for u in table.units:
        needs = [home[p] for p in [_producer(n) for n, _ in u.loads.values()] if p in home]
        needs = sorted(dict.fromkeys(needs), key=place.__getitem__, reverse=True)
        siblings = [g for g in reversed(groups[-24:]) if g not in needs and g.kind in ("map", "rows")]
        if u.kind in ("map", "reduce") and u.node.type.size <= 1:
            # who needs this one number is not to wait for more than the number itself does
            needs.sort(key=lambda g: -reach.of(g).bit_count())
            before = reach.of_all(needs)
            siblings = [g for g in siblings if not reach.of(g) & ~reach.own(g) & ~before]
        for g in needs + siblings:
            others = [h for h in needs if h is not g]
            if any(reach.own(g) & reach.of(h) for h in others):
                continue
            if _join(u, g, enough, in_order, short):
                reach.depend(g, others)
                home[u.node] = g
                break
        else:
            g = _new_group(u)
            place[g] = len(groups)
            groups.append(g)
            reach.add(g)
            reach.depend(g, needs)
            home[u.node] = g
    _take_in_numbers(groups, table, lambda u, g: _join(u, g, enough, in_order, short))
    return Fused(graph, table, in_order_of(groups), stored_nodes(graph, groups))


def _take_in_numbers(groups: list[Group], table: UnitTable, join: Callable[[Realization, Group], bool]) -> None:
    """A number that turns out to be used by one group alone is computed there: nobody else waits for it."""
    order = {u: k for k, u in enumerate(table.units)}
    users: dict[Group, dict[Group, None]] = {g: {} for g in groups}
    for g in groups:
        for h in g.deps:
            users[h][g] = None
    at = {g: k for k, g in enumerate(groups)}
    for g in [g for g in groups if g.kind in ("map", "rows") and all(u.node.type.size <= 1 for u in g.units)]:
        if g not in at or len(users[g]) != 1:
            continue
        goal = next(iter(users[g]))
        if goal.kind not in ("map", "rows"):
            continue
        first, *rest = sorted((*g.units, *goal.units), key=order.__getitem__)
        both = _new_group(first)
        if not all(join(u, both) for u in rest):
            continue
        both.deps.update((g.deps | goal.deps) - {g})
        at[both] = at.pop(goal)
        del at[g]
        users[both] = users.pop(goal)
        for h in users[both]:
            h.deps.remove(goal)
            h.deps.add(both)
        for h in both.deps:
            users[h].pop(g, None)
            users[h].pop(goal, None)
            users[h][both] = None
    groups[:] = sorted(at, key=at.__getitem__)


def stored_nodes(graph: Graph, groups: Sequence[Group]) -> set[Node]:
    """The nodes whose memory is needed outside the group that computes them."""
    home = {u.node: g for g in groups for u in g.units}
    stored = {memory_of(o) for o in graph.outputs}
    for g in groups:
        for u in g.units:
            stored.update(n for n, _ in u.loads.values() if n in home and home[n] is not g)
    return stored


def _producer(n: Node) -> Node:
    return n.inputs[0] if n.op == "item" else n


def in_order_of(groups: list[Group]) -> list[Group]:
    """Dependencies first; otherwise in the order of their last units, so that updates of state come late."""
    place = {g: k for k, g in enumerate(groups)}
    done: set[Group] = set()
    out: list[Group] = []

    def visit(g: Group) -> None:
        stack = [(g, iter(sorted(g.deps, key=place.__getitem__)))]
        on_path = {g}
        while stack:
            top, deps = stack[-1]
            nxt = next((d for d in deps if d not in done and d not in on_path), None)
            if nxt is None:
                stack.pop()
                done.add(top)
                out.append(top)
            else:
                on_path.add(nxt)
                stack.append((nxt, iter(sorted(nxt.deps, key=place.__getitem__))))

    for g in sorted(groups, key=lambda x: max(u.node.serial for u in x.units)):
        if g not in done:
            visit(g)
    return out
