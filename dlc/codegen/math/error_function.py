"""The error function and the normal distribution, in the manner of `functions`."""

from __future__ import annotations

from dlc.codegen.math.functions import LOG2E, Math, power_of_two
from dlc.codegen.math.values import Value, fma, horner, select


def erf(m: Math, x: Value) -> Value:
    """x + x P(x^2) below 1; above, 1 - 2^P(|x|), where erfc is so small that its own accuracy hardly counts."""
    a, z = x.abs(), x * x
    small = fma(x, horner(z, m.f.table("erf")), x)
    name, limit = ("erfc", 4.0) if m.single else ("erfc_wide", 6.0)
    h = horner(a.min(limit), m.f.table(name))
    anchor = m.f.magic + m.f.bias
    t = h + anchor
    p = horner(h - (t - anchor), (1.0, *m.f.table("exp2")))
    big = fma(-p, m.f.floats(m.f.bits(t) << m.f.digits), 1.0)
    return select(a < 1.0, small, m.f.sign_of(x, big))


def ndtr(m: Math, x: Value) -> Value:
    """The normal distribution: e^(-x^2 / 2) P(v) / (a + middle) below 0, a = |x|; 1 minus that above.

    x^2 is taken exactly, as a number and a rest, so that the tail keeps its digits. v = (a - middle) / (a + middle).
    """
    name, limit = ("ndtr", 14.4375) if m.single else ("ndtr_wide", 38.625)  # from where it is 0
    middle = 5.0
    a = x.abs().min(limit)
    if m.fused:
        square = a * a
        rest = fma(a, a, -square)
    else:
        head = m.f.floats(m.f.bits(a) & -(1 << (m.f.digits // 2 + 1)))
        square, rest = head * head, (a - head) * (a + head)
    y = square * -0.5
    k, s = power_of_two(m, y, LOG2E / 2)
    high, low = m.f.ln2
    r = fma(rest, -0.5, fma(k, -2 * low, fma(k, -2 * high, y)))
    w = 1.0 / (a + middle)
    tail = horner(r, (1.0, 1.0, *m.f.table("exp"))) * (horner(fma(w, -2 * middle, 1.0), m.f.table(name)) * w) * s * s
    return select(x < 0.0, tail, 1.0 - tail)
