"""layout: reductions to few values are cut so that all threads have something to do."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.layout.cpu import layout
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.graph.verify import verify
from tests.passes.programs import tensor
from tests.random_graphs import arguments


def parts(shape: tuple[int, ...], axes: tuple[int, ...], monoid: str, min_tasks: int = 4) -> list[tuple[int, ...]]:
    """The shapes of the reductions that one becomes, the last one's first; they give the same values."""
    x = tensor("x", *shape)
    graph = Graph((x,), [B.reduce(x, monoid, axes)])
    new = layout(graph, lambda node: None, min_tasks)
    verify(new, "layout")
    args = arguments(graph)
    want, got = (graph_interp.evaluate(g, args)[0] for g in (graph, new))
    np.testing.assert_allclose(got, want, 1e-4, 1e-3)
    return [n.shape for n in reversed(new.nodes()) if n.op == "reduce"]


@pytest.mark.parametrize("monoid", ["sum", "max"])
def test_few_channels_are_reduced_by_image_first(monoid):
    assert parts((8, 32, 32, 16), (0, 1, 2), monoid) == [(16,), (8, 16)]
    assert parts((3, 64, 8, 8, 10), (1, 2, 3), monoid) == [(3, 10), (3, 64, 10)]


@pytest.mark.parametrize("shape, axes, min_tasks", [
    ((8, 32, 32, 32), (0, 1, 2), 4),  # vectors for two threads
    ((8, 32, 32, 16), (0, 1, 2), 1),  # one thread
    ((8192, 16), (0,), 4),  # nothing else to reduce first
    ((4, 64, 32, 16), (0, 1, 2), 4),  # few parts
    ((8, 16, 32, 32), (0, 2, 3), 4),  # vectors along the sum
    ((16, 8, 8, 16), (0, 1, 2), 4),  # little work
])
def test_others_stay(shape, axes, min_tasks):
    assert len(parts(shape, axes, "sum", min_tasks)) == 1


def test_single_values_are_cut_in_pieces():
    assert parts((512, 300), (0, 1), "sum") == [(), (16,)]
