"""Quarter turns taken off exactly: the digits of 2/pi, and the three operations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlc.ir.dtypes import float64
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Buffer, Kernel, Seq, axis, const, load, loop, op, store
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify
from dlc.ir.quadrants import DIGITS, HALF_PI, MAGIC, PARTS, TWO_OVER_PI, split

mpmath = pytest.importorskip("mpmath")

# 6381956970095103 * 2^797 is the float64 that comes closest to a multiple of pi/2
HARD = (6381956970095103.0 * 2.0**797, 2.0**1023, 1.7976931348623157e308, 1e16, 3652020873712961.0, 2.0**20, 0.5)


def test_the_digits_are_those_of_pi():
    with mpmath.workprec(DIGITS + 64):
        assert int(mpmath.floor(2 / mpmath.pi * mpmath.mpf(2) ** DIGITS)) == TWO_OVER_PI
    with mpmath.workprec(DIGITS + 64):
        assert abs(mpmath.pi / 2 * mpmath.mpf(2) ** DIGITS - HALF_PI) < 4


@pytest.mark.parametrize("x", [*HARD, *(-x for x in HARD)])
def test_what_is_left_is_exact(x):
    count, angle, rest = split(x)
    with mpmath.workprec(2400):
        k = mpmath.nint(mpmath.mpf(x) * 2 / mpmath.pi)
        exact = mpmath.mpf(x) - k * mpmath.pi / 2
        assert count - MAGIC == int(k) % 4
        assert abs(angle - exact) <= abs(exact) * mpmath.mpf(2) ** -53
        assert abs(angle + mpmath.mpf(rest) - exact) <= abs(exact) * mpmath.mpf(2) ** -104


def test_the_operations_are_printed_read_and_run():
    x, out = Buffer("x", float64, (6,)), [Buffer(f"out{k}", float64, (6,)) for k in range(3)]
    i = axis("i", 6)
    value = load(x, i)
    parts = [op(name, value, const(-1.0, float64), const(100.0, float64)) for name in PARTS]
    body = loop(i, Seq(tuple(store(o, [i], part) for o, part in zip(out, parts, strict=True))))
    kernel = Kernel("turns", (x, *out), frozenset(out), body)
    verify(kernel, "test")
    text = print_kernel(kernel)
    assert print_kernel(parse_kernel(text)) == text
    values = np.array([99.0, -101.0, 1e300, math.inf, math.nan, 6381956970095103.0 * 2.0**797])
    results = [np.zeros(6) for _ in range(3)]
    run(kernel, [values, *results])
    far = np.array([1, 2, 5])
    for part, result in enumerate(results):
        np.testing.assert_array_equal(result[far], [split(v)[part] for v in values[far]])
        np.testing.assert_array_equal(np.delete(result, far), -1.0)
