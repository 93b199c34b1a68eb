"""taps: convolutions without the part of a kernel that only meets padding."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make
from dlc.ir.graph.verify import verify
from dlc.passes.autodiff.vjp import expand
from dlc.passes.convolution.padding_taps import drop_taps
from dlc.passes.simplify.simplify import simplify
from tests.passes.programs import tensor
from tests.random_graphs import arguments


def convolution(extent: int, size: int, low: int, high: int, stride: int = 1, dilation: int = 1, value: float = 0,
                cast: bool = False) -> tuple[Graph, Node]:
    """One axis: x [n c extent], w [o c size]; the graph gives the result and both gradients of its square's sum."""
    x, w = tensor("x", 2, 3, extent), tensor("w", 4, 3, size)
    seen = B.window(B.pad(x, (0, 0, low), (0, 0, high), None, value), (2,), (size,), (stride,), (dilation,))
    seen = B.cast(B.cast(seen, dtypes.float64), dtypes.float32) if cast else seen
    y = B.contract(seen, w, "ncxu,ocu->nox")
    loss = B.sum_(B.op("mul", y, y), (0, 1, 2))
    grads = make("vjp", (loss, B.like(loss, 1), x, w), outputs=1)
    return Graph((x, w), [y, B.item(grads, 0), B.item(grads, 1)]), y


def sizes_after(graph: Graph) -> tuple[int, ...]:
    """Checks that the pass keeps the meaning, also of gradients; the taps of the one contraction that is left."""
    new = drop_taps(graph)
    verify(new, "taps")
    args = arguments(graph)
    whole, less = (graph_interp.evaluate(simplify(expand(g)), args) for g in (graph, new))
    for a, b in zip(whole, less, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-5)
    kernel = new.outputs[0].inputs[1]
    return kernel.shape[2:]


# extent, size, low, high, stride, dilation -> taps
CUT = [
    ((1, 3, 1, 1), 1),
    ((2, 3, 1, 1, 2), 2),
    ((1, 7, 3, 3, 4), 1),
    ((2, 3, 4, 4, 1, 4), 1),
    ((2, 5, 2, 2, 1), 3),
    ((2, 4, 5, 1, 3), 2),
    ((3, 3, 0, 4, 5), 3),
]


@pytest.mark.parametrize("where, taps", CUT)
@pytest.mark.parametrize("cast", [False, True])
def test_taps_that_only_meet_padding_go(where, taps, cast):
    graph, _ = convolution(*where, cast=cast)
    assert sizes_after(graph) == (taps,)


def test_others_stay():
    assert sizes_after(convolution(4, 3, 1, 1)[0]) == (3,)
    assert sizes_after(convolution(1, 3, 1, 1, value=2.0)[0]) == (3,)
    assert sizes_after(convolution(1, 2, 3, 3, stride=6)[0]) == (2,)  # all of it is padding


def test_a_kernel_on_one_pixel_is_a_product_of_matrices():
    x, w = tensor("x", 6, 5, 1, 1), tensor("w", 4, 5, 3, 3)
    seen = B.window(B.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), (2, 3), (3, 3))
    graph = Graph((x, w), [B.contract(seen, w, "ncxyuv,ocuv->noxy")])
    new = simplify(drop_taps(graph))
    assert not {"window", "pad"} & {n.op for n in new.nodes()}
    args = arguments(graph)
    np.testing.assert_allclose(graph_interp.evaluate(graph, args)[0], graph_interp.evaluate(new, args)[0], 1e-5, 1e-5)
