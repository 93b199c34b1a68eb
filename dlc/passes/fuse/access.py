"""Which memory the units of a group read and write, and along which axes they walk it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import coefficient, simplify, unflatten
from dlc.ir.loops.ir import Expr
from dlc.ir.scalar import SCALAR_OPS
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization


class Grouped(Protocol):
    """A group in its fusion: what is known of one before, and while, it is lowered."""

    @property
    def fused(self) -> Fused: ...

    @property
    def group(self) -> Group: ...


class GroupScope(NamedTuple):
    """A group in its fusion."""

    fused: Fused
    group: Group


Place = tuple[Expr, int]  # where a loop stands, and the extent of the whole axis that it walks


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


def offsets(body: Grouped, unit: Realization, mapping: dict[Expr, Expr]) -> list[Expr]:
    """Every global offset and predicate of a unit, its axes replaced."""
    out = []
    memo = dict(mapping)
    for e, (node, _) in unit.loads.items():
        if body.group.member(node) is None:
            out.extend(simplify(traverse.map_expr(a, lambda *_: None, memo)) for a in e.args)
    return out + _writes(body, unit, mapping)


def _writes(body: Grouped, unit: Realization, mapping: dict[Expr, Expr]) -> list[Expr]:
    """The offset at which a map stores its result, if it does."""
    if unit.kind != "map" or unit.node not in body.fused.stored:
        return []
    memo = dict(mapping)
    index = tuple(traverse.map_expr(i, lambda *_: None, memo) for i in unit.index)
    return [simplify(body.fused.table.elements.offset(unit.node, index))]


def divides(e: Expr, axis: Expr) -> bool:
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


def merge_axes(body: Grouped, units: Sequence[Realization], own: dict[Realization, tuple[Expr, ...]],
               extents: tuple[int, ...], fixed: dict[Realization, dict[Expr, Expr]]) -> tuple[int, ...]:
    """Extents of the loops over axes `own[u]` after merging neighbours wherever no offset then needs a division."""
    parts = list(extents)
    k = len(parts) - 1
    while k > 0:
        trial = [*parts[: k - 1], parts[k - 1] * parts[k], *parts[k + 1 :]]
        if _affine(body, units, own, trial, fixed):
            parts = trial
        k -= 1
    return tuple(parts)


def _affine(body: Grouped, units: Sequence[Realization], own: dict[Realization, tuple[Expr, ...]], parts: list[int],
            fixed: dict[Realization, dict[Expr, Expr]]) -> bool:
    axes = [loops.axis("q", p) for p in parts]
    places = list(zip(axes, parts, strict=True))
    for u in units:
        mapping = dict(fixed[u]) | spread(own[u], places)
        for off in (*offsets(body, u, mapping), *_through_members(body, u, mapping, units)):
            if any(divides(off, a) for a in axes):
                return False
    return True


def _through_members(body: Grouped, unit: Realization, mapping: dict[Expr, Expr],
                     here: Sequence[Realization]) -> list[Expr]:
    """The predicates with which a unit reads members of its group, and the offsets of those that are neither computed
    `here` nor stored: they are computed once more where they are read."""
    out: list[Expr] = []
    memo = dict(mapping)
    for e, (node, index) in unit.loads.items():
        member = body.group.member(node)
        if member is None:
            continue
        out += (simplify(traverse.map_expr(a, lambda *_: None, memo)) for a in e.args[1:])
        if member.kind == "map" and member not in here and node not in body.fused.stored:
            at = {i: traverse.map_expr(x, lambda *_: None, memo)
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


def product_of(values: Iterable[int]) -> int:
    out = 1
    for v in values:
        out *= v
    return out


def contiguous(body: Grouped, units: Sequence[Realization], mappings: dict[Realization, dict[Expr, Expr]], axis: Expr,
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
                size = min(u.size, product_of(a.attr[1] for a in off.axes)) if once else u.size
                score += size if k in (1, -1) else -size
    return score


def map_extents(fused: Fused, group: Group) -> tuple[int, ...]:
    """The loop extents of a map group after merging axes. Schedules and lowering ask for them."""
    if group.merged is None:
        first = group.units[0]
        group.merged = merge_axes(GroupScope(fused, group), group.units, {u: u.axes for u in group.units},
                                  tuple(a.attr[1] for a in first.axes), {u: {} for u in group.units})
    return group.merged


def transposed_axis(fused: Fused, group: Group, extents: tuple[int, ...]) -> int | None:
    """The axis, other than the last, along which most memory is read with stride 1, if reads along the last are
    strided: the kernel then wants a register transpose."""
    if len(extents) < 2:
        return None
    body = GroupScope(fused, group)
    axes = [loops.axis("q", e) for e in extents]
    places = list(zip(axes, extents, strict=True))
    strided: dict[int, int] = {}
    for u in group.units:
        mapping = spread(u.axes, places)
        for off, step in [*(r[1:] for r in reads(body, u, mapping)), *((o, 1) for o in _writes(body, u, mapping))]:
            if coefficient(off, axes[-1]) in (0, step):
                continue
            for k in range(len(axes) - 1):
                if coefficient(off, axes[k]) == step:
                    strided[k] = strided.get(k, 0) + 1
    return max(strided, key=lambda k: strided[k]) if strided else None


def reads(body: Grouped, unit: Realization, mapping: dict[Expr, Expr]) -> list[tuple[Expr, Expr, int]]:
    """What a unit reads from memory outside its group: the expression, its offset with the unit's axes replaced, and
    its width in elements: neighbours that are paired are read together."""
    memo = dict(mapping)

    def offset(load: Expr) -> Expr:
        return simplify(traverse.map_expr(load.args[0], lambda *_: None, memo))

    words: dict[Expr, tuple[Expr, Expr]] = {}  # load -> (the pair that it is half of, the load of its low half)
    for e in traverse.subexpressions(*unit.values):
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


def inner_axes(group: Group, u: Realization) -> tuple[Expr, ...]:
    """The axes of u's domain inside one row."""
    return tuple(a for a in u.axes if a not in group.row_axes[u])


