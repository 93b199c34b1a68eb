"""Generated CUDA C, run: by tests/cuda_on_cpu, with threads and blocks in several orders, against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import build as B
from dlc.ir import graph_interp
from dlc.ir.dtypes import float16, float32, float64
from dlc.ir.graph import Graph
from dlc.runtime import devices
from dlc.runtime import programs as compiler
from tests import cuda_on_cpu
from tests.passes import programs
from tests.passes.programs import tensor
from tests.random_graphs import arguments
from tests.runtime.test_cuda_executable import on_gpu

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")
_TOLERANCE = {"float64": 1e-12, "float32": 3e-5, "float16": 2e-2, "bfloat16": 6e-2}


def check(monkeypatch, *graphs: Graph, args=None, arch: str = "sm_90a", orders=((0, True), (1, False), (2, True)),
          tolerance: float = 0.0, donate=()) -> list[str]:
    """Run graphs as one program, and again with threads in other orders; the names of its kernels."""
    params = [p for g in graphs for p in g.params]
    graph = Graph(params, [o for g in graphs for o in g.outputs])
    args = [a for g in graphs for a in arguments(g)] if args is None else args
    want = graph_interp.evaluate(graph, args)
    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(arch=arch))
    executable = compiler.compile_graph(graph, donate, device="cuda:0")
    for gpu.order, gpu.late in orders:
        out = executable.run([on_gpu(np.asarray(a)) for a in args])
        for node, buffer, w in zip(graph.outputs, out, want, strict=True):
            got = devices.read(buffer, node.shape, node.dtype.np)
            if node.dtype.is_float:
                half = any(getattr(n.type, "dtype", float32).is_half for n in graph.nodes())
                t = tolerance or _TOLERANCE["bfloat16" if half else node.dtype.name]
                np.testing.assert_allclose(got.astype(np.float64), w.astype(np.float64), t, t)
            else:
                np.testing.assert_array_equal(got, w)
    return [k.name for k in executable.program.kernels()]


def test_maps(monkeypatch):
    x, y = tensor("x", 3, 5), tensor("y", 3, 5)
    one = Graph((x, y), [B.op("add", B.op("mul", x, y), x), B.op("exp", y)])
    x, row = tensor("x", 2, 192), tensor("row", 192)
    two = Graph((x, row), [B.op("add", B.op("mul", x, x), B.broadcast_to(row, x.shape))])
    check(monkeypatch, one, two, programs.softmax((3, 20), dtype=float16), programs.softmax((3, 19), dtype=float64))


@pytest.mark.parametrize("order", [(1, 0), (0, 2, 1), (2, 1, 0)])
def test_transposes(monkeypatch, order):
    shape = (33, 40) if len(order) == 2 else (17, 3, 36)
    graphs = []
    for dtype in (float32, float16):
        x = tensor("x", *shape, dtype=dtype)
        graphs.append(Graph((x,), [B.op("neg", B.permute(x, order))]))
    check(monkeypatch, *graphs)


def test_rows_and_columns(monkeypatch):
    x = tensor("x", 5, 1030)
    reductions = Graph((x,), [B.reduce(x, m, (a,)) for m in ("sum", "max", "argmin") for a in (0, 1)])
    check(monkeypatch, reductions, programs.softmax((3, 33)), programs.softmax((33, 3), 0), programs.softmax((2, 1030)),
          programs.layernorm(3, 260), programs.batchnorm(3, 5, 3))


def test_split_reductions(monkeypatch):
    x = tensor("x", 1 << 13, 24)
    assert len(check(monkeypatch, Graph((x,), [B.reduce(x, "sum", a) for a in ((0,), (0, 1))]), orders=((2, True),),
                     tolerance=1e-3)) > 2
