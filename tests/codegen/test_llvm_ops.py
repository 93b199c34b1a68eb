"""Every scalar operation and cast against its NumPy meaning, as vectors with a masked tail and as scalars."""

import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.kernel import OPT_LEVEL, PASSES, emit_module
from dlc.codegen.llvm.ops import scalar
from dlc.codegen.llvm.ops.convert import to_half
from dlc.codegen.target.cpu import LEVELS
from dlc.ir import dtypes
from dlc.ir.loops.ir import axis, cast, const, load, loop, op, seq, store
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.scalar import SCALAR_OPS
from dlc.runtime.cpu.llvm import assembly
from tests import targets
from tests.codegen.llvm_run import Compiled, buffer, kernel, target

INTS = [d for d in dtypes.ALL if d.is_int]
FLOATS = [d for d in dtypes.ALL if d.is_float]


def samples(dtype: dtypes.DType, rng: np.random.Generator, n: int = 67) -> np.ndarray:
    """Random values with the awkward ones among them."""
    low, high = dtypes.limits(dtype)
    if dtype.is_bool:
        return rng.integers(0, 2, n).astype(bool)
    if dtype.is_int:
        x = rng.integers(low, high, n, dtype=dtype.np, endpoint=True)
        x[: n // 2] = rng.integers(max(low, -20), 20, n // 2).astype(dtype.np)
        special = [0, 1, low, high, -1 if low < 0 else 2, low, 0, high]
    else:
        x = (rng.standard_normal(n) * 10).astype(dtype.np)
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 1.5, 2.5, -2.5, high, low, 1e-6, 3.0]
    at = rng.permutation(n)[: len(special)]
    x[at] = np.array(special).astype(dtype.np) if dtype.is_float else np.array(special, dtype.np)
    return x


def finite(x: np.ndarray) -> np.ndarray:
    """NaN and infinities replaced by 1."""
    return x if x.dtype.kind in "iub" else np.where(np.isfinite(x.astype(np.float64)), x, x.dtype.type(1))


def operations(dtype: dtypes.DType) -> list[str]:
    return [name for name in scalar.RULES if name in SCALAR_OPS and dtype.kind in SCALAR_OPS[name].kinds]


def same(got: np.ndarray, want: np.ndarray, ulps: int = 0) -> bool:
    if got.dtype.kind not in "fV" and got.dtype != dtypes.bfloat16.np:
        return bool((got == want).all())
    with np.errstate(invalid="ignore"):  # signalling NaNs among the bit patterns
        wide_got, wide_want = got.astype(np.float64), want.astype(np.float64)
    if got.dtype == dtypes.bfloat16.np:  # AVX512-BF16 flushes subnormals
        wide_got, wide_want = (np.where(np.abs(x) < 2.0**-126, 0, x) for x in (wide_got, wide_want))
    near = wide_got == wide_want
    if ulps:
        with np.errstate(invalid="ignore"):
            near |= np.abs(wide_got - wide_want) <= ulps * float(ml_dtypes.finfo(want.dtype).eps) * np.abs(wide_want)
    return bool((near | (np.isnan(wide_got) & np.isnan(wide_want))).all())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
@pytest.mark.parametrize("lanes", [16, 0])
def test_operations(dtype, level, lanes):
    rng = np.random.default_rng(7)
    n, names = 67, operations(dtype)
    inputs = [buffer(f"x{k}", dtype, n) for k in range(2)]
    data = [samples(dtype, rng, n) for _ in range(2)]
    i = axis("i", n)
    outputs, stores, wants = [], [], []
    for name in names:
        row = SCALAR_OPS[name]
        value = op(name, *(load(inputs[k], i) for k in range(row.arity)))
        out = buffer(name, value.dtype, n)
        outputs.append(out)
        stores.append(store(out, [i], value))
        with np.errstate(all="ignore"):
            wants.append(row.numpy(*data[: row.arity]).astype(value.dtype.np))
    k = kernel("ops", inputs + outputs, loop(i, seq(*stores), "vector" if lanes else "serial", lanes=lanes))
    got = [np.zeros(n, out.dtype.np) for out in outputs]
    Compiled(k, target(level))(*data, *got)
    for name, have, want in zip(names, got, wants, strict=True):
        bad = np.flatnonzero(
            ~np.array([same(have[j : j + 1], want[j : j + 1], 2 if name in ("rsqrt",) else 0) for j in range(n)])
        )
        assert not len(bad), (name, [(*(d[j] for d in data), have[j], want[j]) for j in bad[:4]])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("source", dtypes.ALL, ids=lambda d: d.short)
