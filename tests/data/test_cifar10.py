"""CIFAR-10: reading without executing, damaged files, the download; and folders of images with masks."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlc.data import CIFAR10, DatasetError, ImageMasks, cifar10, loader
from dlc.data.cifar10 import FOLDER, TEST, TRAIN, read_batch

DATA = Path(os.environ.get("DLC_DATA") or "missing")
needs_cifar10 = pytest.mark.skipif(not (DATA / FOLDER).is_dir(), reason="no CIFAR-10 under DLC_DATA")


def batch(count: int = 7, seed: int = 0) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(count, 3072), dtype=np.uint8)
    return {b"batch_label": b"one", b"data": pixels, b"labels": rng.integers(10, size=count).tolist()}


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_a_batch_of_every_protocol(tmp_path: Path, protocol: int):
    content = batch()
    images, labels = read_batch(write(tmp_path / "batch", content, protocol))
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert (images.reshape(7, 3072) == content[b"data"]).all() and labels.tolist() == content[b"labels"]


def test_a_batch_as_python_2_wrote_it(tmp_path: Path):
    # the official files: strings of Python 2, numpy.core, and the dtype's code as such a string
    def short(data: bytes) -> bytes:
        return b"T" + len(data).to_bytes(4, "little") + data

    pixels = bytes(range(256)) * 12
    content = (
        b"\x80\x02}(" + short(b"data")
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
        + b"(K\x01K\x01M\x00\x0c\x86" + b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"
        + b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + short(pixels) + b"tb"
        + short(b"labels") + b"](K\x03eu."
    )  # fmt: skip
    (tmp_path / "batch").write_bytes(content)
    images, labels = read_batch(tmp_path / "batch")
    assert images.tobytes() == pixels and labels.tolist() == [3]


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


CALLS = {
    "mkdir": Call(os.mkdir, "made"),
    "eval": Call(eval, "open('made', 'w')"),
    "getattr": Call(getattr, "", "join"),
    "masked": np.ma.zeros(3),
    "generator": np.random.PCG64(0),
    "path": Path("x"),
    "function": len,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "batch", batch() | {b"filenames": [CALLS[name]]}, protocol)
    with pytest.raises(DatasetError, match=r"is no CIFAR-10 batch \(it asks for [\w.]+, which no image needs\)"):
        read_batch(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "lacks images of 3072 bytes and their labels"),
        ({b"data": batch()[b"data"]}, "lacks images"),
        (batch() | {b"labels": [1, 2]}, "lacks images"),
        (batch() | {b"labels": [0, 1, 2, 3, 4, 5, 10]}, "labels that are not 0 to 9"),
        (batch() | {b"labels": [0, 1, 2, 3, 4, 5, "6"]}, "labels that are not 0 to 9"),
        (batch() | {b"data": np.zeros((7, 3072), np.float32)}, "an array of type 'f4', not of bytes"),
        (batch() | {b"data": np.array([[print]])}, "an array of type 'O8'|it asks for"),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, message: str):
    with pytest.raises(DatasetError, match=message):
        read_batch(write(tmp_path / "batch", content))


def test_damaged_files(tmp_path: Path):
    whole = pickle.dumps(batch(2), 4)
    path = tmp_path / "batch"
    for end in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(DatasetError, match="batch is no CIFAR-10 batch .*; delete it and load CIFAR10"):
            read_batch(path)
    rng = np.random.default_rng(0)
    for _ in range(300):  # flipped bytes: an answer of the right form or a DatasetError, and nothing else
        damaged = bytearray(whole[:200] + whole[-60:])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        with pytest.raises(DatasetError):
            read_batch(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match="batch cannot be read: Is a directory"):
        read_batch(path)


def write_all(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k, name in enumerate(TRAIN + TEST):
        write(folder / name, batch(3, seed=k))


def test_parts_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_all(tmp_path / FOLDER)
    monkeypatch.setenv("DLC_DATA", str(tmp_path))
    train, test = CIFAR10(), CIFAR10(train=False)
    assert train.images.shape == (15, 3, 32, 32) and test.images.shape == (3, 3, 32, 32)
    assert (test.images.reshape(3, -1) == batch(3, seed=5)[b"data"]).all()
    x, y = next(iter(loader.DataLoader(train, 5)))
    assert x.shape == (5, 3, 32, 32) and y.shape == (5,)
    (tmp_path / FOLDER / "data_batch_3").unlink()
    with pytest.raises(DatasetError, match="data_batch_3 is missing: load CIFAR10 with download=True, or set DLC_DATA"):
        CIFAR10()


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pooch = pytest.importorskip("pooch")
    write_all(tmp_path / "made" / FOLDER)
    with tarfile.open(tmp_path / "served.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / FOLDER, FOLDER)

    def from_folder(url: str, output_file: str, pooch_: Any) -> None:
        Path(output_file).write_bytes((tmp_path / "served.tar.gz").read_bytes())

    monkeypatch.setattr(pooch, "retrieve", lambda *a, _real=pooch.retrieve, **k: _real(*a, downloader=from_folder, **k))
    root = tmp_path / "data"
    with pytest.raises(DatasetError, match=r"the download of https:.*cifar-10-python.tar.gz to .* failed: MD5 hash"):
        CIFAR10(root, download=True)
    assert list(root.iterdir()) == []
    monkeypatch.setattr(cifar10, "MD5", pooch.file_hash(str(tmp_path / "served.tar.gz"), "md5"))
    assert len(CIFAR10(root, download=True)) == 15 and len(CIFAR10(root, train=False, download=True)) == 3
    assert sorted(path.name for path in (root / FOLDER).iterdir()) == sorted(TRAIN + TEST)


@needs_cifar10
def test_real_files():
    train, test = CIFAR10(DATA), CIFAR10(DATA, train=False)
    assert train.images.shape == (50_000, 3, 32, 32) and (np.bincount(train.targets) == 5000).all()
    assert test.images.shape == (10_000, 3, 32, 32) and (np.bincount(test.targets) == 1000).all()
    scaled = train.images[:5000].astype(np.float64) / 255
    assert np.abs(scaled.mean((0, 2, 3)) - cifar10.MEAN).max() < 0.01
    assert np.abs(scaled.std((0, 2, 3)) - cifar10.STD).max() < 0.01


# -- images with masks


def save_png(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image.fromarray(pixels)
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    picture.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("b", "a"):
        save_png(tmp_path / "images" / f"{name}.png", rng.integers(256, size=(4, 6, 3), dtype=np.uint8))
    save_png(tmp_path / "masks" / "a.png", np.uint8([[0, 0, 0, 255, 255, 255]] * 4))
    save_png(tmp_path / "masks" / "b.png", np.uint8([[0, 0, 7, 7, 0, 255]] * 4))
    return tmp_path


def test_image_masks(folder: Path):
    data = ImageMasks(folder)
    assert len(data) == 2 and data.values.tolist() == [0, 7, 255] and data.shape == (3, 4, 6)
    image, mask = data[1]
    assert image.shape == (3, 4, 6) and image.dtype == np.uint8
    assert mask[0].tolist() == [0, 0, 1, 1, 0, 2] and mask.dtype == np.int64
    x, y = next(iter(loader.DataLoader(data, 2)))
    assert x.shape == (2, 3, 4, 6) and y.shape == (2, 4, 6)


def test_a_palette_counts_by_its_numbers(folder: Path):
    save_png(folder / "masks" / "a.png", np.uint8([[0, 1, 2, 0, 1, 2]] * 4), "P")
    assert ImageMasks(folder).values.tolist() == [0, 1, 2, 7, 255]


def test_mistakes_in_a_folder(folder: Path):
    with pytest.raises(DatasetError, match="images has no PNG files"):
        ImageMasks(folder / "masks")
    save_png(folder / "images" / "b.png", np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"b.png is 5 x 4, but a.png 6 x 4"):
        ImageMasks(folder)[1]
    (folder / "masks" / "b.png").write_bytes((folder / "masks" / "b.png").read_bytes()[:40])
    with pytest.raises(DatasetError, match="b.png is no sound PNG file"):
        ImageMasks(folder)
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(DatasetError, match="masks/b.png is missing"):
        ImageMasks(folder)
    save_png(folder / "masks" / "b.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DatasetError, match="b.png has 3 channels; a mask has one"):
        ImageMasks(folder)
