"""Permutations sink without changing any value; the layout pass keeps values too; random graphs run compiled."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.program.build import target_layout
from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.verify import verify
from dlc.passes.simplify.windows import lower_unwindow
from dlc.runtime.cpu.memory import allocate, as_ndarray
from dlc.runtime.programs import compile_graph
from tests.random_graphs import arguments, graphs, integer_graphs
from tests.targets import cpu

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
COMPILED = settings(PROPERTY, max_examples=40)


def agree(a: Graph, b: Graph) -> None:
    args = arguments(a)
    for want, got in zip(evaluate(a, args), evaluate(b, args), strict=True):
        assert want.shape == got.shape and want.dtype == got.dtype
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-9, atol=1e-9)


@PROPERTY
@given(graphs(float_types=(dtypes.float64,)))
def test_sinking_keeps_values(graph):
    sunk = sink_permutes(graph)
    verify(sunk, "order")
    agree(graph, sunk)


@PROPERTY
@given(graphs(float_types=(dtypes.float64,)))
def test_layout_keeps_values(graph):
    ready = sink_permutes(lower_unwindow(graph))
    placed = target_layout(ready, cpu("avx512"))
    verify(placed, "layout")
    agree(ready, placed)


def run_compiled(graph: Graph, args) -> list[np.ndarray]:
    buffers = []
    for a in args:
        buffers.append(allocate(a.nbytes))
        as_ndarray(buffers[-1], a.shape, a.dtype)[...] = a
    out = compile_graph(graph).run(buffers)
    return [as_ndarray(o, n.shape, n.dtype.np) for o, n in zip(out, graph.outputs, strict=True)]


@COMPILED
@given(graphs(float_types=(dtypes.float64,)))
def test_random_graphs_compiled(graph):
    args = arguments(graph)
    for want, got in zip(evaluate(graph, args), run_compiled(graph, args), strict=True):
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-6, atol=1e-6)


@COMPILED
@given(integer_graphs())
def test_random_integer_graphs_compiled_exactly(graph):
    args = arguments(graph)
    for want, got in zip(evaluate(graph, args), run_compiled(graph, args), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_contraction_takes_the_order_of_what_it_meets():
    """The data gradient of a kernel as large as its image, beside values in channels-last order."""

    def graph(*more) -> Graph:
        x = param(TensorType(dtypes.float32, (6, 2, 3, 5)), "x")
        dy = param(TensorType(dtypes.float32, (6, 7)), "dy")
        w = param(TensorType(dtypes.float32, (7, 5, 2, 3)), "w")
        dx = B.reshape(B.contract(dy, w, "no,ocuv->ncuv"), (6, 5, 1, 2, 3))
        dx = B.reshape(B.cast(B.cast(dx, dtypes.bfloat16), dtypes.float32), (6, 5, 2, 3))
        kept = B.op("mul", B.permute(x, (0, 3, 1, 2)), dx)
        return Graph([x, dy, w], [B.sum_(kept, (0, 2, 3)), *(B.op("neg", dx) for _ in more)])

    def orders(g: Graph) -> list[str]:
        sunk = sink_permutes(g)
        verify(sunk, "order")
        agree(g, sunk)
        assert not any(n.op == "permute" for n in sunk.nodes()) or len(g.outputs) > 1
        return [n.attrs["spec"].split("->")[1] for n in sunk.nodes() if n.op == "contract"]

    assert orders(graph()) == ["nuvc"]
    assert orders(graph(1)) == ["ncuv"]  # computed once for both users
