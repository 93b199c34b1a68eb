"""What the compile driver returns: something that runs a graph on Buffers."""

from __future__ import annotations

from dlc.ir.graph import Graph
from dlc.runtime.memory import Buffer, allocate, as_ndarray


class Executable:
    """Runs one graph by the reference interpreter."""

    def __init__(self, graph: Graph, donate: tuple[tuple[int, int], ...] = ()):
        self.graph = graph
        self.into = {output: param for param, output in donate}

    def run(self, buffers: list[Buffer]) -> list[Buffer]:
        """One Buffer for each parameter in, one for each output out; a donated output is its parameter's own Buffer."""
        from dlc.ir.graph_interp import evaluate

        params = [as_ndarray(b, p.shape, p.dtype.np).copy() for b, p in zip(buffers, self.graph.params, strict=True)]
        out = []
        for k, (value, node) in enumerate(zip(evaluate(self.graph, params), self.graph.outputs, strict=True)):
            buffer = buffers[self.into[k]] if k in self.into else allocate(node.type.nbytes)
            as_ndarray(buffer, node.shape, node.dtype.np)[...] = value
            out.append(buffer)
        return out
