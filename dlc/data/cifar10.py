"""CIFAR-10 from its pickled batches (format: cs.toronto.edu/~kriz/cifar.html, "Dataset layout").

A pickle is a program. The reader here runs it with names of our own only: it can make the arrays of bytes, the lists
and the strings that a batch consists of, and whatever else a file asks for is refused by name before it runs.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dlc.base.files import open_regular
from dlc.data.dataset import TensorDataset
from dlc.data.download import fetch_file
from dlc.data.errors import DatasetError
from dlc.data.mnist import data_folder

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
TRAIN, TEST = tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",)
MOST_BYTES = 64 << 20  # of a batch; those of CIFAR-10 have 31 MB
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The mean and standard deviation of the training pixels, scaled to [0, 1]: for `transforms.Normalize`.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_ADVICE = "delete it and load CIFAR10 with download=True, or put a sound copy there"


class CIFAR10(TensorDataset):
    """Colour photographs of ten kinds of things: `images` uint8 (N, 3, 32, 32) and `targets` int64 (N,).

    Args:
        root: the folder that holds `cifar-10-batches-py`; by default `$DLC_DATA`, or `~/.cache/dlc/data`.
        train: the 50,000 images to train on or the 10,000 to test on.
        download: fetch the archive if files are missing (needs the extra `models`). Files that are there are never
            replaced.

    Raises:
        DatasetError: a file is missing, damaged or holds something else than images, or the download failed.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = False) -> None:
        folder = (Path(root) if root is not None else data_folder()) / FOLDER
        names = TRAIN if train else TEST
        if download and not all(os.path.exists(folder / name) for name in names):
            _download(folder)
        images, targets = zip(*(read_batch(folder / name) for name in names), strict=True)
        self.images, self.targets = np.concatenate(images), np.concatenate(targets)
        super().__init__(self.images, self.targets)


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One file: images uint8 (N, 3, 32, 32) and labels int64 (N,). Nothing that the file holds is executed."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        content = _unpickled(data)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing: load CIFAR10 with download=True, or set DLC_DATA to the folder with {FOLDER}"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle raises anything
        raise DatasetError(f"{path} is no CIFAR-10 batch ({error}); {_ADVICE}") from None
    fields = {_text(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    pixels, labels = fields.get("data"), fields.get("labels")
    if not isinstance(pixels, _Array) or not isinstance(labels, list) or pixels.shape != (len(labels), 3072):
        raise DatasetError(f"{path} is no CIFAR-10 batch: it lacks images of 3072 bytes and their labels; {_ADVICE}")
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise DatasetError(f"{path} is corrupt: it has labels that are not 0 to 9; {_ADVICE}")
    return pixels.array.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


# -- the names that a batch may use, and what they mean here


class _Type:
    """Stands for `numpy.dtype`: unsigned bytes only."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("u1", b"u1"):
            raise ValueError(f"an array of type {code!r}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, of which bytes have none."""


class _Array:
    """Stands for `numpy.ndarray`: filled from the state that a pickle gives to an array."""

    shape: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, fortran)

    def _fill(self, data: Any, dtype: Any, shape: Any, fortran: bool) -> None:
        if not isinstance(data, bytes) or not isinstance(dtype, _Type) or not all(type(n) is int for n in shape):
            raise ValueError("an array of something else than bytes")
        if min(shape, default=0) < 0 or math.prod(shape) != len(data):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape}")
        self.shape = tuple(shape)
        self.array = np.frombuffer(data, np.uint8).reshape(self.shape, order="F" if fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array._fill(bytes(data), dtype, shape, order in ("F", b"F"))
    return array


_NAMES = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    """Makes at most as many bytes of text as the file has: a text that is there once can be used again and again."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.room = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image needs")
        return _NAMES[module, name]

    def encode(self, text: Any, encoding: Any) -> bytes:
        """How Python 3 writes bytes for Python 2."""
        self.room -= len(text)
        if self.room < 0:
            raise pickle.UnpicklingError("it unpacks to more bytes than it has")
        return text.encode("latin1")


def _unpickled(data: bytes) -> Any:
    if len(data) > MOST_BYTES:
        raise pickle.UnpicklingError(f"it has more than {MOST_BYTES} bytes")
    for instruction, argument, _ in pickletools.genops(data):
        # Python makes room for as many values as the largest number under which one is kept.
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(data):
            raise pickle.UnpicklingError(f"it keeps value number {argument} in {len(data)} bytes")
    return _Reader(data).load()


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _download(folder: Path) -> None:
    """Fetch the archive, check it, and take the missing files out of it: each gets its name when it is whole."""
    archive = folder.parent / Path(URL).name
    fetch_file("CIFAR-10", URL, archive, f"md5:{MD5}")
    try:
        folder.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for name in TRAIN + TEST:
                member = tar.extractfile(f"{FOLDER}/{name}")
                if member is not None and not (folder / name).exists():
                    part = folder / f"{name}.{os.getpid()}.part"
                    part.write_bytes(member.read())
                    part.replace(folder / name)
    except (OSError, KeyError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DatasetError(f"{archive} cannot be unpacked: {error}; delete it and load again") from error
