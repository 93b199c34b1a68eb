"""Image transforms on whole batches: NumPy arrays (N, C, H, W) in and out, called as `transform(images, rng)`.

All randomness comes from the generator that the caller passes, one draw per image, so a seed fixes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after another."""

    transforms: Sequence[Transform]

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for transform in self.transforms:
            images = transform(images, rng)
        return images


@dataclass(frozen=True)
class ToFloat:
    """float32 from any image dtype: unsigned integers go from their full range to [0, 1] (as ToTensor)."""

    def __call__(self, images: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        if images.dtype.kind != "u":
            return images.astype(np.float32, copy=False)
        exact = np.float32 if images.dtype.itemsize <= 2 else np.float64  # holds every value of the images' dtype
        return (images / exact(np.iinfo(images.dtype).max)).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std per channel, float32."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        if std.shape[0] not in (1, images.shape[1]):
            raise ValueError(f"Normalize of {std.shape[0]} channels got images (N, C, H, W) = {images.shape}")
        out = np.subtract(images, mean, dtype=np.float32, casting="same_kind")
        out /= std
        return out


@dataclass(frozen=True)
class RandomCrop:
    """A window of `size` (side, or height and width) at a random place of each image, padded all round.

    `padding_mode` is 'constant' for zeros, or 'reflect' for the image's own pixels mirrored at its edge.
    """

    size: int | tuple[int, int]
    padding: int = 0
    padding_mode: Literal["constant", "reflect"] = "constant"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        border = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), (0, 0), border, border), self.padding_mode)
        rows, columns = padded.shape[2] - height + 1, padded.shape[3] - width + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"RandomCrop of {height}x{width} is larger than the padded images {padded.shape}")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        count = len(images)
        return windows[np.arange(count), :, rng.integers(rows, size=count), rng.integers(columns, size=count)]


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror each image left to right with probability `p`."""

    p: float = 0.5

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        flip = rng.random(len(images)) < self.p
        return np.where(flip[:, None, None, None], images[..., ::-1], images)


@dataclass(frozen=True)
class Cutout:
    """Set a `size` x `size` square around a random pixel of each image to zero, within the image (arXiv:1708.04552)."""

    size: int

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count, _, height, width = images.shape
        inside_rows = self._covered(rng.integers(height, size=count), height)
        inside_columns = self._covered(rng.integers(width, size=count), width)
        hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return np.where(hole, images.dtype.type(0), images)

    def _covered(self, centres: np.ndarray, extent: int) -> np.ndarray:
        start = centres[:, None] - self.size // 2
        at = np.arange(extent)
        return (at >= start) & (at < start + self.size)
