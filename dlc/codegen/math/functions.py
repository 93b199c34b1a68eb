"""The transcendental functions as straight-line arithmetic: no branches, no tables, no calls.

Every function takes a `Math` (a float format and whether the machine has fused multiply-add) and Values of its type.
Formulas are the textbook ones (Cody and Waite 1980; Muller, Elementary Functions); the polynomials are ours, see
tools/minimax.py. Horner's scheme throughout: enough vectors are in flight for its latency not to matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dlc.codegen.math.values import F64, MID, Format, Value, fma, horner, select
from dlc.ir import dtypes
from dlc.ir.dtypes import float32, float64, int32
from dlc.ir.loops.ir import op
from dlc.ir.quadrants import PARTS
from dlc.ir.scalar import threefry2x32

INF, NAN = math.inf, math.nan
LN2, LOG2E = math.log(2), 1 / math.log(2)
LOG2E_LOW = 2.0355273740931033e-17


@dataclass(frozen=True)
class Math:
    """In what to compute: `f` the float format, `fused` whether fma rounds once."""

    f: Format
    fused: bool

    @property
    def single(self) -> bool:
        return self.f.dtype is float32

    def in_double(self) -> Math:
        """float64 arithmetic that is to be right to float32's precision."""
        return Math(MID, self.fused)


def _clamp(x: Value, low: float, high: float) -> Value:
    return x.max(low).min(high)  # NaN stays


def _split_pi(m: Math, multiple: float) -> tuple[float, float]:
    """multiple * pi (multiple a power of two) as the nearest number of the type and the rest."""
    high, low = (3.1415927410125732, -8.742278000372485e-08) if m.single else (math.pi, 1.2246467991473532e-16)
    return high * multiple, low * multiple


# ---------------------------------------------------------------- exponentials


def _power_of_two(m: Math, x: Value, per_step: float) -> tuple[Value, Value]:
    """(k, 2^k) for k = round(x * per_step). The addition leaves k + bias in the low bits: an exponent, shifted."""
    anchor = m.f.magic + m.f.bias
    t = fma(x, per_step, anchor)
    return t - anchor, m.f.floats(m.f.bits(t) << m.f.digits)


def exp(m: Math, x: Value) -> Value:
    return _exp_clamped(m, _clamp(x, *((-104.0, 89.0) if m.single else (-746.0, 710.0))))


def _exp_clamped(m: Math, x: Value) -> Value:
    """x = 2 k ln 2 + r; 2^k twice, because 2^(2k) may not be a normal number."""
    k, s = _power_of_two(m, x, LOG2E / 2)
    high, low = m.f.ln2
    r = fma(k, -2 * low, fma(k, -2 * high, x))
    return horner(r, (1.0, 1.0, *m.f.table("exp"))) * s * s


def _expm1_reduced(m: Math, x: Value, y: Value, per_step: float, bias: int = 0) -> tuple[Value, Value]:
    """(q, 2^(k + bias)) with e^y = 2^k (1 + q), k = round(x * per_step)."""
    anchor = m.f.magic + m.f.bias + bias
    t = fma(x, per_step, anchor)
    high, low = m.f.ln2
    k = t - anchor
    r = fma(k, -low, fma(k, -high, y))
    return fma(r * r, horner(r, m.f.table("expm1")), r), m.f.floats(m.f.bits(t) << m.f.digits)


def expm1(m: Math, x: Value) -> Value:
    """2^k q + (2^k - 1), all of it halved so that 2^k is finite for the largest results."""
    c = _clamp(x, *((-25.0, 89.0) if m.single else (-54.0, 710.0)))
    q, half = _expm1_reduced(m, c, c, LOG2E, -1)
    y = fma(q, half, half - 0.5)
    return select(x.abs() < 2.0 ** -(m.f.digits + 1), x, y + y)  # keeps -0 and the last bit of denormals


def sigmoid(m: Math, x: Value) -> Value:
    """z / (1 + z) below 0, else 1 / (1 + z), with z = e^-|x|: neither overflows, and both tails are exact."""
    z = _exp_clamped(m, -(x.abs().min(104.0 if m.single else 746.0)))
    return select(x < 0.0, z, 1.0) / (z + 1.0)


def tanh(m: Math, x: Value) -> Value:
    """expm1(2|x|) / (expm1(2|x|) + 2): accurate near 0 as well."""
    a = x.abs().min(9.02 if m.single else 19.1)  # from where tanh rounds to 1
    q, s = _expm1_reduced(m, a, a + a, 2 * LOG2E)
    e = fma(q, s, s - 1.0)
    return m.f.sign_of(x, e / (e + 2.0))


