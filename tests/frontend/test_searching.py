"""Sorting, searching and sets against NumPy."""

import numpy as np
import pytest

import dlc
from dlc.base.errors import ShapeError, TraceError
from dlc.frontend.array import sorting as s
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

RNG = np.random.default_rng(0)


def same(got, want):
    assert got.shape == np.shape(want)
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, bool])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sort(dtype, axis):
    torch = pytest.importorskip("torch")
    x = RNG.integers(0, 5, (4, 6)).astype(dtype)
    same(s.sort(Tensor(x), axis=axis), np.sort(x, axis, kind="stable"))
    same(s.argsort(Tensor(x), axis=axis), np.argsort(x, axis, kind="stable"))
    down = s.sort(Tensor(x), axis=axis, descending=True)
    same(down, np.flip(np.sort(x, axis), axis))
    order = s.argsort(Tensor(x), axis=axis, descending=True)
    want = torch.sort(torch.tensor(x), dim=axis, descending=True, stable=True).indices
    same(order, want.numpy())
    assert order.dtype is dtypes.int64


def test_sort_odd_cases():
    x = np.array([1.0, np.nan, -np.inf, 0.0, np.inf])
    same(s.sort(Tensor(x)), np.sort(x))
    same(s.sort(Tensor(x), descending=True), [np.nan, np.inf, 1, 0, -np.inf])
    same(s.sort(Tensor(3.0)), np.float32(3))
    same(s.sort(Tensor(np.zeros((0, 2))), axis=0), np.zeros((0, 2)))


def test_topk():
    torch = pytest.importorskip("torch")
    x = RNG.permutation(24).reshape(4, 6)
    for largest in (True, False):
        for axis in (0, -1):
            want = torch.topk(torch.tensor(x), 3, axis, largest)
            got = s.topk(Tensor(x), 3, axis, largest=largest)
            same(got[0], want.values.numpy())
            same(got[1], want.indices.numpy())
    with pytest.raises(ShapeError, match="topk: 7 elements of axis 1, which has 6"):
        s.topk(Tensor(x), 7)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 100])
def test_searchsorted(side, n):
    table = np.sort(RNG.integers(0, 50, n)).astype(np.float32)
    values = RNG.integers(-5, 55, (5, 20)).astype(np.float32)
    same(s.searchsorted(Tensor(table), Tensor(values), side=side), np.searchsorted(table, values, side))
    if n > 2:
        table[-2:] = [np.inf, np.nan]
        values = np.array([np.nan, np.inf, -np.inf], np.float32)
        same(s.searchsorted(Tensor(table), Tensor(values), side=side), np.searchsorted(table, values, side))


def test_sets_and_positions():
    x = RNG.integers(0, 4, (3, 5))
    for got, want in zip(s.nonzero(Tensor(x)), np.nonzero(x), strict=True):
        same(got, want)
    same(s.argwhere(Tensor(x)), np.argwhere(x))
    values, inverse, counts = s.unique(Tensor(x), return_inverse=True, return_counts=True)
    want = np.unique_all(x)
    same(values, want.values)
    same(counts, want.counts)
    same(inverse, want.inverse_indices)
    for got, expected in zip(s.unique_all(Tensor(x)), want, strict=True):
        same(got, expected)
    same(s.unique_values(Tensor([3, 1, 3])), [1, 3])
    assert [t.numpy().tolist() for t in s.unique_counts(Tensor([3, 1, 3]))] == [[1, 3], [1, 2]]
    same(s.isin(Tensor(x), Tensor([1, 3])), np.isin(x, [1, 3]))
    with pytest.raises(ShapeError):
        s.nonzero(Tensor(1.0))


def test_data_dependent_shapes_do_not_trace():
    for f in (s.nonzero, s.unique, s.unique_all):
        with pytest.raises(TraceError, match=rf"(?s){f.__name__}: cannot run on a traced.*test_searching.py"):
            dlc.jit(lambda x, f=f: f(x))(Tensor([1, 2]))


def test_gradient_of_sort():
    x = Tensor([3.0, 1.0, 2.0], requires_grad=True)
    s.sort(x).backward(Tensor([1.0, 10.0, 100.0]))
    assert x.grad.numpy().tolist() == [100, 1, 10]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_distinct_elements_beside_nan(dtype):
    given = np.array([2, np.nan, 1, np.nan, 2, 1, np.inf, 0, np.nan, -np.inf] * 3)
    x = dlc.asarray(given).astype(getattr(dlc, dtype))
    values, first, inverse, counts = (part.astype(dlc.float64).numpy() for part in dlc.unique_all(x))
    np.testing.assert_array_equal(values, [-np.inf, 0, 1, 2, np.inf] + 9 * [np.nan])
    np.testing.assert_array_equal(counts, [3, 3, 6, 6, 3] + 9 * [1])
    np.testing.assert_array_equal(given[first.astype(int)], values)
    np.testing.assert_array_equal(values[inverse.astype(int)], given)
    np.testing.assert_array_equal(dlc.unique(x).astype(dlc.float64).numpy(), values)
