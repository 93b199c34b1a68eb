"""Matrix products of float32 in TF32: meaning, rounding, emission, and who asks for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.layout import gpu_aligned_operands
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import float32
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.loops import schedule
from dlc.ir.loops.instructions import Mma
from dlc.ir.loops.interp.values import tf32
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.traverse import walk
from dlc.ir.program.interp import run_program
from tests.codegen.test_cuda_programs import TARGET, check, forced, program_of
from tests.codegen.test_gpu_convolutions import convolution
from tests.passes.programs import tensor
from tests.random_graphs import arguments

TILES = [schedule.GpuMma(64, 64, 32, 3, 2, 2, 32), schedule.GpuMma(32, 64, 32, 4, 2, 2, 32)]
SPECS = [("mk,kn->mn", (70, 72), (72, 80)), ("mk,nk->mn", (70, 104), (80, 104)), ("km,kn->mn", (40, 72), (40, 64)),
         ("km,nk->nm", (33, 72), (30, 33)), ("bmk,bkn->bmn", (2, 17, 64), (2, 64, 24))]


def exact(graph: Graph) -> list[np.ndarray]:
    """Arguments that TF32 holds without rounding."""
    return [tf32(np.asarray(a, np.float32)) for a in arguments(graph)]


@pytest.mark.parametrize("sched", TILES, ids=lambda s: f"{s.bm}x{s.bn}")
@pytest.mark.parametrize("spec, a, b", SPECS)
def test_products(monkeypatch, sched, spec, a, b):
    forced(monkeypatch, "contract", sched)
    x, y = tensor("x", *a), tensor("y", *b)
    z = B.contract(x, y, spec)
    graph = Graph((x, y), [B.op("add", z, B.like(z, 1))])
    program = check(graph, exact(graph), seeds=(1,))
    assert any(isinstance(s, Mma) for k in program.kernels() for s in walk(k.body))


@pytest.mark.parametrize("part", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("n, c, h, o, stride", [(2, 16, 6, 8, 1), (3, 3, 5, 8, 1), (2, 8, 7, 16, 2)])
def test_convolutions(monkeypatch, part, n, c, h, o, stride):
    monkeypatch.setattr(gpu_aligned_operands, "WORTH", 0)
    monkeypatch.setattr(gpu_aligned_operands, "PRODUCTS", 0)
    forced(monkeypatch, "contract", TILES[0])
    graph = convolution(n, c, h, o, stride, float32, part)
    check(graph, exact(graph), seeds=(1,))


def test_operands_are_rounded_to_nearest(monkeypatch):
    forced(monkeypatch, "contract", TILES[1])
    x, y = tensor("x", 32, 40), tensor("y", 40, 48)
    graph = Graph((x, y), [B.contract(x, y, "mk,kn->mn")])
    args = arguments(graph)
    (got,) = run_program(program_of(graph), args, 1)
    (want,) = graph_interp.evaluate(graph, [tf32(np.asarray(a, np.float32)) for a in args])
    (fine,) = graph_interp.evaluate(graph, args)
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)
    assert 1e-4 < np.abs(got - fine).max() < 1e-2
    special = np.array([np.inf, -np.inf, np.nan, 1 + 2**-11, 1 + 2**-12, -(1 + 2**-11)], np.float32)
    np.testing.assert_array_equal(tf32(special), np.array([np.inf, -np.inf, np.nan, 1 + 2**-10, 1, -1 - 2**-10],
                                                           np.float32))


def test_text(monkeypatch):
    forced(monkeypatch, "contract", TILES[0])
    x, y = tensor("x", 128, 64), tensor("y", 64, 128)
    program = program_of(Graph((x, y), [B.contract(x, y, "mk,kn->mn")]))
    (kernel,) = program.kernels()
    assert print_kernel(parse_kernel(print_kernel(kernel))) == print_kernel(kernel)
    source = emit_module([kernel], TARGET)
    assert "mma_tf32<32, 32, 32, true, false>(acc, &a_tile[" in source and "copy_async" in source


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90a"])
@pytest.mark.parametrize("spec", ["mk,nk->mn", "km,kn->mn"])
@pytest.mark.parametrize("m, n", [(4096, 4096), (1000, 1000), (256, 64)])
def test_chosen_tiles_fit_and_do_not_spill(spec, m, n, arch):
    pytest.importorskip("cupy")
    from tests.codegen.test_cuda_nvrtc import compile_source, spills

    target = replace(GpuTarget.of(arch), tf32=True)
    x = tensor("x", *((m, 512) if spec[0] == "m" else (512, m)))
    y = tensor("y", *((n, 512) if spec[3] == "n" else (512, n)))
    kernels = program_of(Graph((x, y), [B.contract(x, y, spec)]), target=target).kernels()
    assert any(isinstance(s, Mma) for k in kernels for s in walk(k.body))
    assert all(launch_shape(k).shared_bytes <= target.shared_bytes for k in kernels)
    assert spills(compile_source(emit_module(kernels, target), arch)) == 0
