"""Which launches may run side by side, and in which pieces."""

from dataclasses import replace

import pytest

from dlc.ir.dtypes import float32, int64, uint8
from dlc.ir.loops import Kernel, axis, load, loop, store
from dlc.ir.program import Launch, Program, Ref, Repeat, Segment, Slot, Workers
from dlc.passes.beside import LARGE_NS, LEAST_NS, Piece, pieces, side_by_side
from dlc.passes.memory import plan_memory
from tests.codegen.llvm_run import buffer, kernel

N = 64


def copy() -> Kernel:
    x, y, i = buffer("x", "f32", N), buffer("y", "f32", N), axis("i", N)
    return kernel("copy", [x, y], loop(i, store(y, [i], load(x, i)), "parallel"))


COPY = copy()
X, Y, Z = (Slot(name, float32, N, "input", k) for k, name in enumerate("xyz"))
OUT = [Slot(f"out{k}", float32, N, "output", k) for k in range(4)]


def run(source: Slot, goal: Slot, work: float = 10_000.0, **more) -> Launch:
    return Launch(COPY, (Ref(source), Ref(goal)), 8, 4, work=work, **more)


def marks(*steps: Launch | Repeat, threads: int = 2) -> list[int]:
    program = side_by_side(plan_memory(Program("p", (X, Y, Z), tuple(OUT), steps)), threads)
    out = []
    for step in program.steps:
        out += [x.beside for x in step.body] if isinstance(step, Repeat) else [step.beside]
    return out


def test_independent_launches_go_together():
    assert marks(run(X, OUT[0]), run(X, OUT[1]), run(Y, OUT[2])) == [1, 1, 1]
    assert marks(run(X, OUT[0])) == [0]
    assert marks(run(X, OUT[0]), run(X, OUT[1]), threads=1) == [0, 0]


@pytest.mark.parametrize(("first", "second"), [
    ((X, OUT[0]), (OUT[0], OUT[1])),  # what the first writes, the second reads
    ((OUT[0], OUT[1]), (X, OUT[0])),  # what the first reads, the second writes
    ((X, OUT[0]), (Y, OUT[0])),  # both write it
])  # fmt: skip
def test_dependent_launches_do_not(first, second):
    assert marks(run(*first), run(*second)) == [0, 0]
    assert marks(run(Z, OUT[3]), run(*first), run(*second), run(Z, OUT[2])) == [1, 1, 2, 2]


def test_a_donated_output_is_its_input():
    aliased = Slot("new_x", float32, N, "output", 0, alias=X)
    assert marks(run(X, OUT[0]), run(Y, aliased)) == [0, 0]
    assert marks(run(X, aliased), run(Y, OUT[0])) == [1, 1]


def test_memory_that_the_plan_gives_twice():
    """t is dead when u is made: they have one place, and their launches an order."""
    t, u = Slot("t", float32, N, "arena"), Slot("u", float32, N, "arena")
    assert marks(run(X, t), run(t, OUT[0]), run(Y, u), run(u, OUT[1])) == [0, 0, 0, 0]
    assert t.offset == u.offset
    both = Slot("t", float32, N, "arena"), Slot("u", float32, N, "arena")
    assert marks(run(X, both[0]), run(Y, both[1]), run(both[0], OUT[0]), run(both[1], OUT[1])) == [1, 1, 2, 2]


def test_segments_and_sizes_count():
    n = Ref(Slot("n", int64, 1, "const", value=3))
    both = run(X, OUT[0], more=(Segment((Ref(Y), Ref(OUT[1])), 8),))
    assert marks(both, run(OUT[1], OUT[2])) == [0, 0]
    sized = replace(COPY, params=(*COPY.params, buffer("n", "i64", 1)))
    assert marks(*(Launch(sized, (Ref(X), Ref(o), n), 8, 4, work=1e4) for o in OUT)) == [1, 1, 1, 1]


def test_large_ones_and_tiny_ones_stay_alone():
    large = 2 * LARGE_NS + 1
    assert marks(run(X, OUT[0]), run(X, OUT[1]), run(X, OUT[2], large), run(X, OUT[3])) == [1, 1, 0, 0]
    assert marks(run(X, OUT[0], LEAST_NS / 4), run(X, OUT[1], LEAST_NS / 4)) == [0, 0]


def test_inside_repeats():
    inside = run(X, OUT[0]), run(Y, OUT[1])
    assert marks(Repeat(3, inside)) == [1, 1]
    assert marks(Repeat(3, inside, (), Workers(2, Slot("space", uint8, 0, "arena")))) == [0, 0]
    assert marks(run(Z, OUT[2]), Repeat(3, inside), run(Z, OUT[3])) == [0, 1, 1, 0]


def test_pieces_are_whole_launches_or_parts_of_long_ones():
    short, long = run(X, OUT[0], 10_000), run(Y, OUT[1], 80_000)
    assert pieces([short, long, short], 2) == [  # a piece is to take an eighth of 100 us
        *(Piece(1, k, k + 2) for k in (0, 2, 4, 6)), Piece(0, 0, 8), Piece(2, 0, 8)]  # fmt: skip
    assert pieces([short, replace(long, grain=8)], 2) == [Piece(1, 0, 8), Piece(0, 0, 8)]
    assert pieces([replace(short, tasks=7)], 2) == [*(Piece(0, k, min(k + 1, 7)) for k in range(7))]
