"""Making tensors, and the questions about dtypes."""

import numpy as np
import pytest

import dlc
from dlc.base.errors import DeviceError, DTypeError, ShapeError
from dlc.frontend.array import creation as c
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes


def same(got, want, dtype=None):
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype.np == (dtype or want.dtype)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_default_dtypes():
    assert c.asarray(1.5).dtype is dtypes.float32 and c.asarray([1, 2]).dtype is dtypes.int64
    assert c.asarray([True]).dtype is dtypes.bool_ and c.asarray(np.zeros(2)).dtype is dtypes.float64
    assert c.zeros(2).dtype is dtypes.float32 and c.full(2, 3).dtype is dtypes.int64
    assert c.asarray([[1, 2.5]]).dtype is dtypes.float32 and c.arange(3.0).dtype is dtypes.float32


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.name)
def test_every_dtype(dtype):
    for t in (c.zeros((2, 3), dtype=dtype), c.ones(2, 3, dtype=dtype), c.full((2, 3), 1, dtype=dtype)):
        assert t.dtype is dtype and t.shape == (2, 3) and t.numpy().dtype == dtype.np
    assert c.asarray([0, 1], dtype).numpy().astype(float).tolist() == [0, 1]
    assert c.ones_like(c.zeros(3, dtype=dtype)).dtype is dtype


def test_filled():
    same(c.zeros(()), np.float32(0))
    same(c.zeros(0, 2), np.zeros((0, 2), np.float32))
    same(c.full((2,), Tensor(2.5)), np.full(2, 2.5, np.float32))
    same(c.full_like(c.zeros(2), 7), np.full(2, 7, np.float32))
    same(c.empty((2, 2)), np.zeros((2, 2), np.float32))
    assert c.ones(2, requires_grad=True).requires_grad
    for bad in (lambda: c.zeros(-1), lambda: c.zeros(1.5), lambda: c.zeros(), lambda: c.full(2, Tensor([1.0]))):
        with pytest.raises(ShapeError, match="test_creation"):
            bad()
    with pytest.raises(DeviceError, match="no device 'tpu'"):
        c.zeros(2, device="tpu")
    with pytest.raises(DTypeError, match="'float32' is not a dtype"):
        c.zeros(2, dtype="float32")


def test_arrays_are_copied():
    x = np.zeros(3, np.float32)
    t = c.asarray(x)
    x[:] = 1
    same(t, np.zeros(3, np.float32))
    same(c.asarray([Tensor([1.0, 2.0]), [3.0, 4.0]]), np.array([[1, 2], [3, 4]], np.float32))
    same(c.asarray(Tensor([1.7]), dtypes.int64), [1])
    same(c.asarray(x[::-1].T), x)


@pytest.mark.parametrize(
    "args", [(5,), (2, 5), (5, 2), (0, 10, 3), (10, 0, -3), (0,), (0.5,), (0, 1, 0.25), (1, 0, -0.3), (-3, 4, 2)]
)
def test_arange(args):
    want = np.arange(*args)
    same(c.arange(*args), want.astype(np.float32) if want.dtype.kind == "f" else want)
    with pytest.raises(ShapeError, match="step is 0"):
        c.arange(0, 1, 0)
    same(c.arange(3, dtype=dtypes.float16), np.arange(3, dtype=np.float16))


def test_linspace():
    for args in ((0, 1, 5), (1, -1, 4), (0, 1, 1), (2, 3, 0), (0, 1e6, 7)):
        same(c.linspace(*args), np.linspace(*args, dtype=np.float32))
        same(c.linspace(*args, endpoint=False), np.linspace(*args, endpoint=False, dtype=np.float32))
    assert c.linspace(0, 0.1, 11).numpy()[-1] == np.float32(0.1)


def test_matrices():
    for args, k in (((3,), 0), ((2, 4), 1), ((4, 2), -1), ((3, 3), 5)):
        same(c.eye(*args, k=k), np.eye(*args, k=k, dtype=np.float32))
    x = np.arange(24.0).reshape(2, 3, 4)
    for k in (-2, 0, 1, 9):
        same(c.tril(Tensor(x), k=k), np.tril(x, k))
        same(c.triu(Tensor(x), k=k), np.triu(x, k))
    with pytest.raises(ShapeError, match="two dimensions"):
        c.tril(Tensor([1.0]))
    parts = [np.arange(2), np.arange(3), np.arange(4)]
    for n in (1, 2, 3):
        for indexing in ("xy", "ij"):
            got = c.meshgrid(*map(Tensor, parts[:n]), indexing=indexing)
            for g, w in zip(got, np.meshgrid(*parts[:n], indexing=indexing), strict=True):
                same(g, w)


