"""Nodes that only differentiation needed go away."""

from __future__ import annotations

from dlc.ir.graph.graph import Graph, Node, inline, make, map_bodies, remade
from dlc.ir.graph.ops import CALL_RULES


def remove_markers(graph: Graph) -> Graph:
    """`graph` without checkpoint, tag and stop_gradient nodes and the derivatives of calls, in bodies too. Barriers
    stay until fusion."""
    graph = map_bodies(graph, remove_markers)
    done: dict[Node, Node | list[Node]] = {}
    for node in graph.nodes():
        ins = [done[i] for i in node.inputs]
        if node.op in ("tag", "stop_gradient"):
            done[node] = ins[0]
        elif node.op == "checkpoint":
            done[node] = inline(node.attrs["body"], ins)
        elif node.op == "item" and isinstance(ins[0], list):
            done[node] = ins[0][node.attrs["index"]]
        elif node.op == "call":
            kept = {k: v for k, v in node.attrs.items() if k not in CALL_RULES}
            done[node] = make("call", ins, node.loc, **kept)
        else:
            done[node] = remade(node, ins)
    return graph.with_outputs([done[o] for o in graph.outputs])
