"""State that is only moved (saved beside the new value, handed on, traded): not copied more often than it must be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.base.errors import VerifyError
from dlc.codegen.cuda.kernel import emit_kernel
from dlc.codegen.llvm.kernel import emit_kernel as emit_llvm
from dlc.codegen.program.donation import Pair, fit, verify_aliases
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph
from dlc.ir.graph.interp import evaluate
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.key import kernel_key
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot
from dlc.passes.autodiff.vjp import expand
from dlc.runtime import compile as driver
from dlc.runtime.cpu.memory import as_ndarray, from_array
from tests import cuda_on_cpu
from tests.targets import cpu, executable, target

TARGETS = ("avx2", "avx512", "sm_90a")

# What becomes of some tensors c and an x: the new tensors, and what is kept of each step. How many of the new ones have
# to be copied in a loop on a CPU and on a GPU, where one launch makes all; and where a call updates them (moves of a
# queue that are gathered into one launch are done at the same time).
MOVES: dict[str, tuple[Callable, int, tuple[int, int], int]] = {
    "saved": (lambda c, x: ([x * x], c[0]), 1, (0, 0), 0),
    "read": (lambda c, x: ([x * x], c[0] * 2), 1, (0, 0), 0),
    "previous": (lambda c, x: ([c[0] * 2 + x, c[0]], c[1]), 2, (0, 0), 0),
    "previous first": (lambda c, x: ([c[1], c[1] * 2 + x], c[0]), 2, (0, 0), 0),
    "queue": (lambda c, x: ([x - 1, c[0], c[1], c[2]], c[3]), 4, (0, 0), 1),
    "queue backwards": (lambda c, x: ([c[1], c[2], c[3], x - 1], c[0]), 4, (0, 0), 1),
    "one for two": (lambda c, x: ([x * c[1], c[1] + 1, c[0]], c[2]), 3, (0, 0), 0),
    "sum of two": (lambda c, x: ([c[1], c[0] + c[1]], x * 1), 2, (1, 0), 0),
    "swap": (lambda c, x: ([c[1], c[0]], x * 1), 2, (1, 0), 1),
    "swap, computed": (lambda c, x: ([c[1] * 2, c[0] + x], c[0]), 2, (1, 0), 1),
    "rotated": (lambda c, x: ([c[1], c[2], c[0]], x * 1), 3, (1, 0), 1),
    "two swaps": (lambda c, x: ([c[1], c[0], c[3], c[2]], x * 1), 4, (2, 0), 2),
}
NETS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def traced_loop(name: str, shape: tuple[int, ...], dtype: dlc.DType = dlc.float32, length: int = 5) -> Graph:
    move, count, _, _ = MOVES[name]

    @dlc.jit
    def loop(x, *cells):
        return dlc.scan(lambda c, x: move(c, x), list(cells), x)

    cells = [dlc.zeros(shape, dtype=dtype).realize() for _ in range(count)]
    return loop.lower(dlc.zeros((length, *shape), dtype=dtype).realize(), *cells)._entry.graph


def traced_net(kind: str, train: bool, layers: int = 1, both: bool = False, hidden: int = 12) -> Graph:
    net = NETS[kind](7, hidden, layers, bidirectional=both)

    @dlc.jit
    def step(x):
        out, state = net(x)
        if not train:
            return out, state
        (out * out).sum().backward()
        return [p.grad for p in net.parameters()]

    return step.lower(dlc.zeros((4, 3, 7)).realize())._entry.graph


def values(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    """Small whole numbers, whose sums and products are exact; of weights, small numbers."""
    rng = np.random.default_rng(seed)
    if any(p.attrs.get("name", "").startswith("net") for p in graph.params):
        return [rng.standard_normal(p.shape).astype(p.dtype.np) * np.asarray(0.3, p.dtype.np) for p in graph.params]
    return [rng.integers(-3, 4, p.shape).astype(p.dtype.np) for p in graph.params]


def lowered(graph: Graph, to: str, donate: Sequence[tuple[int, int]] = ()) -> Program:
    program = driver.lower(graph, driver.Job(target(to), "main", tuple(donate)))
    verify_aliases(program)
    for kernel in program.kernels():
        verify(kernel)
        assert print_kernel(parse_kernel(print_kernel(kernel))) == print_kernel(kernel)
    return program


def launches(steps: Sequence[Launch | Repeat], inside: bool = False) -> Iterator[tuple[Launch, bool]]:
    for s in steps:
        if isinstance(s, Repeat):
            yield from launches(s.body, True)
        else:
            yield s, inside


def copies(program: Program, in_loop: bool) -> int:
    return sum(len(s.segments) for s, inside in launches(program.steps)
               if inside == in_loop and s.kernel.name.startswith("copy"))


def agree(got: Sequence[np.ndarray], want: Sequence[np.ndarray], exact: bool) -> None:
    for g, w in zip(got, want, strict=True):
        if exact:
            np.testing.assert_array_equal(g, w)
        else:
            np.testing.assert_allclose(g, w, 1e-4, 1e-5)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", MOVES)
def test_carries_that_are_moved(name, to):
    graph = traced_loop(name, (3, 5))
    program = lowered(graph, to)
    assert copies(program, True) == MOVES[name][2][to.startswith("sm")]
    arrays = values(graph)
    agree(run_program(program, arrays), evaluate(graph, arrays), True)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("kind", "layers", "both"), [("lstm", 1, False), ("lstm", 2, False), ("lstm", 1, True),
                                                      ("gru", 1, True)])
def test_states_of_recurrent_layers(kind, layers, both, train, to):
    """The h that the backward pass needs is saved beside the new one."""
    graph = traced_net(kind, train, layers, both)
    program = lowered(graph, to)
    assert copies(program, True) == 0
    arrays = values(graph)
    agree(run_program(program, arrays), evaluate(expand(graph), arrays), False)


@pytest.mark.parametrize("to", ["avx2", "sm_90a"])
def test_a_product_of_the_whole_state_still_needs_its_copy(to):
    """Every element of an RNN's new h needs all of the old one."""
    program = lowered(traced_net("rnn", False), to)
    assert copies(program, True) == 1 and not any(k.aliased for k in program.kernels())


