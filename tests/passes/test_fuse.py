"""Fusion asks the target and the sizes. Which groups come out of it is in `tests/golden/fuse`."""

from __future__ import annotations

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.passes.fuse.fuse import fuse
from dlc.passes.fuse.materialize import own_outputs
from tests.passes import programs


def test_the_target_says_which_rows_are_enough():
    """Statistics over few rows, then the maps that use them: one kernel for two threads, several for thousands."""
    graph = programs.batchnorm(64, 16, 16)
    few = fuse(own_outputs(graph))
    many = fuse(own_outputs(graph), enough=lambda rows, size, across: rows >= 1000 or size <= 1000)
    assert len(few.groups) < len(many.groups)
    assert all(u.size <= 1000 for g in many.groups if g.kind == "rows" for u in g.units if u.kind == "map")


def test_large_epilogues_walk_memory_as_the_contraction_does():
    """A transposed update of a large weight is a kernel of its own, one of a small weight is not."""
    for n, count in ((16, 1), (512, 2)):
        x, y, w = (programs.tensor(name, n, n) for name in "xyw")
        product = B.contract(x, y, "ki,kj->ij")
        graph = Graph((x, y, w), [B.op("sub", w, B.permute(product, (1, 0)))])
        assert len(fuse(own_outputs(graph)).groups) == count
        assert len(fuse(own_outputs(graph), in_order=1 << 62).groups) == 1


def test_a_map_that_would_be_written_in_short_pieces_is_a_group_of_its_own(monkeypatch):
    x, y = programs.tensor("x", 64, 128), programs.tensor("y", 128, 3, 3, 96)
    w, v = programs.tensor("w", 64, 96, 3, 3), programs.tensor("v", 96, 3, 3, 64)
    pieces = programs.tensor("pieces", 8, 3, 3, 96, 64)
    product, total = B.contract(x, y, "mk,kuvc->muvc"), B.sum_(pieces, [0])
    taps = Graph((x, y, w), [B.op("sub", w, B.permute(product, (0, 3, 1, 2)))])
    folded = Graph((pieces, w), [B.op("sub", w, B.permute(total, (3, 2, 0, 1)))])
    wide = Graph((pieces, v), [B.op("sub", v, B.permute(total, (2, 0, 1, 3)))])

    def count(graph: Graph, short: int) -> int:
        return len(fuse(own_outputs(graph), in_order=1 << 62, short=short).groups)

    assert [count(g, 16) for g in (taps, folded, wide)] == [1, 1, 1]  # small
    monkeypatch.setattr("dlc.passes.fuse.fuse.SCATTERED", 1)
    assert [count(g, 16) for g in (taps, folded, wide)] == [2, 2, 1]
    assert [count(g, 0) for g in (taps, folded, wide)] == [1, 1, 1]
