"""Convolutions on a GPU: operands that vectors can read, against the interpreter."""

from __future__ import annotations

import pytest

from dlc.codegen.cost import gpu_contract
from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.layout import gpu_aligned_operands
from dlc.codegen.layout.gpu_aligned_operands import _vectors
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.program.build import target_layout
from dlc.ir.dtypes import bfloat16, float32
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.passes.autodiff.vjp import vjp
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.simplify import simplify
from dlc.passes.simplify.windows import lower_unwindow
from tests.codegen.test_cuda_programs import TARGET, check, program_of
from tests.passes.programs import tensor


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(gpu_aligned_operands, "WORTH", 0)
    monkeypatch.setattr(gpu_aligned_operands, "PRODUCTS", 0)


def convolution(n: int, c: int, h: int, o: int, stride: int = 1, dtype=bfloat16, part: str = "fwd") -> Graph:
    """A 3 x 3 convolution of (n, c, h, h), or a gradient of it, as the driver hands it to the layout pass."""
    x, w = tensor("x", n, c, h, h, dtype=dtype), tensor("w", o, c, 3, 3)
    taps = B.window(B.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), (2, 3), (3, 3), (stride, stride))
    y = B.contract(taps, B.cast(w, dtype), "ncxyuv,ocuv->noxy")
    dy = tensor("dy", *y.shape, dtype=dtype)
    if part == "fwd":
        graph = Graph((x, w), [y])
    else:
        (grad,) = vjp([y], [dy], [x if part == "dgrad" else w])
        graph = Graph((x, w, dy), [grad])
    for graph_pass in (remove_markers, simplify, lower_unwindow, sink_permutes):
        graph = graph_pass(graph)
    return graph


@pytest.mark.parametrize("dtype", [bfloat16, float32], ids=lambda d: d.short)
@pytest.mark.parametrize("part", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("n, c, h, o, stride", [(2, 16, 6, 8, 1), (3, 3, 5, 8, 1), (2, 8, 7, 16, 2), (2, 5, 4, 7, 1)])
def test_convolutions(n, c, h, o, stride, part, dtype):
    check(convolution(n, c, h, o, stride, dtype, part), seeds=(1,))


@pytest.mark.parametrize("part", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("dtype", [bfloat16, float32], ids=lambda d: d.short)
def test_every_operand_can_be_read_as_vectors(part, dtype):
    for n, c, h, o in ((64, 64, 8, 128), (64, 3, 8, 64), (64, 64, 8, 10), (64, 256, 4, 512)):
        graph = target_layout(convolution(n, c, h, o, 1, dtype, part), TARGET)
        for node in graph.nodes():
            if node.op == "contract":
                assert all(_vectors(x, 16 // dtype.itemsize) is not None for x in node.inputs)


@pytest.mark.parametrize("c", [3, 64])
@pytest.mark.parametrize("part", ["fwd", "dgrad", "wgrad"])
def test_tiles_are_copied_without_divisions_for_each_element(monkeypatch, part, c):
    monkeypatch.setattr(gpu_contract, "in_bulk", lambda sched, *_: sched)
    program = program_of(convolution(64, c, 16, 128, 1, bfloat16, part))
    source = emit_module([k for k in program.kernels() if "contract" in k.name], TARGET)
    main = source[source.index("float acc") : source.index("wgmma_wait<0>")]
    assert main.count("copy_async(") >= 2 and "for (int v" not in main


def test_a_copy_of_the_weights_serves_both_directions():
    x, w = tensor("x", 8, 16, 6, 6, dtype=bfloat16), tensor("w", 16, 16, 3, 3)
    y = B.contract(B.window(B.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), (2, 3), (3, 3)), B.cast(w, bfloat16),
                   "ncxyuv,ocuv->noxy")
    (dx,) = vjp([y], [y], [x])
    graph = Graph((x, w), [y, dx])
    for graph_pass in (remove_markers, simplify, lower_unwindow, sink_permutes):
        graph = graph_pass(graph)
    copies = {n for n in target_layout(graph, TARGET).nodes() if n.op == "barrier" and n.type.size == w.type.size}
    assert len(copies) == 1


def test_small_contractions_are_left_alone(monkeypatch):
    monkeypatch.undo()
    graph = convolution(1, 5, 4, 3)
    assert not any(n.op == "barrier" for n in target_layout(graph, TARGET).nodes())


@pytest.mark.parametrize("dtype", [bfloat16, float32], ids=lambda d: d.short)
def test_heads_seen_as_one_axis_are_read_in_runs(dtype):
    x, w = tensor("x", 2, 3, 20, 16, dtype=dtype), tensor("w", 48, 64, dtype=dtype)
    rows = B.reshape(B.permute(x, (0, 2, 1, 3)), (2, 20, 48))
    graph = Graph((x, w), [B.contract(rows, w, "btk,kn->btn")])
    assert not any(n.op == "barrier" for n in target_layout(graph, TARGET).nodes())
    program = check(graph, seeds=(1,))
    source = emit_module(program.kernels(), TARGET)
    assert "const float x_ = x[" not in source and "x_ = x[" not in source  # every read is a vector
