"""Which launches become a flow, in what order and pieces, and what each of them waits for."""

from dataclasses import replace

import pytest

from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.program.memory import LATER, SMALL, plan_memory
from dlc.codegen.program.task_graph import LARGE_NS, LEAST_NS, LONGEST, _nanoseconds, find_dependencies, order_launches
from dlc.codegen.schedule.choice import noted
from dlc.ir.dtypes import float32, int64, uint8
from dlc.ir.loops.ir import Kernel, axis, load, loop, store
from dlc.ir.loops.schedule import Contract, Map
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Segment, Slot, Workers, pieces, rows
from tests.codegen.llvm_run import buffer, kernel

N = 64


def copy() -> Kernel:
    x, y, i = buffer("x", "f32", N), buffer("y", "f32", N), axis("i", N)
    made = kernel("copy", [x, y], loop(i, store(y, [i], load(x, i)), "parallel"))
    return replace(made, schedule=Contract(16, 1, 16))  # `work` is what it takes


COPY = copy()
X, Y, Z = (Slot(name, float32, N, "input", k) for k, name in enumerate("xyz"))
OUT = [Slot(f"out{k}", float32, N, "output", k) for k in range(8)]


def run(source: Slot, goal: Slot, work: float = 10_000.0, grain: int = 4, **more) -> Launch:
    return Launch(COPY, (Ref(source), Ref(goal)), 8, grain, work=work, **more)


def temporary(name: str, size: int = N) -> Slot:
    return Slot(name, float32, size, "arena")


def planned(*steps: Launch | Repeat, threads: int = 2) -> tuple[Launch | Repeat, ...]:
    program = Program("p", (X, Y, Z), tuple(OUT), steps)
    return find_dependencies(plan_memory(order_launches(program, threads))).steps


def flows(*steps: Launch | Repeat, threads: int = 2) -> list[int]:
    out = []
    for step in planned(*steps, threads=threads):
        out += [x.flow for x in step.body] if isinstance(step, Repeat) else [step.flow]
    return out


def waits(*steps: Launch | Repeat, threads: int = 2) -> list[tuple[str, tuple[str, ...]]]:
    """What each launch writes, with what those write that it waits for."""
    row = planned(*steps, threads=threads)
    names = [step.args[-1].slot.name for step in row]
    return [(name, tuple(names[k] for k in step.after)) for name, step in zip(names, row, strict=True)]


def test_independent_launches_wait_for_nobody():
    assert flows(run(X, OUT[0]), run(X, OUT[1]), run(Y, OUT[2])) == [1, 1, 1]
    assert waits(run(X, OUT[0]), run(X, OUT[1]), run(Y, OUT[2])) == [("out0", ()), ("out1", ()), ("out2", ())]


def test_what_makes_no_flow():
    assert flows(run(X, OUT[0])) == [0]
    assert flows(run(X, OUT[0]), run(X, OUT[1]), threads=1) == [0, 0]
    assert flows(run(X, OUT[0], LEAST_NS / 4), run(X, OUT[1], LEAST_NS / 4)) == [0, 0]
    chain = run(X, OUT[0], grain=8), run(OUT[0], OUT[1], grain=8), run(OUT[1], OUT[2], grain=8)
    assert flows(*chain) == [0, 0, 0]  # one thread at a time
    assert flows(*(replace(step, grain=4) for step in chain)) == [1, 1, 1]


@pytest.mark.parametrize(("first", "second"), [
    ((X, OUT[0]), (OUT[0], OUT[1])),  # what the first writes, the second reads
    ((OUT[0], OUT[1]), (X, OUT[0])),  # what the first reads, the second writes
    ((X, OUT[0]), (Y, OUT[0])),  # both write it
])  # fmt: skip
def test_dependent_launches_wait_and_keep_their_order(first, second):
    row = planned(run(*first), run(*second, work=50_000.0))
    assert [step.after for step in row] == [(), (0,)]
    assert [step.args[0].slot for step in row] == [first[0], second[0]]


