"""Shape functions against NumPy (and PyTorch's meaning where the name is PyTorch's)."""

import numpy as np
import pytest

import dlc
from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array import manipulation as m
from dlc.frontend.array import padding, windows
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
T = Tensor(X)


def same(got, want):
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy(), want)


def test_reshape():
    same(m.reshape(T, (4, -1)), X.reshape(4, 6))
    same(m.reshape(T, -1), X.reshape(-1))
    same(m.reshape(Tensor(np.zeros((0, 3))), (3, 0, 2)), np.zeros((3, 0, 2)))
    same(m.reshape(Tensor(1.0), ()), np.float32(1))
    same(m.flatten(T), X.reshape(-1))
    same(m.flatten(T, 1), X.reshape(2, 12))
    same(m.flatten(T, 0, 1), X.reshape(6, 4))
    same(m.flatten(Tensor(1.0)), np.ones(1))
    same(m.unflatten(T, 2, (2, -1)), X.reshape(2, 3, 2, 2))
    for bad in ((5, 5), (-1, -1), (7, -1), (-2, 12)):
        with pytest.raises(ShapeError, match="reshape"):
            m.reshape(T, bad)
    with pytest.raises(ShapeError):
        m.reshape(Tensor(np.zeros((0, 3))), (0, -1))


def test_axes():
    same(m.permute_dims(T, (2, 0, 1)), X.transpose(2, 0, 1))
    same(m.permute_dims(T, (-1, 0, 1)), X.transpose(2, 0, 1))
    same(m.transpose(T), X.T)
    same(m.matrix_transpose(T), X.swapaxes(1, 2))
    same(m.swapaxes(T, 0, -1), X.swapaxes(0, -1))
    same(m.moveaxis(T, 0, -1), np.moveaxis(X, 0, -1))
    same(m.moveaxis(T, (0, 2), (1, 0)), np.moveaxis(X, (0, 2), (1, 0)))
    one = np.zeros((1, 3, 1))
    same(m.squeeze(Tensor(one)), one.squeeze())
    same(m.squeeze(Tensor(one), 0), one.squeeze(0))
    same(m.squeeze(Tensor(one), (0, -1)), one.squeeze((0, -1)))
    same(m.expand_dims(T, 1), X[:, None])
    same(m.expand_dims(T, (0, -1)), X[None, ..., None])
    bad = (m.squeeze, (0,)), (m.permute_dims, ((0, 1),)), (m.permute_dims, ((0, 0, 1),)), (m.swapaxes, (0, 3))
    for f, args in bad:
        with pytest.raises(ShapeError):
            f(T, *args)


def test_broadcast():
    same(m.broadcast_to(Tensor(X[0]), (5, 3, 4)), np.broadcast_to(X[0], (5, 3, 4)))
    same(m.broadcast_to(Tensor(X[:, :1]), (-1, 3, -1)), np.broadcast_to(X[:, :1], (2, 3, 4)))
    a, c = m.broadcast_arrays(Tensor(np.zeros((3, 1))), Tensor(np.ones(4)))
    assert a.shape == c.shape == (3, 4)
    assert m.broadcast_shapes((3, 1), (4,), ()) == (3, 4)
    for bad in ((2, 3, 5), (4,), (2, 1, 4)):
        with pytest.raises(ShapeError, match="broadcast_to"):
            m.broadcast_to(T, bad)


def test_join_and_cut():
    T = Tensor(X)  # on the default device of this run, as the others
    same(m.concat([T, T, Tensor(X[:, :1])], 1), np.concatenate([X, X, X[:, :1]], 1))
    same(m.concat([T, Tensor([1.0])], None), np.concatenate([X, [1]], None).astype(np.float32))
    assert m.concat([Tensor([1]), Tensor([1.5])]).dtype is dtypes.float32
    same(m.concat([Tensor(np.zeros((0, 2))), Tensor(np.ones((1, 2)))]), np.ones((1, 2)))
    same(m.stack([T, T], -1), np.stack([X, X], -1))
    for got, want in zip(m.unstack(T, 1), np.moveaxis(X, 1, 0), strict=True):
        same(got, want)
    assert [p.shape for p in m.split(T, 2, 1)] == [(2, 2, 4), (2, 1, 4)]
    assert [p.shape[2] for p in m.split(T, [1, 0, 3], -1)] == [1, 0, 3]
    assert [p.shape[0] for p in m.chunk(Tensor(np.zeros(10)), 4)] == [3, 3, 3, 1]
    same(m.split(T, 2, 1)[1], X[:, 2:])
    for bad in (lambda: m.concat([T, Tensor([1.0])]), lambda: m.concat([]), lambda: m.stack([T, Tensor([1.0])])):
        with pytest.raises(ShapeError):
            bad()
    with pytest.raises(ShapeError, match="do not add up to extent 3"):
        m.split(T, [1, 1], 1)
    with pytest.raises(ShapeError, match="scalars"):
        m.concat([Tensor(1.0), Tensor(2.0)])


