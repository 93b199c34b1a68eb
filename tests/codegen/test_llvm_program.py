"""The entry function: order, addresses, repeats, donated outputs, the thread pool, profiling."""

import ctypes
import time

import numpy as np
import pytest

from dlc.codegen.llvm.expr import EmitError
from dlc.codegen.llvm.kernel import OPT_LEVEL, PASSES, emit_module
from dlc.codegen.llvm.launch.program import SHARED, emit_entry, launches
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.program.task_graph import find_dependencies, order_launches
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.dtypes import float32, int32, uint8
from dlc.ir.loops.ir import Kernel, axis, cast, const, load, loop, op, seq, store
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Segment, Slot, Workers
from dlc.runtime.cpu.llvm import Library, compile_object
from dlc.runtime.cpu.threads import get_num_threads, pool_symbols, set_num_threads
from tests.codegen.llvm_run import buffer, kernel, target

SSE2 = target("sse2")  # every host runs it


def scale(n: int, factor: float, name: str) -> Kernel:
    """y = factor * x, in tasks of 16."""
    x, y, t, v = buffer("x", "f32", n), buffer("y", "f32", n), axis("t", n // 16), axis("v", 16)
    body = store(y, [t * 16 + v], op("mul", load(x, t * 16 + v), const(factor, float32)))
    return kernel(name, [x, y], loop(t, loop(v, body, "vector", lanes=16), "parallel"))


def accumulate(n: int, name: str) -> Kernel:
    x, y, i = buffer("x", "f32", n), buffer("y", "f32", n), axis("i", n)
    return kernel(name, [x, y], loop(i, store(y, [i], load(x, i), "add"), "vector", lanes=8))


def compiled(program: Program, profile: bool = False, target: CpuTarget = SSE2):
    """The program as a function of its inputs and outputs, which gives the times of the launches."""
    text = emit_module(program.kernels(), target, emit_entry(program, target, profile))
    library = Library.load(compile_object(text, target, passes=PASSES, opt_level=OPT_LEVEL), pool_symbols())
    number = 3 if profile else 2
    entry = ctypes.CFUNCTYPE(None, *([ctypes.c_void_p] * number))(library.address("dlc_entry"))

    def call(inputs: list[np.ndarray], outputs: list[np.ndarray], library=library) -> np.ndarray:
        arrays = inputs + outputs
        slots = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        arena = np.full(program.arena_bytes + 64, 0xFF, np.uint8)
        times = np.zeros(len(launches(program)), np.int64)
        entry(*[ctypes.addressof(slots), arena.ctypes.data, times.ctypes.data][:number])
        return times

    return call


def execute(program: Program, inputs: list[np.ndarray], outputs: list[np.ndarray], profile: bool = False) -> np.ndarray:
    return compiled(program, profile)(inputs, outputs)


@pytest.mark.parametrize("grain", [1, 2, 1000])
@pytest.mark.parametrize("profile", [False, True])
def test_two_kernels_and_an_arena(grain, profile):
    n = 160
    x, y = Slot("x", float32, n, "input", 0), Slot("y", float32, n, "output", 0)
    t = Slot("t", float32, n, "arena", offset=128)
    double, triple = scale(n, 2, "double"), scale(n, 3, "triple")
    program = Program("p", (x,), (y,), (Launch(double, (Ref(x), Ref(t)), double.tasks, grain),
                                        Launch(triple, (Ref(t), Ref(y)), triple.tasks, grain)), arena_bytes=128 + 4 * n)
    data, got = np.arange(n, dtype=np.float32), np.zeros(n, np.float32)
    times = execute(program, [data], [got], profile)
    assert (got == 6 * data).all()
    assert (times > 0).all() == profile


def test_a_kernel_without_arguments():
    """A sort of nothing."""
    nothing = kernel("nothing", [], seq())
    times = execute(Program("p", (), (), (Launch(nothing, ()),)), [], [], True)
    assert times.shape == (1,) and (times >= 0).all()


def test_repeats_step_through_slots():
    """An outer and an inner Repeat; slices of the input are added to slices of the output."""
    n, outer, inner = 8, 3, 4
    x, y = Slot("x", float32, outer * inner * n, "input", 0), Slot("y", float32, outer * n + 8, "output", 0)
    add = accumulate(n, "add")
    step = Launch(add, (Ref(x, 0, (inner * n, n)), Ref(y, 8, (n,))))
    steps = Repeat(0, (step,)), Repeat(outer, (Repeat(inner, (step,)), Repeat(1, (step,))))
    program = Program("p", (x,), (y,), steps)
    data, got = np.random.default_rng(0).random(outer * inner * n, np.float32), np.zeros(outer * n + 8, np.float32)
    execute(program, [data], [got], profile=True)
    parts = data.reshape(outer, inner, n)
    assert np.allclose(got[8:].reshape(outer, n), parts.sum(1) + parts[:, 0]) and not got[:8].any()


@pytest.mark.parametrize("profile", [False, True])
def test_a_flow(profile):
    """Launches that wait for each other and do not, one of them with segments, in a Repeat that moves arguments."""
    n, rounds = 160, 3
    x, t = Slot("x", float32, rounds * n, "input", 0), Slot("t", float32, n, "arena", offset=0)
    y = [Slot(f"y{k}", float32, rounds * n, "output", k) for k in range(4)]
    double, triple = scale(n, 2, "double"), scale(n, 3, "triple")

    def args(goal: Slot) -> tuple[Ref, Ref]:
        return Ref(x, 0, (n,)), Ref(goal, 0, (n,))

    row = (Launch(double, args(y[0]), 10, 1, (Segment(args(y[1]), 10),), flow=7),
           Launch(triple, (Ref(x, 0, (n,)), Ref(t)), 10, 10, flow=7),
           Launch(triple, (Ref(t), Ref(y[2], 0, (n,))), 10, 3, flow=7, after=(1,)),
           Launch(double, (Ref(y[2], 0, (n,)), Ref(y[3], 0, (n,))), 10, 4, flow=7, after=(0, 2)))
    program = Program("p", (x,), tuple(y), (Repeat(rounds, row),), arena_bytes=4 * n)
    data = np.arange(rounds * n, dtype=np.float32)
    run = compiled(program, profile)
    for _ in range(100):
        got = [np.zeros(rounds * n, np.float32) for _ in y]
        times = run([data], got)
        for factor, result in zip((2, 2, 9, 18), got, strict=True):
            assert (result == factor * data).all()
        assert (times > 0).all() == profile


@pytest.mark.parametrize("owner", [0, 1])
def test_pieces_of_a_thread_that_does_not_come(owner):
    """All pieces have one owner, which may be a thread that is asleep: the caller takes them."""
    n = 160
    x, t = Slot("x", float32, n, "input", 0), Slot("t", float32, n, "arena", offset=0)
    y = Slot("y", float32, n, "output", 0)
    double, triple = scale(n, 2, "double"), scale(n, 3, "triple")
    row = (Launch(double, (Ref(x), Ref(t)), 10, 2, flow=1, owners=(owner,) * 5),
           Launch(triple, (Ref(t), Ref(y)), 10, 5, flow=1, after=(0,), owners=(owner,) * 2))
    run = compiled(Program("p", (x,), (y,), row, arena_bytes=4 * n), target=SSE2.with_threads(2))
    data = np.arange(n, dtype=np.float32)
    for pause in (0, 0, 0, 2e-3, 2e-3, 0):
        time.sleep(pause)  # longer than a worker looks for work
        got = np.zeros(n, np.float32)
        run([data], [got])
        assert (got == 6 * data).all()


def test_a_launch_with_many_arguments_in_a_flow():
    """More than the threads find for themselves: once, in the frame."""
    n, count = 16, SHARED
    x = Slot("x", float32, n, "input", 0)
    y = [Slot(f"y{k}", float32, n, "output", k) for k in range(count + 1)]
    double, triple = scale(n, 2, "double"), scale(n, 3, "triple")
    more = tuple(Segment((Ref(x), Ref(goal)), 1) for goal in y[1:count])
    row = (Launch(triple, (Ref(x), Ref(y[0])), 1, 1, more, flow=1), Launch(double, (Ref(y[0]), Ref(y[count])), flow=1,
           after=(0,)), Launch(double, (Ref(x), Ref(y[1])), flow=1, after=(0,)))
    got = [np.zeros(n, np.float32) for _ in y]
    execute(Program("p", (x,), tuple(y), row), [np.ones(n, np.float32)], got)
    assert [int(g[3]) for g in got] == [3, 2, *[3] * (count - 2), 6]


@pytest.mark.parametrize("seed", range(6))
def test_any_flow_computes_what_its_launches_do_in_order(seed):
    """Random launches over few slots, planned as programs are, on more threads than there are processors."""
    rng, n = np.random.default_rng(seed), 96
    x = Slot("x", float32, n, "input", 0)
    outputs = [Slot(f"y{k}", float32, n, "output", k) for k in range(3)]
    slots = [x, *outputs, *(Slot(f"t{k}", float32, n, "arena") for k in range(8))]
    values = {s: np.zeros(n, np.float32) for s in slots}
    values[x] = data = rng.random(n, np.float32)
    known, steps = [x], []
    kernels = [scale(n, factor, f"by{k}") for k, factor in enumerate((0.5, 2.0, -1.0))]
    for k in range(60):
        source, goal = known[rng.integers(len(known))], slots[rng.integers(1, len(slots))]
        if source is goal:
            continue
        if k >= 57:
            goal = outputs[k - 57]
        factor = rng.integers(3)
        values[goal] = values[source] * np.float32((0.5, 2.0, -1.0)[factor])
        known = [*known, goal] if goal not in known else known
        steps.append(Launch(kernels[factor], (Ref(source), Ref(goal)), n // 16, int(rng.integers(1, 7)), work=4e4))
    program = Program("p", (x,), tuple(outputs), tuple(steps), slots=tuple(slots))
    program = find_dependencies(plan_memory(order_launches(program, 4)))
    assert all(step.flow == 1 for step in program.steps)
    before = get_num_threads()
    run = compiled(program, target=SSE2.with_threads(4))
    try:
        for turn in range(300):
            if turn % 100 == 0:  # some that there should be are missing; all of them; this thread alone
                set_num_threads((3, 4, 1)[turn // 100])
            got = [np.zeros(n, np.float32) for _ in outputs]
            run([data.copy()], got)
            for slot, result in zip(outputs, got, strict=True):
                assert (result == values[slot]).all()
    finally:
        set_num_threads(before)


def sums_by_workers(rows: int, inner: int, n: int) -> Program:
    """out[o, r] = 2 * (the sum over k of x[o, k, r]), by a parallel Repeat over r in a serial one over o."""
    x, y = Slot("x", float32, 2 * rows * inner * n, "input", 0), Slot("y", float32, 2 * rows * n, "output", 0)
    total, aside = Slot("total", float32, n, "arena"), Slot("aside", float32, n, "arena")
    space = Slot("space", uint8, 0, "arena")
    clear, add, double = scale(n, 0, "clear"), accumulate(n, "add"), scale(n, 2, "double")
    block = rows * inner * n
    inside = (Launch(clear, (Ref(x), Ref(total)), n // 16, n), Launch(clear, (Ref(x), Ref(aside)), n // 16, n),
              Repeat(inner, (Launch(add, (Ref(x, 0, (block, inner * n, n)), Ref(aside))),)),
              Launch(double, (Ref(aside), Ref(total)), n // 16, n),
              Launch(add, (Ref(total), Ref(y, 0, (rows * n, n)))))
    none = Repeat(0, (Launch(add, (Ref(x), Ref(y))),), (0, 3), Workers(2, Slot("none", uint8, 0, "arena")))
    steps = Repeat(2, (none, Repeat(rows, inside, (rows,), Workers(2, space)))),
    return Program("p", (x,), (y,), steps, slots=(x, y, total, aside, space))


@pytest.mark.parametrize("profile", [False, True])
def test_workers_have_slots_of_their_own(profile):
    rows, inner, n = 37, 3, 32
    program = plan_memory(sums_by_workers(rows, inner, n))
    slots = {s.name: s for s in program.slots}
    assert slots["total"].private is slots["aside"].private is slots["space"]
    assert slots["space"].size == 2 * 2 * 4 * n
    data, got = np.random.default_rng(0).random(2 * rows * inner * n, np.float32), np.zeros(2 * rows * n, np.float32)
    want = 2 * data.reshape(2, rows, inner, n).sum(2)
    for _ in range(20):
        got[:] = 0
        execute(program, [data], [got], profile)
        assert np.allclose(got.reshape(want.shape), want)


def test_workers_do_not_nest():
    space = Slot("space", uint8, 0, "arena", offset=0)
    inner = Repeat(2, (), (2,), Workers(2, space))
    program = Program("p", (), (), (Repeat(3, (inner,), (3,), Workers(2, space)),))
    with pytest.raises(EmitError, match="inside another"):
        emit_entry(program, SSE2)


def test_donated_output():
    n = 16
    x = Slot("x", float32, n, "input", 0)
    y = Slot("y", float32, n, "output", 0, alias=x)
    double = scale(n, 2, "double")
    program = Program("p", (x,), (y,), (Launch(double, (Ref(x), Ref(y))),))
    data, got = np.ones(n, np.float32), np.zeros(n, np.float32)
    execute(program, [data], [got])
    assert (data == 2).all() and not got.any()


def test_kernel_names_are_quoted_and_distinct():
    x, i = buffer("x", "i32", 8), axis("i", 8)
    body = loop(i, store(x, [i], cast(i, int32)), "vector", lanes=8)
    program = Program("p", (), (Slot("x", int32, 8, "output", 0),), ())
    program.steps = (Launch(kernel("my kernel/1", [x], body), (Ref(program.outputs[0]),)),)
    got = np.zeros(8, np.int32)
    execute(program, [], [got])
    assert got.tolist() == list(range(8))
    with pytest.raises(EmitError, match="different names"):
        emit_module([kernel("k", [x], body), kernel("k", [x], body)], SSE2)


def test_slot_without_memory():
    x = Slot("x", float32, 16, "input", 0)
    program = Program("p", (x,), (), (Launch(scale(16, 2, "k"), (Ref(x), Ref(Slot("lost", float32, 16, "arena")))),))
    with pytest.raises(EmitError, match="lost"):
        emit_entry(program, SSE2)
