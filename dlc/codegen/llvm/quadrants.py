"""Quarter turns taken off a large float64 (`dlc.ir.quadrants`): integer arithmetic, in a function of its own
(`quadrants.ll`) that is only called where a lane needs it. What such a lane costs matters little; that the others do
not wait for it matters.
"""

from __future__ import annotations

import functools

from dlc.base import texts
from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.ir.dtypes import float64
from dlc.ir.quadrants import DIGITS, HALF_PI, MAGIC, PARTS, TWO_OVER_PI


@functools.cache
def _functions() -> dict[str, str]:
    """The function that takes quarter turns off one number, and its table, by name."""
    word = (1 << 64) - 1
    # a word of zeros in front, for numbers below 2^54
    words = [0, *((TWO_OVER_PI >> DIGITS - 64 * (k + 1)) & word for k in range(DIGITS // 64))]
    signed = ", ".join(f"i64 {w - (w >> 63 << 64)}" for w in words)
    table = texts.section(__package__, "quadrants.ll", "table", count=len(words), words=signed)
    one = texts.section(
        __package__,
        "quadrants.ll",
        "pio2",
        fraction=2**52 - 1,
        leading=2**52,
        before_table=1075 - 62,
        last=1023 - 52 + 62,  # the digit of the table at which the largest number begins
        half=2**189,
        half_pi=HALF_PI >> DIGITS - 127,
        digits53=2**53 - 1,
        exponent_angle=1023 - 52,
        exponent_rest=1023 - 105,
        magic=lt.literal(MAGIC, float64),
    )
    return {"dlc.two_over_pi": table, "dlc.pio2": one}


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
    b.declared.update(_functions())
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
