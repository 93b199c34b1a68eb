"""Pictures with masks from a folder of PNG files, read by Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from dlc.base.files import open_regular
from dlc.data.dataset import Dataset
from dlc.data.errors import DatasetError

MOST_PIXELS = 1 << 26  # less than what Pillow warns of


class ImageMasks(Dataset):
    """Samples (image uint8 (C, H, W), mask int64 (H, W)) from `images/NAME.png` and `masks/NAME.png` of a folder.

    The distinct values in all masks, in order, are the classes 0, 1, ...: `values` has them. Images are grey or RGB
    like the first of them, and all of one size.

    Raises:
        DatasetError: Pillow is not installed, or a file is missing, unreadable or of another size than the first image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = Path(root)
        try:
            self.images = sorted((root / "images").glob("*.png"))
        except (OSError, ValueError) as error:  # ValueError: no path at all
            raise DatasetError(f"{root / 'images'} cannot be read: {error}") from None
        self.masks = [root / "masks" / path.name for path in self.images]
        if not self.images:
            raise DatasetError(f"{root / 'images'} has no PNG files")
        self.shape = None  # of every image, as the first has it
        self.shape = self._read(self.images[0]).shape
        seen = np.zeros(256, bool)
        for path in self.masks:
            seen[self._mask(path)] = True
        self.values = np.flatnonzero(seen)
        self._class = np.cumsum(seen) - 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = self._read(self.images[index], "L" if self.shape[0] == 1 else "RGB")
        return image, self._class[self._mask(self.masks[index])]

    def _mask(self, path: Path) -> np.ndarray:
        mask = self._read(path, None)
        if mask.shape[0] != 1:
            raise DatasetError(f"{path} has {mask.shape[0]} channels; a mask has one, or a palette")
        return mask[0]

    def _read(self, path: Path, mode: str | None = "") -> np.ndarray:
        """uint8 (C, H, W) in a mode of Pillow; '' is grey or RGB, as the file is; None the values as stored."""
        try:
            from PIL import Image
        except ImportError:
            raise DatasetError("ImageMasks needs the package Pillow: pip install 'dlc[models]'") from None
        try:
            with open_regular(path) as opened, Image.open(opened, formats=["PNG"]) as file:
                self._check(path, file)
                if mode == "":
                    mode = "L" if file.mode in ("1", "L", "LA") else "RGB"
                pixels = np.array(file.convert(mode) if mode else file)
        except FileNotFoundError:
            raise DatasetError(f"{path} is missing") from None
        except DatasetError:
            raise
        except Exception as error:  # what Pillow raises for a damaged file may be anything
            raise DatasetError(f"{path} is no sound PNG file: {str(error) or type(error).__name__}") from None
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _check(self, path: Path, file: Any) -> None:
        """Is it worth unpacking? A small file can hold any number of pixels."""
        width, height = file.size
        if self.shape is None and width * height > MOST_PIXELS:
            raise DatasetError(f"{path} is {width} x {height}; images have at most {MOST_PIXELS} pixels")
        if self.shape is not None and (height, width) != self.shape[1:]:
            raise DatasetError(f"{path} is {width} x {height}, but {self.images[0].name} {_size(self)}")
        if file.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise DatasetError(f"{path} has more than 8 bits a value")


def _size(image: ImageMasks) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"
