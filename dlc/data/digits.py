"""scikit-learn's bundled handwritten digits: real data without a download."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from dlc.data.dataset import TensorDataset
from dlc.data.errors import DatasetError

TRAIN_SAMPLES = 1437  # four fifths of 1,797


class Digits(TensorDataset):
    """8x8 handwritten digits: `images` float32 (N, 1, 8, 8) in [0, 1] and `targets` int64 (N,).

    The split is fixed: 1,437 samples to train and 360 to test, drawn at random once and for all.

    Raises:
        DatasetError: scikit-learn is not installed.
    """

    def __init__(self, train: bool = True) -> None:
        pixels, labels = _load()
        # RandomState, not default_rng: NumPy promises never to change its numbers.
        order = np.random.RandomState(0).permutation(len(pixels))
        chosen = order[:TRAIN_SAMPLES] if train else order[TRAIN_SAMPLES:]
        self.images = (pixels[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        self.targets = labels[chosen].astype(np.int64)
        super().__init__(self.images, self.targets)


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 64) from 0 to 16, and labels: scikit-learn's file, without the second that importing it takes."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DatasetError("Digits needs the package scikit-learn: pip install 'dlc[digits]'")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():  # it has moved: its owner knows
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)
