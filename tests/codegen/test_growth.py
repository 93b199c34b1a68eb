"""What compilation costs grows like the program. Work is counted (lines of ours that run), never timed."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable

import numpy as np
import pytest

import dlc
from dlc import nn, optim
from dlc.codegen.program import memory
from dlc.codegen.program.build import build_program
from dlc.codegen.program.donation import Pair
from dlc.codegen.program.gather import gather
from dlc.codegen.program.kernels import FEW_SLICES, Kernels
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.program.places import Places
from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add
from dlc.ir.graph.graph import Graph, TensorType, make, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.program.interp import run_program
from dlc.ir.program.program import Launch, Ref, Slot
from dlc.passes.fuse.materialize import PARTS, few_parts
from dlc.runtime import compile as compiler
from tests.targets import cpu


def adamw(n: int) -> Callable:
    """The step of an optimizer over n parameters of three shapes."""
    params = [nn.Parameter(dlc.full((4, 4 + k % 3), 0.1)) for k in range(n)]
    optimizer = optim.AdamW(params, lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss = sum(((p * p).sum() for p in params), dlc.asarray(0.0))
        loss.backward()
        optimizer.step()
        return loss

    return step


def mlp(n: int) -> Callable:
    """A training step of n layers."""
    model = nn.Sequential(*(layer for _ in range(n) for layer in (nn.Linear(4, 4), nn.ReLU())))
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    x = dlc.ones((3, 4))

    def step():
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def clipped(n: int) -> Callable:
    """One number that is computed from n parameters and used by all."""
    params = [nn.Parameter(dlc.full((3, 4), 0.1)) for _ in range(n)]

    def step():
        norm = dlc.sqrt(sum((p * p).sum() for p in params))
        for p in params:
            p.assign(p / norm)
        return norm

    return step


def stacked(n: int) -> Callable:
    params = [nn.Parameter(dlc.full((4,), 0.1)) for _ in range(n)]

    def step():
        loss = (dlc.stack(params) ** 2).sum()
        loss.backward()
        return loss

    return step


def unrolled(n: int) -> Callable:
    """A recurrence, step by step, and its derivative."""
    w = nn.Parameter(dlc.full((4, 4), 0.1))
    x = dlc.ones((n, 3, 4))

    def step():
        h = dlc.zeros((3, 4))
        for k in range(n):
            h = dlc.tanh(x[k] + h @ w)
        loss = h.sum()
        loss.backward()
        return loss

    return step


def lines(run: Callable[[], object]) -> int:
    """How many lines run, each turn of a loop counted."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("program", [adamw, mlp, clipped, stacked, unrolled])
def test_work_grows_like_the_program(program):
    counts = []
    for n in (32, 64, 128):
        lowered = dlc.jit(program(n)).lower()
        job = compiler.Job(cpu("avx512", threads=4), donate=lowered._entry.donate)
        counts.append(lines(lambda graph=lowered.graph, job=job: compiler.lower(graph, job)))
    first, second = (b - a for a, b in itertools.pairwise(counts))
    assert second < 2.3 * first  # for twice as much more: 2, were it in proportion, and 4 with the square


