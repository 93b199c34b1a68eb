"""Tuning: measured once, remembered on disk, and only for those who ask."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dlc
from dlc.codegen.cost import cpu_contract
from dlc.codegen.program.lowering import LOWER
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.schedule import cpu_candidates as candidates
from dlc.codegen.schedule import tuned_text
from dlc.codegen.target import tuned
from dlc.frontend.core import eager
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, TensorType, param
from dlc.passes.fuse.fuse import fuse
from dlc.runtime import cache
from dlc.runtime import compile as compiler
from dlc.runtime.cpu import host, stored
from dlc.runtime.cpu.memory import from_array
from dlc.runtime.tuning import search, trials
from dlc.runtime.tuning import session as session_module
from dlc.runtime.tuning import tune as tuning

ROOT = Path(__file__).parent.parent.parent
TARGET = host.detect()

CHILD = """
import sys, numpy as np, dlc
from dlc.runtime.tuning import search
made = []
real = search.search
search.search = lambda *a: made.append(1) or real(*a)
f = dlc.jit(lambda x, w: dlc.exp((x @ w) * 0.01).sum(1), tune=True)
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(s).astype(np.float32) for s in ((96, 80), (80, 64)))
y = f(dlc.tensor(x), dlc.tensor(w)).numpy()
assert np.allclose(y, np.exp((x @ w) * 0.01).sum(1), rtol=1e-4)
print(len(made))
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DLC_CACHE", raising=False)
    monkeypatch.delenv("DLC_TUNE", raising=False)


@pytest.fixture
def searches(monkeypatch):
    """The kernels that were measured."""
    made = []
    real = search.search
    monkeypatch.setattr(search, "search", lambda subject, machine: made.append(subject) or real(subject, machine))
    return made


@pytest.fixture
def last_wins(monkeypatch):
    """The last candidate of every kernel is its winner, without a clock."""

    def find(subject, machine):
        trial = subject.trial(subject.schedules[-1])
        return search.Winner(trial.schedule, trial.places, subject.trial(subject.schedules[0]).places)

    monkeypatch.setattr(search, "search", find)


def graph(m=96, k=80, n=64) -> Graph:
    x, w = param(TensorType(dtypes.float32, (m, k))), param(TensorType(dtypes.float32, (k, n)))
    return Graph([x, w], [b.sum_(b.op("exp", b.contract(x, w, "mk,kn->mn")), [1])])


def child() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.strip()


def entries() -> list[Path]:
    return sorted(cache.tuned().directory.rglob("*.entry"))


def test_a_second_process_measures_nothing():
    assert int(finished(child())) >= 2
    assert finished(child()) == "0"


def test_processes_may_tune_at_the_same_time():
    both = [child(), child()]
    assert sum(int(finished(p)) for p in both) >= 2  # what one of them wrote, the other may have found
    assert finished(child()) == "0"


def test_a_kernel_that_another_graph_has_is_not_measured_again(searches):
    first = tuning.tuned_target(graph(), TARGET, "f")
    n = len(searches)
    assert n >= 2
    g = graph()
    bigger = Graph(g.params, [*g.outputs, b.op("tanh", g.params[0])])
    tuning.tuned_target(bigger, TARGET, "f")
    # the new map and, as it reads what is read elsewhere, no other
    assert len(searches) <= n + 1
    assert tuning.tuned_target(graph(), TARGET, "f").tuned.digest == first.tuned.digest
    assert len(searches) <= n + 1


def test_damaged_entries_are_measured_again(searches):
    tuning.tuned_target(graph(), TARGET, "f")
    n = len(searches)
    cache.default().clear()  # the program's own table
    assert len(entries()) == n
    tuning.tuned_target(graph(), TARGET, "f")
    assert len(searches) == n
    cache.default().clear()
    for path in entries():
        path.write_bytes(path.read_bytes()[:-3] + b"???")
    with pytest.warns(RuntimeWarning, match="damaged"):
        tuning.tuned_target(graph(), TARGET, "f")
    assert len(searches) == 2 * n


def test_entries_of_another_kind_are_measured_again(searches):
    tuning.tuned_target(graph(), TARGET, "f")
    n = len(searches)
    for s in list(searches):
        cache.tuned().put(s.key, json.dumps([["Map", {"lanes": "8"}], [], []]).encode())
    cache.default().clear()
    tuning.tuned_target(graph(), TARGET, "f")
    assert len(searches) == 2 * n


def test_a_damaged_table_is_made_again(searches):
    found = tuning.tuned_target(graph(), TARGET, "f").tuned.digest
    n = len(searches)
    cache.default().put(tuning._table_key(graph(), TARGET), b"[1, 2]")
    assert tuning.tuned_target(graph(), TARGET, "f").tuned.digest == found
    assert len(searches) == n