@pytest.mark.parametrize("lanes", [16, 0])
def test_casts(source, level, lanes):
    rng = np.random.default_rng(3)
    n = 67
    x, data, i = buffer("x", source, n), samples(source, rng, n), axis("i", n)
    outputs = [buffer(f"to_{d.short}", d, n) for d in dtypes.ALL]
    body = seq(*(store(out, [i], cast(load(x, i), out.dtype)) for out in outputs))
    got = [np.zeros(n, out.dtype.np) for out in outputs]
    k = kernel("casts", [x, *outputs], loop(i, body, "vector" if lanes else "serial", lanes=lanes))
    Compiled(k, target(level))(data, *got)
    for out, have in zip(outputs, got, strict=True):
        want = converted(data, source, out.dtype)
        bad = [j for j in range(n) if not same(have[j : j + 1], want[j : j + 1])]
        assert not bad, (out.name, [(data[j], have[j], want[j]) for j in bad[:4]])


def converted(x: np.ndarray, source: dtypes.DType, to: dtypes.DType) -> np.ndarray:
    """NumPy's cast, saturating where NumPy leaves it undefined, through float32 to half types."""
    with np.errstate(all="ignore"):
        if source.is_float and to.is_int:
            low, high = dtypes.limits(to)
            wide = x.astype(np.float64)
            exact = [0 if np.isnan(v) else low if v <= low else high if v >= high else int(v) for v in wide]
            return np.array(exact, to.np)
        return x.astype(np.float32).astype(to.np) if to.is_half else x.astype(to.np)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("half", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.short)
def test_every_half_value(half, level):
    bits = np.arange(1 << 16, dtype=np.uint16).view(half.np)
    n = bits.size
    x, wide, back = buffer("x", half, n), buffer("wide", "f32", n), buffer("back", half, n)
    i = axis("i", n)
    value = cast(load(x, i), dtypes.float32)
    k = kernel(
        "half",
        [x, wide, back],
        loop(i, seq(store(wide, [i], value), store(back, [i], cast(value, half))), "vector", lanes=16),
    )
    got_wide, got_back = np.zeros(n, np.float32), np.zeros(n, half.np)
    Compiled(k, target(level))(bits, got_wide, got_back)
    assert np.array_equal(got_wide, bits.astype(np.float32), equal_nan=True)
    assert same(got_back, bits)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("half", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.short)
def test_rounding_to_half(half, level):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32).copy()
    values[: 1 << 15] = (rng.standard_normal(1 << 15) * np.exp2(rng.integers(-26, 17, 1 << 15))).astype(np.float32)
    ties = (np.arange(1 << 12, dtype=np.uint32) << 20 | 0x8000).view(np.float32)
    values = np.concatenate(
        [values, ties, np.array([65504, 65519.99, 65520, 65536, 2.0**-25, 2.0**-24, np.nan], np.float32)]
    )
    n = values.size
    x, y, i = buffer("x", "f32", n), buffer("y", half, n), axis("i", n)
    k = kernel("round", [x, y], loop(i, store(y, [i], cast(load(x, i), half)), "vector", lanes=16))
    got = np.zeros(n, half.np)
    Compiled(k, target(level))(values, got)
    with np.errstate(all="ignore"):
        want = values.astype(half.np)
    assert same(got, want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [dtypes.int32, dtypes.uint8, dtypes.int64], ids=lambda d: d.short)
@pytest.mark.parametrize("divisor", [1, 2, 7, 16, -1, -3, 0])
def test_division_by_a_constant(dtype, level, divisor):
    if divisor < 0 and dtype.kind == "u":
        pytest.skip("unsigned")
    n, i = 67, axis("i", 67)
    data = samples(dtype, np.random.default_rng(5), n)
    x, q, r = buffer("x", dtype, n), buffer("q", dtype, n), buffer("r", dtype, n)
    by = const(divisor, dtype)
    body = seq(store(q, [i], op("floordiv", load(x, i), by)), store(r, [i], op("mod", load(x, i), by)))
    got = [np.zeros(n, dtype.np), np.zeros(n, dtype.np)]
    Compiled(kernel("d", [x, q, r], loop(i, body, "vector", lanes=8)), target(level))(data, *got)
    with np.errstate(all="ignore"):
        full = np.full(n, divisor, dtype.np)
        assert (got[0] == SCALAR_OPS["floordiv"].numpy(data, full)).all()
        assert (got[1] == SCALAR_OPS["mod"].numpy(data, full)).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", INTS, ids=lambda d: d.short)