@pytest.mark.parametrize("seed", range(4))
def test_slots_lie_at_the_lowest_free_offsets(seed):
    """As if each were compared with all that were placed before."""
    rng = random.Random(seed)
    for _ in range(30):
        times = rng.randint(1, 40)
        life = {Slot("s", dtypes.float32, rng.choice((1, 16, 16, 17, 100, 400)), "arena"): tuple(sorted(
            (rng.randrange(times), rng.randrange(times)))) for _ in range(rng.randint(1, 60))}
        memory._place(life)
        placed: list[Slot] = []
        for slot in sorted(life, key=lambda s: (-s.nbytes, life[s][0])):
            offset = 0
            for other in sorted(placed, key=lambda s: s.offset):
                if life[other][0] <= life[slot][1] and life[slot][0] <= life[other][1]:
                    if offset + slot.nbytes <= other.offset:
                        break
                    offset = max(offset, other.offset + -(-other.nbytes // memory.ALIGN) * memory.ALIGN)
            assert slot.offset == offset
            placed.append(slot)


def random_steps(rng: random.Random, places: Places) -> list[Launch]:
    """Launches of two size-generic kernels and of one that is not, on few slots, so that many have to do with others;
    some new values are to be written over old ones."""
    kernels = []
    for name, size in (("a", loops.RUNTIME), ("b", loops.RUNTIME), ("c", 4)):
        x, y = (Buffer(n, dtypes.float32, (size,)) for n in "xy")
        body = loops.store(y, (loops.const(0),), loops.load(x, loops.const(0)))
        kernels.append(Kernel(name, (x, y), frozenset((y,)), body, schedule.Map(4), (), 0, 0))
    slots = [places.slot(f"s{k}", dtypes.float32, 4) for k in range(rng.randint(4, 24))]
    for goal in slots[::5]:
        places.pairs[goal] = Pair(rng.choice(slots), goal, False)
    return [Launch(rng.choice(kernels), tuple(Ref(s) for s in rng.sample(slots, 2)), work=float(k))
            for k in range(rng.randint(2, 16))]


def gathered_one_by_one(places: Places, steps: list[Launch]) -> list[list[tuple[Slot, ...]]]:
    """The slots of the segments of each launch that is left, where each launch is compared with all behind it."""
    out = [(s.kernel, [tuple(r.slot for r in s.args)]) for s in steps]

    def written(step):
        return {args[1] for args in step[1]}

    def touched(step):
        return {slot for args in step[1] for slot in args}

    def over(a, b):
        return any(s in places.pairs and places.pairs[s].source in touched(b) for s in written(a))

    at = 0
    while at < len(out):
        for later in range(at + 1, len(out)):
            a, b = out[at], out[later]
            passed = all(not written(a) & touched(o) and not touched(a) & written(o) for o in out[at + 1 : later + 1])
            if a[0] is b[0] and a[0].params[0].size == loops.RUNTIME and passed and not over(a, b) and not over(b, a):
                out[later] = (a[0], a[1] + b[1])
                del out[at]
                break
        else:
            at += 1
    return [segments for _, segments in out]


@pytest.mark.parametrize("seed", range(4))
def test_launches_are_gathered_as_if_each_were_compared_with_all(seed):
    rng = random.Random(seed)
    merged = 0
    for _ in range(200):
        places = Places()
        steps = random_steps(rng, places)
        got = gather(places, Kernels(places, lambda kernel: None), steps, cpu("avx512"))
        want = gathered_one_by_one(places, steps)
        assert [[tuple(r.slot for r in s.args) for s in launch.segments] for launch in got] == want
        assert sum(launch.work for launch in got) == sum(s.work for s in steps)
        merged += len(steps) - len(got)
    assert merged > 100


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [PARTS, PARTS + 1, 3 * PARTS + 5, PARTS * PARTS + 1])
def test_concats_of_many_parts(axis, count):
    """One kernel for all equal pieces of the tree, and each with few loads."""
    params = [param(TensorType(dtypes.float32, (2, 3)), f"p{k}") for k in range(count)]
    graph = few_parts(Graph(params, [make("concat", params, axis=axis)]))
    assert all(len(n.inputs) <= PARTS for n in graph.nodes() if n.op == "concat")
    arrays = [np.full((2, 3), k, np.float32) for k in range(count)]
    np.testing.assert_array_equal(evaluate(graph, arrays)[0], np.concatenate(arrays, axis))
    program = plan_memory(build_program(graph, (), cpu("avx512"), "main"))
    np.testing.assert_array_equal(run_program(program, arrays)[0], np.concatenate(arrays, axis))
    assert len(program.kernels()) <= 4 and all(len(k.params) <= 2 * PARTS for k in program.kernels())


@pytest.mark.parametrize("backwards", [False, True])
def test_equal_steps_of_an_unrolled_loop_share_kernels(backwards):
    """Though each reads another slice of x, in order or from the end."""
    def program(n: int) -> tuple[int, int]:
        x, w = param(TensorType(dtypes.float32, (n, 3, 4)), "x"), param(TensorType(dtypes.float32, (4, 4)), "w")
        h = B.const(0.0, dtypes.float32, (3, 4))
        for k in reversed(range(n)) if backwards else range(n):
            at = B.reshape(B.slice_(x, (k, 0, 0), (k + 1, 3, 4)), (3, 4))
            h = B.op("tanh", add(at, B.contract(h, w, "mk,kn->mn")))
        graph = Graph([x, w], [h])
        program = compiler.lower(graph, compiler.Job(cpu("avx512")), last="memory")
        arrays = [np.random.default_rng(0).standard_normal(p.shape).astype(np.float32) for p in graph.params]
        np.testing.assert_allclose(run_program(program, arrays)[0], evaluate(graph, arrays)[0], 1e-4, 1e-4)
        return len(program.kernels()), len(program.steps)

    (few, short), (many, long) = program(2 * FEW_SLICES), program(4 * FEW_SLICES)
    assert few == many and long >= short + 2 * FEW_SLICES
