"""Contractions compute only what is kept: slice(contract(a, b)) becomes contract(slice(a), slice(b)), and where there
are several slices, the range that has them all is computed.

The data gradient of a padded convolution is the full one and a slice of it; the cut moves through the window into the
padding, which then becomes smaller.
"""

from __future__ import annotations

from collections import defaultdict

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, rewrite
from dlc.ir.graph.ops import split_spec, window_steps


def trim_contractions(graph: Graph) -> Graph:
    """`graph` with every contraction of which only slices of single steps are used computing no more than the range
    that has them all."""
    graph = map_bodies(graph, trim_contractions)
    users: dict[Node, set[Node | None]] = defaultdict(set)
    for o in graph.outputs:
        users[o].add(None)
    for n in graph.nodes():
        for i in n.inputs:
            users[i].add(n)

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "slice" or ins[0].op != "contract" or node.inputs[0].op != "contract" or not node.type.size:
            return None
        used = _range(users[node.inputs[0]])
        x, at = ins[0], node.attrs
        if used is None or used == [(0, size) for size in x.shape]:
            return None
        *specs, out = split_spec(x.attrs["spec"])
        operands = list(x.inputs)
        for label, (start, stop), size in zip(out, used, x.shape, strict=True):
            if (start, stop) == (0, size):
                continue
            for k, own in enumerate(specs):
                if label in own:
                    operands[k] = cut(operands[k], own.index(label), start, stop)
        y = make("contract", operands, x.loc, **x.attrs)
        return B.slice_(y, *([p - start for p, (start, _) in zip(at[end], used, strict=True)]
                             for end in ("start", "stop")), None, node.loc)

    return rewrite(graph, rule)


def _range(users: set[Node | None]) -> list[tuple[int, int]] | None:
    """Along every axis, the range that all slices among `users` of a node lie in; None if there are other users."""
    slices = [u.attrs for u in users if u is not None and u.op == "slice" and u.type.size]
    if len(slices) < len(users) or any(s != 1 for a in slices for s in a["step"]):
        return None
    starts, stops = (zip(*(a[end] for a in slices), strict=True) for end in ("start", "stop"))
    return [(min(a), max(b)) for a, b in zip(starts, stops, strict=True)]


def cut(x: Node, axis: int, start: int, stop: int) -> Node:
    """Positions start .. stop - 1 of an axis, taken as far inside as they can be."""
    at = x.attrs
    if x.op == "window":
        inner = x.inputs[0]
        if axis >= inner.ndim:
            return _slice(x, axis, start, stop)
        positions, taps = window_steps(at)
        step = positions.get(axis, 1)
        reach = sum((size - 1) * tap for a, size, tap in zip(at["axes"], at["sizes"], taps, strict=True) if a == axis)
        return make("window", (cut(inner, axis, start * step, (stop - 1) * step + reach + 1),), x.loc, **at)
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
