"""Programs as a GPU's launches, and the order that they must keep."""

import json

import numpy as np
import pytest

from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, TensorType, make, param
from dlc.runtime import compile as driver
from dlc.runtime.cuda import order as cuda_order
from dlc.runtime.cuda import plan as cuda_plan
from dlc.runtime.cuda import stored as cuda_stored
from dlc.runtime.cuda import translate as cuda_translate
from dlc.runtime.cuda.plan import ARENA, CONSTS, Argument, Flat, Loop, Plan, Step

F32 = dtypes.float32
TARGET = GpuTarget.of("sm_90a")


def f32(*shape, name=""):
    return param(TensorType(F32, shape), name)


def plan_of(graph, donate=()):
    program = driver.lower(graph, driver.Job(TARGET, "test", donate))
    return program, cuda_translate.translate(program, [program.kernels()])


def scan_graph(length=5, reverse=False):
    """Running sums of the rows of a matrix."""
    carry, row = f32(4), f32(4)
    total = b.op("add", carry, row)
    body = Graph((carry, row), (total, b.op("mul", total, total)), "body")
    start, rows = f32(4), f32(length, 4)
    loop = make("scan", (start, rows), None, body=body, length=length, consts=0, carry=1, reverse=reverse)
    return Graph((start, rows), [b.item(loop, 0), b.item(loop, 1)])


def test_arguments_are_relative_to_bases():
    x, w = f32(33, 17), f32(17)
    y = b.op("mul", x, b.broadcast_to(w, x.shape))
    program, plan = plan_of(Graph((x, w), [b.sum_(y, (1,)), b.op("exp", y)]))
    assert plan.inputs == 2 and plan.output_bytes == (33 * 4, 33 * 17 * 4) and plan.into == (-1, -1)
    assert plan.output_names == ("float32[33]", "float32[33, 17]")
    for step in plan.steps:
        kernel = program.kernels()[step.function]
        assert plan.functions[step.function].name == kernel.name and step.grid >= 1
        for p, a in zip(kernel.params, step.arguments, strict=True):
            assert a.written == (p in kernel.writes) and a.steps == ()
            assert a.base in (0, 1, 2, 3, ARENA, CONSTS) and a.extent >= 1


def test_donated_outputs_are_their_inputs():
    x = f32(100)
    _, plan = plan_of(Graph((x,), [b.op("exp", x)]), ((0, 0),))
    (step,) = plan.steps
    assert plan.into == (0,) and {a.base for a in step.arguments} <= {0, CONSTS}


@pytest.mark.parametrize("reverse", [False, True])
def test_loops_move_their_arguments(reverse):
    program, plan = plan_of(scan_graph(5, reverse))
    (loop,) = [s for s in plan.steps if isinstance(s, Loop)]
    assert loop.count == 5 and plan.launches() == len(plan.steps) - 1 + 5 * len(loop.body)
    flat = cuda_plan.flatten(plan, plan.inputs + len(plan.into) + 2)
    assert len(flat.grid) == plan.launches() == len(flat.first) - 1
    rows = flat.offset[(flat.base == 1) & ~flat.written]
    assert rows.tolist() == ([64, 48, 32, 16, 0] if reverse else [0, 16, 32, 48, 64])
    assert set(flat.place.tolist()) == set(range(flat.place.max() + 1))


def test_plans_survive_the_disk():
    for graph in (scan_graph(), Graph((x := f32(8),), [b.op("neg", x)])):
        _, plan = plan_of(graph)
        assert cuda_plan.decode(json.loads(json.dumps(cuda_plan.encode(plan)))) == plan
        packed = cuda_stored.pack(plan, [b"abc", b"", b"\n{}"])
        assert cuda_stored.unpack(packed) == (plan, [b"abc", b"", b"\n{}"])
        for damaged in (packed[:-1], b"", b"[]\n", packed[5:]):
            with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
                cuda_stored.unpack(damaged)


def test_cache_keys(monkeypatch):
    pytest.importorskip("cupy")  # NVRTC's version is part of the key

    def key(target=TARGET, what="graph", compiler="1"):
        monkeypatch.setattr(cuda_stored, "compiler_version", lambda: compiler)
        return cuda_stored.key(what, target)

    keys = [key(), key(GpuTarget.of("sm_80")), key(what="other"), key(compiler="2")]
    assert len(set(keys)) == 4 and key() == key() and all(k.startswith("cuda-nvrtc") for k in keys)


def flat_of(*launches):
    """Launches as lists of (base, begin, end, written)."""
    rows = [a for arguments in launches for a in arguments]
    first = np.cumsum([0, *map(len, launches)])
    n = np.zeros(len(launches), np.int64)
    base, begin, end, written = (np.array(column) for column in zip(*rows, strict=True))
    return Flat(n, n + 1, n, first, base, begin, end - begin, written.astype(bool))


def test_order_by_memory():
    r, w = False, True
    assert cuda_order.by_memory(flat_of([(0, 0, 8, r), (1, 0, 8, w)], [(0, 0, 8, r), (2, 0, 8, w)],
                                        [(1, 0, 8, r), (2, 0, 8, r), (3, 0, 8, w)])) == [[], [], [0, 1]]  # fmt: skip
    # half of what is read was written by each; then an overwrite waits for the readers
    assert cuda_order.by_memory(flat_of([(0, 0, 4, w)], [(0, 4, 8, w)], [(0, 2, 6, r), (1, 0, 4, w)],
                                        [(0, 0, 3, w)], [(0, 6, 8, w)])) == [[], [], [0, 1], [2], [1]]  # fmt: skip
    # in place: reads and writes the same bytes
    assert cuda_order.by_memory(flat_of([(0, 0, 8, r), (0, 0, 8, w)], [(0, 0, 8, w), (0, 0, 8, r)])) == [[], [0]]


def test_order_of_random_launches():
    """Against the definition: two launches that touch the same bytes, one writing, keep their order."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        launches = []
        for _ in range(25):
            begins = rng.integers(0, 20, size=3)
            launches.append([(int(rng.integers(2)), int(k), int(k + rng.integers(1, 8)), bool(rng.integers(2)))
                             for k in begins])  # fmt: skip
        after = cuda_order.by_memory(flat_of(*launches))
        reach = [set() for _ in launches]
        for k, before in enumerate(after):
            assert all(j < k for j in before)
            reach[k] = set(before).union(*(reach[j] for j in before))
        for k, ours in enumerate(launches):
            for j in range(k):
                clash = any(a[0] == c[0] and a[1] < c[2] and c[1] < a[2] and (a[3] or c[3])
                            for a in launches[j] for c in ours)  # fmt: skip
                assert not clash or j in reach[k]


def test_counting():
    step = Step(0, 1, (Argument(0, 0, (), 4, True),), 0)
    plan = Plan("p", 1, (), (step, Loop(3, (step, Loop(4, (step,))))), (), (), (), 0, ())
    assert plan.launches() == 1 + 3 * 5
