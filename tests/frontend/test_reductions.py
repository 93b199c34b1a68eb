"""Reductions and running totals against NumPy: axes, dtypes, empty and single extents, NaN, half types."""

import numpy as np
import pytest
import scipy.special

from dlc.base.errors import ShapeError
from dlc.frontend.array import reductions as r
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

RNG = np.random.default_rng(0)
SHAPES = [(3, 4, 5), (1, 7), (6,), (), (4, 1)]
AXES = {3: [None, 0, -1, (0, 2), (1, 2), ()], 2: [None, 0, 1, (0, 1)], 1: [None, 0, -1], 0: [None, ()]}
CASES = [(s, a) for s in SHAPES for a in AXES[len(s)]]
PLAIN = {r.sum: np.sum, r.prod: np.prod, r.max: np.max, r.min: np.min, r.mean: np.mean, r.var: np.var, r.std: np.std}
COUNTED = {r.any: np.any, r.all: np.all, r.count_nonzero: np.count_nonzero}


@pytest.mark.parametrize("f", PLAIN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("keepdims", [False, True])
def test_floats(f, keepdims):
    for shape, axis in CASES:
        x = RNG.normal(size=shape).astype(np.float32)
        want = PLAIN[f](x.astype(np.float64), axis, keepdims=keepdims)
        got = f(Tensor(x), axis, keepdims=keepdims)
        assert got.dtype is dtypes.float32 and got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("f", COUNTED, ids=lambda f: f.__name__)
def test_truth(f):
    for shape, axis in CASES:
        x = RNG.integers(0, 2, shape).astype(np.float32)
        if f is r.count_nonzero and axis == ():
            continue
        np.testing.assert_array_equal(f(Tensor(x), axis).numpy(), COUNTED[f](x, axis))


@pytest.mark.parametrize(
    ("dtype", "want"),
    [("bool", "int64"), ("int8", "int64"), ("uint8", "uint64"), ("float16", "float16"), ("bfloat16", "bfloat16")],
)
def test_sum_dtypes(dtype, want):
    x = Tensor([1, 1, 0, 1], dtypes.by_name(dtype))
    assert r.sum(x).dtype.name == want and float(r.sum(x)) == 3
    assert r.prod(x).dtype.name == want and float(r.prod(x)) == 0
    assert r.sum(x, dtype=dtypes.float64).dtype is dtypes.float64
    assert r.cumulative_sum(x).dtype.name == want


def test_half_types_accumulate_in_float32():
    x = Tensor(np.full(20000, 10.0), dtypes.float16)
    assert float(r.mean(x)) == 10.0  # the sum itself is beyond float16
    assert float(r.var(x)) == 0.0
    small = Tensor(np.full(4096, 0.01), dtypes.bfloat16)
    assert abs(float(r.sum(small)) - 4096 * 0.010009765625) < 0.5


def test_empty():
    x = Tensor(np.zeros((0, 3), np.float32))
    assert r.sum(x).item() == 0 and r.prod(x).item() == 1
    assert not r.any(x).item() and r.all(x).item()
    assert np.isnan(r.mean(x).item()) and np.isnan(r.var(x, axis=0).numpy()).all()
    assert (r.logsumexp(x, 0).numpy() == -np.inf).all()
    for f in (r.max, r.min, r.argmax):
        with pytest.raises(ShapeError, match=rf"{f.__name__}: no elements(.|\n)*test_reductions"):
            f(x, 0)
    assert r.max(x, 1).shape == (0,)
    assert r.cumulative_sum(x, 0).shape == (0, 3)


def test_variance_correction():
    x = RNG.normal(size=(3, 5))
    np.testing.assert_allclose(r.var(Tensor(x), 1, correction=1).numpy(), x.var(1, ddof=1))
    np.testing.assert_allclose(r.std(Tensor(x), correction=1).numpy(), x.std(ddof=1))
    shifted = x.astype(np.float32) + 1e4  # one pass over squares would lose everything
    np.testing.assert_allclose(r.var(Tensor(shifted), 1).numpy(), shifted.astype(np.float64).var(1), rtol=1e-3)


def test_bool_extremes():
    x = np.array([[True, False], [True, True]])
    np.testing.assert_array_equal(r.max(Tensor(x), 0).numpy(), x.max(0))
    np.testing.assert_array_equal(r.min(Tensor(x), 0).numpy(), x.min(0))
    assert r.argmin(Tensor(x)).item() == 1


@pytest.mark.parametrize("f", ["argmax", "argmin"])
def test_positions(f):
    x = RNG.integers(0, 4, (3, 4, 5)).astype(np.float32)  # with ties
    for axis in (None, 0, 1, -1):
        got = getattr(r, f)(Tensor(x), axis)
        assert got.dtype is dtypes.int64
        np.testing.assert_array_equal(got.numpy(), getattr(np, f)(x, axis))
    assert getattr(r, f)(Tensor(x), 1, keepdims=True).shape == (3, 1, 5)
    assert getattr(r, f)(Tensor(3.0)).item() == 0
    x[0, 0, 2] = np.nan
    assert getattr(r, f)(Tensor(x)).item() == 2


def test_nan_propagates():
    x = Tensor([1.0, np.nan, 2.0])
    for f in (r.sum, r.max, r.min, r.mean, r.logsumexp, r.std):
        assert np.isnan(f(x).item())


def test_logsumexp():
    x = RNG.normal(size=(4, 5)) * 300
    for axis in (None, 0, (0, 1), -1):
        np.testing.assert_allclose(r.logsumexp(Tensor(x), axis).numpy(), scipy.special.logsumexp(x, axis))
    inf = np.array([[-np.inf, -np.inf], [np.inf, 1.0], [-np.inf, 2.0]])
    np.testing.assert_array_equal(r.logsumexp(Tensor(inf), 1).numpy(), [-np.inf, np.inf, 2.0])
    assert r.logsumexp(Tensor([1, 2])).dtype is dtypes.float32


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_running(axis):
    x = RNG.normal(size=(3, 4))
    t = Tensor(x)
    np.testing.assert_allclose(r.cumulative_sum(t, axis).numpy(), np.cumsum(x, axis))
    np.testing.assert_allclose(r.cumprod(t, axis).numpy(), np.cumprod(x, axis))
    if axis is not None:
        np.testing.assert_array_equal(r.cummax(t, axis).numpy(), np.maximum.accumulate(x, axis))
        np.testing.assert_array_equal(r.cummin(t, axis).numpy(), np.minimum.accumulate(x, axis))
        with_start = r.cumulative_sum(t, axis, include_initial=True).numpy()
        np.testing.assert_allclose(with_start, np.cumulative_sum(x, axis=axis, include_initial=True))
        np.testing.assert_allclose(r.diff(t, axis=axis).numpy(), np.diff(x, axis=axis))
    assert r.cumulative_prod(Tensor([2, 3]), include_initial=True).numpy().tolist() == [1, 2, 6]
    assert r.cumsum(Tensor(2.0)).shape == (1,)
    assert r.diff(Tensor(np.zeros((2, 0))), axis=1).shape == (2, 0)


def test_bad_axes():
    x = Tensor(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match=r"sum: axis 2 is outside a tensor of 2 dimensions(.|\n)*float64 \(2, 3\)"):
        r.sum(x, 2)
    with pytest.raises(ShapeError, match="named twice"):
        r.mean(x, (0, -2))
    with pytest.raises(ShapeError, match="an axis is an integer"):
        r.max(x, 1.5)


def test_gradients():
    x = RNG.normal(size=(3, 4))
    for f in (r.mean, r.var, r.std, r.logsumexp, r.prod, lambda t, a: r.cumulative_sum(r.cumprod(t, a), a)):
        t = Tensor(x, requires_grad=True)
        out = f(t, 1)
        weight = RNG.normal(size=out.shape)
        out.backward(Tensor(weight))
        num = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[i] += 1e-6
            down[i] -= 1e-6
            num[i] = ((f(Tensor(up), 1).numpy() - f(Tensor(down), 1).numpy()) * weight).sum() / 2e-6
        np.testing.assert_allclose(t.grad.numpy(), num, rtol=1e-5, atol=1e-7)
