"""DLPack and NumPy: shared memory, lifetimes, what neither side may see change."""

import gc

import ml_dtypes
import numpy as np
import pytest

import dlc
from dlc.base.errors import DTypeError
from dlc.frontend import methods
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.io import dlpack
from dlc.ir import dtypes

methods.install()
NUMERIC = [d for d in dtypes.ALL if d is not dtypes.bfloat16]


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda d: d.name)
def test_numpy_both_ways(dtype):
    x = np.arange(6).reshape(2, 3).astype(dtype.np)
    t = dlpack.from_dlpack(x)
    assert t.dtype is dtype and np.shares_memory(t.numpy(), x)
    back = np.from_dlpack(t)
    assert np.shares_memory(back, x) and not back.flags.writeable
    np.testing.assert_array_equal(back, x)


def test_torch_both_ways():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8):
        x = torch.arange(6).reshape(2, 3).to(dtype)
        t = dlpack.from_dlpack(x)
        back = torch.from_dlpack(t)
        assert back.dtype == dtype and torch.equal(back, x) and back.data_ptr() == x.data_ptr()
    assert dlpack.from_dlpack(torch.zeros(2, dtype=torch.bfloat16)).numpy().dtype == ml_dtypes.bfloat16


def _torch_is_where(t):
    """Can PyTorch, if it is here, read this Tensor's memory?"""
    import torch

    return t.device == "cpu" or torch.cuda.is_available()


def test_lifetime():
    torch = pytest.importorskip("torch")
    t = Tensor(np.arange(1000.0))
    if not _torch_is_where(t):
        pytest.skip("PyTorch without CUDA")
    out = torch.from_dlpack(t)
    t = dlpack.from_dlpack(np.arange(1000.0) + 1)
    gc.collect()
    Tensor(np.zeros(1000)).realize()
    assert out.sum() == 499500 and t.numpy().sum() == 500500


def test_exports_never_see_later_writes():
    torch = pytest.importorskip("torch")
    t = Tensor([1.0, 2.0])
    if not _torch_is_where(t):
        pytest.skip("PyTorch without CUDA")
    out, array = torch.from_dlpack(t), np.asarray(t)
    for _ in range(3):
        t += 1
        t[0] = 0
        t.realize()
    assert out.tolist() == [1, 2] and array.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5


def test_imports_are_never_written():
    x = np.ones(4, np.float32)
    t = dlpack.from_dlpack(x)
    t += 1
    t.realize()
    assert x.tolist() == [1] * 4 and t.numpy().tolist() == [2] * 4


def test_copies():
    torch = pytest.importorskip("torch")
    x = np.arange(6.0).reshape(2, 3)
    assert dlpack.from_dlpack(x.T).numpy().tolist() == x.T.tolist()
    assert not np.shares_memory(dlpack.from_dlpack(x, copy=True).numpy(), x)
    with pytest.raises(BufferError, match="strides"):
        dlpack.from_dlpack(x.T, copy=False)
    assert dlpack.from_dlpack(np.zeros((0, 3))).shape == (0, 3)
    assert dlpack.from_dlpack(torch.tensor(1.5)).item() == 1.5
    t = Tensor([1.0])
    assert dlpack.from_dlpack(t) is t
    copied = np.from_dlpack(t, device="cpu", copy=True)
    copied[0] = 9
    assert t.item() == 1
    if _torch_is_where(t):
        copied = torch.from_dlpack(t, copy=True)
        copied[0] = 9
        assert t.item() == 1 and copied.device.type == t.device.partition(":")[0]


def test_errors():
    with pytest.raises(DTypeError, match="no __dlpack__"):
        dlpack.from_dlpack([1])
    with pytest.raises(DTypeError, match="complex"):
        dlpack.from_dlpack(np.zeros(2, complex))
    with pytest.raises(BufferError, match="stream"):
        Tensor([1.0], device="cpu").__dlpack__(stream=1)
    with pytest.raises(BufferError, match="device"):
        Tensor([1.0], device="cpu").__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="device"):
        Tensor([1.0]).__dlpack__(dl_device=(3, 0))
    t = Tensor([1.0])
    assert t.__dlpack_device__() == ((1, 0) if t.device == "cpu" else (2, 0))


def test_numpy_functions_and_operators():
    t = Tensor([1.0, 4.0])
    assert np.sqrt(t).tolist() == [1, 2]
    assert isinstance(np.ones(2, np.float32) + t, Tensor) and isinstance(np.float32(1) * t, Tensor)
    assert np.asarray(t, np.int32).dtype == np.int32
    assert t.__array_namespace__().__name__ == "dlc"
    assert t.__array_namespace__(api_version="2023.12") is t.__array_namespace__()
    with pytest.raises(ValueError, match="no version '2020.01' of the array API"):
        t.__array_namespace__(api_version="2020.01")


def test_functions_of_numpy():
    x = np.arange(6.0).reshape(2, 3)
    t = dlc.asarray(x)
    for function in (np.sum, np.mean, np.max, np.argmin, np.linalg.norm, lambda a: np.concatenate([a, a]), np.size):
        result = function(t)
        assert not isinstance(result, dlc.Tensor)
        np.testing.assert_array_equal(result, function(x))
    shapes = []

    @dlc.jit
    def shape(a):
        shapes.append((np.shape(a), np.ndim(a), np.size(a)))
        return a

    shape(t)
    assert shapes == [((2, 3), 2, 6)]
    with pytest.raises(dlc.TraceError, match="a NumPy function needs a value"):
        dlc.jit(lambda a: np.sum(a))(t)