def test_limits_of_numpys_dtypes():
    assert c.finfo(np.float32).eps == c.finfo(dtypes.float32).eps == np.finfo(np.float32).eps
    assert c.iinfo(np.dtype(np.int8)).max == 127


def test_one_hot(watched):
    same(c.one_hot(Tensor([1, 0]), 3), [[0, 1, 0], [1, 0, 0]])
    same(c.one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])
    for wrong in (Tensor([1, 7]), np.array([3]), [-1]):
        with watched(), pytest.raises(dlc.IndexOutOfRange, match=r"one_hot: class (7|3|-1) is outside the 3 classes"):
            c.one_hot(wrong, 3)
    same(dlc.jit(lambda x: c.one_hot(x, 3))(Tensor([1, 7])), [[0, 1, 0], [0, 0, 0]])  # not known there: see dlc.debug
    assert c.one_hot(Tensor([1, 3])).shape == (2, 4)
    assert c.one_hot(Tensor([1]), 2, dtype=dtypes.float32).dtype is dtypes.float32
    with pytest.raises(DTypeError):
        c.one_hot(Tensor([1.0]), 2)


def test_dtype_questions():
    for d in (dtypes.float16, dtypes.float32, dtypes.float64):
        ours, want = c.finfo(d), np.finfo(d.np)
        assert (ours.eps, ours.max, ours.min, ours.bits) == (want.eps, want.max, want.min, want.bits)
        assert ours.smallest_normal == want.smallest_normal
    assert c.finfo(Tensor([1.0], dtypes.bfloat16)).eps == 2.0**-7
    assert c.iinfo(dtypes.int8).min == -128 and c.iinfo(dtypes.uint64).max == 2**64 - 1
    for bad in (lambda: c.finfo(dtypes.int8), lambda: c.iinfo(dtypes.float32)):
        with pytest.raises(DTypeError):
            bad()
    assert c.result_type(dtypes.int8, Tensor([1.0]), 1.5) is dtypes.float32
    assert c.can_cast(dtypes.int8, dtypes.int64) and not c.can_cast(dtypes.int64, dtypes.int8)
    assert c.isdtype(dtypes.int8, "integral") and c.isdtype(dtypes.bool_, ("bool", "numeric"))
    assert not c.isdtype(dtypes.float32, "integral") and c.isdtype(dtypes.float32, dtypes.float32)


def test_dtypes_of_numpy_are_taken_everywhere():
    x = dlc.asarray([1, 2])
    assert dlc.sum(x, dtype=np.float64).dtype is dlc.prod(x, dtype=np.float64).dtype is dlc.float64
    assert dlc.cumsum(x, dtype=np.float64).dtype is dlc.float64
    assert dlc.Tensor([1, 2], dtype=np.float32).dtype is x.to(np.float32).dtype is dlc.float32
    assert x.to(np.dtype("int8")).dtype is dlc.bitcast(dlc.zeros(2, dtype=dlc.uint8), np.int8).dtype is dlc.int8
    assert dlc.rand(2, dtype=np.float16).dtype is dlc.float16
    assert dlc.randint(3, dtype=np.int32).dtype is dlc.random.bernoulli(0.5, dtype=np.int32).dtype is dlc.int32
    for bad in (float, "float32"):
        with pytest.raises(dlc.DTypeError, match="not a dtype"):
            dlc.sum(x, dtype=bad)


@pytest.mark.parametrize("dtype", [dlc.float32, dlc.float64, dlc.int8, dlc.int64])
def test_one_number_counted_is_of_the_type_that_it_is_cast_to(dtype):
    """The position on an axis of extent 1 is the constant 0 of the index type: a cast of it is still a cast."""
    values = np.arange(4, dtype=dtype.np)
    got = dlc.jit(lambda x: x - dlc.abs(dlc.astype(dlc.arange(1), dtype) * 3 - dlc.astype(dlc.arange(1), dtype)))(
        dlc.asarray(values))
    assert got.dtype is dtype
    np.testing.assert_array_equal(got.numpy(), values)