def test_winners_become_the_programs_schedules(last_wins):
    target = tuning.tuned_target(graph(), TARGET, "f")
    programs = []
    for t in (TARGET, target):
        program = compiler.lower(graph(), compiler.Job(t, "f", ()))
        programs.append([k.scheduled for k in program.kernels()])
    assert programs[0] != programs[1]
    assert not any("tuned" in s for s in programs[0])
    assert all(s.endswith(" tuned") for s in programs[1])
    assert stored.program_key(graph(), (), target) != stored.program_key(graph(), (), TARGET)
    contraction = graph().outputs[0].inputs[0].inputs[0]
    key = tuned_text.contract_key(contraction)
    assert target.tuned.contract(key, contraction) == candidates.contractions(contraction, TARGET)[-1]


def test_what_is_not_tuned_is_as_before(searches):
    empty = replace(TARGET, tuned=tuned.Tuned({}, {}))
    assert stored.program_key(graph(), (), empty) == stored.program_key(graph(), (), TARGET)
    dlc.jit(lambda x: dlc.exp(x).sum())(dlc.ones((300, 300))).numpy()
    assert not searches
    assert not cache.tuned().stats().entries


def test_jit_tunes_where_asked(searches, monkeypatch):
    x = np.linspace(-1, 1, 300 * 200, dtype=np.float32).reshape(300, 200)

    def f(x):
        return dlc.exp(x @ x.T).sum(1)

    plain = dlc.jit(f)(dlc.tensor(x)).numpy()
    assert not searches
    found = dlc.jit(f, tune=True)(dlc.tensor(x)).numpy()
    n = len(searches)
    assert n
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6)
    eager._executables.clear()
    monkeypatch.setenv("DLC_TUNE", "1")
    dlc.jit(f)(dlc.tensor(x)).numpy()
    assert len(searches) == n  # remembered


def test_a_training_step_computes_the_same(last_wins):
    """Every kernel with a schedule that was not chosen for it."""
    from dlc import nn, optim

    def train(tune):
        dlc.manual_seed(0)
        model = nn.Sequential(nn.Linear(70, 40), nn.LayerNorm(40), nn.ReLU(), nn.Linear(40, 10))
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        @dlc.jit(tune=tune)
        def step(x, y):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        rng = np.random.default_rng(0)
        x = dlc.tensor(rng.standard_normal((64, 70)).astype(np.float32))
        y = dlc.tensor(rng.integers(0, 10, 64))
        return [float(step(x, y)) for _ in range(5)]

    np.testing.assert_allclose(train(True), train(False), rtol=1e-5)


def test_wrong_results_are_reported_and_not_used(monkeypatch):
    monkeypatch.setattr(trials, "same", lambda *a: False)
    with pytest.warns(RuntimeWarning, match="computed wrongly with"):
        target = tuning.tuned_target(graph(), TARGET, "f")
    assert not target.tuned


def test_packing_of_loop_constants_does_not_count():
    x, w = param(TensorType(dtypes.float32, (96, 80))), param(TensorType(dtypes.float32, (64, 80)))
    node = b.contract(x, w, "mk,nk->mn")
    session = session_module.Session(TARGET, "f")
    sched = cpu_contract.tiled(node, TARGET, False)

    def counted(fixed):
        (subject,) = [session.contraction("key", node, 1e4, fixed, 2)]
        t = subject.trial(sched)
        return [trials.launches(t.program)[k].kernel.name for k in t.counted]

    alone, with_packing = counted({w}), counted(set())
    assert len(alone) == 1 and alone[0].startswith("contract")
    assert set(alone) < set(with_packing)


def test_the_fastest_candidate_wins(monkeypatch):
    """A race between programs of known speed: the same kernel, with ever more time on its clock."""
    g = graph()
    session = session_module.Session(TARGET, "f")
    subject = next(session.contractions(g, set()))
    run = trials.Trial.run
    order = list(subject.schedules)

    def slow(self, inputs):
        out = run(self, inputs)
        self.best = 1000.0 * (1 + abs(order.index(self.schedule) - 3))
        return out

    monkeypatch.setattr(trials.Trial, "run", slow)
    monkeypatch.setattr(session_module, "KERNEL_S", 60)
    winner = search.search(subject, session_module.Session(TARGET, "f"))
    assert winner.schedule == order[3]
    assert winner.places and winner.settled


