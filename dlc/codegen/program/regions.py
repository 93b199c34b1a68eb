"""Fusion of a whole program: a graph in groups, and the bodies of its loops in groups as well."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.formulas import add
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param, unique
from dlc.passes.fuse.fuse import Fused, Group, fuse
from dlc.passes.fuse.materialize import few_parts, made_in_place, own_outputs
from dlc.passes.fuse.merge_maps import merge_maps
from dlc.passes.views.views import contiguous, memory_of

SHORT = 16  # neighbouring elements that are too few to be written apart from others, on a GPU


@dataclass(eq=False)
class Region:
    """A graph in groups, for a target with the threads that its kernels may use. `depth` is the number of counters of
    the loops around it; `scans` and `eaches` are the bodies of its own loops."""

    graph: Graph
    fused: Fused
    target: CpuTarget | GpuTarget
    depth: int
    scans: dict[Node, Region] = field(default_factory=dict)
    eaches: dict[Node, EachBody] = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        """Those that have anything to compute."""
        return [g for g in self.fused.groups
                if any(not isinstance(u.node.type, TensorType) or u.node.type.size for u in g.units)]


@dataclass(eq=False)
class EachBody:
    """The body of an `each`, shared by equal ones. `lies` has the strides of the results, `sums` the parameters that
    outputs are added to, `pieces` for each output of the region the result, its axis and the position on it."""

    region: Region
    lies: tuple[tuple[int, ...], ...]
    sums: dict[int, Node]
    pieces: list[tuple[int, int, int]]


def fuse_program(graph: Graph, target: CpuTarget | GpuTarget) -> Region:
    """The graph after `layout` in groups, each of which becomes a kernel."""
    return _region(own_outputs(few_parts(graph)), target, 0, {}, None, 0)


def every_fused(region: Region) -> Iterator[Fused]:
    """The fusions of a region and of the bodies in it, each once, in the order of their first launch."""
    seen: set[int] = set()

    def visit(r: Region) -> Iterator[Fused]:
        if id(r) in seen:
            return
        seen.add(id(r))
        yield r.fused
        for group in r.groups:
            node = group.units[0].node
            if group.kind == "scan":
                yield from visit(r.scans[node])
            elif group.kind == "each":
                yield from visit(r.eaches[node].region)

    return visit(region)


def _region(graph: Graph, target: CpuTarget | GpuTarget, depth: int, known: dict[Hashable, EachBody],
            strides: dict[Node, tuple[int, ...]] | None, threads: int) -> Region:
    """`strides` of outputs whose elements do not lie one after the other; `threads` that a kernel may use, if not all
    of the target's (0)."""
    fused = fuse(graph, strides) if strides else _fused(graph, target, depth > 0)
    fused.threads = threads
    region = Region(graph, fused, target, depth)
    for group in region.groups:
        node = group.units[0].node
        if group.kind == "scan":
            body = own_outputs(few_parts(node.attrs["body"]))
            region.scans[node] = _region(body, target, depth + 1, known, None, threads)
        elif group.kind == "each":
            region.eaches[node] = _each(node, region, known, threads)
    return region


def _fused(graph: Graph, target: CpuTarget | GpuTarget, in_loop: bool) -> Fused:
    if isinstance(target, GpuTarget):
        enough = gpu_schedule.enough_rows(target)
        return merge_maps(fuse(graph, enough=enough, in_order=1 << 62, short=SHORT), in_loop)
    return fuse(graph)


def _each(node: Node, region: Region, known: dict[Hashable, EachBody], threads: int) -> EachBody:
    at, table = node.attrs, region.fused.table
    items = table.items(node)
    lies = tuple((table.layout.get(items[k]) if k in items else None) or contiguous(t.shape)
                 for k, t in enumerate(node.type))
    key = (at["body"], at["parallel"], at["extents"], at["starts"], at["steps"], at["gives"], lies, region.depth,
           threads)
    if key not in known:
        body, sums, pieces = _outputs(at["body"], at["gives"])
        strides = {o: lies[k] for o, (k, _, _) in zip(body.outputs, pieces, strict=True) if k not in sums}
        target = region.target.with_threads(1) if at["parallel"] else region.target  # type: ignore[union-attr]
        depth = region.depth + len(at["extents"])
        inside = _region(body, target, depth, known, strides, 1 if at["parallel"] else threads)
        known[key] = EachBody(inside, lies, sums, pieces)
    return known[key]


def _outputs(body: Graph, gives: Sequence[Sequence[int]]) -> tuple[
        Graph, dict[int, Node], list[tuple[int, int, int]]]:
    """The body of an `each` with outputs that have memory of their own; parameters (by output) that the outputs are
    added to whose results are sums over the iterations; and for each output of the new body the old one's number, an
    axis and a position on it: what is joined from several loops' results is written by these loops, each its part."""
    sums: dict[int, Node] = {}
    outputs: list[Node] = []
    pieces: list[tuple[int, int, int]] = []
    for k, (o, axes) in enumerate(zip(body.outputs, gives, strict=True)):
        parts = [o]
        if -1 in axes:
            sums[k] = param(o.type, "sum")
            parts = [add(sums[k], o)]
        elif o.op == "concat" and all(i.op == "item" and made_in_place(i) for i in o.inputs):
            parts = list(o.inputs)
        elif memory_of(o) is not o:
            parts = [make("barrier", (o,), o.loc, uid=unique())]
        axis = o.attrs["axis"] if len(parts) > 1 else 0
        position = 0
        for part in parts:
            outputs.append(part)
            pieces.append((k, axis, position))
            position += part.shape[axis] if len(parts) > 1 else 0
    return own_outputs(few_parts(Graph((*body.params, *sums.values()), outputs, body.name))), sums, pieces
