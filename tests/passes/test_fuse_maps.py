"""Groups of maps that become one kernel on a GPU."""

from __future__ import annotations

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.passes.fuse.fuse import fuse
from dlc.passes.fuse.merge_maps import merge_maps
from tests.passes.programs import tensor


def gates(reads_between: bool = False) -> Graph:
    """Three expensive gates of one array that meet in a result, and are results themselves."""
    x = tensor("x", 6, 32)
    parts = [B.slice_(x, (0, 8 * k), (6, 8 * k + 8)) for k in range(3)]
    a, b, c = (B.op("tanh", p) for p in parts)
    if reads_between:  # c comes from a by way of a sum over everything
        total = B.broadcast_to(B.reshape(B.reduce(a, "sum", (0, 1)), (1, 1)), c.shape)
        c = B.op("tanh", B.op("mul", c, total))
    return Graph((x,), [a, b, c, B.op("add", B.op("mul", a, b), c)])


def test_no_group_waits_for_itself():
    graph = gates(reads_between=True)
    merged = merge_maps(fuse(graph, enough=lambda *_: False), in_loop=True)
    done = set()
    for g in merged.groups:
        assert g.deps <= done
        done.add(g)
    of = {u.node: g for g in merged.groups for u in g.units}
    assert of[graph.outputs[0]] is not of[graph.outputs[2]]


def test_small_maps_of_a_loop_need_nothing_in_common():
    x, y = tensor("x", 4, 8), tensor("y", 4, 8)
    graph = Graph((x, y), [B.op("exp", x), B.op("tanh", y)])
    assert len(merge_maps(fuse(graph)).groups) == 2
    assert len(merge_maps(fuse(graph), in_loop=True).groups) == 1
