"""Attention's kernels: interpreted thread by thread against the graph, and compiled by NVRTC."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import float16
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.instructions import Mma
from dlc.ir.loops.ir import For, If
from dlc.ir.loops.schedule import GpuAttention
from dlc.ir.loops.traverse import walk
from dlc.ir.program.interp import run_program
from dlc.passes.attention.find import find_attention
from dlc.passes.autodiff.vjp import expand
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.simplify import simplify
from tests.codegen.test_cuda_programs import program_of
from tests.passes.attention_graphs import attention
from tests.random_graphs import arguments

ARCHS = ("sm_80", "sm_90a")


def lowered(graph: Graph, arch: str):
    graph = simplify(remove_markers(expand(find_attention(graph))))
    return program_of(graph, target=GpuTarget.of(arch))


def check(graph: Graph, arch: str, args=None, seeds=(0,)):
    """The program's results are as near to exact ones as halves allow."""
    args = arguments(graph) if args is None else args
    program = lowered(graph, arch)
    assert any(k.name.startswith("attention") for k in program.kernels())
    want = graph_interp.evaluate(expand(graph), args, wide=True)
    for seed in seeds:
        for got, exact in zip(run_program(program, args, seed), want, strict=True):
            got = got.astype(np.float64)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
            np.testing.assert_allclose(got, exact, 0.03, 0.012 * np.nanmax(np.abs(exact)))
    return program


CASES = [
    {"mask": "causal", "queries": 70}, {"queries": 33, "keys": 80}, {"mask": "window", "queries": 70, "batch": ()},
    {"mask": "bool"}, {"mask": "float", "batch": (2,)}, {"drop": True, "mask": "causal"}, {"inner": 24, "value": 8},
    {"inner": 80, "value": 72, "queries": 17}, {"dtype": float16, "inner": 64, "mask": "causal"},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_warpgroups(case):
    check(attention(**{"batch": (), **case}, gradient=True), "sm_90a")


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_warps(case):
    check(attention(**{"batch": (), **case}, gradient=True), "sm_80")


@pytest.mark.parametrize("arch", ARCHS)
def test_the_order_of_threads_does_not_matter(arch):
    check(attention((2,), 80, mask="causal", gradient=True), arch, seeds=(1, 2))


def test_rows_without_scores():
    for mask in ("bool", "window"):
        graph = attention((), 40, 17, mask=mask, gradient=mask == "bool")
        args = arguments(graph)
        if mask == "bool":
            args[3][5:9] = False
        check(graph, "sm_90a", args)


@pytest.mark.parametrize("sched", [
    GpuAttention(32, 1, 3, 128), GpuAttention(128, 2, 2, 128, 1, True), GpuAttention(64, 3, 4, 32),
    GpuAttention(32, 1, 2, 32, 1, True),
], ids=str)  # fmt: skip
def test_schedules(monkeypatch, sched):
    monkeypatch.setattr(gpu_schedule, "attention", lambda node, target: sched)
    check(attention((), 100, mask="causal", inner=32, gradient=True), "sm_90a")


def test_tiles_that_are_masked_whole_are_skipped():
    (kernel,) = lowered(attention((), 256, mask="causal"), "sm_90a").kernels()
    (loop,) = [s for s in walk(kernel.body) if isinstance(s, For) and any(isinstance(x, Mma) for x in walk(s))
               and s.kind == "serial"]
    assert loop.extent.op != "const" and loop.extent.axes  # it depends on the block
    (plain,) = lowered(attention((), 256), "sm_90a").kernels()
    (loop,) = [s for s in walk(plain.body) if isinstance(s, For) and any(isinstance(x, Mma) for x in walk(s))
               and s.kind == "serial"]
    assert loop.extent.op == "const"
    assert not any(isinstance(s, If) and s.other is not None for s in walk(plain.body))  # no tile needs a mask


def test_unused_results_are_not_computed():
    forward = lowered(attention(), "sm_90a")
    assert [len(k.writes) for k in forward.kernels()] == [1]
    assert all(s.slot.kind != "arena" for k in forward.steps for s in k.args)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", [
    {"inner": 64, "mask": "causal", "drop": True}, {"inner": 128, "mask": "causal"},
    {"inner": 32, "dtype": float16, "mask": "bool"}, {"inner": 64, "mask": "bool"}, {"inner": 80, "mask": "causal"},
], ids=str)  # fmt: skip
def test_they_compile_without_spills(case, arch):
    pytest.importorskip("cupy")
    from tests.codegen.test_cuda_nvrtc import compile_source, spills

    program = lowered(attention((4, 8), 1024, gradient=True, **case), arch)
    kernels = [k for k in program.kernels() if k.name.startswith("attention")]
    assert len(kernels) == 3
    report = compile_source(emit_module(kernels, GpuTarget.of(arch)), arch)
    assert spills(report) == 0, report
