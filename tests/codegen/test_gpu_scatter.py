"""Scatter with many updates on a GPU, interpreted thread by thread, and compiled."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.cost import gpu_scatter
from dlc.codegen.cost.gpu_scatter import is_binned, rows_and_columns
from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import bfloat16, float16, float32, float64, int32, int64, uint8
from dlc.ir.graph.graph import Graph, make
from tests.codegen.test_cuda_programs import check, program_of
from tests.passes.programs import tensor

TARGET = GpuTarget.of("sm_90a")


def scatter(base, index, updates, axis=0, combine="add", dtype=float32, itype=int64) -> Graph:
    x, i, u = tensor("x", *base, dtype=dtype), tensor("i", *index, dtype=itype), tensor("u", *updates, dtype=dtype)
    return Graph((x, i, u), [make("scatter", (x, i, u), axis=axis, combine=combine)])


def args_of(graph: Graph, hits: str, rng) -> list[np.ndarray]:
    out = []
    n = graph.outputs[0].shape[graph.outputs[0].attrs["axis"]]
    for p in graph.params:
        if p.attrs["name"] == "i":
            picks = {"spread": rng.integers(0, n + 3, p.shape), "one": np.full(p.shape, n // 2),
                     "skewed": np.minimum(rng.geometric(0.3, p.shape), n - 1)}
            out.append(picks[hits].astype(p.dtype.np))
        elif p.dtype.is_float:
            out.append(rng.standard_normal(p.shape).astype(p.dtype.np))
        else:
            out.append(rng.integers(0, 9, p.shape).astype(p.dtype.np))
    return out


@pytest.mark.parametrize("hits", ["spread", "one", "skewed"])
@pytest.mark.parametrize("combine", ["add", "set", "max"])
def test_combinations(hits, combine):
    graph = scatter((7, 40), (530,), (530, 40), combine=combine)
    check(graph, args_of(graph, hits, np.random.default_rng(0)), seeds=(1,))


@pytest.mark.parametrize("base, index, updates, axis", [
    ((5, 3, 13), (2, 150), (2, 150, 3, 13), 0), ((2, 4, 33), (260,), (2, 260, 33), 1), ((3, 35), (257,), (257, 35), 0),
])  # fmt: skip
def test_shapes(base, index, updates, axis):
    graph = scatter(base, index, updates, axis)
    assert is_binned(graph.outputs[0])
    check(graph, args_of(graph, "spread", np.random.default_rng(1)), seeds=(2,))


@pytest.mark.parametrize("dtype, itype", [(float16, int32), (bfloat16, uint8), (float64, int64), (int32, int64)])
def test_dtypes(dtype, itype):
    graph = scatter((9, 32), (300,), (300, 32), dtype=dtype, itype=itype)
    check(graph, args_of(graph, "skewed", np.random.default_rng(2)), seeds=(1,))


def test_several_ranges_of_rows(monkeypatch):
    monkeypatch.setattr(gpu_scatter, "SHARED", 64 * 4 * 4)  # four rows a block
    graph = scatter((18, 40), (300,), (300, 40))
    assert rows_and_columns(graph.outputs[0]) == (4, 64, 64)
    check(graph, args_of(graph, "spread", np.random.default_rng(3)), seeds=(1,))


def test_halves_are_summed_in_float32():
    graph = scatter((3, 32), (4096,), (4096, 32), dtype=bfloat16)
    args = [np.zeros((3, 32)), np.ones(4096, np.int64), np.ones((4096, 32))]
    args = [a.astype(p.dtype.np) for a, p in zip(args, graph.params, strict=True)]
    from dlc.ir.program.interp import run_program

    (got,) = run_program(program_of(graph), args, 0)
    assert got[1].astype(np.float64).tolist() == [4096.0] * 32  # one by one in bfloat16 it would stop at 256


def test_a_block_holds_what_shared_memory_takes():
    node = scatter((50304, 768), (16384,), (16384, 768)).outputs[0]
    rows, columns, block = rows_and_columns(node)
    assert columns == block == 256 and rows * columns * 4 <= gpu_scatter.SHARED
    (kernel,) = program_of(scatter((50304, 768), (16384,), (16384, 768))).kernels()
    assert "fold<op_or, 32>" in emit_module([kernel], TARGET)


@pytest.mark.parametrize("dtype", [float32, bfloat16])
@pytest.mark.parametrize("hits", ["spread", "skewed"])
def test_small_tables_are_dealt_out(hits, dtype):
    graph = scatter((5, 40), (16, 64), (16, 64, 40), dtype=dtype)
    program = check(graph, args_of(graph, hits, np.random.default_rng(4)), seeds=(1,))
    scatters = [k for k in program.kernels() if k.name.startswith("scatter")]
    assert len(scatters) == 1 and scatters[0].params[-1].shape == (16 * 5 * 40,)


def test_tables_that_fill_the_gpu_stay():
    assert len(program_of(scatter((50304, 768), (2048,), (2048, 768))).kernels()) == 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("graph", [
    scatter((50304, 768), (16, 1024), (16, 1024, 768)), scatter((65, 384), (16384,), (16384, 384), dtype=bfloat16),
    scatter((10000, 650), (35, 20), (35, 20, 650), combine="set", itype=int32),
], ids=lambda g: str(g.outputs[0].type))  # fmt: skip
def test_nothing_spills(graph, arch):
    pytest.importorskip("cupy")
    from tests.codegen.test_cuda_nvrtc import compile_graph, spills

    assert spills(compile_graph(graph, arch)) == 0
