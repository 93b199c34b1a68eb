"""Casts, and the half floats: bits in `i16`, arithmetic in `float`.

Where the processor converts by itself (F16C, AVX512-BF16) that is used; otherwise integer arithmetic, since LLVM would
call library functions that a process need not have. AVX512-BF16 flushes subnormal results to zero.
"""

from __future__ import annotations

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.ir import dtypes
from dlc.ir.dtypes import DType, float16, float32, int32


def cast(b: Builder, x: Value, source: DType, target: DType) -> Value:
    """`x` converted as NumPy does; float to integer saturates, NaN gives 0."""
    if source is target:
        return x
    n = x.lanes
    if source.is_bool:
        return b.select(x, b.splat(b.const(1, target), target, n), b.zero(target, n), target)
    if source.is_half:
        return cast(b, from_half(b, x, source), float32, target)
    if target.is_bool:
        name = "fcmp une" if source.is_float else "icmp ne"
        return b.ins(f"{name} {lt.type_text(source, n)} {x.text}, {b.zero(source, n).text}", n, x)
    if target.is_half:
        return to_half(b, cast(b, x, source, float32), target)
    if x.const is not None and source.is_int and target.is_int:
        return b.splat(b.const(lt.wrap(int(x.const), target), target), target, n)
    s, t = lt.type_text(source, n), lt.type_text(target, n)
    if source.is_int and target.is_int:
        if source.bits == target.bits:
            return x
        name = "trunc" if target.bits < source.bits else "sext" if source.kind == "i" else "zext"
        return b.ins(f"{name} {s} {x.text} to {t}", n, x)
    if source.is_int:
        return b.ins(f"{'s' if source.kind == 'i' else 'u'}itofp {s} {x.text} to {t}", n, x)
    if target.is_int:
        return _float_to_int(b, x, source, target)
    return b.ins(f"{'fpext' if target.bits > source.bits else 'fptrunc'} {s} {x.text} to {t}", n, x)


def _float_to_int(b: Builder, x: Value, source: DType, target: DType) -> Value:
    if x.lanes and target.bits < 32:  # vectors of narrow integers convert by way of i32, clamped there
        low, high = (b.splat(b.const(v, int32), int32, x.lanes) for v in dtypes.limits(target))
        wide = _float_to_int(b, x, source, int32)
        wide = b.pure_call(int32, "llvm.smin", b.pure_call(int32, "llvm.smax", wide, low), high)
        return cast(b, wide, int32, target)
    # LLVM's fptosi.sat takes vectors apart on x86, so: clamp, convert, and repair what the clamp could not express
    n, s, t = x.lanes, lt.type_text(source, x.lanes), lt.type_text(target, x.lanes)
    least, most = dtypes.limits(target)
    low = b.splat(b.const(float(least), source), source, n)
    high = b.splat(b.const(_float_below(most, source), source), source, n)

    def test(predicate: str, v: Value, bound: Value) -> Value:
        return b.ins(f"fcmp {predicate} {s} {v.text}, {bound.text}", n, v, bound)

    inside = b.select(test("ogt", x, low), x, low, source)
    inside = b.select(test("olt", inside, high), inside, high, source)
    result = b.ins(f"fpto{'s' if target.kind == 'i' else 'u'}i {s} {inside.text} to {t}", n, inside)
    if high.const != most:
        result = b.select(test("ogt", x, high), b.splat(b.const(most, target), target, n), result, target)
    return b.select(test("uno", x, x), b.zero(target, n), result, target) if least else result


def _float_below(limit: int, dtype: DType) -> float:
    """The greatest float of `dtype` that is not above `limit`."""
    digits = 24 if dtype is float32 else 53
    drop = max(0, limit.bit_length() - digits)
    return float(limit >> drop << drop)


def bitcast(b: Builder, x: Value, source: DType, target: DType) -> Value:
    """The same bits as another type of the same size."""
    if source.is_bool or target.is_bool:  # a bool is a byte of 0 or 1
        return cast(b, x, source, target)
    s, t = lt.type_text(source, x.lanes), lt.type_text(target, x.lanes)
    return x if s == t else b.ins(f"bitcast {s} {x.text} to {t}", x.lanes, x)


def from_half(b: Builder, x: Value, dtype: DType) -> Value:
    """float32 from the bits of a half float; exact."""
    n = x.lanes
    if x.const is not None:
        return b.splat(b.const(float(dtype.np.type(x.const)), float32), float32, n)
    f = lt.type_text(float32, n)
    if dtype is float16 and _converts_f16(b):
        h = b.ins(f"bitcast {lt.type_text(dtype, n)} {x.text} to {_ir_half('half', n)}", n, x)
        return b.ins(f"fpext {_ir_half('half', n)} {h.text} to {f}", n, h)
    bits = b.ins(f"zext {lt.type_text(dtype, n)} {x.text} to {lt.type_text(int32, n)}", n, x)
    if dtype is not float16:
        return _as_float(b, _int(b, "shl", bits, 16))
    # The exponent moves to its new place and is rebiased by a multiplication, which normalises subnormals as well.
    size = _int(b, "shl", _int(b, "and", bits, 0x7FFF), 13)
    rebias = b.splat(b.const(2.0**112, float32), float32, n)
    scaled = _as_float(b, size)
    scaled = b.ins(f"fmul {f} {scaled.text}, {rebias.text}", n, scaled)
    value = _as_bits(b, scaled)
    special = _compare(b, "uge", size, 0x7C00 << 13)
    value = b.select(special, _int(b, "or", value, 0x7F800000), value, int32)
    sign = _int(b, "shl", _int(b, "and", bits, 0x8000), 16)
    return _as_float(b, _join(b, "or", value, sign))