def _half_exp(m: Math, x: Value) -> Value:
    """e^|x| / 2, a little more accurate than exp; infinite only where sinh and cosh are."""
    a = x.abs().min(89.6 if m.single else 710.6)
    q, quarter = _expm1_reduced(m, a, a, LOG2E, -2)
    y = fma(q, quarter, quarter)
    return y + y


def sinh(m: Math, x: Value) -> Value:
    z = x * x
    half = _half_exp(m, x)
    small = fma(x * z, horner(z, m.f.table("sinh")), x)
    return select(x.abs() < 1.0, small, m.f.sign_of(x, half - 0.25 / half))


def cosh(m: Math, x: Value) -> Value:
    half = _half_exp(m, x)
    return half + 0.25 / half


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


# ---------------------------------------------------------------- logarithms

_ROOT = math.sqrt(0.5)


def _split(m: Math, x: Value) -> tuple[Value, Value, Value]:
    """(exponent bits, k, f): normal x > 0 is 2^k (1 + f), 1 + f between sqrt(1/2) and sqrt(2); k carries the bias."""
    f = m.f
    root = f.bits_of(_ROOT)
    i = f.bits(x) + (f.one_bits - root)
    exponent = i >> f.digits
    if f.dtype is float32:
        k = exponent.cast(float32)
    else:  # few machines convert int64: put it into the mantissa of 2^52
        k = f.floats(exponent | f.bits_of(2.0**52)) - 2.0**52
    return i, k, f.floats((i & ((1 << f.digits) - 1)) + root) - 1.0


def _split_any(m: Math, x: Value) -> tuple[Value, Value]:
    """(k, f) of any x > 0, denormals included; k without bias."""
    small = x < m.f.least_normal
    shift = m.f.digits + 1
    _, k, r = _split(m, select(small, x * 2.0**shift, x))
    return k - select(small, m.f.number(m.f.bias + shift), m.f.number(m.f.bias)), r


def _log_series(m: Math, r: Value) -> Value:
    """r - log(1 + r), without cancellation, in float64."""
    half_square = r * r * 0.5
    s = r / (r + 2.0)
    z = s * s
    return half_square - s * fma(z, horner(z, m.f.table("log_s")), half_square)


def _log(m: Math, k: Value, r: Value) -> Value:
    """k ln 2 + log(1 + r)."""
    high, low = m.f.ln2
    if m.f.column == "f64":
        return fma(k, high, r - (_log_series(m, r) - k * low))
    z = r * r
    w = fma(z, -0.5, horner(r, m.f.table("log")) * (r * z))
    return fma(k, high, r + fma(k, low, w))


def _log_special(m: Math, x: Value, y: Value) -> Value:
    """The values that a logarithm has at 0 and infinity and where there is none; y elsewhere."""
    outside = select(x == 0.0, m.f.number(-INF), m.f.number(NAN))
    return select(x > 0.0, select(x == INF, x, y), outside)


def log(m: Math, x: Value) -> Value:
    return _log_special(m, x, _log(m, *_split_any(m, x)))


def log2(m: Math, x: Value) -> Value:
    k, r = _split_any(m, x)
    if m.single:
        return _log_special(m, x, k + fma(r, horner(r, m.f.table("log2")), r))
    w = _log_series(m, r)
    rest = fma(w, -LOG2E, (r - w) * LOG2E_LOW)
    return _log_special(m, x, k + fma(r, LOG2E, rest))


def log1p(m: Math, x: Value) -> Value:
    """k from 1 + x, but f = (1 + x) / 2^k - 1 from x itself: x / 2^k is exact, so that it is rounded once."""
    f = m.f
    u = x + 1.0
    i, k, _ = _split(m, u)
    # 2^(2 - k), because 2^-k need not be a normal number; its exponent is 2 bias + 2 - (k + bias), modulo the word
    s = f.floats(f.sign_bit - (i & -(1 << f.digits)))
    y = _log(m, k - f.bias, fma(x * 0.25, s, fma(s, 0.25, -1.0)))
    return select(x.abs() < 2.0 ** -(f.digits + 1), x, _log_special(m, u, y))