def test_reorder():
    same(m.flip(T), np.flip(X))
    same(m.flip(T, (0, -1)), np.flip(X, (0, -1)))
    for shift, axis in ((1, 0), (-5, 2), ((1, 2), (0, 1)), (7, None), (0, 1), ((1, 1), (2, 2))):
        same(m.roll(T, shift, axis), np.roll(X, shift, axis))
    same(m.roll(Tensor(np.zeros((0, 2))), 3, 0), np.zeros((0, 2)))
    for reps in (2, (2, 1), (1, 2, 3), (2, 1, 1, 1), (0,)):
        same(m.tile(T, reps), np.tile(X, reps))
    for repeats, axis in ((2, None), (3, 1), ([1, 0, 2], 1), (0, 2)):
        same(m.repeat(T, repeats, axis), np.repeat(X, repeats, axis))
    with pytest.raises(ShapeError, match="2 counts"):
        m.repeat(T, [1, 2], 1)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
def test_pad(mode):
    for width in (1, ((0, 1), (2, 2), (1, 3))):
        if mode == "reflect" and width == 1:
            width = ((1, 0), (1, 2), (3, 1))
        same(padding.pad(T, width, mode), np.pad(X, width, mode))
    same(padding.pad(Tensor([1, 2]), (1, 2), constant_values=7), np.array([7, 1, 2, 7, 7]))
    with pytest.raises(ShapeError):
        padding.pad(T, -1)
    if mode not in ("constant", "edge"):
        with pytest.raises(ShapeError, match="pad: 5 elements"):
            padding.pad(T, ((5, 0), (0, 0), (0, 0)), mode)
    with pytest.raises(ShapeError, match="unknown mode"):
        padding.pad(T, 1, "mirror")


def test_windows():
    want = np.lib.stride_tricks.sliding_window_view(X, (2, 3), (1, 2))
    same(windows.sliding_window_view(T, (2, 3), (1, 2)), want)
    torch = pytest.importorskip("torch")

    same(windows.unfold(T, 2, 2, 2), torch.tensor(X).unfold(2, 2, 2).numpy())
    same(windows.unfold(T, 1, 3, 1), torch.tensor(X).unfold(1, 3, 1).numpy())
    with pytest.raises(ShapeError):
        windows.unfold(T, 1, 4)


def test_view():
    assert windows.view(T, 6, -1).shape == (6, 4)
    assert windows.view(Tensor([1.0]), dtypes.int32).item() == 0x3F800000
    with pytest.raises(DTypeError):
        windows.view(T, dtypes.int64)


def test_gradients():
    t = Tensor(X, requires_grad=True)
    parts = m.split(padding.pad(t, 1, "edge"), 2, 1)
    m.concat([m.roll(p, 1, 0) for p in parts], 1).backward(Tensor(np.ones((4, 5, 6), np.float32)))
    assert t.grad.numpy().sum() == 4 * 5 * 6 and t.grad.numpy()[0, 0, 0] == 8


def test_sizes_may_be_integers_of_numpy(monkeypatch):
    monkeypatch.setenv("DLC_VERIFY", "1")  # attributes of nodes are Python's
    one, two = np.int64(1), np.int64(2)
    x, square = dlc.asarray([1, 2, 3]), dlc.asarray(np.arange(9).reshape(3, 3))
    assert dlc.narrow(x, 0, one, two).tolist() == [2, 3]
    assert dlc.unfold(x, 0, two, one).tolist() == [[1, 2], [2, 3]]
    assert dlc.windows(square, (0,), (two,), (one,)).shape == (2, 3, 2)
    assert dlc.diagonal(square, offset=one).tolist() == [1, 5]
    assert dlc.bincount(x, np.int64(4)).tolist() == [0, 1, 1, 1]
    assert dlc.scan(lambda c, _: (c + 1, c), 0, length=two)[1].tolist() == [0, 1]
