"""Elementwise functions against NumPy: dtypes, broadcasting, special values, promotion, errors."""

import math

import numpy as np
import pytest
import scipy.special

import dlc
from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array import elementwise as e
from dlc.frontend.array import unary as u
from dlc.frontend.array.creation import asarray
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

RNG = np.random.default_rng(0)
FLOATS = [np.float32, np.float64]
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-8, 700.0, np.inf, -np.inf, np.nan])


def same(got: Tensor, want, rtol=1e-6):
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype.np == want.dtype, (got.dtype, want.dtype)
    np.testing.assert_allclose(got.numpy(), want, rtol=rtol, atol=0 if rtol == 0 else 1e-7)


UNARY = {
    u.abs: np.abs, u.negative: np.negative, u.positive: np.positive, u.sign: np.sign, u.square: np.square,
    u.exp: np.exp, u.expm1: np.expm1, u.log: np.log, u.log1p: np.log1p, u.log2: np.log2, u.log10: np.log10,
    u.exp2: np.exp2, u.sqrt: np.sqrt, u.reciprocal: np.reciprocal, u.sin: np.sin, u.cos: np.cos, u.tan: np.tan,
    u.asin: np.arcsin, u.acos: np.arccos, u.atan: np.arctan, u.sinh: np.sinh, u.cosh: np.cosh, u.tanh: np.tanh,
    u.asinh: np.arcsinh, u.acosh: np.arccosh, u.atanh: np.arctanh, u.floor: np.floor, u.ceil: np.ceil,
    u.trunc: np.trunc, u.round: np.round, u.isnan: np.isnan, u.isinf: np.isinf, u.isfinite: np.isfinite,
    u.signbit: np.signbit, e.logical_not: np.logical_not, u.sigmoid: scipy.special.expit, u.erf: scipy.special.erf,
    u.rsqrt: lambda x: 1 / np.sqrt(x),
}  # fmt: skip


@pytest.mark.parametrize("f", UNARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", FLOATS)
def test_unary(f, dtype):
    x = SPECIAL.astype(dtype)
    with np.errstate(all="ignore"):
        same(f(Tensor(x)), UNARY[f](x), 2e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("f", [u.abs, u.negative, u.sign, u.floor, u.round, u.isnan, u.isfinite, e.logical_not])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_unary_integers(f, dtype):
    x = np.array([0, 1, 5, 100], dtype) * (1 if dtype == np.uint8 else -1)
    x = x.astype(dtype)
    same(f(Tensor(x)), UNARY[f](x), 0)


def test_floats_of_integers_are_float32():
    for f in (u.sqrt, u.exp, u.sin, u.reciprocal, u.sigmoid):
        assert f(Tensor([1, 2])).dtype is dtypes.float32
    assert e.divide(Tensor([1]), Tensor([2])).dtype is dtypes.float32
    assert u.sqrt(Tensor([True])).dtype is dtypes.float32


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16])
@pytest.mark.parametrize("f", [u.sigmoid, u.log10, u.exp, u.isfinite, u.signbit, u.abs])
def test_half_types(f, dtype):
    x = np.array([0.5, 1.0, 10.0, 3.0])
    got = f(Tensor(x, dtype))
    assert got.dtype in (dtype, dtypes.bool_)
    want = UNARY[f](x)
    rounding = {dtypes.float16: 2.0**-11, dtypes.bfloat16: 2.0**-8}[dtype]
    np.testing.assert_allclose(got.numpy().astype(np.float64), want, rtol=rounding)


BINARY = {
    e.add: np.add, e.subtract: np.subtract, e.multiply: np.multiply, e.divide: np.divide, e.maximum: np.maximum,
    e.minimum: np.minimum, e.floor_divide: np.floor_divide, e.remainder: np.mod, e.fmod: np.fmod, e.atan2: np.arctan2,
    e.hypot: np.hypot, e.logaddexp: np.logaddexp, e.copysign: np.copysign, e.nextafter: np.nextafter, e.pow: np.power,
    e.equal: np.equal, e.not_equal: np.not_equal, e.less: np.less, e.less_equal: np.less_equal,
    e.greater: np.greater, e.greater_equal: np.greater_equal, e.logical_and: np.logical_and,
    e.logical_or: np.logical_or, e.logical_xor: np.logical_xor,
}  # fmt: skip


