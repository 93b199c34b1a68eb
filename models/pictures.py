"""Many images as one PNG."""

from __future__ import annotations

import math

import numpy as np

SIDE = 64  # small images are enlarged to about as many pixels


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, height, width[, 3]) in [0, 1], row by row with white lines between: (height, width, 3)."""
    images = np.clip(images, 0, 1)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    scale = max(1, SIDE // images.shape[1])
    images = images.repeat(scale, 1).repeat(scale, 2)
    images = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    rows = math.ceil(len(images) / columns)
    filled = np.ones((rows * columns, *images.shape[1:]), images.dtype)
    filled[: len(images)] = images
    height, width = images.shape[1:3]
    cells = filled.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width, 3)


def save(path: str, images: np.ndarray, columns: int) -> None:
    """Write `grid(images, columns)` as a PNG."""
    from matplotlib.image import imsave

    imsave(path, grid(images, columns))


def colours(classes: np.ndarray, count: int) -> np.ndarray:
    """Class numbers (...) as colours (..., 3); class 0 is black."""
    from matplotlib import colormaps

    table = np.concatenate([np.zeros((1, 3)), colormaps["hsv"](np.linspace(0, 0.92, max(1, count - 1)))[:, :3]])
    return table[classes]
