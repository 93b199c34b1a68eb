"""Quantiles, averages, covariance and counts against NumPy."""

import numpy as np
import pytest

from dlc.base.errors import ShapeError
from dlc.frontend.array import statistics as s
from dlc.frontend.core.tensor import Tensor

X = np.random.default_rng(0).normal(size=(3, 4, 5))


def same(got, want):
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_quantiles(axis):
    same(s.median(Tensor(X), axis), np.median(X, axis))
    for q in (0.0, 0.3, 1.0, [0.1, 0.9], [0.5]):
        same(s.quantile(Tensor(X), q, axis), np.quantile(X, q, axis))
        same(s.quantile(Tensor(X), q, axis, keepdims=True), np.quantile(X, q, axis, keepdims=True))


def test_odd_quantiles():
    assert np.isnan(s.median(Tensor([1.0, np.nan, 2.0])).item())
    assert s.median(Tensor([np.inf, np.inf])).item() == np.inf
    assert s.median(Tensor([1, 2])).item() == 1.5
    with pytest.raises(ShapeError, match="no elements"):
        s.median(Tensor(np.zeros(0)))
    with pytest.raises(ShapeError, match="shares"):
        s.quantile(Tensor(X), 1.5)


def test_averages_and_covariance():
    w = np.abs(X[0, 0])
    same(s.average(Tensor(X), -1, Tensor(w)), np.average(X, -1, w))
    same(s.average(Tensor(X)), X.mean())
    same(s.cov(Tensor(X[0])), np.cov(X[0]))
    same(s.corrcoef(Tensor(X[0])), np.corrcoef(X[0]))
    same(s.bincount(Tensor([1, 3, 1]), 5), [0, 2, 0, 1, 0])
