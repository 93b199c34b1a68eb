"""Donated outputs: written where their parameters are, once all have read these."""

from __future__ import annotations

import numpy as np

from dlc.codegen.build import build_program
from dlc.ir import build as b
from dlc.ir.dtypes import float32
from dlc.ir.graph import Graph, TensorType, param
from dlc.ir.graph_interp import evaluate
from dlc.ir.program_interp import run_program
from dlc.passes.memory import plan_memory
from tests.targets import named


def launches(of_result: bool) -> list[str]:
    """The kernels of a step that updates a weight, and then multiplies it: by a parameter, or by its new value."""
    w, x, y = (param(TensorType(float32, (40, 40)), n) for n in "wxy")
    new = b.op("sub", w, b.broadcast(b.sum_(x, (0,)), w.shape, (1,)))
    graph = Graph([w, x, y], [new, b.contract(b.op("tanh", new) if of_result else y, w, "mk,kn->mn")])
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((40, 40)).astype(np.float32) for _ in graph.params]
    program = plan_memory(build_program(graph, ((0, 0),), named("avx512"), "step"))
    for want, got in zip(evaluate(graph, arrays), run_program(program, arrays), strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-4)
    return [s.kernel.name for s in program.steps]


def test_an_update_waits_for_the_readers_of_the_old_value():
    names = launches(False)
    assert names.index("contract_0") < len(names) - 1 and not any("copy" in name for name in names)


def test_an_update_that_a_reader_of_the_old_value_needs_is_made_aside():
    assert launches(True)[-1].startswith("copy")


def test_an_update_by_whole_tiles_and_narrow_ones():
    """Both branches of the kernel read what they write, and nothing else."""
    w, x, y = (param(TensorType(float32, s), n) for n, s in zip("wxy", ((50, 100), (96, 50), (96, 100)), strict=True))
    graph = Graph([w, x, y], [b.op("sub", w, b.contract(x, y, "bm,bn->mn"))])
    program = plan_memory(build_program(graph, ((0, 0),), named("avx512"), "step"))
    assert not any("copy" in s.kernel.name for s in program.steps)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(p.shape).astype(np.float32) for p in graph.params]
    (want,), (got,) = evaluate(graph, arrays), run_program(program, arrays)
    np.testing.assert_allclose(got, want, 1e-4, 1e-4)
