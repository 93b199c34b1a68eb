"""Half floats: whatever is stored, compared, cast or looked at of one value is the same rounded number."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import dlc

HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

ARITHMETIC = {
    "square": lambda x, y: x * x,
    "product": lambda x, y: x * y,
    "sum": lambda x, y: x + y * 0.5,
    "quotient": lambda x, y: x / (y + 3.0),
    "exp": lambda x, y: dlc.exp(x) * y,
    "select": lambda x, y: dlc.where(y > 0, x * 1.01, y * 1.01),
    "extremes": lambda x, y: dlc.maximum(x * 1.01, -(y * 1.01)),
    "mean": lambda x, y: dlc.mean(x, axis=-1, keepdims=True) * x,
    "product of matrices": lambda x, y: x @ dlc.permute_dims(y, (1, 0)),
}

# what is known of a value -> the same from the stored value, in NumPy
LOOKS = {
    "isinf": (dlc.isinf, np.isinf),
    "isnan": (dlc.isnan, np.isnan),
    "comparison": (lambda v: v > 1.0, lambda v: v > 1),
    "equality": (lambda v: v == dlc.round(v), lambda v: v == np.rint(v)),
    "float32": (lambda v: v.astype(dlc.float32), lambda v: v),
    "integer": (lambda v: dlc.clip(v, -100.0, 100.0).astype(dlc.int32), lambda v: np.clip(v, -100, 100).astype("i4")),
    "bool": (lambda v: v.astype(dlc.bool), lambda v: v != 0),
    "floor": (dlc.floor, np.floor),
    "sign": (dlc.sign, np.sign),
    "remainder": (lambda v: dlc.remainder(v, 1.0), lambda v: np.mod(v, np.float32(1))),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_results_of_one_call_agree(dtype, arithmetic, shape=(19, 33)):
    rng = np.random.default_rng(0)
    scale = 300.0 if dtype == "float16" and arithmetic in ("square", "product") else 1.0
    x, y = (dlc.asarray((scale * rng.standard_normal(shape)).astype(HALVES[dtype])) for _ in range(2))

    def everything(x, y):
        value = ARITHMETIC[arithmetic](x, y)
        return value, [look(value) for look, _ in LOOKS.values()]

    for run in (dlc.jit(everything), everything):
        value, looks = run(x, y)
        looks = [v.numpy() for v in looks]  # first: the value itself is not yet stored by a look
        stored = value.numpy().astype(np.float32)
        with np.errstate(all="ignore"):
            for (name, (_, same)), got in zip(LOOKS.items(), looks, strict=True):
                want = np.asarray(same(stored)).astype(got.dtype)
                np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32), name)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_was_looked_at_before_makes_no_difference_to_comparisons(dtype):
    rng = np.random.default_rng(1)
    x = dlc.asarray(rng.standard_normal(1000).astype(HALVES[dtype]))
    value = x * 1.01
    before = (value >= value.astype(dlc.float32)).numpy()
    assert before.all()
    value.numpy()
    assert (value >= value.astype(dlc.float32)).numpy().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_stored_value_is_what_its_readers_read(dtype):
    """y is a result: z = y + 1 starts from the rounded y, fused or not."""
    rng = np.random.default_rng(2)
    x = dlc.asarray(rng.standard_normal((16, 40)).astype(HALVES[dtype]))

    @dlc.jit
    def f(x):
        y = x * 1.01
        return y, (y - x.astype(dlc.float32)).astype(dlc.float32), y.astype(dlc.float32) * 256.0

    y, difference, scaled = (v.numpy().astype(np.float32) for v in f(x))
    np.testing.assert_array_equal(difference, y - x.numpy().astype(np.float32))
    np.testing.assert_array_equal(scaled, y * 256)


@pytest.mark.parametrize("dtype", HALVES)
def test_constants_are_numbers_of_the_type(dtype):
    x = dlc.asarray(np.full(4, 0.1, HALVES[dtype]))
    assert dlc.jit(lambda x: x == 0.1)(x).numpy().all()
    same = dlc.jit(lambda x: dlc.full((4,), 0.1, dtype=x.dtype).astype(dlc.float32) == x.astype(dlc.float32))
    assert same(x).numpy().all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("jit", [False, True])
def test_products_that_cancel_leave_nothing(dtype, jit):
    rng = np.random.default_rng(3)
    x, y = (dlc.asarray(rng.standard_normal((7, 100)).astype(dtype)) for _ in range(2))

    def f(x, y):
        return x * y - y * x, x * y + (-y) * x, -(x * y) + y * x, (x * 1.5) * y - (y * x) * 1.5, x * x - x * x

    for value in (dlc.jit(f) if jit else f)(x, y)[:3]:
        assert not value.numpy().any()


def test_a_determinant_of_equal_columns_is_zero():
    x = dlc.asarray(np.random.default_rng(4).standard_normal((1000, 2)).astype(np.float32))
    m = dlc.stack([x, x], axis=-1)
    assert not dlc.jit(lambda m: m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0])(m).numpy().any()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("find", [dlc.argmax, dlc.argmin, dlc.argsort], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_are_those_of_the_rounded_values(dtype, find, axis):
    rng = np.random.default_rng(0)
    x, y = (dlc.asarray(np.round(4 * rng.standard_normal((64, 160))).astype(HALVES[dtype])) for _ in range(2))

    def value(x, y):
        return (x + 7.0) * 1.01 + y / 64.0  # many values are equal once they are rounded

    stored = value(x, y).realize().numpy().astype(np.float32)
    want = {"argmax": np.argmax, "argmin": np.argmin, "argsort": lambda v, axis: np.argsort(v, axis, kind="stable")}
    got = dlc.jit(lambda x, y: find(value(x, y), axis=axis))(x, y).numpy()
    np.testing.assert_array_equal(got, want[find.__name__](stored, axis))
