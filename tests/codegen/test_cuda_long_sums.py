"""Long sums on a GPU keep their digits: the CUDA C of every family, run on the CPU, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import build as B
from dlc.ir import graph_interp
from dlc.ir.dtypes import bfloat16, float16, float32, int64
from dlc.ir.graph import Graph, make
from dlc.runtime import cuda_compile, devices
from dlc.runtime import programs as compiler
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


def result(monkeypatch, graph: Graph, args, **machine) -> tuple[np.ndarray, str]:
    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(**machine))
    executable = compiler.compile_graph(graph, device="cuda:0")
    (out,) = executable.run([on_gpu(a) for a in args])
    (node,) = graph.outputs
    return devices.read(out, node.shape, node.dtype.np), cuda_compile.source(executable.program, gpu.target(0))


def arguments(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = []
    for p in graph.params:
        n = graph.outputs[0].shape[0] if graph.outputs[0].shape else 1
        equal = 0.999 if graph.outputs[0].attrs.get("monoid") == "prod" else 0.1
        found.append(rng.integers(0, n, p.shape) if p.dtype is int64 else np.full(p.shape, equal).astype(p.dtype.np))
    return found


@pytest.mark.parametrize("graph, blocks", [
    (reduction((1500, 40), [0]), False), (reduction((70001, 3), [0]), False), (reduction((2, 70000), [1]), False),
    (reduction((1000000,), [0]), True), (reduction((60, 5, 700), [0, 2]), False),
    (product("mk,kn->mn", (3, 9000), (9000, 5)), False), (product("mk,kn->mn", (40, 2000), (2000, 36)), False),
    (product("km,kn->mn", (9001, 24), (9001, 70)), True), (product("k,k->", (300000,), (300000,)), False),
    (cumulative((5000, 3), 0), True), (cumulative((3, 5001), 1, reverse=True), True), (cumulative((64, 3), 0), False),
    (cumulative((5000, 2), 0, "prod"), False), (scatter(3, (40,), 3000), False), (scatter(3, (), 3000), True),
    (scatter(700, (2,), 2000), True),
], ids=lambda g: f"{g.outputs[0].op} {[list(p.shape) for p in g.params]}" if isinstance(g, Graph) else "")  # fmt: skip
@pytest.mark.parametrize("few", [True, False])
def test_digits(monkeypatch, graph, blocks, few):
    """`few`: a small GPU, whose threads have more to do."""
    args = arguments(graph)
    got, text = result(monkeypatch, graph, args, arch="sm_80", sm_count=2 if few else 0)
    (want,) = graph_interp.evaluate(graph, args, wide=True)
    most = 400 if graph.outputs[0].op == "contract" else 100
    assert np.abs(got / want - 1).max() < most * 2**-24
    if few and blocks:
        assert "_block" in text


@pytest.mark.parametrize("dtype", [float16, bfloat16])
@pytest.mark.parametrize("columns", [(), (3,), (40,)])
def test_halves_are_rounded_once(monkeypatch, dtype, columns):
    graph = scatter(2, columns, 2000, dtype)
    args = arguments(graph)
    got, _ = result(monkeypatch, graph, args, arch="sm_80")
    want = args[0].astype(np.float64)
    np.add.at(want, args[1], args[2].astype(np.float64))
    np.testing.assert_array_equal(got, want.astype(np.float32).astype(dtype.np))
