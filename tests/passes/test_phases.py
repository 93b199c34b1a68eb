"""phases: convolutions over spread-out operands without their zeros."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node
from dlc.ir.graph.verify import verify
from dlc.passes.convolution.polyphase import split_phases
from dlc.passes.convolution.push_slices import trim_contractions
from tests.passes.programs import tensor
from tests.random_graphs import arguments


def split(graph: Graph) -> Node:
    """The output after the pass, which keeps its value."""
    new = split_phases(graph)
    verify(new, "phases")
    args = arguments(graph)
    want, got = (graph_interp.evaluate(g, args)[0] for g in (graph, new))
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)
    return new.outputs[0]


def contraction(y: Node) -> Node:
    while y.op != "contract":
        y = y.inputs[0]
    return y


@pytest.mark.parametrize("k", [2, 3, 4, 7])
@pytest.mark.parametrize("s", [2, 3, 4])
@pytest.mark.parametrize("n, low, high", [(1, 3, 3), (1, 4, 5), (1, 6, 6), (5, 0, 0), (5, 1, 2), (4, 2, 6)])
@pytest.mark.parametrize("swap", [False, True])
def test_every_phase_has_its_own_taps(n, k, s, low, high, swap):
    spread = B.pad(tensor("x", 2, n, 3), (0, low, 0), (0, high, 0), (0, s - 1, 0))
    x, w = spread.inputs[0], tensor("w", 5, k, 3)
    seen = B.window(spread, (1,), (k,))
    y = B.contract(w, seen, "cuo,npou->npc") if swap else B.contract(seen, w, "npou,cuo->npc")
    c = contraction(split(Graph((x, w), [y])))
    seen = c.inputs[swap]
    assert seen.op == "window" and seen.attrs["sizes"] in ((-(-k // s),), (-(-k // s) + 1,))
    assert not any(node.op == "pad" and any(node.attrs["interior"]) for node in Graph((x, w), [seen]).nodes())


def test_the_data_gradient_of_a_strided_convolution():
    """Both axes at once, in half floats: 16 products an element instead of 36, no zeros stored."""
    dy, w = tensor("dy", 2, 4, 4, 6), tensor("w", 6, 3, 3, 5)
    spread = B.pad(dy, (0, 2, 2, 0), (0, 3, 3, 0), (0, 1, 1, 0))
    seen = B.cast(B.cast(B.window(spread, (1, 2), (3, 3)), dtypes.bfloat16), dtypes.float32)
    full = B.contract(seen, B.flip(w, [1, 2]), "nxyouv,ouvc->nxyc")
    graph = trim_contractions(Graph((dy, w), [B.slice_(full, (0, 1, 1, 0), (2, 9, 9, 5))]))
    y = split(graph)
    assert y.op == "reshape" and y.shape == (2, 8, 8, 5)
    c = contraction(y)
    assert c.shape == (2, 4, 2, 4, 2, 5) and c.inputs[0].shape == (2, 4, 4, 6, 2, 2)


def test_others_stay():
    x, w = tensor("x", 2, 4, 3), tensor("w", 5, 3, 3)
    for interior, stride, dilation in ((0, 1, 1), (1, 2, 1), (1, 1, 2)):
        seen = B.window(B.pad(x, (0, 2, 0), (0, 2, 0), (0, interior, 0)), (1,), (3,), (stride,), (dilation,))
        y = B.contract(seen, w, "npou,cuo->npc")
        assert split(Graph((x, w), [y])) is y
    seen = B.window(B.pad(x, (0, 2, 0), (0, 2, 0), (0, 1, 0)), (1,), (3,))
    y = B.contract(seen, tensor("d", 2, 9, 5), "npou,npc->uoc")  # a weight gradient: taps and positions change places
    assert split(Graph((x, y.inputs[1]), [y])) is y