def test_time_is_bounded(monkeypatch):
    monkeypatch.setattr(session_module, "KERNEL_S", 0.0)
    monkeypatch.setattr(search, "MOST", 0)  # nor for a run of each
    subject = next(session_module.Session(TARGET, "f").contractions(graph(), set()))
    compiled = []
    compile_all = trials.compile_all
    monkeypatch.setattr(trials, "compile_all", lambda ts, t: compiled.extend(ts) or compile_all(ts, t))
    assert search.search(subject, session_module.Session(TARGET, "f")).schedule is None
    assert len(compiled) == 1


def test_results_compare_equal_up_to_the_rounding_of_sums():
    x = param(TensorType(dtypes.float32, (64, 128)))
    program = compiler.lower(Graph([x], [b.sum_(x, [0])]), compiler.Job(TARGET, "f", ()))
    terms = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    terms[1::2] = -terms[::2]  # sums of nothing but rounding

    made = trials.trial(None, program, 1, [])

    def compare(want, have):
        return trials.same([from_array(want)], [from_array(have)], [from_array(terms)], made)

    residue = terms.sum(0)
    other = np.flip(terms, 0).cumsum(0, dtype=np.float32)[-1]
    assert compare(residue, other + np.float32(3e-7))
    assert not compare(residue, other + np.float32(1e-3))
    assert not compare(np.ones(128, np.float32), np.full(128, 1.001, np.float32))
    assert not compare(np.full(128, np.inf, np.float32), np.full(128, np.nan, np.float32))
    assert compare(np.full(128, -np.inf, np.float32), np.full(128, -np.inf, np.float32))


def test_kernels_of_a_parallel_loop_are_timed_on_one_thread():
    q, k, v = (dlc.ones(4, 8, 256, 64) for _ in range(3))
    attention = dlc.jit(lambda q, k, v: dlc.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    session = session_module.Session(TARGET.with_threads(2), "f")
    prepared = compiler.lower(attention.graph(q, k, v), compiler.Job(session.target), last="blocks")
    subjects = list(session.contractions(prepared, set()))
    assert subjects
    for subject in subjects:
        program = subject.trial(subject.schedules[0]).program
        assert all(x.grain >= x.all_tasks for x in trials.launches(program))
    alone = compiler.lower(graph(512, 512, 512), compiler.Job(session.target), last="blocks")
    (subject, *_) = session.contractions(alone, set())
    assert any(x.grain < x.all_tasks for x in trials.launches(subject.trial(subject.schedules[0]).program))


def test_inputs_are_the_same_whatever_order_a_schedule_reads_them_in():
    x, y, z = (param(TensorType(dtypes.float32, s)) for s in ((200, 300), (300,), (200, 300)))
    total = b.sum_(b.op("mul", b.op("add", x, b.broadcast(y, (200, 300), (1,))), z), [0])
    out = b.op("exp", b.op("mul", b.op("add", x, b.broadcast(total, (200, 300), (1,))), b.like(x, 1e-3)))
    g = Graph([x, y, z], [out, total])
    session = session_module.Session(TARGET.with_threads(2), "f")
    fused = compiler.lower(g, compiler.Job(session.target, "f", ())).fused
    for subject in session.groups(fused):
        first, *others = [subject.trial(s) for s in subject.schedules]
        sizes = [[(s.dtype, s.size) for s in (*t.program.inputs, *t.program.outputs)] for t in (first, *others)]
        assert all(s == sizes[0] for s in sizes)
        trials.compile_all([first, *others], session.target)
        inputs = subject.inputs(first)
        expected = first.run(inputs)
        for t in others:
            assert trials.same(expected, t.run(inputs), inputs, t), t.schedule


def test_what_a_kernel_leaves_out_of_its_output_is_not_compared():
    x = param(TensorType(dtypes.float32, (3, 4)))
    node = b.op("exp", x)
    fused = fuse(Graph([x], [node]), {node: (6, 1)})  # rows of a wider tensor
    lowered = LOWER["map"](fused, fused.groups[0], schedules.choose(fused, fused.groups[0], TARGET))
    program, tensors = trials.one_launch(lowered, 1, 0)
    (slot,) = program.outputs
    assert slot.size == 16 and tensors[slot] is node
    made = trials.trial(None, program, 1, [], windows={slot: ((3, 4), (6, 1))})
    want, have = np.ones(16, np.float32), np.ones(16, np.float32)
    want[4:6], have[4:6] = np.nan, 7
    values = [from_array(np.ones(12, np.float32))]
    assert trials.same([from_array(want)], [from_array(have)], values, made)
    have[6] = 7
    assert not trials.same([from_array(want)], [from_array(have)], values, made)
