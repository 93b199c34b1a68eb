"""Removes the markers that have done their work once derivatives are expanded: checkpoint, tag, stop_gradient."""

from __future__ import annotations

from dlc.ir.graph import Graph, Node, inline, make
from dlc.passes.vjp import map_bodies


def remove_markers(graph: Graph) -> Graph:
    """`graph` without checkpoint, tag and stop_gradient nodes, in bodies too. Barriers stay until fusion."""
    outputs = map_bodies(graph.outputs, remove_markers)
    done: dict[Node, Node | list[Node]] = {}
    for node in Graph(graph.params, outputs).nodes():
        ins = [done[i] for i in node.inputs]
        if node.op in ("tag", "stop_gradient"):
            done[node] = ins[0]
        elif node.op == "checkpoint":
            done[node] = inline(node.attrs["body"], ins)
        elif node.op == "item" and isinstance(ins[0], list):
            done[node] = ins[0][node.attrs["index"]]
        else:
            same = all(a is b for a, b in zip(ins, node.inputs, strict=True))
            done[node] = node if same else make(node.op, ins, node.loc, **node.attrs)
    return Graph(graph.params, [done[o] for o in outputs], graph.name)
