"""Large updates come as early as they can, copies of inputs as late, and nothing else changes its place."""

import itertools

import pytest

from dlc.codegen.program.launch_order import reorder
from dlc.codegen.program.memory import plan_memory
from dlc.ir.dtypes import float32
from dlc.ir.loops.ir import Kernel, Seq
from dlc.ir.program.program import Launch, Program, Ref, Slot
from tests.codegen.llvm_run import buffer

N = 1 << 19  # elements: 2 MiB


def arena(name: str, size: int = N) -> Slot:
    return Slot(name, float32, size, "arena")


def launch(name: str, reads: list[Slot], writes: list[Slot]) -> Launch:
    params = [buffer(s.name, "f32", s.size) for s in (*reads, *writes)]
    kernel = Kernel(name, tuple(params), frozenset(params[len(reads) :]), Seq(()))
    return Launch(kernel, tuple(map(Ref, (*reads, *writes))))


def touched(step: Launch) -> set[Slot]:
    return {r.slot for r in step.all_args}


def ordered(steps: list[Launch], donated: list[tuple[Slot, Slot]] = (), **options) -> list[str]:
    out = reorder(steps, donated, **options)
    assert sorted(map(id, out)) == sorted(map(id, steps))
    return [s.kernel.name for s in out]


def layers(count: int, size: int = N) -> tuple[list[Launch], list[tuple[Slot, Slot]]]:
    """Forward and backward passes of layers y = f(x, w), then all updates of w, each with a packed copy."""
    w = [Slot(f"w{k}", float32, 64, "input", k) for k in range(count)]
    new = [Slot(f"n{k}", float32, 64, "output", k) for k in range(count)]
    x = [arena(f"x{k}", size) for k in range(count + 1)]
    g = [arena(f"g{k}", size) for k in range(count + 1)]
    packed = [arena(f"p{k}", size) for k in range(count)]
    steps = [launch("first", [], [x[0]])]
    steps += [launch(f"forward{k}", [x[k], w[k]], [x[k + 1]]) for k in range(count)]
    steps += [launch("loss", [x[count]], [g[count]])]
    steps += [launch(f"backward{k}", [g[k + 1], w[k]], [g[k]]) for k in range(count - 1, -1, -1)]
    for k in range(count):
        steps += [launch(f"pack{k}", [x[k]], [packed[k]]), launch(f"update{k}", [packed[k], g[k + 1], w[k]], [new[k]])]
    steps.append(launch("gradient", [g[0]], [Slot("g", float32, size, "output", count)]))
    return steps, list(zip(w, new, strict=True))


def test_updates_follow_the_last_reader_of_their_weight():
    steps, donated = layers(4)
    got = ordered(steps, donated)
    assert got[:6] == [s.kernel.name for s in steps[:6]]
    for k in (3, 2):
        at = got.index(f"backward{k}")
        assert got[at : at + 3] == [f"backward{k}", f"pack{k}", f"update{k}"]


def test_activations_go_as_the_backward_pass_comes():
    steps, donated = layers(8)
    sizes = []
    for order in (steps, reorder(steps, donated)):
        sizes.append(plan_memory(Program("p", (), (), tuple(order))).arena_bytes / (4 * N))
    late, early = sizes
    assert late >= 16 and early <= 11


def test_copies_of_inputs_wait_for_their_reader():
    """A weight is packed for the backward pass where that begins, and before it is overwritten."""
    w, x, y, g, out = Slot("w", float32, N, "input", 0), arena("x"), arena("y"), arena("g"), arena("out")
    z = arena("z", 64)
    packed, turned, new = arena("packed"), arena("turned"), Slot("new", float32, N, "output", 0)
    steps = [launch("pack", [w], [packed]), launch("turn", [w], [turned]), launch("first", [z], [x]),
             launch("forward", [x, packed], [y]), launch("loss", [y], [g]), launch("backward", [g, turned], [out]),
             launch("use", [out], [out]), launch("update", [g, x, w], [new])]
    assert ordered(steps) == ["first", "pack", "forward", "loss", "update", "turn", "backward", "use"]
    assert ordered(steps, [(w, new)]) == ["first", "pack", "forward", "loss", "turn", "update", "backward", "use"]
    assert ordered(steps, large=16 * N) == [s.kernel.name for s in steps]


def test_small_updates_stay():
    steps, donated = layers(3, size=64)
    assert ordered(steps, donated) == [s.kernel.name for s in steps]


def test_what_is_read_later_is_no_update():
    x, y, out = arena("x"), arena("y"), Slot("out", float32, N, "output", 0)
    steps = [launch("a", [], [x]), launch("b", [x], [y]), launch("c", [y], [y]), launch("d", [x], [out]),
             launch("e", [out, y], [y])]
    assert ordered(steps) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("seed", range(40))
def test_dependencies_hold_in_any_program(seed):
    """Whoever reads or overwrites what another wrote comes in the same order as before."""
    import random

    rng = random.Random(seed)
    slots = [arena(f"s{k}") for k in range(6)] + [Slot(f"i{k}", float32, N, "input", k) for k in range(2)]
    outs = [Slot(f"o{k}", float32, N, "output", k) for k in range(4)]
    steps = []
    for k in range(14):
        goal = rng.choice([*slots[:6], *outs])
        reads = [s for s in rng.sample(slots, 2) if s is not goal]
        steps.append(launch(f"k{k}", reads, [goal]))
    out = reorder(steps, [(slots[6], outs[0])], 1)
    at = {id(s): k for k, s in enumerate(out)}
    assert len(at) == len(steps) == len(out)
    for a, b in itertools.combinations(steps, 2):
        if a.written & touched(b) or b.written & touched(a):
            assert at[id(a)] < at[id(b)]
