"""Groups of maps that become one: a second look after `fuse`, which puts a unit into one group of those it reads.

Gates that are computed apart and meet in a state, copies of what a kernel reads anyway: on a GPU each of them is a
launch, and inside a loop it is one in every step.
"""

from __future__ import annotations

from dlc.ir.loops.index import flatten
from dlc.passes.fuse.fuse import (
    LONGEST,
    Fused,
    Group,
    extents_of,
    hits_of,
    in_order_of,
    reached_of,
    shared_loads,
    stored_nodes,
)
from dlc.passes.fuse.unit import Realization

SMALL = 1 << 17  # elements: a launch costs more than computing so many


def merge_maps(fused: Fused, in_loop: bool = False) -> Fused:
    """Groups of maps over one domain as one group, where one reads the other's results or both read the same memory;
    in a loop (`in_loop`) also where they only are small."""
    groups = list(fused.groups)
    at = 0
    while at < len(groups):
        later = next((h for h in groups[at + 1 :] if _fits(groups[at], h, in_loop)), None)
        if later is None:
            at += 1
            continue
        _merge(groups, groups[at], later)
    if len(groups) == len(fused.groups):
        return fused
    return Fused(fused.graph, fused.table, in_order_of(groups), stored_nodes(fused.graph, groups))


def _fits(g: Group, h: Group, in_loop: bool) -> bool:
    """Can the later group h be computed together with g?"""
    if g.kind != "map" or h.kind != "map" or extents_of(g.units[0].axes) != extents_of(h.units[0].axes):
        return False
    if any(g in reached_of(d) for d in h.deps if d is not g):  # something between them
        return False
    hits = [(u, m, index) for u in h.units for m, index in hits_of(u, g)]
    if any(not _same_place(u, m, index) for u, m, index in hits):
        return False
    related = bool(hits) or any(shared_loads(u, m) for u in h.units for m in g.units)
    if not related and not (in_loop and g.units[0].size <= SMALL and len(g.units[0].axes) > 1):
        return False
    return max(_depths(g, h).values()) <= LONGEST


def _same_place(u: Realization, m: Realization, index: tuple) -> bool:
    return flatten(index, tuple(d for d in m.node.shape if d != 1)) is flatten(u.index, u.extents)


def _depths(g: Group, h: Group) -> dict[Realization, int]:
    """The longest chain of operations that ends in each unit, were h computed with g."""
    depth = dict(g.depth)
    for u in h.units:
        before = [depth[m] for m, _ in (*hits_of(u, g), *hits_of(u, h)) if m in depth]
        depth[u] = u.chain + max(before, default=0)
    return depth


def _merge(groups: list[Group], g: Group, h: Group) -> None:
    """Put a group with the units of both in the place of h, in `groups`."""
    both = Group("map", [*g.units, *h.units], deps=(g.deps | h.deps) - {g, h}, depth=_depths(g, h))
    groups[groups.index(h)] = both
    groups.remove(g)
    for other in groups:
        if other.deps & {g, h}:
            other.deps = (other.deps - {g, h}) | {both}
