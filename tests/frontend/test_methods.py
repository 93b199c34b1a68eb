"""Operators and methods: that the table holds what it names, and where PyTorch's and NumPy's meanings part."""

import operator

import numpy as np
import pytest

import dlc
from dlc.base.errors import DeviceError, DTypeError, ShapeError
from dlc.frontend import methods
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

methods.install()
X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)


def same(got, want):
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow"])
def test_operators(name):
    op, y = getattr(operator, name), X[::-1].copy()
    same(op(Tensor(X), Tensor(y)), op(X, y))
    same(op(Tensor(X), 2), op(X, np.float32(2)))
    same(op(2.5, Tensor(X)), op(np.float32(2.5), X))
    same(op(X, Tensor(y)), op(X, y))
    t = Tensor(X)
    same_object = t
    t = getattr(operator, "i" + name)(t, 2)
    assert t is same_object
    same(t, op(X, np.float32(2)))


def test_other_operators():
    t, i = Tensor(X), Tensor([6, 3])
    same(t @ t.T, X @ X.T)
    same(X @ t.T, X @ X.T)
    same(-t, -X)
    same(+t, X)
    same(abs(-t), X)
    same(round(t / 4), np.round(X / 4))
    same(~(t > 2), ~(X > 2))
    for op in ("and_", "or_", "xor", "lshift", "rshift"):
        same(getattr(operator, op)(i, 2), getattr(operator, op)(np.array([6, 3]), 2))
        same(getattr(operator, op)(2, i), getattr(operator, op)(2, np.array([6, 3])))
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        same(getattr(operator, op)(t, 3), getattr(operator, op)(X, 3))
        same(getattr(operator, op)(3, t), getattr(operator, op)(3, X))
    for got, want in zip(divmod(t, 2), divmod(X, 2), strict=True):
        same(got, want)
    assert len(t) == 2 and 3.0 in t and 9.0 not in t
    for row, want in zip(t, X, strict=True):
        same(row, want)
    assert (t == None) is False and (t != "a") is True  # noqa: E711
    assert hash(t) == hash(t) and len({t, Tensor(X)}) == 2
    with pytest.raises(TypeError):
        t + "a"
    with pytest.raises(TypeError, match="scalar"):
        len(Tensor(1.0))
    with pytest.raises(TypeError, match="scalar"):
        list(Tensor(1.0))


def test_every_name_of_the_table_is_attached():
    for name in methods.table():
        assert hasattr(Tensor, name)
    before = Tensor.sum
    methods.install()
    assert Tensor.sum.__doc__ == before.__doc__


def test_in_place_keeps_type_and_shape():
    t = Tensor([1, 2])
    with pytest.raises(DTypeError, match="float32 result does not go into a int64"):
        t += 1.5
    with pytest.raises(ShapeError, match=r"a result of shape \(2, 2\) does not go into a tensor of shape \(2,\)"):
        t += Tensor([[1, 1], [2, 2]])
    half = Tensor([1.0], dtypes.float16)
    half += Tensor([1.0])
    assert half.dtype is dtypes.float16 and half.item() == 2
    assert t.numpy().tolist() == [1, 2]


def test_rebinding_methods():
    t = Tensor([1.0, 4.0])
    assert t.add_(1, alpha=2).numpy().tolist() == [3, 6]
    assert t.mul_(2).sub_(Tensor([1.0, 1.0])).div_(5).numpy().tolist() == [1, np.float32(11 / 5)]
    assert t.fill_(3).numpy().tolist() == [3, 3] and t.zero_().numpy().tolist() == [0, 0]
    assert t.copy_(Tensor([1, 2])).dtype is dtypes.float32 and t.clamp_(max=1.5).numpy().tolist() == [1, 1.5]
    assert t.addcmul_(t, t, value=2).numpy().tolist() == [3, 6]
    assert t.addcdiv_(Tensor([1.0, 2.0]), Tensor([1.0, 4.0])).numpy().tolist() == [4, 6.5]
    assert t.lerp_(Tensor([0.0, 0.0]), 0.5).numpy().tolist() == [2, 3.25]
    assert t.normal_().shape == (2,) and (t.uniform_(5, 6).numpy() >= 5).all()


def test_alpha():
    t, y = Tensor([1.0, 4.0]), Tensor([2.0, 3.0])
    assert t.add(y, alpha=2).tolist() == [5, 10] and t.add(y).tolist() == [3, 7]
    assert t.sub(y, alpha=0.5).tolist() == [0, 2.5] and t.subtract(y, alpha=-1).tolist() == [3, 7]
    assert t.subtract_(y, alpha=2).tolist() == [-3, -2]
    assert Tensor([1, 2]).add(1, alpha=3).dtype is dtypes.int64


def test_names_of_both_conventions():
    t = Tensor(X)
    same(t.sum(dim=1, keepdim=True), X.sum(1, keepdims=True))
    same(t.sum(axis=1), X.sum(1))
    same(t.mean(-1, keepdims=True), X.mean(-1, keepdims=True))
    same(t.transpose(0, 1), X.T)
    same(t.transpose(), X.T)
    same(t.transpose((1, 0)), X.T)
    same(t.permute(1, 0), X.T)
    same(t.permute((1, 0)), X.T)
    same(t.reshape(3, 2), X.reshape(3, 2))
    same(t.view(-1), X.ravel())
    same(t.expand(4, -1, -1), np.broadcast_to(X, (4, 2, 3)))
    same(t.unsqueeze(1), X[:, None])
    same(t.squeeze(), X)
    same(t.flip(0, 1), np.flip(X))
    same(t.flip((0,)), np.flip(X, 0))
    same(t.tile(2, 1), np.tile(X, (2, 1)))
    same(t.repeat(2, axis=1), np.repeat(X, 2, 1))
    with pytest.raises(TypeError, match=r"tile\(2, 3\)"):
        t.repeat(2, 3)
    same(t.mT, X.T)
    same(t.T, X.T)
    same(t.split(2, dim=1)[1], X[:, 2:])
    same(t.masked_fill(t > 2, 0), np.where(X > 2, 0, X))
    same(t.where(t > 2, 0), np.where(X > 2, X, 0))
    same(t.view_as(t.T), X.reshape(3, 2))
    same(t.int().float(), X)
    assert t.to(dtypes.float64).dtype is dtypes.float64 and t.to(t.device) is t and t.half().dtype is dtypes.float16
    assert t.to(Tensor([1])).dtype is dtypes.int64 and t.astype(dtypes.int8).dtype is dtypes.int8
    assert t.clone() is not t and t.contiguous() is t
    assert t.numel() == 6 and t.dim() == 2 and t.nbytes == 24 and t.itemsize == 4 and t.is_floating_point()
    with pytest.raises(DeviceError, match="device .cuda"):
        t.to("cuda:99")


def test_clone_is_independent():
    t = Tensor(X)
    c = t.clone()
    c += 1
    c[0] = 0
    same(t, X)


def test_reflected_divmod_and_flip_by_keyword():
    x = dlc.asarray([2, 3])
    assert [part.tolist() for part in divmod(7, x)] == [[3, 2], [1, 1]]
    assert x.flip(axis=0).tolist() == x.flip(dim=0).tolist() == x.flip().tolist() == [3, 2]
