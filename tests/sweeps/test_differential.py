"""The differential sweep in CI: a fixed seed, and that it would find what it is made for."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")

from dlc.codegen.llvm import kernel as llvm_kernel
from dlc.codegen.lower import contract as lower_contract
from dlc.codegen.program import donation, memory
from dlc.frontend.array import index_plan
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.loops import ir as loops
from dlc.passes.autodiff import vjp, vjp_rules
from dlc.passes.views import elements
from tests import cuda_on_cpu
from tests.sweeps import differential, workers
from tests.sweeps.case import MODES, Case, Setting, program
from tests.sweeps.check import check
from tests.sweeps.draw import Draw, simpler
from tests.sweeps.families import FAMILIES


def test_a_few_cases():
    report = differential.sweep(7, cases=16, processes=2)
    assert report.cases > 12 and not report.failures, report.summary()


@pytest.mark.slow
def test_cases_of_all_families():
    report = differential.sweep(2026, cases=700, processes=2)
    assert report.cases > 680 and not report.failures, report.summary()


@pytest.mark.slow
@pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason="no emulated GPU here")
def test_cases_on_an_emulated_gpu():
    report = differential.sweep(3, cases=20, processes=2, device="emulated")
    assert report.cases > 15 and not report.failures, report.summary()


# -- planted faults -----------------------------------------------------------------------------------------------


def _narrow_tail(n: int, nr: int, lanes: int, fewest: int) -> int:
    return fewest if fewest and n > nr and fewest < lanes else lanes  # whatever is left


def _no_clamp(index: loops.Expr, extent: int) -> loops.Expr:
    return elements.simplify(loops.cast(index, dtypes.int64))


def _no_rest(self, s, vector, extent):
    whole = self.b.ins(f"and i64 {extent.text}, {-vector.lanes}", 0, extent)
    body = partial(self._group, s, vector, mask=None)
    self.control.loop(s, self.b.const(0, dtypes.int64), whole, vector.lanes, False, body)


def _one_place(life) -> int:
    for slot in life:
        slot.offset = 0
    return max((slot.nbytes for slot in life), default=0)


# What a fault replaces, the families that should meet it, and the instructions it needs.
_FAULTS = {
    "a contraction's tail narrower than what is left": (
        [(lower_contract, "last_lanes", _narrow_tail)], ["matmul", "einsum", "conv2d", "vmapped"], "avx512"),
    "indices that are not clamped": (
        [(elements, "clamped", _no_clamp), (index_plan, "clamped", index_plan.wrapped)], ["outside"], ""),
    "indices that are not counted from the end": (
        [(index_plan, "wrapped", lambda index, extent: index)], ["gathers", "scatters"], ""),
    "results in memory that is still read": (
        [(donation, "_elementwise", lambda *_: True)], ["states", "loops"], ""),
    "no rest of a vector loop": (
        [(llvm_kernel.KernelEmitter, "_vector_dynamic", _no_rest)], ["pairs", "functions"], ""),
    "values in each other's memory": (
        [(memory, "_place", _one_place)], ["programs", "smooth_programs"], ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", _FAULTS)
def test_a_planted_fault_is_found(fault, monkeypatch):
    replaced, families, level = _FAULTS[fault]
    if level and level not in differential.host_levels():
        pytest.skip(f"needs {level}")
    for place, name, instead in replaced:  # the workers are forked, and have them too
        monkeypatch.setattr(place, name, instead)
    report = differential.sweep(5, cases=100, families=families, levels=[level] if level else None, shrink=0)
    assert report.failures


@pytest.mark.slow
def test_a_slope_that_is_a_thousandth_wrong_is_found(monkeypatch):
    wrong = vjp_rules._unary(lambda x, y: vjp_rules.scale(b.op("cos", x), 1.001))
    monkeypatch.setitem(vjp.VJP, "sin", wrong)
    report = differential.sweep(5, cases=40, families=["smooth_programs", "functions"], shrink=0)
    assert report.failures


# -- the machinery ------------------------------------------------------------------------------------------------


def _family(body: str, arrays: dict[str, str] | None = None):
    arrays = arrays or {"x": "np.ones(3, 'float32')"}
    return lambda d: Case(arrays, body, "return x", modes=("eager",))


@pytest.mark.parametrize(("body", "status"), [
    ("import ctypes\nreturn ctypes.string_at(8)", "crashes"), ("while True: pass", "hangs"), ("return x", "ok"),
    ("raise ValueError('no')", "raises"), ("return x + 1", "wrong"), ("return x[:2]", "wrong"),
])  # fmt: skip
def test_whatever_happens_is_a_verdict(body, status, monkeypatch):
    monkeypatch.setitem(FAMILIES, "this", _family(body))
    pool = workers.Workers(1, [differential.host_levels()[0]], "cpu", seconds=3, jobs_each=10)
    try:
        jobs = [workers.Job("this", 1, Setting()) for _ in range(2)]
        assert [verdict.status for _, verdict in pool.run(jobs)] == [status] * 2
    finally:
        pool.stop()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_draw_can_be_repeated_and_made_smaller(name):
    for seed in range(10):
        first = Draw(seed)
        case = FAMILIES[name](first)
        again = Draw(0, first.choices)
        assert FAMILIES[name](again).text() == case.text() and again.choices == first.choices
        compile(program(case, Setting(mode="jit gradient")), "case", "exec")
        space = case.namespace(seed)
        assert all(isinstance(space[array], np.ndarray | np.generic) for array in case.arrays)
    smaller = list(simpler([3, 0, 2]))
    assert [0, 0, 2] in smaller and [3, 0, 1] in smaller and all(s != [3, 0, 2] for s in smaller)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["matmul", "sorts", "smooth_programs"])
def test_what_a_failure_prints_runs_by_itself(name, mode):
    text = program(FAMILIES[name](Draw(4)), Setting(mode=mode, seed=4))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arrays", "ours", "theirs", "kind"), [
    ({"x": "r.standard_normal((50, 1)).astype('float32')"}, "F.layer_norm(x, (1,))", "T.layer_norm(x, (1,))", "smooth"),
    ({"x": "(100 * r.standard_normal((9, 1, 8))).astype('float32')"}, "F.scaled_dot_product_attention(x, x[:, :1], x)",
     "T.scaled_dot_product_attention(x, x[:, :1], x)", "smooth"),
    ({"x": "r.standard_normal(100_000).astype('float32')"}, "x.sum()", "x.sum()", "sums"),
])  # fmt: skip
def test_what_is_only_rounding_is_none(arrays, ours, theirs, kind):
    """An exact gradient of 0 that is a difference of large numbers; a sum that nearly cancels."""
    case = Case(arrays, f"return {ours}", f"return {theirs}", kind=kind, wrt=("x",))
    for seed in range(4):
        verdict = check(case, Setting(mode="jit gradient", seed=seed))
        assert verdict.status == "ok", verdict.detail


@pytest.mark.parametrize("ours", ["x @ w * 1.00001", "(x @ w).at[0, 0].add(0.01)", "x[:, :-1] @ w[:-1]"])
def test_what_is_more_than_rounding_is_wrong(ours):
    arrays = {"x": "1 + r.random((5, 300)).astype('float32')", "w": "1 + r.random((300, 7)).astype('float32')"}
    assert check(Case(arrays, f"return {ours}", "return x @ w"), Setting(mode="jit")).status == "wrong"
