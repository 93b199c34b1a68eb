"""Blocks: attention, and whatever is built like it, runs block by block, so that its large tensors stay in the cache.

A region (`region.py`) becomes a parallel `each` over its independent loops (batch, heads). Where the rows of its wide
tensors can be cut, the body is an `each` in order over blocks of them; results that are sums over the rows are
added up. What the body computes are ordinary nodes (`body.py`), which the schedules see as they see all others; its
wide tensors are as large as one block, and stay in the second-level cache of the thread that computes them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, TensorType, make, map_bodies, remade, structure
from dlc.passes.blockwise.body import Around, BlockBody, BlockEntry, Window, strided
from dlc.passes.blockwise.masked_columns import columns_needed, fills
from dlc.passes.blockwise.region import BlockRegion, Labels, find_regions
from dlc.passes.views.views import contiguous

MOST_ROWS, LEAST_ROWS = 64, 16  # of a block
PARTS = 4  # of the rows, in which different columns may be left out; each has kernels of its own to compile
LARGE = 1 << 21  # elements of a wide tensor, for one iteration of the loops, from which twice as many parts pay
TENSORS = 3  # wide tensors of a block that are alive at the same time


def cut_blocks(graph: Graph, cache: int, threads: int) -> Graph:
    """The graph with its regions as loops over blocks. `cache` is how many bytes one thread has for itself."""
    graph = map_bodies(graph, lambda body: cut_blocks(body, cache, threads))
    regions = find_regions(graph, cache, threads)
    return _Rebuild(regions, cache).graph(graph) if regions else graph


class _Rebuild:
    """One walk that replaces what leaves the regions by the results of their loops."""

    def __init__(self, regions: Sequence[BlockRegion], cache: int):
        self.home = {n: r for r in regions for n in r.members}
        around = Around(self.home)
        self.blocks: dict[BlockRegion, _Blocks] = {}
        known: dict[Hashable, tuple[_Blocks, list[Node]]] = {}
        for r in regions:
            key, nodes = around.region_key(r)
            first, theirs = known.get(key, (None, nodes))
            blocks = first and first.elsewhere(r, dict(zip(theirs, nodes, strict=True)), around)
            self.blocks[r] = blocks or _Blocks(r, around, cache)
            known.setdefault(key, (self.blocks[r], nodes))
        bodies: dict[tuple, Graph] = {}
        for blocks in self.blocks.values():  # the layers of a model share one body
            blocks.body = bodies.setdefault(structure(blocks.body), blocks.body)
        self.loops: dict[BlockRegion, Node] = {}
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
                self.done[node] = remade(node, new)
        return Graph(graph.params, [self.done[o] for o in graph.outputs], graph.name)


class _Part(NamedTuple):
    """Blocks of rows with the same body: the first row, the number of blocks, and what the exits have in the columns
    that are left out."""

    body: BlockBody
    first: int
    count: int
    fill: dict[Node, float]


class _Blocks:
    """A region as loops."""

    def __init__(self, region: BlockRegion, around: Around, cache: int):
        self.region = region
        total = region.sizes.get(region.rows, 1)
        rows = block_rows(total, math.prod(region.sizes[c] for c in region.wide), cache)
        self.parts = self._parts(total, rows, around)
        outputs = [self._outputs(part.body) for part in self.parts]
        entries = {(e.node, e.labels): e for part in self.parts for e in part.body.entries.values()}
        self.entries = list(entries.values())
        self.windows = [around.window(e.node) for e in self.entries]
        if rows == total:
            self.body = Graph([e.param for e in self.entries], outputs[0], "block")
            return
        outer = [self._whole(e, w) for e, w in zip(self.entries, self.windows, strict=True)]
        loops = [self._over_rows(part, outs, outer) for part, outs in zip(self.parts, outputs, strict=True)]
        self.body = Graph(outer, [self._joined(e, k, loops) for k, e in enumerate(region.exits)], "blocks")

    def elsewhere(self, region: BlockRegion, there: Mapping[Node, Node], around: Around) -> _Blocks | None:
        """The same loops for an equal region (`Around.region_key`), where `there` stands for the nodes here; None if
        what it reads lies in memory in another way."""
        if not all(e.node in there or around.is_fixed(e.node) for e in self.entries):  # made for this body
            return None
        other = copy(self)
        other.region = region
        other.entries = [e._replace(node=there.get(e.node, e.node)) for e in self.entries]
        other.windows = [around.window(e.node) for e in other.entries]
        same = all(a.strides == b.strides for a, b in zip(self.windows, other.windows, strict=True))
        return other if same else None

    def _parts(self, total: int, rows: int, around: Around) -> list[_Part]:
        """The rows in parts of equal blocks: a last block that is smaller is one, and where the first rows need fewer
        columns than the last ones, there are a few more."""
        region = self.region
        count, rest = divmod(total, rows)
        tail = [_Part(BlockBody(region, rest, around), count * rows, 1, {})] if rest else []
        whole = [_Part(BlockBody(region, rows, around), 0, count, {})]
        for columns in sorted(region.wide) if count > 1 else ():
            width = region.sizes[columns]
            probe = BlockBody(region, rows, around, columns, width - 1)
            self._outputs(probe)
            parts, first = [], 0
            most = min(PARTS if total * width < LARGE else 2 * PARTS, count)
            for k in range(most):
                blocks = (k + 1) * count // most - first
                at, height = first * rows, blocks * rows
                needed = columns_needed(probe, at, height, columns, width, LEAST_ROWS)
                rest_of = fills(probe, at, height, columns, needed, width) or {}
                parts.append(_Part(BlockBody(region, rows, around, columns, needed), at, blocks, rest_of))
                first += blocks
            if any(p.body.width < width for p in parts):
                return [*parts, *tail]
        return whole + tail

    def _whole(self, entry: BlockEntry, window: Window) -> Node:
        """An entry for all rows, as a parameter of the body of the region's loops."""
        shape = tuple(1 if c in self.region.loops else d for c, d in zip(entry.labels, entry.node.shape, strict=True))
        return strided(TensorType(entry.node.dtype, shape), window.strides, entry.param.attrs["name"])

    def _joined(self, node: Node, k: int, loops: Sequence[Node]) -> Node:
        """Exit number k from its parts of the rows."""
        labels = self.region.labels[node]
        pieces = []
        for part, loop in zip(self.parts, loops, strict=True):
            piece = build.item(loop, k)
            high = [self.region.sizes[c] - part.body.width if c >= 0 and c == part.body.columns else 0 for c in labels]
            pieces.append(build.pad(piece, [0] * len(high), high, None, part.fill.get(node, 0), node.loc))
        if self._adds_up(labels):
            return functools.reduce(lambda a, b: build.op("add", a, b, loc=node.loc), pieces)
        return pieces[0] if len(pieces) == 1 else make("concat", pieces, node.loc, axis=labels.index(self.region.rows))

    def _outputs(self, body: BlockBody) -> list[Node]:
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

    def _over_rows(self, part: _Part, outs: Sequence[Node], outer: Sequence[Node]) -> Node:
        """An `each` over the blocks of a part; its inputs are those of the region's loops."""
        body, first, count, _ = part
        ours = [(body.entries[e.node, e.labels], p) for e, p in zip(self.entries, outer, strict=True)
                if (e.node, e.labels) in body.entries]
        steps = [self._stride(e, p) for e, p in ours]
        rows, exits = self.region.rows, self.region.exits
        places = [self.region.labels[e] for e in exits]
        alone = 0 if count == 1 else -1  # an only block's sums over its rows are the whole ones: nothing is added up
        gives = tuple((x.index(rows) if rows in x else alone,) for x in places)
        return make("each", [p for _, p in ours], exits[0].loc, body=Graph([e.param for e, _ in ours], outs, "rows"),
                    extents=(count,), starts=tuple(first * s for s in steps),
                    steps=tuple((body.block * s,) for s in steps), gives=gives, parallel=False)

    def _stride(self, entry: BlockEntry, memory: Node) -> int:
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
