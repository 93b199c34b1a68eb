"""Donated outputs: written where their parameters are, once all have read these."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dlc.base.errors import VerifyError
from dlc.codegen.program.build import build_program
from dlc.codegen.program.donation import verify_aliases
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import bfloat16, float32
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, TensorType, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.program.interp import run_program
from dlc.ir.program.program import Ref
from dlc.runtime import compile as compiler
from tests.targets import cpu


def launches(of_result: bool) -> list[str]:
    """The kernels of a step that updates a weight, and then multiplies it: by a parameter, or by its new value."""
    w, x, y = (param(TensorType(float32, (40, 40)), n) for n in "wxy")
    new = b.op("sub", w, b.broadcast(b.sum_(x, (0,)), w.shape, (1,)))
    graph = Graph([w, x, y], [new, b.contract(b.op("tanh", new) if of_result else y, w, "mk,kn->mn")])
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((40, 40)).astype(np.float32) for _ in graph.params]
    program = plan_memory(build_program(graph, ((0, 0),), cpu("avx512"), "step"))
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
    program = plan_memory(build_program(graph, ((0, 0),), cpu("avx512"), "step"))
    assert not any("copy" in s.kernel.name for s in program.steps)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(p.shape).astype(np.float32) for p in graph.params]
    (want,), (got,) = evaluate(graph, arrays), run_program(program, arrays)
    np.testing.assert_allclose(got, want, 1e-4, 1e-4)


def test_what_is_written_over_an_element_is_computed_from_it():
    """Or the kernel says that the two may be one memory: else a compiler, which takes them for different memory, may
    store first and load then. So it was with max, whose operand x86 takes from memory."""
    old, other, x = (param(TensorType(float32, (100,)), n) for n in ("old", "other", "x"))
    apart = Graph([old, other, x], [b.op("max", old, b.op("add", other, x)), b.op("neg", other)])
    program = plan_memory(build_program(apart, ((0, 1),), cpu("avx512"), "step"))
    (step,) = program.steps
    over = {p for p, r in zip(step.kernel.params, step.args, strict=True) if r.slot.memory is program.inputs[0]}
    assert len(over) == 2 and step.kernel.aliased == over
    program.steps = (dataclasses.replace(step, kernel=dataclasses.replace(step.kernel, aliased=frozenset())),)
    with pytest.raises(VerifyError, match="is written over"):
        verify_aliases(program)
    alone = Graph([old, other], [b.op("add", b.op("neg", other), old)])
    program = plan_memory(build_program(alone, ((0, 0),), cpu("avx512"), "step"))
    assert not any("copy" in step.kernel.name or step.kernel.aliased for step in program.steps)
    # what another result is computed from LLVM may load a second time, so that is told too
    fed = Graph([old, other, x], [b.op("max", old, b.op("add", other, x)), b.op("add", b.op("neg", other), old)])
    (step,) = plan_memory(build_program(fed, ((0, 1),), cpu("avx512"), "step")).steps
    assert len(step.kernel.aliased) == 2


def traded(sources: list[int], shape: tuple[int, ...], arithmetic: bool) -> Graph:
    """Output k is parameter sources[k], or computed from it and its neighbour."""
    params = [param(TensorType(float32, shape), f"p{k}") for k in range(len(sources))]
    if not arithmetic:
        return Graph(params, [params[s] for s in sources])
    return Graph(params, [b.op("sub", b.op("mul", params[s], b.like(params[s], 1.0 + k)), params[(k + 1) % len(params)])
                          for k, s in enumerate(sources)])


@pytest.mark.parametrize("target", [cpu("avx2"), cpu("avx512"), GpuTarget.of("sm_90a")],
                         ids=["avx2", "avx512", "sm_90a"])
@pytest.mark.parametrize("arithmetic", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_outputs_in_the_places_of_other_inputs(target, arithmetic, seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 6))
    sources = [int(s) for s in (rng.permutation(count) if seed % 2 else rng.integers(0, count, count))]
    graph = traded(sources, ((3, 5), (70,), (1,), (40, 33))[seed], arithmetic)
    donate = tuple((k, k) for k in range(count))
    program = compiler.lower(graph, compiler.Job(target, "trade", donate))
    verify_aliases(program)
    arrays = [rng.standard_normal(p.shape).astype(np.float32) for p in graph.params]
    for want, got in zip(evaluate(graph, arrays), run_program(program, arrays), strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize("dtype", [float32, bfloat16])
@pytest.mark.parametrize("target", [cpu("amx"), GpuTarget.of("sm_80"), GpuTarget.of("sm_90a")],
                         ids=["amx", "sm_80", "sm_90a"])
def test_a_product_is_not_written_over_its_operand(target, dtype):
    """Whatever copies the operand: vectors, the matrix unit's loads, asynchronous copies, bulk ones."""
    w = param(TensorType(dtype, (256, 256)), "w")
    graph = Graph([w], [b.cast(b.contract(w, w, "mk,kn->mn", float32), dtype)])
    program = compiler.lower(graph, compiler.Job(target, "square", ((0, 0),)))
    writers = [s for s in program.steps if program.outputs[0] in s.written]
    assert writers and not any(program.inputs[0] in s.touched for s in writers)


def test_what_a_launch_writes_over_is_found():
    graph = traded([1, 0], (40,), True)
    program = compiler.lower(graph, compiler.Job(cpu("avx2"), "trade", ((0, 0), (1, 1))))
    program.steps = tuple(s for s in program.steps if not s.kernel.name.startswith("copy"))
    program.outputs[0].alias, program.outputs[1].alias = program.inputs
    first = program.steps[0]
    wrong = dataclasses.replace(first, args=tuple(Ref(program.outputs[1]) if r.slot.name.startswith("new") else r
                                                  for r in first.args))
    program.steps = (wrong, *program.steps[1:])
    with pytest.raises(VerifyError, match="is written over"):
        verify_aliases(program)