@pytest.mark.parametrize("to", ["avx2", "avx512"])
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize(("size", "dtype"), [(1, dlc.float32), (7, dlc.float64), (1003, dlc.int32),
                                             (70_001, dlc.bfloat16)])
def test_moved_carries_as_machine_code(name, size, dtype, to):
    graph = traced_loop(name, (size,), dtype, 4)
    arrays = values(graph, size)
    out = executable(graph, cpu(to)).run([from_array(a) for a in arrays])
    agree([as_ndarray(b, o.shape, o.dtype.np) for b, o in zip(out, graph.outputs, strict=True)],
          evaluate(graph, arrays), True)


@pytest.mark.parametrize("to", ["sse2", "avx2", "avx512"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("hidden", [1, 5, 6])
def test_recurrent_layers_as_machine_code(kind, hidden, to):
    """Whole vectors and a rest of one lane: on sse2 LLVM loads c of the rest twice, once for each place it goes to."""
    graph = traced_net(kind, True, hidden=hidden)
    arrays = values(graph)
    out = executable(graph, cpu(to)).run([from_array(a) for a in arrays])
    agree([as_ndarray(b, o.shape, o.dtype.np) for b, o in zip(out, graph.outputs, strict=True)],
          evaluate(expand(graph), arrays), False)


@pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("size", [3, 2500])
def test_moved_carries_as_cuda(name, size):
    """Without a whole vector, and on several blocks."""
    graph = traced_loop(name, (size,), length=3)
    program, arrays = lowered(graph, "sm_90a"), values(graph, size)
    for seed in (0, 1, 2):
        agree(cuda_on_cpu.run_program(program, arrays, seed, races=True), evaluate(graph, arrays), True)


@pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_layers_as_cuda(kind):
    graph = traced_net(kind, True)
    program, arrays = lowered(graph, "sm_90a"), values(graph)
    agree(cuda_on_cpu.run_program(program, arrays, 1), evaluate(expand(graph), arrays), False)


def traced_call(name: str, shape: tuple[int, ...]):
    move, count, _, _ = MOVES[name]
    cells, x = [dlc.zeros(shape).realize() for _ in range(count)], dlc.zeros(shape).realize()

    @dlc.jit
    def step(x):
        new, kept = move([c.detach() for c in cells], x)
        for cell, value in zip(cells, new, strict=True):
            cell.assign(value)
        return kept

    return step.lower(x)._entry


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", MOVES)
def test_cells_that_a_call_moves(name, to):
    entry = traced_call(name, (4, 6))
    program = lowered(entry.graph, to, entry.donate)
    assert copies(program, False) == MOVES[name][3]
    arrays = values(entry.graph)
    agree(run_program(program, arrays), evaluate(entry.graph, arrays), True)


@pytest.mark.parametrize("to", ["sse2", "avx2", "avx512"])
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("size", [1, 3, 7, 1003])
def test_cells_that_a_call_moves_as_machine_code(name, size, to):
    entry = traced_call(name, (size,))
    graph, arrays = entry.graph, values(entry.graph, size)
    out = executable(graph, cpu(to), entry.donate).run([from_array(a.copy()) for a in arrays])
    agree([as_ndarray(b, o.shape, o.dtype.np) for b, o in zip(out, graph.outputs, strict=True)],
          evaluate(graph, arrays), True)


@pytest.mark.parametrize("to", ["avx2", "sm_90a"])
def test_a_loop_in_place_is_verified(to):
    """A compiler that is not told that c's two values are one memory may store the new one first."""
    program = lowered(traced_loop("sum of two", (3, 5)), to)
    (loop,) = (s for s in program.steps if isinstance(s, Repeat))
    assert any(s.kernel.aliased for s in loop.body)
    told_nothing = [replace(s, kernel=replace(s.kernel, aliased=frozenset())) for s in loop.body]
    program.steps = tuple(replace(s, body=tuple(told_nothing)) if s is loop else s for s in program.steps)
    with pytest.raises(VerifyError, match="writes over carry|writes over item"):
        verify_aliases(program)


# --------------------------------------------------------------------------------------------------------- one kernel

MOVED = """kernel moved(c: f32[64], x: f32[64], kept: f32[64] writes, new: f32[64] writes)
  for t in 4 parallel:
    for v in 16 vector(8):
      kept[t*16 + v] = c[t*16 + v]
      new[t*16 + v] = x[t*16 + v] + 1
"""


def fitted(text: str) -> Kernel:
    """The kernel, fit to write `new` over `c`."""
    kernel = parse_kernel(text)
    slots = {p: Slot(p.name, p.dtype, p.size, "arena") for p in kernel.params}
    of = {p.name: s for p, s in slots.items()}
    pair = Pair(of["c"], of["new"], True)
    out = fit(kernel, tuple(Ref(slots[p]) for p in kernel.params), {pair.goal: pair})
    assert not out.aliased or {p.name for p in out.aliased} == {"c", "new"}
    return out


def test_a_kernel_that_moves_what_it_writes_over():
    kernel = fitted(MOVED)
    assert "c: f32[64] aliased" in print_kernel(kernel) and "new: f32[64] writes aliased" in print_kernel(kernel)
    again = parse_kernel(print_kernel(kernel))
    assert print_kernel(again) == print_kernel(kernel) and kernel_key(again) == kernel_key(kernel)
    assert kernel_key(kernel) != kernel_key(parse_kernel(MOVED))
    llvm, cuda = emit_llvm(kernel, cpu("avx2")), emit_kernel(kernel, GpuTarget.of("sm_90a"))
    assert [f"ptr {n} %p{k}".replace("  ", " ") in llvm for k, n in
            enumerate(("readonly", "noalias readonly", "noalias", ""))] == [True] * 4
    assert "const float* c," in cuda and "float* new" in cuda and cuda.count("__restrict__") == 2
    with pytest.raises(VerifyError, match="other is in aliased but not a parameter"):
        other = parse_kernel("kernel k(other: f32[64] writes)\n  other[0] = 1.0\n").params[0]
        verify(replace(kernel, aliased=frozenset({other})))


def test_what_is_written_over_an_element_comes_after_it_has_been_read():
    lines = MOVED.splitlines()
    text = print_kernel(fitted("\n".join([*lines[:3], lines[4], lines[3]]) + "\n"))
    assert text.index("kept[t") < text.index("new[t")


def test_what_another_result_is_computed_from_too_is_told():
    """LLVM may load it once for each result, and then after the new value was stored."""
    text = MOVED.replace("= x[t*16 + v] + 1", "= c[t*16 + v] + 1")
    lines = text.splitlines()
    kernel = fitted("\n".join([*lines[:3], lines[4], lines[3]]) + "\n")
    assert {b.name for b in kernel.aliased} == {"c", "new"}
    told = print_kernel(kernel)
    assert told.index("kept[t") < told.index("new[t")


@pytest.mark.parametrize(("what", "to"), [
    ("= c[t*16 + v]", "= c[t*16 + v + 1 if v < 15]"),  # another element
    ("= c[t*16 + v]", "= c[63 - t*16 - v]"),
    ("= x[t*16 + v] + 1", "= x[t*16 + v] + 1 if v < 8"),  # it is read where nobody writes it
    ("new[t*16 + v] =", "new[(t*16 + v)%32] ="),
    ("      kept", "      if t < 2:\n        new[t*16 + v] = x[t*16 + v]\n      kept"),  # written in a branch, too
    ("= x[t*16 + v] + 1", "= x[t*16 + v] + kept[t*16 + v]"),  # it cannot come before, and not after
], ids=str)  # fmt: skip
def test_a_kernel_that_cannot_write_over_what_it_reads(what, to):
    assert what in MOVED
    text = MOVED.replace(what, to)
    if "kept[t*16 + v]\n" in to or to.endswith("kept[t*16 + v]"):
        lines = text.splitlines()
        text = "\n".join([*lines[:3], lines[4], lines[3]]) + "\n"
    assert not fitted(text).aliased


def test_threads_that_deal_elements_out_otherwise():
    """The thread that reads an element must be the one that writes it."""
    text = """kernel moved(c: f32[64], x: f32[64], kept: f32[64] writes, new: f32[64] writes)
  for b in 2 grid:
    for t in 32 lane:
      kept[b*32 + t] = c[b*32 + t]
    for t in 32 {kind}:
      new[b*32 + t] = x[b*32 + t]
"""
    for kind in ("lane", "serial"):
        assert not fitted(text.format(kind=kind).replace(" serial", "")).aliased