def extents_of(axes: Sequence[Expr]) -> tuple[int, ...]:
    return tuple(a.attr[1] for a in axes)


def levels(group: Group) -> dict[Realization, int]:
    """When each unit can be computed: after the reductions of its row that it needs, with its producers otherwise."""
    out: dict[Realization, int] = {}
    for u in group.units:
        level = 0
        inner = inner_axes(group, u)
        for node, index in u.loads.values():
            m = group.member(node)
            if m is None:
                continue
            same = m.kind == "map" and _same_place(group, inner, m, index)
            level = max(level, out[m] + (0 if same else 1))
        out[u] = level
    return out


def _same_place(group: Group, inner: tuple[Expr, ...], m: Realization, index: Sequence[Expr]) -> bool:
    """Is map m read at the very inner position that its reader is computed at?"""
    at = {a: i for a, i in zip(m.index, index, strict=True) if a.op == "axis"}
    return tuple(at[a] for a in inner_axes(group, m)) == inner


def best_vector_axis(fused: Fused, group: Group) -> tuple[bool, int]:
    """(True, k): vectors across row axis k read and write contiguously; (False, 0): along the inner axes."""
    body = GroupScope(fused, group)
    probes = {u: dict.fromkeys(()) for u in group.units}
    rows = [loops.axis("q", e) for e in group.rows or ()]
    for u in group.units:
        probes[u] = dict(zip(group.row_axes[u], rows, strict=True))
    best, best_score = (False, 0), _inner_score(body, group, probes)
    for k, q in enumerate(rows):
        score = contiguous(body, group.units, probes, q, once=True)
        if score > best_score:
            best, best_score = (True, k), score
    return best


def _inner_score(body: Grouped, group: Group, probes: dict[Realization, dict[Expr, Expr]]) -> int:
    score = 0
    for u in group.units:
        inner = inner_axes(group, u)
        if inner:
            score += contiguous(body, [u], probes, inner[-1], once=True)
    return score