def test_waits_that_others_imply_are_left_out():
    t, u = temporary("t"), temporary("u")
    sum_ = Kernel("both", (buffer("a", "f32", N), *COPY.params), frozenset((COPY.params[1],)), COPY.body, COPY.schedule)
    both = Launch(sum_, (Ref(t), Ref(u), Ref(OUT[0])), 8, 4, work=1e4)
    assert waits(run(X, t), run(t, u), both) == [("t", ()), ("u", ("t",)), ("out0", ("u",))]


def test_a_donated_output_is_its_input():
    aliased = Slot("new_x", float32, N, "output", 0, alias=X)
    assert waits(run(X, OUT[0]), run(Y, aliased)) == [("out0", ()), ("new_x", ("out0",))]


def test_what_most_waits_for_comes_first_and_is_cut_where_there_is_no_company():
    """One chain of three, and five launches that can be done at any time."""
    t, u = temporary("t"), temporary("u")
    free = [run(Y, OUT[k]) for k in range(1, 6)]
    row = planned(*free, run(X, t), run(t, u), run(u, OUT[0], 11_000.0))
    names = [step.args[-1].slot.name for step in row]
    assert names[0] == "t" and names.index("u") == 2 and names.index("out0") == 4
    assert {step.grain for step in row[:-1]} == {8}
    row = planned(run(X, t), run(t, u), run(u, OUT[0]), run(Y, OUT[1]))
    cut = {step.args[-1].slot.name: step.grain for step in row}
    assert cut == {"t": 8, "out1": 8, "u": 4, "out0": 4}


def test_launches_go_to_threads_that_have_their_values():
    """Two chains by two threads; and parts of launches that are cut, in the order of the threads."""
    t = [temporary(f"t{k}") for k in range(4)]
    row = planned(run(X, t[0]), run(Y, t[1]), run(t[0], t[2], 9_000.0), run(t[1], t[3]), run(t[2], OUT[0]),
                  run(t[3], OUT[1], 9_000.0))
    owner = {step.args[-1].slot.name: step.owners for step in row}
    assert owner["t0"] == owner["t2"] == owner["out0"] and owner["t1"] == owner["t3"] == owner["out1"]
    assert {owner["t0"], owner["t1"]} == {(0,), (1,)}
    chain = planned(*(run(a, b, 40_000.0) for a, b in zip((X, *t), (*t, OUT[0]), strict=True)))
    assert [step.owners for step in chain] == [(0, 1)] * 5


def test_a_measured_schedule_counts_as_the_chosen_one():
    """A contraction's time is the same whoever chose its schedule; other kernels' estimates are of one lane."""
    row = [run(X, t := temporary("t")), run(t, OUT[0]), run(Y, OUT[1])]
    measured = [replace(step, kernel=noted(LoweredKernel(COPY, (), 8)).kernel) for step in row]
    plain = [replace(step, kernel=replace(COPY, schedule=Map(16, 64))) for step in row]
    assert measured[0].kernel.tuned and measured[0].kernel.scheduled.endswith(" tuned")
    first, second, third = ([_nanoseconds(step) for step in some] for some in (row, measured, plain))
    assert first == second != third
    assert [s.grain for s in planned(*row)] == [s.grain for s in planned(*measured)]


def test_state_stays_with_a_thread():
    """What is written at the end of a step is read by the same thread at the start of the next one."""
    new = Slot("new_x", float32, N, "output", 0, alias=X)
    other = Slot("new_y", float32, N, "output", 1, alias=Y)
    row = planned(run(X, OUT[2]), run(Y, OUT[3], 9_000.0), run(OUT[2], new), run(OUT[3], other, 9_000.0))
    owner = {step.args[-1].slot.name: step.owners for step in row}
    assert owner["out2"] == owner["new_x"] and owner["out3"] == owner["new_y"] and owner["out2"] != owner["out3"]


