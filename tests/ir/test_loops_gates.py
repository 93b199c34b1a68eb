"""Gates and bulk copies: what they mean, how they print, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.base.errors import InterpError, VerifyError
from dlc.ir.dtypes import float32, int64
from dlc.ir.loops import ir as loops
from dlc.ir.loops.instructions import Arrive, Await, SetMaxNReg, TmaCopy, View
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Alloc, Buffer, If, Kernel, Seq, Store, Sync
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify

STEPS, STAGES, THREADS = 5, 2, 4


def ring(free: bool = True, wait: bool = True, arrive: bool = True, view: View | None = None) -> Kernel:
    """Thread 4 copies rows 0..4 of x to a ring of two; threads 0..3 write them to y, each its own element."""
    x, y = Buffer("x", float32, (4 * 7,)), Buffer("y", float32, (STEPS * 4,))
    tile = Buffer("tile", float32, (STAGES, 4), "shared")
    full, empty = (Buffer(name, int64, (STAGES,), "gate") for name in ("full", "empty"))
    t, s, p = loops.axis("t", THREADS + 1), loops.axis("s", STEPS), loops.axis("p", STEPS)
    view = view or View(1, (STEPS, 3), (4, 1), (1, 4))  # the fourth element of each row is outside
    fill = loops.seq(
        *([Await(empty, s % STAGES, s // STAGES)] if free else []),
        TmaCopy(tile, (s % STAGES, loops.const(0)), x, view, (s, loops.const(0)), full, s % STAGES),
        Arrive(full, s % STAGES, 1),
    )
    use = loops.seq(
        *([Await(full, p % STAGES, p // STAGES + 1)] if wait else []),
        loops.store(y, (p * 4 + t,), loops.load(tile, p % STAGES, t)),
        *([Arrive(empty, p % STAGES, THREADS)] if arrive else []),
    )
    body = If(t < THREADS, loops.seq(loops.loop(p, use), Sync(THREADS)), loops.loop(s, fill))
    return Kernel("ring", (x, y), frozenset((y,)), Seq((*map(Alloc, (tile, full, empty)), loops.loop(t, body, "lane"))))


def result(kernel: Kernel, seed: int = 0) -> np.ndarray:
    x, y = np.arange(28, dtype=np.float32), np.zeros(20, np.float32)
    run(kernel, [x, y], seed)
    return y.reshape(5, 4)


@pytest.mark.parametrize("seed", range(6))
def test_a_ring(seed):
    kernel = ring()
    verify(kernel)
    text = print_kernel(kernel)
    assert print_kernel(parse_kernel(text)) == text
    assert "tma_copy full[s%2] tile[s%2, 0] = x(1; 1 of 5:4, 4 of 3:1) at s, 0" in text
    assert "await empty[s%2] s//2" in text and "arrive(4) empty[p%2]" in text and "sync 4" in text
    want = np.arange(28).reshape(7, 4)[:5] + 1
    want[:, 3] = 0
    np.testing.assert_array_equal(result(kernel, seed), want)
    np.testing.assert_array_equal(result(parse_kernel(text), seed), want)


@pytest.mark.parametrize("wrong", ["free", "wait", "arrive"])
def test_a_missing_wait_is_found(wrong):
    """At the latest by some order of the threads."""
    kernel = ring(**{wrong: False})
    with pytest.raises(InterpError):
        for seed in range(20):
            result(kernel, seed)


def test_what_the_verifier_refuses():
    for view in (View(0, (8, 4), (4, 1), (1, 4)), View(0, (5, 4), (4, 2), (1, 4)), View(-1, (5, 4), (4, 1), (1, 4)),
                 View(0, (5, 4), (4, 1), (4,))):
        with pytest.raises(VerifyError):
            verify(ring(view=view))
    kernel = ring()
    inner = kernel.body.body[-1]
    with pytest.raises(VerifyError, match="gate"):
        verify(Kernel("k", kernel.params, kernel.writes, Seq((*kernel.body.body[:2], inner))))


def test_a_gate_inside_the_lane_loop_is_refused():
    t = loops.axis("t", 2)
    gate = Buffer("g", int64, (1,), "gate")
    body = loops.loop(t, Seq((Alloc(gate), Arrive(gate, loops.const(0), 2))), "lane")
    with pytest.raises(VerifyError, match="allocated by every thread"):
        verify(Kernel("k", (), frozenset(), body))


def test_registers_print_and_change_no_result():
    x = Buffer("x", float32, (4,))
    t = loops.axis("t", 4)

    def kernel(count: int) -> Kernel:
        store = Store(x, (t,), loops.const(1.0, float32))
        body = loops.seq(SetMaxNReg(40), If(t < 2, loops.seq(SetMaxNReg(count), store)))
        return Kernel("k", (x,), frozenset((x,)), loops.loop(t, body, "lane"))

    text = print_kernel(kernel(232))
    assert "setmaxnreg 40" in text and "setmaxnreg 232" in text and print_kernel(parse_kernel(text)) == text
    verify(kernel(232))
    got = np.zeros(4, np.float32)
    run(kernel(232), [got])
    np.testing.assert_array_equal(got, [1, 1, 0, 0])
    for wrong in (16, 36, 264):
        with pytest.raises(VerifyError, match="registers"):
            verify(kernel(wrong))
    with pytest.raises(VerifyError, match="registers"):
        verify(Kernel("k", (), frozenset(), SetMaxNReg(40)))
