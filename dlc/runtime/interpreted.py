"""Programs run by an interpreter instead of compiled code (`DLC_INTERPRET=1`, `dlc.debug()`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlc.ir.graph.graph import Graph
from dlc.ir.graph.interp import evaluate
from dlc.passes.autodiff.vjp import expand
from dlc.runtime import devices
from dlc.runtime.cpu.memory import Buffer


class Interpreted:
    """Runs a graph by the interpreter, the oracle for everything compiled, or by another function of the same kind:
    `evaluate(graph, arrays)` gives the outputs."""

    def __init__(self, graph: Graph, donate: tuple[tuple[int, int], ...] = (), device: str = "cpu",
                 evaluate: Callable[[Graph, list[np.ndarray]], Sequence[np.ndarray]] = evaluate):
        self.graph, self.device, self.evaluate = expand(graph), device, evaluate
        self.into = {output: param for param, output in donate}

    def run(self, buffers: list[Buffer]) -> list[Buffer]:
        """One Buffer for each parameter in, one for each output out."""
        params = [devices.read(b, p.shape, p.dtype.np).copy() for b, p in zip(buffers, self.graph.params, strict=True)]
        out = []
        for k, (value, node) in enumerate(zip(self.evaluate(self.graph, params), self.graph.outputs, strict=True)):
            buffer = buffers[self.into[k]] if k in self.into else devices.allocate(node.type.nbytes, self.device)
            devices.write(buffer, np.asarray(value, node.dtype.np).reshape(node.shape))
            out.append(buffer)
        return out
