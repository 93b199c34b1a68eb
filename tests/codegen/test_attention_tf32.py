"""Attention on float32 where TF32 is allowed: found, interpreted, run as CUDA C, and compiled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import float32
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.schedule import GpuAttention
from dlc.ir.program.interp import run_program
from dlc.passes.attention.find import find_attention
from dlc.passes.autodiff.vjp import expand
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.simplify import simplify
from tests import cuda_on_cpu
from tests.codegen.test_cuda_programs import program_of
from tests.passes.attention_graphs import attention
from tests.random_graphs import arguments

emulated = pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")


def lowered(graph: Graph, arch: str = "sm_80"):
    graph = simplify(remove_markers(expand(find_attention(graph, tf32=True))))
    return program_of(graph, target=replace(GpuTarget.of(arch), tf32=True))


def check(graph: Graph, run, seed: int = 1, args=None):
    """The program's results are as near to exact ones as operands of 11 bits allow."""
    args = arguments(graph) if args is None else args
    program = lowered(graph)
    assert any(k.name.startswith("attention") for k in program.kernels())
    want = graph_interp.evaluate(expand(graph), args, wide=True)
    for got, exact in zip(run(program, args, seed), want, strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
        np.testing.assert_allclose(got, exact, 4e-3, 3e-3 * np.nanmax(np.abs(exact)))
    return program


CASES = [
    {"mask": "causal", "queries": 70}, {"queries": 33, "keys": 80}, {"inner": 80, "value": 72, "queries": 17},
    {"mask": "bool"}, {"mask": "window", "queries": 70}, {"mask": "float", "batch": (2,)},
    {"drop": True, "mask": "causal"}, {"inner": 24, "value": 8},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_interpreted(case):
    check(attention(**{"batch": (), "dtype": float32, **case}, gradient=True), run_program)


@emulated
@pytest.mark.parametrize("case", CASES, ids=str)
def test_run(case):
    check(attention(**{"batch": (), "dtype": float32, **case}, gradient=True), cuda_on_cpu.run_program)


@emulated
@pytest.mark.parametrize("sched", [GpuAttention(32, 1, 3, 32, 1, True), GpuAttention(64, 4, 2, 32, 1, True)], ids=str)
def test_schedules(monkeypatch, sched):
    monkeypatch.setattr(gpu_schedule, "attention", lambda node, target: sched)
    check(attention((), 100, mask="causal", inner=40, dtype=float32, gradient=True), cuda_on_cpu.run_program, 2)


def test_only_where_it_is_allowed():
    graph = attention(dtype=float32)
    assert not any(n.op == "attention" for n in find_attention(graph).nodes())
    assert any(n.op == "attention" for n in find_attention(graph, tf32=True).nodes())


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("case", [
    {"inner": 64, "mask": "causal", "drop": True}, {"inner": 128, "mask": "causal"}, {"inner": 32, "mask": "bool"},
], ids=str)  # fmt: skip
def test_they_compile_without_spills(case, arch):
    pytest.importorskip("cupy")
    from tests.codegen.test_cuda_nvrtc import compile_source, spills

    program = lowered(attention((4, 8), 1024, gradient=True, dtype=float32, **case), arch)
    kernels = [k for k in program.kernels() if k.name.startswith("attention")]
    assert len(kernels) == 3 and all(launch_shape(k).shared_bytes <= 99 << 10 for k in kernels)
    report = compile_source(emit_module(kernels, GpuTarget.of(arch)), arch)
    assert spills(report) == 0, report