def test_pieces_are_not_too_small():
    many = replace(run(X, t := temporary("t"), 20_000.0, 1), tasks=640)
    row = planned(many, replace(run(t, OUT[0], 200_000.0, 1), tasks=640))
    assert [len(list(pieces(step))) for step in row] == [6, 16]


def test_pieces():
    assert list(pieces(run(X, Y, grain=3))) == [(0, 3), (3, 6), (6, 8)]
    assert list(pieces(run(X, Y, grain=100))) == [(0, 8)]


def test_the_plan_gives_memory_twice_only_to_those_that_wait():
    """Of two chains, as the plan may put the second one's value where the first one's was."""
    slots = [temporary(f"t{k}", size=(SMALL >> 2) + 1) for k in range(2)]
    big = kernel("big", [buffer("x", "f32", N), buffer("t", "f32", slots[0].size)], COPY.body)
    back = kernel("back", [buffer("t", "f32", slots[0].size), buffer("y", "f32", N)], COPY.body)
    steps = []
    for t, x, y in zip(slots, (X, Y), OUT, strict=False):
        steps += [Launch(big, (Ref(x), Ref(t)), 8, 4, work=4e4), Launch(back, (Ref(t), Ref(y)), 8, 4, work=4e4)]
    row = planned(*steps)
    for k, launch in enumerate(row):
        for j, other in enumerate(row[:k]):
            mine, others = launch.written, other.written
            touched = {r.slot for r in launch.all_args}, {r.slot for r in other.all_args}
            if any(a.kind == b.kind == "arena" and a.offset == b.offset
                   for a in touched[0] for b in touched[1] if a in mine or b in others):
                assert j in launch.after or any(j in row[i].after for i in launch.after)


def test_small_memory_is_given_away_late():
    """A chain through many small values: neighbours in time have places of their own."""
    slots = [temporary(f"t{k}") for k in range(3 * LATER)]
    chain = [run(a, b) for a, b in zip((X, *slots), (*slots, OUT[0]), strict=True)]
    planned(*chain)
    assert all(a.offset != b.offset for k, a in enumerate(slots) for b in slots[k + 1 : k + LATER])
    assert len({s.offset for s in slots}) < len(slots)


def test_segments_and_sizes_count():
    n = Ref(Slot("n", int64, 1, "const", value=3))
    both = run(X, OUT[0], more=(Segment((Ref(Y), Ref(OUT[1])), 8),))
    assert [step.after for step in planned(both, run(OUT[1], OUT[2]))] == [(), (0,)]
    sized = replace(COPY, params=(*COPY.params, buffer("n", "i64", 1)))
    row = planned(*(Launch(sized, (Ref(X), Ref(o), n), 8, 4, work=1e4) for o in OUT[:4]))
    assert [step.after for step in row] == [()] * 4


def test_large_launches_and_repeats_are_between_flows():
    large = run(X, OUT[2], 2 * LARGE_NS + 1)
    assert flows(run(X, OUT[0]), run(X, OUT[1]), large, run(X, OUT[3]), run(X, OUT[4])) == [1, 1, 0, 2, 2]
    inside = run(X, OUT[0]), run(Y, OUT[1])
    assert flows(Repeat(3, inside)) == [1, 1]
    assert flows(Repeat(3, inside, (), Workers(2, Slot("space", uint8, 0, "arena")))) == [0, 0]
    steps = run(Z, OUT[2]), Repeat(3, inside), run(Z, OUT[3])
    assert flows(*steps) == [0, 1, 1, 0]
    assert [len(row) for row in rows(planned(*inside, *steps))] == [3, 1, 1]


def test_flows_are_not_endless():
    row = planned(*(run(X, OUT[0]) for _ in range(LONGEST + 2)))
    assert [len(r) for r in rows(row)] == [LONGEST, 2]
