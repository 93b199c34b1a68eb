"""Which parts of a graph run better block by block: regions around contractions whose results outgrow their operands.

A *wide* tensor is the result of a contraction that is larger than its operands together and than the cache, or is
computed from such a result element by element. A region holds the wide tensors, the reductions and contractions that
make them small again, and what leads from these back to wide tensors (a row's maximum that is subtracted): for
attention everything from the scores to the output, and from the output's gradient to those of query, key and value.

Axes of the members that must have equal extents and positions form classes. A class that every member has an axis of is
a loop whose iterations are independent (batch, heads). Another one that no reduction uses up is the class of rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dlc.ir.graph.graph import Graph, Node, TensorType
from dlc.ir.graph.ops import split_spec
from dlc.ir.graph.table import OPS

Labels = tuple[int, ...]  # the class of each axis of a node; -1: none

_SAME = frozenset({"barrier", "stop_gradient", "tag"})
_MOVES = frozenset({"permute", "reshape", "broadcast"})


@dataclass(eq=False)
class BlockRegion:
    """Members with the classes of their axes. `again` are wide tensors of earlier regions that are computed anew."""

    members: list[Node]
    again: list[Node] = field(default_factory=list)
    labels: dict[Node, Labels] = field(default_factory=dict)
    loops: tuple[int, ...] = ()  # the classes of the independent loops
    rows: int = -1  # the class that may be cut in blocks
    wide: frozenset[int] = frozenset()  # the other classes of the wide tensors
    sizes: dict[int, int] = field(default_factory=dict)  # the extent of each class
    exits: list[Node] = field(default_factory=list)  # members that something outside needs


def is_elementwise(n: Node) -> bool:
    """An operation, or a copy, whose elements each come from the same place of its operands."""
    return n.op in _SAME or (n.op != "param" and OPS[n.op].elementwise)


def _transparent(n: Node) -> bool:
    return is_elementwise(n) or n.op in _MOVES


def find_regions(graph: Graph, least: int, enough: int) -> list[BlockRegion]:
    """The regions of a graph that keep wide tensors from memory, operands before users. `least` is the size in bytes
    from which a result is wide, `enough` how many independent iterations a region needs."""
    nodes = [n for n in graph.nodes() if isinstance(n.type, TensorType)]
    members, wide = _members(nodes, least)
    if not wide:
        return []
    level = _levels(graph.nodes(), members)
    found = [BlockRegion(part) for part in _components(nodes, members, wide, level)]
    home = {n: r for r in found for n in r.members}
    users: dict[Node, list[Node]] = defaultdict(list)
    for n in graph.nodes():
        for i in n.inputs:
            users[i].append(n)
    good: list[BlockRegion] = []
    for region in sorted(found, key=lambda r: level[r.members[0]]):
        floor = min(wide[i] for n in region.members for i in (n, *n.inputs) if i in wide)
        region.again = _needed_again(region, home, good, floor)
        if _label(region) and math.prod(region.sizes[c] for c in region.loops) >= enough:
            good.append(region)
    for region in good:
        inside = set(region.members)
        outputs = set(graph.outputs)
        narrow = {n for r in good if r is not region for m in (*r.members, *r.again) for n in _entries(m, r, home)}
        region.exits = [n for n in region.members
                        if n in outputs or n in narrow or any(u not in home for u in users[n])
                        or any(u not in inside and home[u] not in good for u in users[n] if u in home)]
    return [r for r in good if r.exits and not any(map(_outgrows, r.exits))]


def _outgrows(n: Node) -> bool:
    return n.op == "contract" and n.dtype.is_float and n.type.size > sum(i.type.size for i in n.inputs)


def _members(nodes: Sequence[Node], least: int) -> tuple[set[Node], dict[Node, int]]:
    """All nodes that belong to regions, and the wide ones with the size of the contraction's result behind them."""
    users: dict[Node, list[Node]] = defaultdict(list)
    wide: dict[Node, int] = {}
    narrow: set[Node] = set()
    led: set[Node] = set()  # what can be computed element by element from a reduction of wide tensors
    for n in nodes:
        for i in n.inputs:
            users[i].append(n)
        size = min((wide[i] for i in n.inputs if i in wide), default=0)
        if _outgrows(n) and n.type.nbytes >= least:
            wide[n] = n.type.size
        elif size and _transparent(n) and n.type.size == size:
            wide[n] = size
        elif size and (n.op == "contract" or (n.op == "reduce" and not n.attrs["monoid"].startswith("arg"))):
            narrow.add(n)
            if n.op == "reduce":
                led.add(n)
        elif n.inputs and _transparent(n) and any(i in led for i in n.inputs):
            led.add(n)
    back: set[Node] = set()
    for n in reversed(nodes):
        if n in led and n not in wide and any(u in wide or u in back for u in users[n]):
            back.add(n)
    return wide.keys() | narrow | back, wide


def _levels(nodes: Sequence[Node], members: set[Node]) -> dict[Node, int]:
    """How often a path to each node leaves the members: members of one level that are connected have no path between
    them outside."""
    level: dict[Node, int] = {}
    for n in nodes:
        level[n] = max((level[i] + (i in members and n not in members) for i in n.inputs), default=0)
    return level


def _components(nodes: Sequence[Node], members: set[Node], wide: dict[Node, int],
                level: dict[Node, int]) -> list[list[Node]]:
    """Members of one level that are connected, or that read from the same part of an earlier level (the gradients of
    values and of scores)."""
    parent = {n: n for n in members}

    def root(n: Node) -> Node:
        while parent[n] is not n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for n in members:
        for i in n.inputs:
            if i in members and level[i] == level[n]:
                parent[root(i)] = root(n)
    readers: dict[tuple[Node, int], Node] = {}
    for n in nodes:
        for i in n.inputs:
            if n in members and i in members and level[i] < level[n]:
                parent[root(n)] = root(readers.setdefault((root(i), level[n]), n))
    parts: dict[Node, list[Node]] = {}
    for n in nodes:
        if n in members:
            parts.setdefault(root(n), []).append(n)
    return [part for part in parts.values() if any(i in wide for n in part for i in (n, *n.inputs))]


