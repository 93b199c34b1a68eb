"""Datasets: things with a length and samples by number, and the ways to split them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlc.data.collate import numpy_collate
from dlc.frontend.core.location import Located, user_errors


class Dataset(Located):
    """Base of all datasets: define `__len__` and `__getitem__(index) -> sample`.

    Define also `__getitems__(indices) -> batch`, where `indices` is an int64 array, and the loader reads whole batches
    with one call: it returns the stacked arrays (an array, a tuple, a dict of them), or a list of samples as in torch.
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")


class TensorDataset(Dataset):
    """Sample `i` is the tuple of the i-th rows of some arrays (or Tensors) of equal length."""

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise ValueError("TensorDataset needs at least one array")
        self.arrays = tuple(np.asarray(array) for array in arrays)
        shapes = [array.shape for array in self.arrays]
        if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"TensorDataset needs arrays of one length, got shapes {', '.join(map(str, shapes))}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(array[index] for array in self.arrays)

    def __getitems__(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(array[indices] for array in self.arrays)


class Subset(Dataset):
    """The samples of another dataset at the given indices, in that order."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        size = len(dataset)
        if self.indices.size and not (-size <= self.indices.min() and self.indices.max() < size):
            lowest, highest = self.indices.min(), self.indices.max()
            raise IndexError(f"Subset: indices {lowest} to {highest} are out of range for a dataset of {size} samples")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def __getitems__(self, indices: np.ndarray) -> Any:
        return fetch(self.dataset, self.indices[indices])


@functools.partial(user_errors, operation=False)
def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: np.random.Generator | int | None = None
) -> list[Subset]:
    """Split a dataset at random into subsets of the given lengths, or of the given fractions if they sum to 1.

    Lengths of fractions are rounded down, and the samples left over go to the first subsets, one each (as in PyTorch).
    `generator` is a NumPy generator or a seed; without it every call splits differently.
    """
    size = len(dataset)
    if any(length < 0 for length in lengths):
        raise ValueError(f"random_split: lengths must not be negative, got {list(lengths)}")
    if math.isclose(sum(lengths), 1.0) and sum(lengths) <= size:
        sizes = [math.floor(size * fraction) for fraction in lengths]
        for k in range(size - sum(sizes)):
            sizes[k % len(sizes)] += 1
    else:
        sizes = [int(length) for length in lengths]
    if sum(sizes) != size:
        raise ValueError(f"random_split: lengths {list(lengths)} do not sum to the dataset's {size} samples, nor to 1")
    order = np.random.default_rng(generator).permutation(size)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def fetch(dataset: Any, indices: np.ndarray) -> Any:
    """Read the samples at `indices` as one batch of NumPy arrays, in one call where the dataset knows how."""
    if isinstance(dataset, np.ndarray):
        return dataset[indices]
    if hasattr(dataset, "__getitems__"):
        batch = dataset.__getitems__(indices)
    else:
        batch = [dataset[index] for index in indices.tolist()]
    return numpy_collate(batch) if isinstance(batch, list) else batch