def asinh(m: Math, x: Value) -> Value:
    if m.single:
        return asinh(m.in_double(), x.cast(float64)).cast(float32)
    a = x.abs()
    z = a * a
    large = a > 2.0**500  # from where the square overflows
    y = log1p(m, select(large, a, a + z / ((z + 1.0).sqrt() + 1.0)))
    return m.f.sign_of(x, y + select(large, m.f.number(LN2), m.f.number(0.0)))


def acosh(m: Math, x: Value) -> Value:
    if m.single:
        return acosh(m.in_double(), x.cast(float64)).cast(float32)
    t = x - 1.0
    large = x > 2.0**500
    y = log1p(m, select(large, x, t + (t * (t + 2.0)).sqrt())) + select(large, m.f.number(LN2), m.f.number(0.0))
    return select(x < 1.0, m.f.number(NAN), y)


def atanh(m: Math, x: Value) -> Value:
    if m.single:
        return atanh(m.in_double(), x.cast(float64)).cast(float32)
    a = x.abs()
    return m.f.sign_of(x, log1p(m, (a + a) / (1.0 - a)) * 0.5)


# ---------------------------------------------------------------- circular functions

# 1 / (2 pi) in pieces. With fma a piece may have all 53 bits; without, products with float32 must be exact: 29.
_TURNS_FUSED = (0.15915494309189535, -9.839338337591243e-18, -5.360718141446502e-34)
_TURNS = (0.15915494319051504, -9.861970550091581e-11, -8.151878527836852e-20, 5.666494517031503e-29,
          -4.6390169669477666e-38, -1.7578597149294774e-47)  # fmt: skip
# pi / 2 in pieces, for float64: whole ones with fma, 33 bits without
_QUARTER_FUSED = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
_QUARTER = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)


def _reduce_single(m: Math, x: Value) -> tuple[Value, Value]:
    """(r, quadrant) in float64 and int32: x = quadrant * pi / 2 + r. Whole turns are taken off piece by piece, so that
    the argument may be of any size: r is right to 2^102 (everywhere without fma), beyond to 2^-28 of a turn."""
    d = x.cast(float64)
    pieces = _TURNS_FUSED if m.fused else _TURNS
    turns = None
    for c in pieces[:-1]:
        whole = (d * c).round()
        part = fma(d, c, -whole) if m.fused else d * c - whole
        if m.fused and turns is None:
            part = part - part.round()  # the rounding of a product above 2^53 is more than a turn
        turns = part if turns is None else turns + part
    turns = fma(d, pieces[-1], turns)
    t = fma(turns, 4.0, F64.magic)
    return fma(turns, 4.0, -(t - F64.magic)) * (math.pi / 2), F64.bits(t).cast(int32)


def _reduce_double(m: Math, x: Value) -> tuple[Value, Value, Value]:
    """(r, rest, quadrant): x = quadrant * pi / 2 + r + rest. The pieces of pi / 2 serve to 2^40, without fma to 2^20;
    beyond, what an exact product leaves (`dlc.ir.quadrants`)."""
    c1, c2, c3 = _QUARTER_FUSED if m.fused else _QUARTER
    t = fma(x, 2 / math.pi, m.f.magic)
    k = t - m.f.magic
    first = fma(k, -c1, x)
    w = k * c2
    r = first - w
    rest = (first - r) - w
    if m.fused:
        rest = fma(k, -c3, rest - fma(k, c2, -w))
    else:  # 66 bits of pi/2 are gone: the third piece reaches into r
        first, rest = r, fma(k, -c3, rest)
        r = first + rest
        rest = (first - r) + rest
    near, limit = {"pio2_count": t, "pio2_angle": r, "pio2_rest": rest}, m.f.number(2.0**40 if m.fused else 2.0**20)
    t, r, rest = (Value(op(part, x.e, near[part].e, limit.e)) for part in PARTS)
    return r, rest, m.f.bits(t)


def _circle(m: Math, x: Value) -> tuple[Value, Value, Value]:
    """(sin, cos, quadrant) of the reduced argument."""
    if m.single:
        r, quadrant = _reduce_single(m, x)
        r = r.cast(float32)
        z = r * r
        c = fma(z * z, horner(z, m.f.table("cos")), fma(z, -0.5, 1.0))
        return fma(r * z, horner(z, m.f.table("sin")), r), c, quadrant
    r, rest, quadrant = _reduce_double(m, x)
    z = r * r
    s = r + fma(r * z, horner(z, m.f.table("sin")), rest)
    half = z * 0.5
    w = 1.0 - half
    c = w + (((1.0 - w) - half) + fma(z * z, horner(z, m.f.table("cos")), -(r * rest)))
    return s, c, quadrant


