"""Long sums on a GPU keep their digits: the CUDA C of every family, run on the CPU, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.dtypes import bfloat16, float16, float32, int64
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make
from dlc.runtime import devices, programs
from dlc.runtime.cuda import compile as cuda_compile
from tests import cuda_on_cpu
from tests.passes.programs import tensor
from tests.runtime.test_cuda_executable import on_gpu

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")


def reduction(shape, axes, dtype=float32) -> Graph:
    x = tensor("x", *shape, dtype=dtype)
    return Graph((x,), [B.reduce(x, "sum", axes)])


def product(spec, a, b, dtype=float32) -> Graph:
    x, y = tensor("x", *a, dtype=dtype), tensor("y", *b, dtype=dtype)
    return Graph((x, y), [B.contract(x, y, spec)])


def cumulative(shape, axis, monoid="sum", reverse=False) -> Graph:
    x = tensor("x", *shape)
    return Graph((x,), [make("cumulative", (x,), monoid=monoid, axis=axis, reverse=reverse)])


def scatter(rows, columns, updates, dtype=float32) -> Graph:
    x, u = tensor("x", rows, *columns, dtype=dtype), tensor("u", updates, *columns, dtype=dtype)
    i = tensor("i", updates, dtype=int64)
    return Graph((x, i, u), [make("scatter", (x, i, u), axis=0, combine="add")])


def results(monkeypatch, graphs: list[Graph], sm_count: int) -> tuple[list[np.ndarray], list[list[np.ndarray]], str]:
    """What one program of all graphs computes, the arguments of each, and its text."""
    rng = np.random.default_rng(0)
    args = [[equal(g, p) if p.dtype.is_float else rng.integers(0, g.outputs[0].shape[0], p.shape) for p in g.params]
            for g in graphs]
    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(arch="sm_80", sm_count=sm_count))
    whole = Graph([p for g in graphs for p in g.params], [o for g in graphs for o in g.outputs])
    executable = programs.compile_graph(whole, device="cuda:0")
    out = executable.run([on_gpu(a) for own in args for a in own])
    got = [devices.read(b, o.shape, o.dtype.np) for o, b in zip(whole.outputs, out, strict=True)]
    return got, args, cuda_compile.source(executable.program, gpu.target(0))


def equal(graph: Graph, p: Node) -> np.ndarray:
    return np.full(p.shape, 0.999 if graph.outputs[0].attrs.get("monoid") == "prod" else 0.1).astype(p.dtype.np)


REDUCTIONS = [
    reduction((700, 40), [0]), reduction((70001, 3), [0]), reduction((2, 70000), [1]), reduction((300000,), [0]),
    reduction((60, 5, 700), [0, 2]), product("k,k->", (300000,), (300000,)),
]
PRODUCTS = [
    product("mk,kn->mn", (3, 9000), (9000, 5)), product("mk,kn->mn", (40, 2000), (2000, 36)),
    product("km,kn->mn", (9001, 24), (9001, 70)), product("km,kn->mn", (4001, 40), (4001, 70)),
]
IN_ORDER = [
    cumulative((5000, 3), 0), cumulative((3, 5001), 1, reverse=True), cumulative((64, 3), 0),
    cumulative((5000, 2), 0, "prod"), scatter(3, (40,), 3000), scatter(3, (), 3000), scatter(700, (2,), 2000),
]


@pytest.mark.parametrize("sm_count", [2, 0], ids=["small", "large"])  # the threads of a small GPU have more to do
@pytest.mark.parametrize("graphs", [REDUCTIONS, PRODUCTS, IN_ORDER], ids=["reductions", "products", "in order"])
def test_digits(monkeypatch, graphs, sm_count):
    got, args, text = results(monkeypatch, graphs, sm_count)
    for graph, result, own in zip(graphs, got, args, strict=True):
        (want,) = graph_interp.evaluate(graph, own, wide=True)
        most = 400 if graphs is PRODUCTS else 100
        assert np.abs(result / want - 1).max() < most * 2**-24, graph
    assert "_block" in text or (sm_count == 0 and graphs is not IN_ORDER)


def test_halves_are_rounded_once(monkeypatch):
    graphs = [scatter(2, columns, 2000, dtype) for dtype in (float16, bfloat16) for columns in ((), (3,), (40,))]
    got, args, _ = results(monkeypatch, graphs, 0)
    for graph, result, (base, index, updates) in zip(graphs, got, args, strict=True):
        want = base.astype(np.float64)
        np.add.at(want, index, updates.astype(np.float64))
        np.testing.assert_array_equal(result, want.astype(np.float32).astype(graph.outputs[0].dtype.np))
