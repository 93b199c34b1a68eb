"""Generated CUDA C through NVRTC, which needs no GPU: it compiles for every architecture, and nothing spills."""

from __future__ import annotations

import re

import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import bfloat16, float16, float32, float64
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.scalar import SCALAR_OPS
from tests.codegen.test_cuda_programs import program_of
from tests.passes import programs
from tests.passes.programs import tensor

cupy = pytest.importorskip("cupy")
nvrtc = pytest.importorskip("cupy.cuda").nvrtc

ARCHS = ("sm_80", "sm_90a")


def compile_source(source: str, arch: str) -> str:
    """ptxas' report. Fails with NVRTC's messages."""
    handle = nvrtc.createProgram(source, "kernels.cu", [], [])
    try:
        nvrtc.compileProgram(handle, [f"-arch={arch}", "--ptxas-options=-v"])
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(handle)[:4000])
    assert len(nvrtc.getCUBIN(handle)) > 0
    return nvrtc.getProgramLog(handle)


def spills(report: str) -> int:
    assert "serialized" not in report  # ptxas' word for wgmma that waits for every product (C7510 and on)
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", report))


def compile_graph(graph: Graph, arch: str) -> str:
    target = GpuTarget.of(arch)
    kernels = program_of(graph, target=target).kernels()
    return compile_source(emit_module(kernels, target), arch)


def gemm(spec: str, a, b, dtype=float32, out=None) -> Graph:
    x, y = tensor("x", *a, dtype=dtype), tensor("y", *b, dtype=dtype)
    return Graph((x, y), [B.contract(x, y, spec, out)])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("graph", [
    programs.softmax((64, 1024)), programs.softmax((33, 300), 0), programs.layernorm(64, 768, bfloat16),
    programs.layernorm(16, 100000), programs.batchnorm(8, 16, 8), programs.adam((300, 77), (77,), ()),
    programs.linear_gelu(100, 784, 256), programs.attention(4, 64, 32), programs.cross_entropy(64, 10, True),
    programs.embedding_gradient(100, 64, 50), programs.accuracy(),
], ids=lambda g: g.outputs[0].op + str(list(g.params[0].shape)))  # fmt: skip
def test_programs(graph, arch):
    compile_graph(graph, arch)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
def test_every_scalar_operation(dtype, arch):
    x, y = tensor("x", 40, dtype=dtype), tensor("y", 40, dtype=dtype)
    outs = [B.cast(x, d) for d in dtypes.ALL] + [B.reduce(x, m, (0,)) for m in ("max", "argmin")]
    for name, row in SCALAR_OPS.items():
        if dtype.kind in row.kinds and name != "threefry":
            outs.append(B.op(name, *(x, y)[: row.arity]))
    compile_graph(Graph((x, y), outs), arch)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [4096, 1000, 256])
@pytest.mark.parametrize("spec", ["mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->mn"])
@pytest.mark.parametrize("dtype", [float32, bfloat16, float16, float64], ids=lambda d: d.short)
def test_matrix_products_do_not_spill(spec, size, dtype, arch):
    if dtype is float64 and (size != 4096 or spec != "mk,kn->mn"):
        return
    assert spills(compile_graph(gemm(spec, (size, size), (size, size), dtype), arch)) == 0


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=lambda d: d.short)
def test_convolutions_do_not_spill(dtype, arch):
    x, w = tensor("x", 32, 64, 32, 32, dtype=dtype), tensor("w", 128, 64, 3, 3, dtype=dtype)
    taps = B.window(B.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), (2, 3), (3, 3), (1, 1))
    assert spills(compile_graph(Graph((x, w), [B.contract(taps, w, "nchwkl,ockl->nohw")]), arch)) == 0


def test_scatter_cumulative_and_sort():
    x, i, u = tensor("x", 60, 50), tensor("i", 90, dtype=dtypes.int64), tensor("u", 90, 50)
    outs = [make("scatter", (x, i, u), axis=0, combine=c) for c in ("add", "set", "max")]
    outs += [make("cumulative", (x,), axis=a, monoid="sum", reverse=True) for a in (0, 1)]
    s = make("sort", (x,), axis=1, descending=True)
    outs += [make("item", (s,), index=k) for k in (0, 1)]
    compile_graph(Graph((x, i, u), outs), "sm_90a")


def test_launch_shapes():
    target = GpuTarget.of("sm_90")
    (kernel,) = program_of(programs.softmax((100, 2048)), target=target).kernels()
    shape = launch_shape(kernel)
    assert (shape.grid(), shape.block) == (100, kernel.schedule.block)
    (kernel,) = program_of(programs.adam((300, 7)), target=target).kernels()
    shape = launch_shape(kernel)
    chunk = kernel.schedule.block * kernel.schedule.lanes * kernel.schedule.unroll
    for n in (0, 1, chunk, chunk + 1):
        assert shape.grid({kernel.params[-1]: n}) == -(-n // chunk)


def test_names_and_lines_of_the_user_are_in_the_source():
    x = tensor("float", 5, 6)
    (kernel,) = program_of(Graph((x,), [B.reduce(x, "sum", (1,))])).kernels()
    source = emit_module([kernel], GpuTarget.of("sm_80"))
    assert "float_" in source and "f32[5,6]" in source and kernel.name in source
    assert gpu_schedule.WIDE == 16