@pytest.mark.parametrize("f", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", FLOATS)
def test_binary_special_values(f, dtype):
    x, y = (v.ravel().astype(dtype) for v in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(all="ignore"):
        same(f(Tensor(x), Tensor(y)), BINARY[f](x, y), 2e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("f", [e.add, e.less, e.pow, e.maximum])
@pytest.mark.parametrize(
    "shapes", [((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((0, 3), (1, 3)), ((1,), (0,)), ((2, 1, 3), (5, 1))]
)
def test_broadcasting(f, shapes):
    x, y = (RNG.uniform(0.5, 2, s).astype(np.float32) for s in shapes)
    same(f(Tensor(x), Tensor(y)), BINARY[f](x, y), 1e-5)


INTEGER = [e.add, e.subtract, e.multiply, e.floor_divide, e.remainder, e.fmod, e.maximum, e.less]


@pytest.mark.parametrize("f", INTEGER, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64])
def test_integers(f, dtype):
    x = RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 200, dtype, endpoint=True)
    y = RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 200, dtype, endpoint=True)
    y[y == 0] = 3
    with np.errstate(all="ignore"):
        same(f(Tensor(x), Tensor(y)), BINARY[f](x, y), 0)


@pytest.mark.parametrize("f", [e.floor_divide, e.remainder, e.fmod], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_integer_division_of_every_sign_and_the_limits(f, dtype):
    info = np.iinfo(dtype)
    few = [info.min, info.min + 1, info.min // 2, 0, 1, 2, 3, 7, info.max // 2, info.max - 1, info.max]
    few = np.array(few + [-1, -2, -3, -7] * (info.min < 0), dtype)
    every = np.arange(info.min, info.max + 1).astype(dtype) if info.bits == 8 else few
    x, y = (v.ravel() for v in np.meshgrid(every, few))
    with np.errstate(all="ignore"):
        same(f(Tensor(x), Tensor(y)), BINARY[f](x, y), 0)


def test_integer_division_by_zero_is_zero():
    x, zero = Tensor([5, -5]), Tensor([0, 0])
    for f in (e.floor_divide, e.remainder, e.fmod):
        assert f(x, zero).numpy().tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_integer_powers_wrap(dtype):
    x = np.array([0, 1, 2, 3, 7, 10], dtype)
    for y in (0, 1, 2, 5, 31):
        same(e.pow(Tensor(x), y), x ** dtype(y), 0)
        same(e.pow(Tensor(x), Tensor(np.full(6, y, dtype))), x ** dtype(y), 0)
    if dtype != np.uint8:
        got = e.pow(Tensor(np.array([1, -1, -1, 2, 0], dtype)), Tensor(np.array([-3, -3, -2, -1, -1], dtype)))
        assert got.numpy().tolist() == [1, -1, 1, 0, 0]
        with pytest.raises(DTypeError, match="negative power -1"):
            e.pow(Tensor(x), -1)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, -1, -2, 0.5, -0.5, 2.5, 20])
def test_constant_powers(n):
    x = RNG.uniform(0.1, 3, 20).astype(np.float32)
    got = e.pow(Tensor(x), n)
    ops = _ops(got)  # before a look at the value lets go of the graph
    same(got, (x.astype(np.float64) ** n).astype(np.float32), 2e-6)
    assert ("pow" in ops) == (n in (2.5, 20))
    assert e.pow(Tensor(x, dtypes.float16), n).dtype is dtypes.float16


def _ops(x: Tensor) -> set[str]:
    from dlc.ir.graph.graph import topological

    return {n.op for n in topological([Tensor._read(x)])}


def test_bits():
    x, y = np.array([5, -3, 100], np.int32), np.array([1, 2, 3], np.int32)
    same(e.bitwise_and(Tensor(x), Tensor(y)), x & y, 0)
    same(e.bitwise_or(Tensor(x), Tensor(y)), x | y, 0)
    same(e.bitwise_xor(Tensor(x), 7), x ^ 7, 0)
    same(e.bitwise_invert(Tensor(x)), ~x, 0)
    same(e.bitwise_left_shift(Tensor(x), Tensor(y)), x << y, 0)
    same(e.bitwise_right_shift(Tensor(x), Tensor(y)), x >> y, 0)
    assert e.bitwise_left_shift(Tensor([1]), 64).numpy().tolist() == [0]
    assert e.bitwise_right_shift(Tensor([-1]), 99).numpy().tolist() == [-1]
    same(e.bitwise_invert(Tensor([True, False])), [False, True], 0)


def test_python_numbers_are_weak():
    half = Tensor([1.0], dtypes.float16)
    assert e.add(half, 1.5).dtype is dtypes.float16
    assert e.add(Tensor([1], dtypes.int8), 1).dtype is dtypes.int8
    assert e.add(Tensor([1], dtypes.int8), 1.5).dtype is dtypes.float32
    assert e.add(Tensor([True]), 1).dtype is dtypes.int64
    assert e.multiply(2.0, Tensor([1.0], dtypes.float64)).dtype is dtypes.float64
    with pytest.raises(DTypeError, match="300"):
        e.add(Tensor([1], dtypes.int8), 300)


def test_promotion():
    pairs = {
        ("int8", "uint8"): "int16", ("int32", "float16"): "float16", ("float16", "bfloat16"): "float32",
        ("int64", "float32"): "float32", ("bool", "uint8"): "uint8", ("float32", "float64"): "float64",
    }  # fmt: skip
    for (a, c), want in pairs.items():
        got = e.add(Tensor([1], dtypes.by_name(a)), Tensor([1], dtypes.by_name(c)))
        assert got.dtype.name == want


def test_bool_arithmetic():
    t, f = Tensor([True, True]), Tensor([True, False])
    assert e.add(t, f).numpy().tolist() == [True, True]
    assert e.multiply(t, f).numpy().tolist() == [True, False]
    assert e.maximum(t, f).dtype is dtypes.bool_
    with pytest.raises(DTypeError, match="subtract"):
        e.subtract(t, f)
    with pytest.raises(DTypeError, match="logical_not"):
        u.negative(t)


def test_where_and_clip():
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    same(e.where(Tensor(x > 0), Tensor(x), 0), np.where(x > 0, x, np.float32(0)))
    same(e.where(Tensor(x[:, :1]), Tensor(x[0]), Tensor(x)), np.where(x[:, :1], x[0], x))
    same(e.clip(Tensor(x), -0.5, 0.5), np.clip(x, -0.5, 0.5))
    same(e.clip(Tensor(x), min=Tensor(x[0])), np.maximum(x, x[0]))
    same(e.clip(Tensor(x)), x)
    assert math.isnan(e.clip(Tensor([np.nan]), 0, 1).item())


def test_nan_to_num_isclose_lerp():
    same(u.nan_to_num(Tensor(SPECIAL)), np.nan_to_num(SPECIAL))
    same(u.nan_to_num(Tensor(SPECIAL), 1, 2, 3), np.nan_to_num(SPECIAL, True, 1, 2, 3))
    x, y = (v.ravel() for v in np.meshgrid(SPECIAL, SPECIAL + 1e-9))
    with np.errstate(invalid="ignore"):
        same(e.isclose(Tensor(x), Tensor(y)), np.isclose(x, y))
        same(e.isclose(Tensor(x), Tensor(y), equal_nan=True), np.isclose(x, y, equal_nan=True))
    assert e.allclose(Tensor([1.0]), Tensor([1.0 + 1e-7])) and not e.allclose(Tensor([1.0]), Tensor([1.1]))
    assert e.array_equal(Tensor([1, 2]), Tensor([1, 2])) and not e.array_equal(Tensor([1]), Tensor([1, 2]))
    same(e.lerp(Tensor([0.0, 2.0]), Tensor([4.0, 4.0]), 0.25), np.array([1.0, 2.5], np.float32))


def test_astype():
    x = Tensor([1.9, -1.9, np.nan, 1e30])
    assert e.astype(x, dtypes.int32).numpy().tolist() == [1, -1, 0, 2**31 - 1]
    assert e.astype(x, dtypes.bool_).numpy().tolist() == [True] * 4
    assert e.astype(x, np.float16).dtype is dtypes.float16
    with pytest.raises(DTypeError, match="not a dtype such as dlc.float32"):
        e.astype(x, "float32")


def test_errors_name_operation_operands_and_line():
    with pytest.raises(ShapeError) as info:
        e.add(asarray(np.zeros((3, 4), np.float32)), asarray(np.zeros(5, np.int8)))
    text = str(info.value)
    assert text.startswith("add: shapes (3, 4) and (5,) do not broadcast together")
    assert "float32 (3, 4), int8 (5,)" in text and "test_elementwise.py:" in text
    with pytest.raises(DTypeError, match=r"bitwise_and: needs integers or bools(.|\n)*test_elementwise.py:"):
        e.bitwise_and(Tensor([1.0]), Tensor([1.0]))


def test_gradients():
    def grad(f, *xs):
        ts = [Tensor(np.asarray(x, np.float64), requires_grad=True) for x in xs]
        f(*ts).backward(Tensor(np.ones(np.broadcast_shapes(*(t.shape for t in ts)))))
        return [t.grad.numpy() for t in ts]

    x, y = np.array([0.3, 1.2, 2.0]), np.array([1.0, 1.2, 0.4])
    for f in (e.logaddexp, e.hypot, e.atan2, e.pow, e.copysign, e.divide):
        gx, gy = grad(f, x, y)
        h = 1e-6
        for g, dx, dy in ((gx, h, 0), (gy, 0, h)):
            up, down = (f(Tensor(x + s * dx), Tensor(y + s * dy)).numpy() for s in (1, -1))
            np.testing.assert_allclose(g, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    for f in (u.sigmoid, u.log10, u.exp2, u.rsqrt, u.erf, u.reciprocal):
        (g,) = grad(f, x)
        up, down = (f(Tensor(x + s)).numpy() for s in (1e-6, -1e-6))
        np.testing.assert_allclose(g, (up - down) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("p", [0.5, -0.5, 2.0, -1.0, 3.0, -3.0, 1.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_powers_of_special_values(p, dtype):
    """A constant exponent takes other ways than pow, to the same values."""
    x = np.array([-np.inf, -0.0, 0.0, np.inf, 4.0, -4.0, np.nan, 1.0, -1.0], dtype)
    got = (Tensor(x) ** p).numpy()
    with np.errstate(all="ignore"):
        want = np.power(x, np.full_like(x, p))
    np.testing.assert_array_equal(got, want)
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))


@pytest.mark.parametrize("name", ["sinh", "cosh"])
@pytest.mark.parametrize(("dtype", "edge"), [(np.float32, 89.4159), (np.float64, 710.4758)])
def test_hyperbolic_functions_up_to_the_largest_number(name, dtype, edge):
    """exp(x) alone overflows before they do. CUDA's own sinhf is good to 3 ulp, its other versions and ours to 2."""
    x = np.concatenate([np.linspace(-edge, edge, 2001), np.linspace(edge - 1, edge, 2001)]).astype(dtype)
    got = getattr(u, name)(Tensor(x)).numpy()
    want = getattr(np, name)(x.astype(np.longdouble))
    assert np.isfinite(got).all()
    ulps = 3 if dlc.get_default_device() != "cpu" else 2
    assert np.max(np.abs(got - want) / np.spacing(np.abs(want).astype(dtype))) <= ulps
    far = getattr(u, name)(Tensor(np.array([edge + 0.01, -edge - 0.01], dtype))).numpy()
    np.testing.assert_array_equal(far, [np.inf, np.inf if name == "cosh" else -np.inf])


def test_round_of_integers_gives_integers():
    x = dlc.asarray([15, 25, -37])
    for decimals in (0, 1, -1):
        out = dlc.round(x, decimals)
        assert out.dtype is dlc.int64 and out.tolist() == np.round(x.numpy(), decimals).tolist()
