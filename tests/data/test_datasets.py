"""MNIST and Digits: what they hold, and what they say when a file is not as it should be."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlc.data import MNIST, DatasetError, Digits
from dlc.data.mnist import MD5, read_idx

SHARED = Path(__file__).parents[3] / "shared" / "data"
DATA = Path(os.environ.get("DLC_DATA") or SHARED)
needs_mnist = pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="no MNIST under DLC_DATA")


def write_idx(path, data):
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(f">HBB{data.ndim}I", 0, 8, data.ndim, *data.shape) + data.tobytes())


@needs_mnist
@pytest.mark.parametrize(("train", "size", "first"), [(True, 60_000, [5, 0, 4]), (False, 10_000, [7, 2, 1])])
def test_mnist(train, size, first):
    data = MNIST(DATA / "mnist", train=train)
    assert len(data) == size and data.images.shape == (size, 1, 28, 28) and data.images.dtype == np.uint8
    assert data.targets[:3].tolist() == first and data.targets.dtype == np.int64
    assert np.bincount(data.targets).min() > size / 12
    if train:
        assert abs(data.images.mean() / 255 - 0.1307) < 1e-3 and abs(data.images.std() / 255 - 0.3081) < 1e-3


@needs_mnist
def test_mnist_folder_from_the_environment(monkeypatch):
    monkeypatch.setenv("DLC_DATA", str(DATA))
    assert len(MNIST(train=False)) == 10_000


def test_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DLC_DATA", str(tmp_path))
    with pytest.raises(
        DatasetError, match=r"mnist/train-images-idx3-ubyte.gz is missing: load MNIST with download=True"
    ):
        MNIST()


def test_damaged_files(tmp_path):
    path = tmp_path / "images.gz"
    data = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
    write_idx(path, data)
    assert (read_idx(path, (5, 3, 4)) == data).all()
    with pytest.raises(DatasetError, match=r"images.gz is not an idx file of shape \(6, 3, 4\); delete it"):
        read_idx(path, (6, 3, 4))

    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(DatasetError, match="images.gz is truncated; delete it"):
        read_idx(path, (5, 3, 4))
    path.write_bytes(content[:30] + bytes([content[30] ^ 255]) + content[31:])
    with pytest.raises(DatasetError, match="images.gz is corrupt"):
        read_idx(path, (5, 3, 4))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DatasetError, match="images.gz is corrupt"):
        read_idx(path, (5, 3, 4))
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">HBBI", 0, 8, 1, 9) + bytes(5))
    with pytest.raises(DatasetError, match="has 5 bytes of data, not 9"):
        read_idx(path, (9,))
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match="images.gz cannot be read: Is a directory"):
        read_idx(path, (9,))


def test_download_checks_before_it_renames(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    served = tmp_path / "mirror"
    served.mkdir()
    for name in MD5:
        (served / name).write_bytes(b"not what was asked for")

    def from_folder(url, output_file, pooch_):
        Path(output_file).write_bytes((served / url.rpartition("/")[2]).read_bytes())

    monkeypatch.setattr(pooch, "retrieve", lambda *a, _real=pooch.retrieve, **k: _real(*a, downloader=from_folder, **k))
    root = tmp_path / "mnist"
    with pytest.raises(
        DatasetError, match=r"the download of https://.*train-images-idx3-ubyte.gz to .* failed: MD5 hash"
    ):
        MNIST(root, download=True)
    assert not list(root.iterdir())


def test_download_without_pooch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DatasetError, match=r"needs the package pooch: pip install 'dlc\[models\]'"):
        MNIST(tmp_path, download=True)


def test_digits():
    pytest.importorskip("sklearn")
    train, test = Digits(), Digits(train=False)
    assert train.images.shape == (1437, 1, 8, 8) and test.images.shape == (360, 1, 8, 8)
    assert train.images.dtype == np.float32 and train.images.max() == 1 and train.images.min() == 0
    assert train.targets.dtype == np.int64 and np.bincount(test.targets).min() > 20
    pixels = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in pixels for image in test.images)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DatasetError, match=r"needs the package scikit-learn: pip install 'dlc\[digits\]'"):
        Digits()


def test_digits_are_scikit_learns():
    """Its file is read without importing it; were it to move, its own function would be called."""
    datasets = pytest.importorskip("sklearn.datasets")
    from dlc.data import digits

    pixels, labels = digits._load()
    for ours, theirs in zip((pixels, labels), datasets.load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    code = "import sys; from dlc.data import Digits; Digits(); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