def to_half(b: Builder, x: Value, dtype: DType) -> Value:
    """The bits of float32 `x` rounded to the nearest half float, ties to even; NaN stays NaN."""
    n = x.lanes
    f, h = lt.type_text(float32, n), lt.type_text(dtype, n)
    if dtype is float16 and _converts_f16(b) or dtype is not float16 and b.target.has_avx512bf16:
        kind = _ir_half("half" if dtype is float16 else "bfloat", n)
        if dtype is not float16:
            # Were LLVM to learn, after it has made all types legal, that `x` is constant (as under a mask that no lane
            # passes), it would fold this into bfloat constants, which are not legal, and abort. The fence hides what
            # `x` is, and costs no instruction.
            x = b.pure_call(float32, "llvm.arithmetic.fence", x)
        rounded = b.ins(f"fptrunc {f} {x.text} to {kind}", n, x)
        return b.ins(f"bitcast {kind} {rounded.text} to {h}", n, rounded)
    bits = _as_bits(b, x)
    result = _bits_to_f16(b, bits) if dtype is float16 else _bits_to_bf16(b, x, bits)
    return b.ins(f"trunc {lt.type_text(int32, n)} {result.text} to {h}", n, result)


def _bits_to_bf16(b: Builder, x: Value, bits: Value) -> Value:
    odd = _int(b, "and", _int(b, "lshr", bits, 16), 1)
    rounded = _int(b, "lshr", _join(b, "add", _int(b, "add", bits, 0x7FFF), odd), 16)
    nan = b.ins(f"fcmp uno {lt.type_text(float32, x.lanes)} {x.text}, {x.text}", x.lanes, x)
    quiet = _int(b, "or", _int(b, "lshr", bits, 16), 0x40)
    return b.select(nan, quiet, rounded, int32)


def _bits_to_f16(b: Builder, bits: Value) -> Value:
    size = _int(b, "and", bits, 0x7FFFFFFF)
    sign = _int(b, "lshr", _join(b, "xor", bits, size), 16)
    # normal results: rebias the exponent by -112, round by adding just under half a unit and the last kept bit
    odd = _int(b, "and", _int(b, "lshr", size, 13), 1)
    normal = _int(b, "lshr", _join(b, "add", _int(b, "add", size, ((15 - 127) << 23) + 0xFFF), odd), 13)
    # subnormal results: a unit of 0.5 is a unit of the subnormals, so the addition rounds
    half = b.splat(b.const(0.5, float32), float32, bits.lanes)
    small = _as_float(b, size)
    small = b.ins(f"fadd {lt.type_text(float32, bits.lanes)} {small.text}, {half.text}", bits.lanes, small)
    small = _int(b, "sub", _as_bits(b, small), 0x3F000000)
    result = b.select(_compare(b, "ult", size, 113 << 23), small, normal, int32)
    infinity, nan = (b.splat(b.const(v, int32), int32, bits.lanes) for v in (0x7C00, 0x7E00))
    huge = b.select(_compare(b, "ugt", size, 0x7F800000), nan, infinity, int32)
    return _join(b, "or", b.select(_compare(b, "uge", size, 143 << 23), huge, result, int32), sign)


def _converts_f16(b: Builder) -> bool:
    return b.target.level != "sse2"


def _ir_half(name: str, lanes: int) -> str:
    return f"<{lanes} x {name}>" if lanes else name


def _as_float(b: Builder, x: Value) -> Value:
    return bitcast(b, x, int32, float32)


def _as_bits(b: Builder, x: Value) -> Value:
    return bitcast(b, x, float32, int32)


def _int(b: Builder, op: str, x: Value, c: int) -> Value:
    return _join(b, op, x, b.splat(b.const(c, int32), int32, x.lanes))


def _join(b: Builder, op: str, x: Value, y: Value) -> Value:
    return b.ins(f"{op} {lt.type_text(int32, x.lanes)} {x.text}, {y.text}", x.lanes, x, y)


def _compare(b: Builder, predicate: str, x: Value, c: int) -> Value:
    y = b.splat(b.const(c, int32), int32, x.lanes)
    return b.ins(f"icmp {predicate} {lt.type_text(int32, x.lanes)} {x.text}, {y.text}", x.lanes, x, y)
