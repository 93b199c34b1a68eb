"""Contractions compute only what is kept: slice(contract(a, b)) becomes contract(slice(a), slice(b)).

The data gradient of a padded convolution is the full one and a slice of it; the cut moves through the window into the
padding, which then becomes smaller.
"""

from __future__ import annotations

from collections import defaultdict

from dlc.ir import build as B
from dlc.ir.graph import Graph, Node, make, rewrite
from dlc.ir.ops import split_spec
from dlc.passes.vjp import map_bodies


def trim_contractions(graph: Graph) -> Graph:
    """`graph` with every slice that is a contraction's only use, of single steps, moved to the operands."""
    outputs = map_bodies(graph.outputs, trim_contractions)
    graph = Graph(graph.params, outputs, graph.name)
    users: dict[Node, set[Node | None]] = defaultdict(set)
    for o in graph.outputs:
        users[o].add(None)
    for n in graph.nodes():
        for i in n.inputs:
            users[i].add(n)

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "slice" or node.inputs[0].op != "contract" or users[node.inputs[0]] != {node}:
            return None
        x, at = ins[0], node.attrs
        if x.op != "contract" or any(s != 1 for s in at["step"]) or not node.type.size:
            return None
        *specs, out = split_spec(x.attrs["spec"])
        operands = list(x.inputs)
        for label, start, stop, size in zip(out, at["start"], at["stop"], x.shape, strict=True):
            if (start, stop) == (0, size):
                continue
            for k, own in enumerate(specs):
                if label in own:
                    operands[k] = cut(operands[k], own.index(label), start, stop)
        return make("contract", operands, x.loc, **x.attrs)

    return rewrite(graph, rule)


def cut(x: Node, axis: int, start: int, stop: int) -> Node:
    """Positions start .. stop - 1 of an axis, taken as far inside as they can be."""
    at = x.attrs
    if x.op == "window":
        inner = x.inputs[0]
        if axis >= inner.ndim:
            return _slice(x, axis, start, stop)
        low, high = start, stop
        if axis in at["axes"]:
            k = at["axes"].index(axis)
            low = start * at["strides"][k]
            high = (stop - 1) * at["strides"][k] + (at["sizes"][k] - 1) * at["dilations"][k] + 1
        return make("window", (cut(inner, axis, low, high),), x.loc, **at)
    if x.op == "pad":
        low, high = list(at["low"]), list(at["high"])
        low[axis] -= start
        high[axis] -= x.shape[axis] - stop
        if low[axis] >= 0 and high[axis] >= 0:
            return B.pad(x.inputs[0], low, high, at["interior"], at["value"], x.loc)
    if x.op == "cast":
        return B.cast(cut(x.inputs[0], axis, start, stop), x.dtype, x.loc)
    if x.op == "flip":
        if axis in at["axes"]:
            start, stop = x.shape[axis] - stop, x.shape[axis] - start
        return make("flip", (cut(x.inputs[0], axis, start, stop),), x.loc, **at)
    return _slice(x, axis, start, stop)


def _slice(x: Node, axis: int, start: int, stop: int) -> Node:
    low, high = [0] * x.ndim, list(x.shape)
    low[axis], high[axis] = start, stop
    return B.slice_(x, low, high, None, x.loc)
