"""Results that are written past the cache: which ones, and that only whole aligned vectors are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.base.errors import VerifyError
from dlc.codegen.llvm.kernel import emit_module
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.target.cpu import LEVELS
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.key import kernel_key
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify
from dlc.ir.program.program import Launch, Repeat
from dlc.runtime.cpu import memory
from tests.codegen.llvm_run import Compiled, target
from tests.passes.programs import tensor

COPY = """kernel copy(x: f32[{n}], out: f32[{n}] streams)
  for t in {tasks} parallel:
    for r in 4:
      for v in {width} vector({lanes}):
        out[{place}] = x[{place}]
"""


def copy(width: int, lanes: int = 16, offset: str = "", tasks: int = 3):
    place = f"t*{4 * width} + r*{width} + v{offset}"
    return parse_kernel(COPY.format(n=4 * width * tasks + 16, tasks=tasks, width=width, lanes=lanes, place=place))


def aligned(values: np.ndarray) -> np.ndarray:
    out = memory.as_ndarray(memory.allocate(values.nbytes), values.shape, values.dtype)
    out[...] = values
    return out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("width", "offset", "whole"), [
    (64, "", True), (16, "", True), (64, " + 16", True),
    (28, "", False),  # rows begin in the middle of a vector
    (64, " + 4", False), (64, " + 1", False),
])  # fmt: skip
def test_only_whole_aligned_vectors(level, width, offset, whole):
    lanes = target(level).lanes(4)
    if lanes < 16 and offset == " + 4":
        pytest.skip("that is aligned to shorter vectors")
    k = copy(width, lanes, offset)
    text = emit_module([k], target(level))
    assert ("!nontemporal" in text) is whole or lanes == 4
    assert text.count("call void @llvm.x86.sse.sfence()") == ("!nontemporal" in text)
    rng = np.random.default_rng(0)
    x, out = aligned(rng.standard_normal(k.params[0].size, dtype=np.float32)), aligned(np.zeros(k.params[1].size, "f4"))
    want = out.copy()
    run(k, [x, want])
    Compiled(k, target(level))(x, out)
    np.testing.assert_array_equal(out, want)


def test_no_halves_of_lines():
    """A tile of 8 floats that is turned in registers writes 32 bytes of a line, the rest much later."""
    text = COPY.format(n=1024, tasks=3, width=8, lanes=8, place="t*32 + r*8 + v")
    assert "!nontemporal" not in emit_module([parse_kernel(text)], target(LEVELS[-1]))


def test_text_key_and_verifier():
    k = copy(64)
    assert "out: f32[784] streams" in print_kernel(k)
    assert print_kernel(parse_kernel(print_kernel(k))) == print_kernel(k)
    assert kernel_key(k) != kernel_key(replace(k, streams=frozenset()))
    with pytest.raises(VerifyError, match="x is in streams but not in writes"):
        verify(replace(k, streams=frozenset(k.params)))


def launches(steps):
    for s in steps:
        yield from launches(s.body) if isinstance(s, Repeat) else (s,)


def streamed(graph: Graph, donate=(), cache: int = 1 << 20) -> list[tuple[str, bool]]:
    """(slot, whether it is streamed) of everything that the program's launches write."""
    cpu = replace(target("avx512"), l3_bytes=cache)
    program = build_program(target_layout(graph, cpu), donate, cpu, "main")
    found = []
    for s in launches(program.steps):
        assert isinstance(s, Launch)
        found += [(r.slot.name, b in s.kernel.streams) for b, r in zip(s.kernel.params, s.args, strict=True)
                  if b in s.kernel.writes]
    return found


def test_results_that_outgrow_the_cache():
    x, y = tensor("x", 512, 512), tensor("y", 512, 512)
    graph = Graph((x, y), [B.op("add", x, y)])
    assert streamed(graph) == [("out0", True)]
    assert streamed(graph, cache=3 << 20) == [("out0", False)]


def test_not_what_is_written_over_an_input():
    x, y = tensor("x", 512, 512), tensor("y", 512, 512)
    graph = Graph((x, y), [B.op("add", x, y), B.op("sub", x, y)])
    assert streamed(graph, [(0, 0)]) == [("out0", False), ("out1", True)]


def test_not_what_begins_in_the_middle_of_a_line():
    def stacked(n: int) -> list[tuple[str, bool]]:
        w, x, p, q = tensor("w", n), tensor("x", 3, n), tensor("p", n), tensor("q", n)
        step = Graph((p, q), [B.op("add", p, q)])
        return streamed(Graph((w, x), [B.item(make("scan", (w, x), body=step, length=3, consts=1, carry=0,
                                                   reverse=False), 0)]))

    assert ("item0", True) in stacked(1 << 18)
    assert ("item0", False) in stacked((1 << 18) + 4)
