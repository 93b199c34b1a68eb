"""Runs a graph group by group: fused, lowered with a given choice of schedules, verified, interpreted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import numpy as np

from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.lower.contract import lower_contract
from dlc.codegen.lower.contraction import contiguous_columns
from dlc.codegen.lower.map import lower_map
from dlc.codegen.lower.rows import lower_rows
from dlc.codegen.lower.scatter_sort_scan import lower_ordered
from dlc.ir.graph.graph import Graph, Node
from dlc.ir.loops import schedule
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.verify import verify
from dlc.passes.fuse.access import map_extents, transposed_axis
from dlc.passes.fuse.fuse import Fused, Group, fuse
from dlc.passes.fuse.materialize import own_outputs
from dlc.passes.views.contraction import label_sizes, parts_of
from dlc.passes.views.views import memory_of

LOWER: dict[str, Callable[..., LoweredKernel]] = {
    "map": lower_map, "rows": lower_rows, "contract": lower_contract, "scatter": lower_ordered,
    "cumulative": lower_ordered, "sort": lower_ordered,
}  # fmt: skip

Choice = Callable[[Fused, Group], schedule.Schedule]


def naive(fused: Fused, group: Group) -> schedule.Schedule:
    """Plain serial loops."""
    if group.kind == "map":
        return schedule.Map()
    if group.kind == "rows":
        return schedule.Rows()
    return schedule.Contract() if group.kind == "contract" else schedule.Plain()


def options(fused: Fused, group: Group, lanes: Iterable[int] = (4, 8, 16)) -> list[schedule.Schedule]:
    """Vector schedules of every family that fits the group."""
    lanes = tuple(lanes)
    if group.kind == "map":
        extents = map_extents(fused, group)
        out: list[schedule.Schedule] = [schedule.Map(n, chunk) for n in lanes for chunk in (n, 3 * n, 1000)]
        if transposed_axis(fused, group, extents) is not None:
            out += [schedule.Map(n, n, n) for n in lanes]
        return out
    if group.kind == "rows":
        rows = [schedule.Rows(n, u, r) for n in lanes for u, r in ((1, 1), (2, 3), (4, 100))]
        axes = range(len(group.rows or ()))
        return rows + [schedule.Columns(n, u, a) for n in lanes for u in (1, 3) for a in axes]
    if group.kind == "contract":
        node = group.units[0].node
        out = []
        for swap in (False, True):
            parts = parts_of(node.attrs["spec"], label_sizes(node), swap)
            if parts.columns and contiguous_columns(fused, group, swap):
                out += [schedule.Contract(n, mr, v * n, mb, nb, swap)
                        for n in lanes for mr, v, mb, nb in ((1, 1, 1, 1), (3, 2, 2, 1), (2, 1, 1, 2))]
        return out or [schedule.Contract()]
    return [schedule.Plain(n) for n in lanes]


def vectors(seed: int) -> Choice:
    """A random vector schedule for every group."""
    pick = random.Random(seed)
    return lambda fused, group: pick.choice(options(fused, group))


def lower(fused: Fused, group: Group, choice: Choice) -> LoweredKernel:
    lowered = LOWER[group.kind](fused, group, choice(fused, group))
    verify(lowered.kernel, "lowering")
    return lowered


def kernels(graph: Graph, choice: Choice = naive) -> list[Kernel]:
    fused = fuse(own_outputs(graph))
    return [lower(fused, g, choice).kernel for g in fused.groups]


def empty(group: Group) -> bool:
    """Groups that compute nothing are not launched."""
    return all(u.node.type.size == 0 for u in group.units if u.kind != "sort")


def evaluate(graph: Graph, args: list[np.ndarray], choice: Choice = naive, seed: int = 0) -> list[np.ndarray]:
    """The outputs of `graph` computed by its kernels. What no kernel wrote is NaN or -1."""
    graph = own_outputs(graph)
    fused = fuse(graph)
    memory: dict[Node, np.ndarray] = {p: np.ravel(a).copy() for p, a in zip(graph.params, args, strict=True)}

    def place(node: Node) -> np.ndarray:
        if node not in memory:
            memory[node] = np.full(node.type.nbytes, 0xFF, np.uint8).view(node.dtype.np)
        return memory[node]

    for group in fused.groups:
        if group.kind != "sort" and empty(group):
            continue
        lowered = lower(fused, group, choice)
        run(lowered.kernel, [place(n) if isinstance(n, Node) else np.array([n]) for n in lowered.nodes], seed)
    return [place(memory_of(o)).reshape(o.shape) for o in graph.outputs]
