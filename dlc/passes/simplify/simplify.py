"""Algebraic simplification: one walk over the graph, with rules looked up by operation.

A rule takes a node whose inputs are simplified and gives an equal node, or None. Its result is looked at again, a few
times at most, so the walk stays linear. Constants are uniform fills, so folding costs one scalar evaluation whatever
the shape. No rule loses a NaN, an infinity or the sign of a zero: x * 0 and x + 0 stay for floats, x * 1 and x - 0 go.

The rules live beside this file: `simplify_scalars` (elementwise), `simplify_views` (views, reductions, contractions),
`simplify_sums` (sums of products), `simplify_windows` (convolution gradients, pooling) and `simplify_empty` (tensors
without elements).
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.ir.graph.graph import Graph, Node, located, map_bodies, remade, topological
from dlc.passes.simplify.empty import empty
from dlc.passes.simplify.prune import prune_scans
from dlc.passes.simplify.scalars import SCALAR_RULES
from dlc.passes.simplify.sums import SUM_RULES
from dlc.passes.simplify.views import VIEW_RULES
from dlc.passes.simplify.windows import WINDOW_RULES

Rule = Callable[[Node], Node | None]

_AGAIN = 8  # how often the result of a rule is looked at again

RULES: dict[str, tuple[Rule, ...]] = {
    op: (*SCALAR_RULES.get(op, ()), *VIEW_RULES.get(op, ()), *SUM_RULES.get(op, ()), *WINDOW_RULES.get(op, ()))
    for op in SCALAR_RULES.keys() | VIEW_RULES.keys() | WINDOW_RULES.keys()
}


def simplify(graph: Graph) -> Graph:
    """An equal graph with less to do, loop bodies included."""
    graph = map_bodies(prune_scans(graph), simplify)
    graph = prune_scans(graph)  # what simple bodies have twice
    done: dict[Node, Node] = {}  # every node seen or made here -> its simplest form
    for node in graph.nodes():
        _settle(node, done)
    return graph.with_outputs([done[o] for o in graph.outputs])


def _settle(root: Node, done: dict[Node, Node], depth: int = _AGAIN) -> Node:
    """The simplest form of `root`; what its rules make is settled too, operands first."""
    for node in topological([root], stop=lambda n: n in done):
        if node in done:
            continue
        now = remade(node, [done[i] for i in node.inputs])
        if now not in done:
            done[now] = now  # while its rules run: what they give may contain it
            with located(node.loc):
                new = _apply(now)
                if new is not None:
                    done[now] = _settle(new, done, depth - 1) if depth else new
        done[node] = done[now]
    return done[root]


def _apply(node: Node) -> Node | None:
    for rule in (empty, *RULES.get(node.op, ())):
        new = rule(node)
        if new is not None and new is not node:
            return new
    return None
