"""The compile driver: from a Graph to an Executable."""

from __future__ import annotations

from dlc.ir.graph import Graph
from dlc.runtime.executable import Executable


def compile_graph(graph: Graph, donate: tuple[tuple[int, int], ...] = (), name: str = "main") -> Executable:
    """Compile `graph`. `donate` pairs (parameter, output) say which outputs are written into which parameter's buffer."""
    return Executable(expand_derivatives(graph), donate)


def expand_derivatives(graph: Graph) -> Graph:
    if any(node.op == "vjp" for node in graph.nodes()):
        from dlc.passes.vjp import expand

        return expand(graph)
    return graph
