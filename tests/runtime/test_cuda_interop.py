"""GPU memory shared with PyTorch and CuPy by DLPack. Needs a GPU, and PyTorch built for it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import dlc
from dlc.runtime.cuda import device as cuda_device

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(bool(cuda_device.why_none()) or not torch.cuda.is_available(), reason="needs a GPU")


def test_from_torch_shares_memory():
    theirs = torch.arange(12, dtype=torch.float32, device="cuda").reshape(3, 4)
    x = dlc.from_dlpack(theirs)
    assert x.device == "cuda:0" and x.shape == (3, 4)
    np.testing.assert_array_equal((x + 1).numpy(), theirs.cpu().numpy() + 1)
    assert torch.from_dlpack(x).data_ptr() == theirs.data_ptr()


def test_copies_do_not_share():
    theirs = torch.ones(5, device="cuda")
    x = dlc.from_dlpack(theirs, copy=True)
    theirs.zero_()
    assert x.numpy().tolist() == [1.0] * 5


def test_to_torch_keeps_the_memory():
    x = dlc.arange(1000, dtype=dlc.float32, device="cuda") * 2
    theirs = torch.from_dlpack(x)
    del x
    gc.collect()
    dlc.zeros((1000,), device="cuda").realize()
    assert theirs.is_cuda and theirs.sum().item() == 999 * 1000


@pytest.mark.parametrize("name", ["int32", "int64", "uint8", "float16", "float64"])
def test_dtypes(name):
    theirs = torch.arange(7, device="cuda").to(getattr(torch, name))
    x = dlc.from_dlpack(theirs)
    assert x.dtype is getattr(dlc, name)
    assert torch.equal(torch.from_dlpack(x), theirs)


def test_streams_are_ordered():
    stream = torch.cuda.Stream()
    a = torch.randn(2048, 2048, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            b = a @ a
        x = dlc.from_dlpack(b)  # while the products are under way
    got = x.sum(0).numpy()
    np.testing.assert_allclose(got, b.sum(0).cpu().numpy(), rtol=1e-3, atol=1e-1)
    y = dlc.from_dlpack(a)
    for _ in range(20):
        y = (y @ dlc.from_dlpack(a)) * 0.01
    with torch.cuda.stream(stream):
        total = torch.from_dlpack(y).abs().sum()
    assert total.item() == pytest.approx(float(abs(y).sum().item()), rel=1e-3)


def test_strided_and_misaligned_memory_is_copied():
    theirs = torch.arange(40, dtype=torch.float32, device="cuda").reshape(5, 8)
    np.testing.assert_array_equal(dlc.from_dlpack(theirs.T).numpy(), theirs.T.cpu().numpy())
    np.testing.assert_array_equal(dlc.from_dlpack(theirs.reshape(-1)[1:]).numpy(), np.arange(1, 40))


def test_cupy():
    cupy = pytest.importorskip("cupy")
    theirs = cupy.arange(6, dtype=cupy.float32)
    x = dlc.from_dlpack(theirs) * 3
    np.testing.assert_array_equal(cupy.asnumpy(cupy.from_dlpack(x)), np.arange(6) * 3)
