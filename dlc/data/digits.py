"""scikit-learn's bundled handwritten digits: real data without a download."""

from __future__ import annotations

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
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DatasetError("Digits needs the package scikit-learn: pip install 'dlc[models]'") from None
        pixels, labels = load_digits(return_X_y=True)
        # RandomState, not default_rng: NumPy promises never to change its numbers.
        order = np.random.RandomState(0).permutation(len(pixels))
        chosen = order[:TRAIN_SAMPLES] if train else order[TRAIN_SAMPLES:]
        self.images = (pixels[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        self.targets = labels[chosen].astype(np.int64)
        super().__init__(self.images, self.targets)
