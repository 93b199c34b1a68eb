"""The expanded transcendental functions: accuracy against wider arithmetic, special values, cost, and the real code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlc.codegen.math import expand as expand_math
from dlc.codegen.math.expand import BUILDERS, expand, expand_expr
from dlc.codegen.target.cpu import LEVELS
from dlc.ir import dtypes
from dlc.ir.dtypes import float32, float64, uint32
from dlc.ir.loops.interp.values import evaluate_expr
from dlc.ir.loops.ir import Buffer, Kernel, axis, const, load, loop, op, store
from dlc.ir.loops.traverse import exprs as exprs_of
from dlc.ir.loops.traverse import subexpressions, walk
from dlc.ir.loops.verify import verify
from dlc.ir.quadrants import PARTS
from dlc.ir.scalar import SCALAR_OPS
from tests.codegen.llvm_run import Compiled, target
from tests.codegen.math_samples import CIRCLE_LIMIT, arguments, reference, ulps

# op -> limits (f32, f32 without fma, f64, f64 without fma) and the operations of the f32 form, from the docstring
TABLE = {row[0]: (*map(float, row[1:5]), int(row[5]))
         for row in map(str.split, expand_math.__doc__.splitlines()) if row and row[0] in BUILDERS}  # fmt: skip
PRIMITIVES = {"add", "sub", "mul", "div", "fma", "max", "min", "floor", "round", "select", "eq", "ne", "lt", "le",
              "bitcast", "cast", "and", "or", "xor", "not", "shl", "shr", "sqrt", "abs", "neg", "const", "load", "axis",
              *PARTS}
FLOATS = [float32, float64]
by_type = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.short)
by_fused = pytest.mark.parametrize("fused", [True, False], ids=["fma", "no-fma"])


def _inputs(name, dtype):
    i = axis("i", 8)
    return [load(Buffer(f"x{n}", dtype, (8,)), i) for n in range(SCALAR_OPS[name].arity)]


def _evaluate(name, args, fused=True):
    xs = _inputs(name, dtypes.from_numpy(args[0].dtype))
    return evaluate_expr(expand_expr(op(name, *xs), fused), dict(zip(xs, args, strict=True)), fused)


def _check(name, dtype, fused, args, got):
    exact = reference(name, args)
    error = ulps(got, exact)
    if name in ("sin", "cos", "tan"):
        error = np.where(np.isfinite(args[0]) & (np.abs(args[0]) > CIRCLE_LIMIT[dtype.short][fused]), 0, error)
    worst = int(np.argmax(error))
    limit = TABLE[name][2 * FLOATS.index(dtype) + (not fused)]
    assert error[worst] <= limit, ([float(a[worst]) for a in args], got[worst], exact[worst])
    zeros = (exact == 0) & (got == 0) & (args[0] != 0 if name == "erf" else True)  # mpmath has no -0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(exact[zeros]))


def _count(name, dtype):
    if name == "erf" and dtype is float64:
        pytest.importorskip("mpmath")
        return 1500
    return 60_000


@pytest.mark.parametrize("name", BUILDERS)
@by_type
@by_fused
def test_accuracy(name, dtype, fused):
    args = arguments(name, dtype, _count(name, dtype))
    _check(name, dtype, fused, args, _evaluate(name, args, fused))


@pytest.mark.parametrize("level", LEVELS)
@by_type
def test_accuracy_of_the_machine_code(level, dtype):
    cpu = target(level)
    for name in BUILDERS:
        args = arguments(name, dtype, 1000 if name == "erf" else 8000, seed=1)
        n = args[0].size
        xs, out = [Buffer(f"x{k}", dtype, (n,)) for k in range(len(args))], Buffer("out", dtype, (n,))
        i = axis("i", n)
        body = loop(i, store(out, [i], op(name, *(load(x, i) for x in xs))), "vector", lanes=cpu.lanes(dtype.itemsize))
        kernel = expand(Kernel(f"f_{name}", (*xs, out), frozenset({out}), body), cpu)
        verify(kernel, "expand_math")
        got = np.empty(n, dtype.np)
        Compiled(kernel, cpu)(*args, got)
        _check(name, dtype, cpu.has_fma, args, got)


@pytest.mark.parametrize("name", BUILDERS)
@by_type
@by_fused
def test_only_primitives_are_left(name, dtype, fused):
    expanded = expand_expr(op(name, *_inputs(name, dtype)), fused)
    assert {e.op for e in subexpressions(expanded)} <= PRIMITIVES
    assert expanded.dtype is dtype


@pytest.mark.parametrize("name", BUILDERS)
def test_cost(name):
    expanded = expand_expr(op(name, *_inputs(name, float32)))
    free = ("const", "load", "axis", "bitcast")
    assert sum(e.op not in free for e in subexpressions(expanded)) <= TABLE[name][-1]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.short)
def test_halves_are_computed_in_float32(name, dtype):
    args = [a.astype(dtype.np) for a in (np.array([0.25, 0.5, 0.875]), np.array([2.0, 0.5, -3.0]))]
    args = args[: SCALAR_OPS[name].arity] if name != "acosh" else args[1:]
    got = _evaluate(name, args)
    with np.errstate(all="ignore"):
        want = SCALAR_OPS[name].numpy(*(a.astype(np.float64) for a in args)).astype(np.float32).astype(dtype.np)
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@by_type
@by_fused
def test_exp_underflows_gradually_and_overflows_to_infinity(dtype, fused):
    low, high = (-87.5, 88.8) if dtype is float32 else (-708.5, 709.8)
    x = np.array([high, np.inf, low, low - 10, low - 1000, -np.inf, np.nan], dtype.np)
    got = _evaluate("exp", [x], fused)
    assert np.isposinf(got[:2]).all() and (got[2:4] > 0).all() and (got[4:6] == 0).all() and np.isnan(got[6])
    assert (got[2:4] < np.finfo(dtype.np).tiny).all()


@by_type
@by_fused
def test_pow_has_the_table_of_ieee_754(dtype, fused):
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1e30, -1e30, math.inf, -math.inf, math.nan, 2.5]
    x, y = (a.ravel().astype(dtype.np) for a in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        want = np.power(x, y)
    got = _evaluate("pow", [x, y], fused)
    np.testing.assert_allclose(got, want, rtol=3 * np.finfo(dtype.np).eps)
    np.testing.assert_array_equal(np.signbit(got) & ~np.isnan(want), np.signbit(want) & ~np.isnan(want))


@by_type
def test_atan2_has_the_table_of_c(dtype):
    values = [0.0, -0.0, 1.0, -1.0, 1e30, -1e30, math.inf, -math.inf, math.nan]
    y, x = (a.ravel().astype(dtype.np) for a in np.meshgrid(values, values))
    got, want = _evaluate("atan2", [y, x]), np.arctan2(y, x)
    np.testing.assert_allclose(got, want, rtol=3 * np.finfo(dtype.np).eps)
    np.testing.assert_array_equal(np.signbit(got) & ~np.isnan(want), np.signbit(want) & ~np.isnan(want))


@by_type
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_circular_functions_stay_bounded(name, dtype):
    with np.errstate(over="ignore"):
        x = np.array([1e9, 1e15, 1e20, 1e30, 1e38, 1e100, 1e300], np.float64).astype(dtype.np)
    got = _evaluate(name, [x[np.isfinite(x)]])
    assert (np.abs(got) <= 1).all()
    assert np.isnan(_evaluate(name, [np.array([np.inf, -np.inf, np.nan], dtype.np)])).all()


def test_large_arguments_in_float32():
    x = (np.float32(2) ** np.arange(102, 128, dtype=np.float32)) * np.float32(1.337)
    for name in ("sin", "cos"):
        np.testing.assert_allclose(_evaluate(name, [x]), SCALAR_OPS[name].numpy(x.astype(np.float64)), atol=1e-7)


def test_threefry():
    rng = np.random.default_rng(3)
    words = [rng.integers(0, 1 << 32, 500, dtype=np.uint64).astype(np.uint32) for _ in range(4)]
    i = axis("i", 8)
    xs = [load(Buffer(f"k{n}", uint32, (8,)), i) for n in range(4)]
    expanded = expand_expr(op("threefry", *xs))
    assert {e.op for e in subexpressions(expanded)} <= PRIMITIVES
    got = evaluate_expr(expanded, dict(zip(xs, words, strict=True)))
    np.testing.assert_array_equal(got, SCALAR_OPS["threefry"].numpy(*words))


def test_a_kernel_is_expanded_everywhere_and_shares():
    x, out, n = Buffer("x", float32, (8,)), Buffer("out", float32, (8,)), axis("i", 8)
    value = op("sin", load(x, n))
    near = op("lt", op("cos", load(x, n)), const(0.5, float32))
    kernel = Kernel("k", (x, out), frozenset({out}), loop(n, store(out, [n], value, None, near)), flops=7)
    expanded = expand(kernel, target(LEVELS[-1]))
    verify(expanded, "expand_math")
    found = {e for s in walk(expanded.body) for root in exprs_of(s) for e in subexpressions(root)}
    assert {e.op for e in found} <= PRIMITIVES
    alone = set(subexpressions(expand_expr(value, target(LEVELS[-1]).has_fma)))
    assert len(found) < len(alone) + 12  # sine and cosine share nearly all
    assert (expanded.name, expanded.params, expanded.flops) == ("k", kernel.params, 7)


def test_the_coefficients_are_those_of_the_tool():
    pytest.importorskip("mpmath")
    from dlc.codegen.math.tables import TABLES
    from tools.minimax import FITS, fit

    for name, column in (("expm1", "f32"), ("sin", "f32"), ("cos", "f64")):
        coefficients, _ = fit(FITS[name], column)
        assert tuple(coefficients) == TABLES[name, column]
    assert set(TABLES) == {(name, column) for name, row in FITS.items() for column in row.degree}
