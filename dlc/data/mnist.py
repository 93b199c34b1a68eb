"""MNIST from its four idx files (format: yann.lecun.com/exdb/mnist, "FILE FORMATS")."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from dlc.base import settings
from dlc.base.files import open_regular
from dlc.data.dataset import TensorDataset
from dlc.data.download import fetch_file
from dlc.data.errors import DatasetError

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
# The mean and standard deviation of the training pixels, scaled to [0, 1]: for `transforms.Normalize`.
MEAN, STD = (0.1307,), (0.3081,)


class MNIST(TensorDataset):
    """Handwritten digits: `images` uint8 (N, 1, 28, 28) and `targets` int64 (N,); N is 60,000 or 10,000.

    Args:
        root: the folder that holds the .gz files; by default `$DLC_DATA/mnist`, or `~/.cache/dlc/data/mnist`.
        train: the training or the test part.
        download: fetch files that are missing (needs the extra `models`). Files that are there are never replaced.

    Raises:
        DatasetError: a file is missing, truncated, corrupt or of another kind, or its download failed.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = False) -> None:
        folder = Path(root) if root is not None else data_folder() / "mnist"
        part, size = ("train", 60_000) if train else ("t10k", 10_000)
        names = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
        if download:
            for name in names:
                _download(folder, name)
        self.images = read_idx(folder / names[0], (size, 28, 28))[:, None]
        self.targets = read_idx(folder / names[1], (size,)).astype(np.int64)
        if self.targets.max() > 9:
            raise DatasetError(f"{folder / names[1]} is corrupt: it has the label {self.targets.max()}; {_ADVICE}")
        super().__init__(self.images, self.targets)


_ADVICE = "delete it and load MNIST with download=True, or put a sound copy there"


def data_folder() -> Path:
    """The folder of all datasets: `$DLC_DATA`, or `dlc/data` in the user's cache folder."""
    given, home = settings.folder("DLC_DATA"), settings.cache_home()
    if given is not None:
        return given
    if home is None:
        raise DatasetError("there is no home directory to keep data sets in: set DLC_DATA to their folder")
    return home / "dlc" / "data"


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes that must have the given shape."""
    # Two zero bytes, the element type (8 = unsigned byte), the number of axes, then each extent: all big-endian.
    header, size = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape), math.prod(shape)
    try:
        with open_regular(path) as raw, gzip.open(raw) as file:
            content = file.read(len(header) + size + 1)  # and no more: a small file can unpack to anything
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing: load MNIST with download=True, or set DLC_DATA to the folder with mnist/{path.name}"
        ) from None
    except EOFError:
        raise DatasetError(f"{path} is truncated; {_ADVICE}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{path} is corrupt ({error}); {_ADVICE}") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None
    if content[: len(header)] != header:
        raise DatasetError(f"{path} is not an idx file of shape {shape}; {_ADVICE}")
    held = len(content) - len(header)
    if held != size:
        shown = f"more than {size}" if held > size else str(held)
        raise DatasetError(f"{path} has {shown} bytes of data, not {size}; {_ADVICE}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _download(folder: Path, name: str) -> None:
    fetch_file("MNIST", MIRROR + name, folder / name, f"md5:{MD5[name]}")