def _turned(m: Math, y: Value, quadrant: Value) -> Value:
    """-y in the third and fourth quadrant."""
    return m.f.floats(m.f.bits(y) ^ ((quadrant & 2) << (m.f.dtype.bits - 2)))


def sin(m: Math, x: Value) -> Value:
    s, c, quadrant = _circle(m, x)
    y = _turned(m, select((quadrant & 1) == 0, s, c), quadrant)
    return select(x == 0.0, x, y)  # -0


def cos(m: Math, x: Value) -> Value:
    s, c, quadrant = _circle(m, x)
    return _turned(m, select((quadrant & 1) == 0, c, s), quadrant + 1)


def tan(m: Math, x: Value) -> Value:
    if m.single:  # the quotient needs sine and cosine to more than 24 bits
        r, quadrant = _reduce_single(m, x)
        z = r * r
        s = fma(r * z, horner(z, m.f.table("sin")), r)
        c = fma(z * z, horner(z, m.f.table("cos")), fma(z, -0.5, 1.0))
    else:
        s, c, quadrant = _circle(m, x)
    even = (quadrant & 1) == 0
    y = (select(even, s, c) / select(even, c, s)).cast(m.f.dtype)
    y = m.f.floats(m.f.bits(y) ^ ((quadrant & 1) << (m.f.dtype.bits - 1)))
    return select(x == 0.0, x, y)


def _asin_parts(m: Math, a: Value) -> tuple[Value, Value, Value]:
    """(small, s, q): asin(a) = s + q where a < 1/2, else pi / 2 - 2 (s + q)."""
    small = a < 0.5
    z = select(small, a * a, fma(a, -0.5, 0.5))
    s = select(small, a, z.sqrt())
    return small, s, s * z * horner(z, m.f.table("asin"))


def asin(m: Math, x: Value) -> Value:
    small, s, q = _asin_parts(m, x.abs())
    high, low = _split_pi(m, 0.5)
    top = fma(s, -2.0, high)
    rest = fma(s, -2.0, high - top)  # what rounding took from it
    big = top + (rest - fma(q, 2.0, -low))
    return m.f.sign_of(x, select(small, s + q, big))


def acos(m: Math, x: Value) -> Value:
    """pi/2 - asin(x), 2 asin(sqrt((1-x)/2)) or pi minus that: base + factor * (s + q)."""
    small, s, q = _asin_parts(m, x.abs())
    negative = x < 0.0
    n = m.f.number
    (half, half_low), (whole, whole_low) = _split_pi(m, 0.5), _split_pi(m, 1.0)
    base = select(small, n(half), select(negative, n(whole), n(0.0)))
    low = select(small, n(half_low), select(negative, n(whole_low), n(0.0)))
    factor = select(small, n(1.0), n(2.0))
    factor = select(negative == small, factor, -factor)
    return fma(s, factor, base) + fma(q, factor, low)


def _atan_unit(m: Math, q: Value) -> Value:
    """atan of q between 0 and 1."""
    z = q * q
    return fma(q * z, horner(z, m.f.table("atan")), q)


def atan(m: Math, x: Value) -> Value:
    a = x.abs()
    steep = a > 1.0
    y = _atan_unit(m, select(steep, 1.0 / a, a))
    high, low = _split_pi(m, 0.5)
    return m.f.sign_of(x, select(steep, high - (y - low), y))


def atan2(m: Math, y: Value, x: Value) -> Value:
    """The angle of (x, y), with C's table of signed zeros and infinities."""
    ax, ay = x.abs(), y.abs()
    steep = ay > ax
    n, d = select(steep, ax, ay), select(steep, ay, ax)
    q = select(n == d, select(d == 0.0, d, m.f.number(1.0)), n / d)  # 0/0 and infinity/infinity
    a = _atan_unit(m, q)
    high, low = _split_pi(m, 0.5)
    a = select(steep, high - (a - low), a)
    high, low = _split_pi(m, 1.0)
    a = select(m.f.bits(x) < 0, high - (a - low), a)
    return m.f.sign_of(y, a)


# ---------------------------------------------------------------- powers


