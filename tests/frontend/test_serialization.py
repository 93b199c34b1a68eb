"""Saving and loading: every dtype, nesting, other readers, and files that are not whole."""

import os

import numpy as np
import pytest
import safetensors.numpy

from dlc.frontend.core.tensor import Tensor
from dlc.frontend.io.safetensors import CheckpointError, load, save
from dlc.ir import dtypes


def test_every_dtype_and_shape(tmp_path):
    path = tmp_path / "all.safetensors"
    tree = {d.name: Tensor([[0, 1, 1]], d) for d in dtypes.ALL}
    tree |= {"scalar": Tensor(2.5), "empty": Tensor(np.zeros((0, 3))), "strided": np.arange(6.0).reshape(2, 3).T}
    save(tree, path)
    got = load(path)
    assert set(got) == set(tree)
    for name, value in tree.items():
        want = value.numpy() if isinstance(value, Tensor) else value
        assert got[name].shape == want.shape and got[name].dtype.np == want.dtype
        np.testing.assert_array_equal(got[name].numpy(), want)


def test_nesting_and_metadata(tmp_path):
    path = tmp_path / "x"
    save({"model": {"0.weight": Tensor([1.0])}, "steps": [3, np.float64(0.5)]}, path, {"epoch": "7"})
    tensors, metadata = load(path, with_metadata=True)
    assert {k: v.item() for k, v in tensors.items()} == {"model.0.weight": 1.0, "steps.0": 3, "steps.1": 0.5}
    assert metadata == {"epoch": "7"}
    save({}, path)
    assert load(path, with_metadata=True) == ({}, {})


def test_torch_reads_and_writes_it(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    path = str(tmp_path / "t")
    save({"w": Tensor([1.5, 2.5], dtypes.bfloat16)}, path)
    assert safetensors_torch.load_file(path)["w"].tolist() == [1.5, 2.5]
    safetensors_torch.save_file({"v": torch.tensor([1, 2]).bfloat16()}, path)
    assert load(path)["v"].dtype is dtypes.bfloat16


def test_bad_files(tmp_path):
    path = tmp_path / "c"
    save({"w": Tensor(np.arange(100.0))}, path)
    content = path.read_bytes()
    for bad in (content[:-1], content[:20], b"", b"no header at all", content[:8] + b"!" + content[9:], content + b"x"):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"(?s)load: .*/c .*test_serialization.py"):
            load(path)
    with pytest.raises(CheckpointError, match="cannot read .*missing: No such file"):
        load(tmp_path / "missing")
    with pytest.raises(OSError, match="cannot read"):
        load(tmp_path)


def test_failed_saves_leave_the_old_file(tmp_path):
    path = tmp_path / "f"
    save({"a": Tensor([1.0])}, path)
    for bad in ({"a": object()}, {"a.b": Tensor(1.0), "a": {"b": Tensor(2.0)}}, Tensor([1.0]), [Tensor([1.0])]):
        with pytest.raises(CheckpointError, match="save"):
            save(bad, path)
    assert load(path)["a"].item() == 1 and os.listdir(tmp_path) == ["f"]
    with pytest.raises(CheckpointError, match="cannot write .*/nowhere/f"):
        save({"a": Tensor([1.0])}, tmp_path / "nowhere" / "f")
    with pytest.raises(CheckpointError, match="cannot write"):
        save({"a": Tensor([1.0])}, path, {"epoch": 7})
    assert os.listdir(tmp_path) == ["f"]


def test_links_and_what_is_no_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "f")
    save({"a": Tensor([1.0])}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and load(tmp_path / "real" / "f")["a"].item() == 1
    for path in (tmp_path / "real", os.devnull):
        with pytest.raises(CheckpointError, match="it is a folder or a device"):
            save({"a": Tensor([1.0])}, path)


def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "f"
    save({"a": Tensor([1.0])}, path)

    def full(*args):
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(CheckpointError, match=r"(?s)cannot write .*/f: No space left on device.*test_serialization.py"):
        save({"a": Tensor([2.0])}, path)
    assert load(path)["a"].item() == 1 and os.listdir(tmp_path) == ["f"]
