"""Quarter turns taken off a large float64 (`dlc.ir.quadrants`): integer arithmetic, in a function of its own that is
only called where a lane needs it. What such a lane costs matters little; that the others do not wait for it matters.

The product of the 53 digits of x with those digits of 2/pi that matter at its size (Payne and Hanek 1983): what stands
above two bits left of the point is a multiple of a whole turn, 137 bits right of it are right, and no float64 is closer
than 2^-62 to a multiple of a quarter turn.
"""

from __future__ import annotations

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.ir.dtypes import float64
from dlc.ir.quadrants import DIGITS, HALF_PI, MAGIC, PARTS, TWO_OVER_PI

_WORD = (1 << 64) - 1
# a word of zeros in front, for numbers below 2^54
_WORDS = [0, *((TWO_OVER_PI >> DIGITS - 64 * (k + 1)) & _WORD for k in range(DIGITS // 64))]
_TABLE = f"""@dlc.two_over_pi = internal unnamed_addr constant [{len(_WORDS)} x i64] [{
    ", ".join(f"i64 {w - (w >> 63 << 64)}" for w in _WORDS)}]"""
_LAST = 1023 - 52 + 62  # the digit of the table at which the largest number begins

_ONE = f"""define internal {{ double, double, double }} @dlc.pio2(double %x) cold noinline #0 {{
  %bits = bitcast double %x to i64
  %negative = icmp slt i64 %bits, 0
  %high = lshr i64 %bits, 52
  %exponent = and i64 %high, 2047
  %fraction = and i64 %bits, {2**52 - 1}
  %digits = or i64 %fraction, {2**52}
  %digit = sub i64 %exponent, {1075 - 62}
  %inside = icmp ule i64 %digit, {_LAST}
  %first = select i1 %inside, i64 %digit, i64 0
  %word = lshr i64 %first, 6
  %shift = and i64 %first, 63
  %p0 = getelementptr i64, ptr @dlc.two_over_pi, i64 %word
  %p1 = getelementptr i64, ptr %p0, i64 1
  %p2 = getelementptr i64, ptr %p0, i64 2
  %p3 = getelementptr i64, ptr %p0, i64 3
  %w0 = load i64, ptr %p0
  %w1 = load i64, ptr %p1
  %w2 = load i64, ptr %p2
  %w3 = load i64, ptr %p3
  %f0 = call i64 @llvm.fshl.i64(i64 %w0, i64 %w1, i64 %shift)
  %f1 = call i64 @llvm.fshl.i64(i64 %w1, i64 %w2, i64 %shift)
  %f2 = call i64 @llvm.fshl.i64(i64 %w2, i64 %w3, i64 %shift)
  %g0 = zext i64 %f0 to i192
  %g1 = zext i64 %f1 to i192
  %g2 = zext i64 %f2 to i192
  %h0 = shl i192 %g0, 128
  %h1 = shl i192 %g1, 64
  %h01 = or i192 %h0, %h1
  %of_pi = or i192 %h01, %g2
  %wide = zext i64 %digits to i192
  %quarters = mul i192 %of_pi, %wide  ; in units of 2^-190, modulo 4
  %rounded = add i192 %quarters, {2**189}
  %top = lshr i192 %rounded, 190
  %up = trunc i192 %top to i64
  %down = sub i64 4, %up
  %turned = select i1 %negative, i64 %down, i64 %up
  %count = and i64 %turned, 3
  %part = shl i192 %quarters, 2  ; of a quarter, in units of 2^-192, from -1/2 to 1/2
  %below = icmp slt i192 %part, 0
  %minus = sub i192 0, %part
  %size = select i1 %below, i192 %minus, i192 %part
  %zeros = call i192 @llvm.ctlz.i192(i192 %size, i1 false)
  %full = shl i192 %size, %zeros
  %upper = lshr i192 %full, 64
  %factor = zext i192 %upper to i256
  %product = mul i256 %factor, {HALF_PI >> DIGITS - 127}  ; in units of 2^-(255 + zeros)
  %topped = icmp slt i256 %product, 0
  %one = select i1 %topped, i256 0, i256 1
  %normal = shl i256 %product, %one
  %a = lshr i256 %normal, 203
  %b = lshr i256 %normal, 150
  %angle53 = trunc i256 %a to i64
  %next53 = trunc i256 %b to i64
  %rest53 = and i64 %next53, {2**53 - 1}
  %zeros64 = trunc i192 %zeros to i64
  %one64 = trunc i256 %one to i64
  %less = add i64 %zeros64, %one64
  %ea = sub i64 {1023 - 52}, %less
  %eb = sub i64 {1023 - 105}, %less
  %sa = shl i64 %ea, 52
  %sb = shl i64 %eb, 52
  %scale_a = bitcast i64 %sa to double
  %scale_b = bitcast i64 %sb to double
  %fa = sitofp i64 %angle53 to double
  %fb = sitofp i64 %rest53 to double
  %angle = fmul double %fa, %scale_a
  %rest = fmul double %fb, %scale_b
  %angle_minus = fneg double %angle
  %rest_minus = fneg double %rest
  %flip = xor i1 %below, %negative
  %angle_signed = select i1 %flip, double %angle_minus, double %angle
  %rest_signed = select i1 %flip, double %rest_minus, double %rest
  %count_f = sitofp i64 %count to double
  %marked = fadd double %count_f, {lt.literal(MAGIC, float64)}
  %r0 = insertvalue {{ double, double, double }} poison, double %marked, 0
  %r1 = insertvalue {{ double, double, double }} %r0, double %angle_signed, 1
  %r2 = insertvalue {{ double, double, double }} %r1, double %rest_signed, 2
  ret {{ double, double, double }} %r2
}}"""


_TRIPLE = "{ double, double, double }"


def emit(b: Builder, name: str, x: Value, near: Value, limit: Value) -> Value:
    """The operation `name`, all operands with equally many lanes."""
    t = lt.type_text(float64, x.lanes)
    size = b.pure_call(float64, "llvm.fabs", x)
    infinity = b.splat(b.const(float("inf"), float64), float64, x.lanes)
    m = f"<{x.lanes} x i1>" if x.lanes else "i1"
    large = b.ins(f"fcmp oge {t} {size.text}, {limit.text}", x.lanes, size, limit)
    finite = b.ins(f"fcmp olt {t} {size.text}, {infinity.text}", x.lanes, size)
    far = b.ins(f"and {m} {large.text}, {finite.text}", x.lanes, large, finite)
    return b.select(far, _parts(b, x, far)[PARTS.index(name)], near, float64)


def _parts(b: Builder, x: Value, far: Value) -> list[Value]:
    """The three parts of x in the lanes where it is `far`. They are made in a branch, which stands where an instruction
    on these operands would."""
    keys = [f"dlc.pio2 {x.text} {far.text} {k}" for k in range(3)]
    known = [b.numbered(key) for key in keys]
    if None not in known:
        return known
    b.declared["dlc.two_over_pi"], b.declared["dlc.pio2"] = _TABLE, _ONE
    b.declared["llvm.fshl.i64"] = "declare i64 @llvm.fshl.i64(i64, i64, i64)"
    b.declared["llvm.ctlz.i192"] = "declare i192 @llvm.ctlz.i192(i192, i1)"
    some = b.any_lane(far)
    scope, t = b.scopes[far.depth], lt.type_text(float64, x.lanes)
    branch, join, out = b.block("far"), b.block("near"), [b.name() for _ in range(3)]
    before = scope.label
    scope.lines += [f"  br i1 {some.text}, label %{branch}, label %{join}", f"{branch}:"]
    found = _lanes(b, scope.lines, x) if x.lanes else _call(b, scope.lines, x.text)
    scope.lines += [f"  br label %{join}", f"{join}:"]
    for name, value in zip(out, found, strict=True):
        scope.lines.append(f"  {name} = phi {t} [ poison, %{before} ], [ {value}, %{branch} ]")
    scope.label = join
    return [b.number(key, Value(o, x.lanes, far.depth)) for key, o in zip(keys, out, strict=True)]


def _call(b: Builder, lines: list[str], x: str) -> list[str]:
    whole, parts = b.name(), [b.name() for _ in range(3)]
    lines.append(f"  {whole} = call {_TRIPLE} @dlc.pio2(double {x})")
    lines += [f"  {part} = extractvalue {_TRIPLE} {whole}, {k}" for k, part in enumerate(parts)]
    return parts


def _lanes(b: Builder, lines: list[str], x: Value) -> list[str]:
    t, vectors = lt.type_text(float64, x.lanes), ["poison"] * 3
    for lane in range(x.lanes):
        one = b.name()
        lines.append(f"  {one} = extractelement {t} {x.text}, i64 {lane}")
        found, names = _call(b, lines, one), [b.name() for _ in range(3)]
        for name, vector, part in zip(names, vectors, found, strict=True):
            lines.append(f"  {name} = insertelement {t} {vector}, double {part}, i64 {lane}")
        vectors = names
    return vectors
