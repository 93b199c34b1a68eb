"""When two groups become the same kernel: a key that is equal for groups that differ only in which tensors they use.

The layers of a model repeat, and lowering a group costs more than comparing it. The key holds everything that schedules
and lowering look at: operations, types, the index and value expressions of the units (axes and buffers numbered in
the order in which they are met), which results go to memory, and the rows of the group.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from dlc.ir.graph.graph import Graph, Node
from dlc.ir.loops.ir import Buffer, Expr
from dlc.ir.loops.key import Numbering
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization


def group_key(fused: Fused, group: Group) -> tuple[Hashable, list[Node]]:
    """The key of a group, and the nodes whose memory it may use, in an order that equal groups share."""
    walk = _Walk(fused)
    units = tuple(walk.unit(u, group) for u in group.units)
    # by the numbers that the walk gave, so after it
    key = (group.kind, group.rows, units, tuple(walk.rows), tuple(map(walk.memory, walk.nodes)))
    return key, walk.nodes


class _Walk(Numbering):
    def __init__(self, fused: Fused):
        super().__init__()
        self.fused = fused
        self.nodes: list[Node] = []
        self._node_numbers: dict[Node, int] = {}
        self._buffers: dict[Buffer, int] = {}

    def buffer(self, b: Buffer) -> Hashable:
        # the values that the bodies of an attention are functions of are no memory
        return self._buffers[b] if b.space == "global" else b.name

    def node(self, n: Node) -> int:
        k = self._node_numbers.get(n)
        if k is None:
            k = self._node_numbers[n] = len(self.nodes)
            self.nodes.append(n)
            buffer = self.fused.table.buffers.get(n)
            if buffer is not None:
                self._buffers[buffer] = k
        return k

    def memory(self, n: Node) -> Hashable:
        table = self.fused.table
        return n.type, n in table.buffers, n in self.fused.stored, table.layout.get(n), n.op == "param"

    def unit(self, u: Realization, group: Group) -> Hashable:
        self.node(u.node)
        for node, _ in u.loads.values():
            self.node(node)
        loads = tuple((self.expr(e), self.node(n), self.exprs(index)) for e, (n, index) in u.loads.items())
        base = (self.exprs(u.base[0]), self.expr(u.base[1])) if u.base else ()
        inputs = tuple(i.type for i in u.node.inputs)
        results = tuple((k, self.node(n)) for k, n in sorted(self.fused.table.items(u.node).items()))
        rows = self.exprs(group.row_axes[u]) if u in group.row_axes else None
        return (u.kind, u.node.op, _plain(u.node.attrs), u.node.type, inputs, results, u.labels, u.extents,
                self.node(u.node), self.exprs(u.index), self.exprs(u.values), loads, base, rows)

    def exprs(self, found: Iterable[Expr]) -> tuple[int, ...]:
        return tuple(map(self.expr, found))


def _plain(value: Any) -> Hashable:
    """Attributes as something that compares: 1, 1.0 and True are different. Graphs (the bodies of an attention) are
    left out: what they compute is among the unit's values."""
    if isinstance(value, dict):
        return tuple((k, _plain(v)) for k, v in sorted(value.items())
                     if k != "uid" and not isinstance(v, Graph))  # a uid only tells nodes apart
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return type(value), repr(value) if isinstance(value, float) else value
