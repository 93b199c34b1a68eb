"""Blocks: attention, and whatever is built like it, runs block by block, so that its large tensors stay in the cache.

A region (`blocks_region.py`) becomes a parallel `each` over its independent loops (batch, heads). Where the rows of its
wide tensors can be cut, the body is an `each` in order over blocks of them; results that are sums over the rows are
added up. What the body computes are ordinary nodes (`blocks_body.py`), which the schedules see as they see all others;
its wide tensors are as large as one block, and stay in the second-level cache of the thread that computes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlc.ir import build
from dlc.ir.graph import Graph, Node, TensorType, make
from dlc.passes.blocks_body import Body, Entry, Window, contiguous, strided, window_of
from dlc.passes.blocks_region import Labels, Region, find_regions
from dlc.passes.vjp import map_bodies

MOST_ROWS, LEAST_ROWS = 64, 16  # of a block
TENSORS = 3  # wide tensors of a block that are alive at the same time


def cut_blocks(graph: Graph, cache: int, threads: int) -> Graph:
    """The graph with its regions as loops over blocks. `cache` is how many bytes one thread has for itself."""
    outputs = map_bodies(graph.outputs, lambda body: cut_blocks(body, cache, threads))
    graph = Graph(graph.params, outputs, graph.name)
    regions = find_regions(graph, cache, threads)
    return _Rebuild(regions, cache).graph(graph) if regions else graph


class _Rebuild:
    """One walk that replaces what leaves the regions by the results of their loops."""

    def __init__(self, regions: Sequence[Region], cache: int):
        self.home = {n: r for r in regions for n in r.members}
        self.blocks = {r: _Blocks(r, self.home, cache) for r in regions}
        self.loops: dict[Region, Node] = {}
        self.done: dict[Node, Node] = {}

    def graph(self, graph: Graph) -> Graph:
        stack = list(reversed(graph.outputs))
        while stack:
            node = stack[-1]
            if node in self.done:
                stack.pop()
                continue
            blocks = self.blocks[self.home[node]] if node in self.home and node in self.home[node].exits else None
            needs = [w.memory for w in blocks.windows] if blocks is not None else node.inputs
            missing = [n for n in needs if n not in self.done]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            new = [self.done[n] for n in needs]
            if blocks is not None:
                self.done[node] = blocks.result(node, new)
            else:
                same = all(a is b for a, b in zip(new, node.inputs, strict=True))
                self.done[node] = node if same else make(node.op, new, node.loc, **node.attrs)
        return Graph(graph.params, [self.done[o] for o in graph.outputs], graph.name)


class _Blocks:
    """A region as loops."""

    def __init__(self, region: Region, home: dict[Node, Region], cache: int):
        self.region = region
        total = region.sizes.get(region.rows, 1)
        rows = block_rows(total, math.prod(region.sizes[c] for c in region.wide), cache)
        count, rest = divmod(total, rows)
        bodies = [Body(region, n, home) for n in (rows, rest) if n]
        outputs = [self._outputs(body) for body in bodies]
        self.entries = list({(e.node, e.labels): e for body in bodies for e in body.entries.values()}.values())
        self.windows = [window_of(e.node) for e in self.entries]
        if rows == total:
            self.body = Graph([e.param for e in self.entries], outputs[0], "block")
            return
        outer = [self._whole(e, w) for e, w in zip(self.entries, self.windows, strict=True)]
        parts = [self._over_rows(bodies[0], outputs[0], outer, 0, count)]
        if rest:
            parts.append(self._over_rows(bodies[1], outputs[1], outer, count * rows, 1))
        self.body = Graph(outer, [self._joined(e, k, parts) for k, e in enumerate(region.exits)], "blocks")

    def _whole(self, entry: Entry, window: Window) -> Node:
        """An entry for all rows, as a parameter of the body of the region's loops."""
        shape = tuple(1 if c in self.region.loops else d for c, d in zip(entry.labels, entry.node.shape, strict=True))
        return strided(TensorType(entry.node.dtype, shape), window.strides, entry.param.attrs["name"])

    def _joined(self, node: Node, k: int, parts: Sequence[Node]) -> Node:
        """Exit number k from its parts of the rows."""
        first, *rest = (build.item(p, k) for p in parts)
        if not rest:
            return first
        labels = self.region.labels[node]
        if self._adds_up(labels):
            return build.op("add", first, *rest, loc=node.loc)
        return make("concat", (first, *rest), node.loc, axis=labels.index(self.region.rows))

    def _outputs(self, body: Body) -> list[Node]:
        """What leaves the region, on the current block; sums over the rows in a type that can be added up."""
        outs = []
        for e in self.region.exits:
            labels = self.region.labels[e]
            out = body.straight(e, labels)
            if self._adds_up(labels) and out.dtype.is_half:
                out = make("contract", out.inputs, out.loc, **(out.attrs | {"dtype": out.dtype.compute})) if (
                    out.op == "contract") else build.cast(out, out.dtype.compute)
            outs.append(out)
        return outs

    def _adds_up(self, labels: Labels) -> bool:
        return self.region.rows >= 0 and self.region.rows not in labels

    def _over_rows(self, body: Body, outs: Sequence[Node], outer: Sequence[Node], first: int, count: int) -> Node:
        """An `each` over `count` blocks of rows from row `first` on; its inputs are those of the region's loops."""
        ours = [(body.entries[e.node, e.labels], p) for e, p in zip(self.entries, outer, strict=True)
                if (e.node, e.labels) in body.entries]
        steps = [self._stride(e, p) for e, p in ours]
        rows, exits = self.region.rows, self.region.exits
        places = [self.region.labels[e] for e in exits]
        gives = tuple((x.index(rows) if rows in x else -1,) for x in places)
        return make("each", [p for _, p in ours], exits[0].loc, body=Graph([e.param for e, _ in ours], outs, "rows"),
                    extents=(count,), starts=tuple(first * s for s in steps),
                    steps=tuple((body.block * s,) for s in steps), gives=gives, parallel=False)

    def _stride(self, entry: Entry, memory: Node) -> int:
        """How far apart neighbouring rows of an entry lie."""
        if self.region.rows not in entry.labels or self.region.rows < 0:
            return 0
        strides = memory.attrs.get("strides") or contiguous(memory.shape)
        return strides[entry.labels.index(self.region.rows)]

    def result(self, node: Node, inputs: Sequence[Node]) -> Node:
        """What replaces an exit; `inputs` stand for the memory of `windows`."""
        region = self.region
        steps = tuple(
            tuple(w.strides[e.labels.index(c)] if c in e.labels else 0 for c in region.loops)
            for e, w in zip(self.entries, self.windows, strict=True)
        )
        gives = tuple(tuple(region.labels[e].index(c) for c in region.loops) for e in region.exits)
        extents = tuple(region.sizes[c] for c in region.loops)
        loop = make("each", inputs, region.exits[0].loc, body=self.body, extents=extents,
                    starts=tuple(w.start for w in self.windows), steps=steps, gives=gives, parallel=True)
        return build.cast(build.item(loop, region.exits.index(node)), node.dtype, node.loc)


def block_rows(total: int, width: int, cache: int) -> int:
    """Rows of a block whose tensors of `width` elements a row take half of the cache; a divisor of `total` where there
    is one near that."""
    most = min(MOST_ROWS, max(LEAST_ROWS, cache // 2 // (TENSORS * 4 * width)))
    if total <= most * 3 // 2:
        return total
    return next((n for n in range(most, most * 5 // 8, -1) if total % n == 0), most)