def _needed_again(region: BlockRegion, home: dict[Node, BlockRegion], good: Sequence[BlockRegion],
                  floor: int) -> list[Node]:
    """The wide tensors of earlier regions that the members are computed from, operands first."""
    seen: set[Node] = set()
    stack = list(region.members)
    while stack:
        for i in stack.pop().inputs:
            other = home.get(i)
            if i not in seen and other is not None and other is not region and other in good and i.type.size >= floor:
                seen.add(i)
                stack.append(i)
    return [n for r in good for n in (*r.again, *r.members) if n in seen and not seen.discard(n)]


def _entries(member: Node, region: BlockRegion, home: dict[Node, BlockRegion]) -> Iterable[Node]:
    """The members of other regions that `region` reads for `member`, beneath views of them."""
    own = {*region.members, *region.again}
    for i in member.inputs:
        while i not in own and i in home and i.op in _MOVES:
            i = i.inputs[0]
        if i not in own and i in home:
            yield i


# --------------------------------------------------------------------------------------------------------- labels


def same_axes(n: Node, operand: int) -> list[tuple[int, int]]:
    """(axis of the operand, axis of n) pairs that stand for the same positions."""
    x = n.inputs[operand]
    if is_elementwise(n):
        return [(k, k) for k in range(n.ndim)]
    if n.op == "permute":
        return [(a, k) for k, a in enumerate(n.attrs["axes"])]
    if n.op == "broadcast":
        return [(k, a) for k, a in enumerate(n.attrs["axes"]) if x.shape[k] == n.shape[a]]
    if n.op == "reshape":
        return reshaped_axes(x.shape, n.shape)
    if n.op == "reduce":
        kept = [a for a in range(x.ndim) if a not in n.attrs["axes"]]
        return [(a, k) for k, a in enumerate(kept)]
    if n.op == "contract":
        *specs, out = split_spec(n.attrs["spec"])
        return [(k, out.index(c)) for k, c in enumerate(specs[operand]) if c in out]
    return []


def reshaped_axes(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int]]:
    """The axes that a reshape leaves as they are."""
    pairs, i, j, before, after = [], 0, 0, 1, 1
    while i < len(old) and j < len(new):
        if old[i] == 1:
            i += 1
        elif new[j] == 1:
            j += 1
        else:
            if before == after and old[i] == new[j]:
                pairs.append((i, j))
            if before * old[i] <= after * new[j]:
                before, i = before * old[i], i + 1
                if before == after * new[j]:
                    after, j = after * new[j], j + 1
            else:
                after, j = after * new[j], j + 1
    return pairs


def _label(region: BlockRegion) -> bool:
    """Find the classes of the region's axes, its loops and its rows; False if there are no loops."""
    nodes = [*region.again, *region.members]
    inside = set(nodes)
    parent: dict[tuple[Node, int], tuple[Node, int]] = {(n, k): (n, k) for n in nodes for k in range(n.ndim)}

    def root(x: tuple[Node, int]) -> tuple[Node, int]:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for n in nodes:
        for k, i in enumerate(n.inputs):
            if i in inside:
                for a, b in same_axes(n, k):
                    parent[root((i, a))] = root((n, b))
        if n.op == "contract" and all(i in inside for i in n.inputs):
            a, b, _ = split_spec(n.attrs["spec"])
            for x in set(a) & set(b):
                parent[root((n.inputs[0], a.index(x)))] = root((n.inputs[1], b.index(x)))
    numbers: dict[tuple[Node, int], int] = {}
    for n in nodes:
        region.labels[n] = tuple(numbers.setdefault(root((n, k)), len(numbers)) if n.shape[k] != 1 else -1
                                 for k in range(n.ndim))
        region.sizes.update((c, d) for c, d in zip(region.labels[n], n.shape, strict=True) if c >= 0)
    if any(len({c for c in x if c >= 0}) < sum(c >= 0 for c in x) for x in region.labels.values()):
        return False  # one tensor has two axes of one class: a diagonal
    everywhere = set(region.sizes)
    for n in nodes:
        everywhere &= set(region.labels[n])
    first = next((n for n in nodes if _outgrows(n)), None)
    if first is None:  # it reads wide tensors that stay in memory
        return False
    a, b, out = split_spec(first.attrs["spec"])
    batch = {c for c, x in zip(region.labels[first], out, strict=True) if x in a and x in b}
    region.loops = tuple(c for c in region.labels[first] if c in everywhere & batch)
    wide = {c for n in nodes if _outgrows(n) for c in region.labels[n] if c >= 0} - set(region.loops)
    region.rows = next((c for c in region.labels[first] if c in wide and _can_be_cut(region, nodes, c)), -1)
    region.wide = frozenset(wide - {region.rows})
    return bool(region.loops)


def _can_be_cut(region: BlockRegion, nodes: Sequence[Node], rows: int) -> bool:
    """Is every member computed by blocks of the class alone, or a sum over it that no member reads?"""
    read = {i for n in nodes for i in n.inputs}
    for n in nodes:
        if rows in region.labels[n]:
            continue
        adds_up = n.op == "contract" or (n.op == "reduce" and n.attrs["monoid"] == "sum")
        if not adds_up or n in read or not any(rows in region.labels.get(i, ()) for i in n.inputs):
            return False
    return True
