"""Pairs of bfloat16 in 32-bit words, and their dot products added to float32 sums.

AVX512-BF16 has an instruction for it (`vdpbf16ps`): both products are exact, every addition rounds to nearest even, and
denormals, in what it reads and in what it gives, count as zero. Its error is therefore that of two fused additions, but
for results below the least normal number. Elsewhere two fused multiply-adds of the widened halves do the same.
"""

from __future__ import annotations

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.ops import scalar
from dlc.ir.dtypes import bfloat16, float32, uint32

_WIDTHS = {4: 128, 8: 256, 16: 512}  # lanes -> bits of the instruction's register


def pair(b: Builder, low: Value, high: Value) -> Value:
    """Two half floats side by side in a word."""
    lanes = max(low.lanes, high.lanes)
    t, words = lt.type_text(bfloat16, lanes), lt.type_text(uint32, lanes)
    low, high = (b.splat(x, bfloat16, lanes) for x in (low, high))
    low, high = (b.ins(f"zext {t} {x.text} to {words}", lanes, x) for x in (low, high))
    shifted = b.ins(f"shl {words} {high.text}, {_number(b, 16, lanes)}", lanes, high)
    return b.ins(f"or disjoint {words} {low.text}, {shifted.text}", lanes, low, shifted)


def dot2(b: Builder, x: Value, y: Value, c: Value) -> Value:
    """c + the products of the halves of x and y."""
    lanes = max(x.lanes, y.lanes, c.lanes)
    x, y = (b.splat(v, uint32, lanes) for v in (x, y))
    c = b.splat(c, float32, lanes)
    if b.target.has_avx512bf16 and lanes in _WIDTHS:
        halves, sums = f"<{2 * lanes} x bfloat>", lt.type_text(float32, lanes)
        t = lt.type_text(uint32, lanes)
        x, y = (b.ins(f"bitcast {t} {v.text} to {halves}", lanes, v) for v in (x, y))
        name = f"llvm.x86.avx512bf16.dpbf16ps.{_WIDTHS[lanes]}"
        return b.ins(b.call_text(sums, name, [(sums, c.text), (halves, x.text), (halves, y.text)]), lanes, c, x, y)
    for take in (_high, _low):
        c = scalar.fma(b, float32, take(b, x), take(b, y), c)
    return c


def _high(b: Builder, x: Value) -> Value:
    return _as_float(b, x, f"and {lt.type_text(uint32, x.lanes)} {x.text}, {_number(b, -65536, x.lanes)}")


def _low(b: Builder, x: Value) -> Value:
    return _as_float(b, x, f"shl {lt.type_text(uint32, x.lanes)} {x.text}, {_number(b, 16, x.lanes)}")


def _as_float(b: Builder, x: Value, bits: str) -> Value:
    """The float32 whose bits an instruction makes of x."""
    half = b.ins(bits, x.lanes, x)
    words, floats = lt.type_text(uint32, x.lanes), lt.type_text(float32, x.lanes)
    return b.ins(f"bitcast {words} {half.text} to {floats}", x.lanes, half)


def _number(b: Builder, value: int, lanes: int) -> str:
    return b.splat(b.const(value, uint32), uint32, lanes).text