def test_floats_clipped_to_one_integer(dtype, level):
    """LLVM 22 aborts where a float converted to an integer is clipped to 0..0, with plain SSE2."""
    x, y, i = buffer("x", "f32", 67), buffer("y", dtype, 67), axis("i", 67)
    zero = const(0, dtype)
    clipped = op("max", op("min", cast(load(x, i), dtype), zero), zero)
    for lanes in (0, 4):
        body = loop(i, store(y, [i], clipped), "vector" if lanes else "serial", lanes=lanes)
        got = np.ones(67, dtype.np)
        Compiled(kernel("clip", [x, y], body), target(level))(samples(dtypes.float32, np.random.default_rng(3)), got)
        assert not got.any()


@pytest.mark.parametrize("level", LEVELS)
def test_products_under_a_condition_are_not_fused_with_each_other(level):
    """AVX-512 has a fused addition that is only done where a mask says so."""
    k = parse_kernel(
        "kernel difference(a: f32[64], b: f32[64], out: f32[64] writes)\n"
        "  for r in 4:\n"
        "    for l in 16 vector(16):\n"
        "      let x = a[r*16 + l]\n"
        "      let y = b[r*16 + l]\n"
        "      out[r*16 + l] = select(x > 0.0, x * y, 0.0) - select(x > 0.0, y * x, 0.0)\n"
    )
    code = assembly(emit_module([k], target(level)), target(level), passes=PASSES, opt_level=OPT_LEVEL)
    assert "mulps" in code and not re.search(r"vfn?m(add|sub)", code)


# Compiles the module that it reads, for a processor with AVX512-BF16.
_COMPILE = """
import sys
from dlc.codegen.llvm.kernel import OPT_LEVEL, PASSES
from dlc.runtime.cpu.llvm import compile_object
from tests.targets import cpu
for text in sys.stdin.read().split("; next"):
    compile_object(text, cpu("avx512-bf16"), opt_level=OPT_LEVEL, passes=PASSES)
"""


def _rounded_under_a_mask_of_no_lanes(lanes: int) -> str:
    """A module that rounds floats to bfloat16 of which all are 0, as LLVM finds out late: min(max((r & 1) - 15, 0),
    lanes) is 0."""
    b = Builder(targets.cpu("avx512-bf16"))
    result = to_half(b, Value("%chosen", lanes), dtypes.bfloat16)
    floats, words = f"<{lanes} x float>", f"<{lanes} x i32>"
    numbers = ", ".join(f"i32 {k}" for k in range(lanes))
    rounding = "\n".join(b.scopes[0].lines)
    return "\n".join([
        f'target triple = "{b.target.triple}"', *b.declared.values(),
        "declare i64 @llvm.smax.i64(i64, i64)", "declare i64 @llvm.smin.i64(i64, i64)",
        f"define void @f(ptr %p, ptr %q, i64 %r) {{\n%x = load {floats}, ptr %p",
        "%bit = and i64 %r, 1\n%less = add i64 %bit, -15",
        "%max = call i64 @llvm.smax.i64(i64 %less, i64 0)",
        f"%min = call i64 @llvm.smin.i64(i64 %max, i64 {lanes})\n%end = trunc i64 %min to i32",
        f"%one = insertelement {words} poison, i32 %end, i64 0",
        f"%ends = shufflevector {words} %one, {words} poison, {words} zeroinitializer",
        f"%mask = icmp ult {words} <{numbers}>, %ends",
        f"%chosen = select <{lanes} x i1> %mask, {floats} %x, {floats} zeroinitializer",
        rounding,
        f"store <{lanes} x i16> {result.text}, ptr %q\nret void\n}}"])


def test_rounding_what_llvm_finds_constant_late():
    """LLVM would fold it into constants of a type that it has no registers for, and abort the process."""
    modules = [_rounded_under_a_mask_of_no_lanes(lanes) for lanes in (2, 4, 8, 16, 32)]
    done = subprocess.run([sys.executable, "-c", _COMPILE], input="; next\n".join(modules), capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