def pow(m: Math, x: Value, y: Value) -> Value:
    """2^(y log2|x|), then the table of IEEE 754 for signs, zeros, ones and infinities."""
    size = _pow_size_single(m, x.abs(), y) if m.single else _pow_size_double(m, x.abs(), y)
    whole = y.floor() == y  # infinities are whole, and even
    half = y * 0.5
    odd = whole & (half.floor() != half)
    signed = select((m.f.bits(x) < 0) & odd, -size, size)
    undefined = (x < 0.0) & (x > -INF) & ~whole
    one = (x == 1.0) | (y == 0.0) | ((x == -1.0) & (y.abs() == INF))
    return select(one, m.f.number(1.0), select(undefined, m.f.number(NAN), signed))


def _pow_size_single(m: Math, a: Value, y: Value) -> Value:
    """a^y for a >= 0 by way of float64, where denormals and overflow are no matter."""
    d, wide = m.in_double(), a.cast(float64)
    _, k, f = _split(d, wide)
    s = f / (f + 2.0)
    log_ = fma(s, horner(s * s, d.f.table("log2_s")), k - d.f.bias)
    log_ = select(a == 0.0, d.f.number(-INF), select(a < INF, log_, wide))
    v = _clamp(y.cast(float64) * log_, -200.0, 200.0)
    anchor = d.f.magic + d.f.bias
    t = v + anchor
    p = horner(v - (t - anchor), (1.0, *d.f.table("exp2")))
    return (p * d.f.floats(d.f.bits(t) << d.f.digits)).cast(float32)


_TWO_LOG2E = (2.8853900817779268, 4.0710547481862066e-17)  # 2 / ln 2 and the rest, from mpmath
_THIRD = (0.9617966939259756, 5.0577616648125907e-17)  # a third of that


def _product(m: Math, a: Value, b: Value) -> tuple[Value, Value]:
    """a * b as a rounded product and its error."""
    p = a * b
    if m.fused:
        return p, fma(a, b, -p)
    (ah, al), (bh, bl) = ((h, v - h) for v in (a, b) for h in (m.f.floats(m.f.bits(v) & -(1 << 27)),))
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _times(m: Math, a: tuple[Value, Value], b: tuple[Value, Value]) -> tuple[Value, Value]:
    """The product of two numbers in two parts each."""
    p, e = _product(m, a[0], b[0])
    return p, e + (a[0] * b[1] + a[1] * b[0])


def _pow_size_double(m: Math, a: Value, y: Value) -> Value:
    """a^y for a >= 0. The exponent y log2 a may reach 1075, so log2 a is needed to 64 bits: in two parts."""
    n = m.f.number
    k, f = _split_any(m, a)
    d = f + 2.0
    d_rest = f - (d - 2.0)
    inverse = 1.0 / d
    s = f * inverse
    p, e = _product(m, s, d)
    s_rest = (((f - p) - e) - s * d_rest) * inverse
    pair = (s, s_rest)
    z = _times(m, pair, pair)
    first = _times(m, pair, (n(_TWO_LOG2E[0]), n(_TWO_LOG2E[1])))
    third = _times(m, _times(m, pair, z), (n(_THIRD[0]), n(_THIRD[1])))
    tail = s * (z[0] * z[0]) * horner(z[0], m.f.table("log2_tail"))
    # sum by falling size: |k| is 0 or at least twice |first|
    top = k + first[0]
    rest = (k - top) + first[0]
    high = top + third[0]
    rest = rest + ((top - high) + third[0])
    low = rest + (first[1] + (third[1] + tail))
    log_ = high + low
    low = (high - log_) + low
    usual = (a > 0.0) & (a < INF)
    log_ = select(usual, log_, select(a == 0.0, n(-INF), a))
    v, error = _product(m, y, log_)
    error = select(usual & (v.abs() < 2048.0), fma(y, low, error), n(0.0))
    v = _clamp(v, -1100.0, 1100.0)
    t = v + m.f.magic
    r = (v - (t - m.f.magic)) + error
    size = horner(r, (1.0, *m.f.table("exp2")))
    i = m.f.bits(t)
    half = i >> 1
    for part in (half, i - half):  # 2^k in two factors, for denormal results and those that overflow
        size = size * m.f.floats((part << m.f.digits) + m.f.one_bits)
    return size


def rsqrt(m: Math, x: Value) -> Value:
    return 1.0 / x.sqrt()


def threefry(k0: Value, k1: Value, c0: Value, c1: Value) -> Value:
    """Both words of `ir.scalar.threefry2x32` as one uint64."""
    a, b = threefry2x32(k0, k1, c0, c1)
    return (a.cast(dtypes.uint64) << 32) | b.cast(dtypes.uint64)
