"""Pictures with masks from a folder of PNG files, read by Pillow."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dlc.data.dataset import Dataset
from dlc.data.errors import DatasetError


class ImageMasks(Dataset):
    """Samples (image uint8 (C, H, W), mask int64 (H, W)) from `images/NAME.png` and `masks/NAME.png` of a folder.

    The distinct values in all masks, in order, are the classes 0, 1, ...: `values` has them. Images are grey or RGB
    like the first of them, and all of one size.

    Raises:
        DatasetError: Pillow is not installed, or a file is missing, unreadable or of another size than the first image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = Path(root)
        self.images = sorted((root / "images").glob("*.png"))
        self.masks = [root / "masks" / path.name for path in self.images]
        if not self.images:
            raise DatasetError(f"{root / 'images'} has no PNG files")
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
        if image.shape != self.shape:
            raise DatasetError(f"{self.images[index]} is {_size(image)}, but {self.images[0].name} {_size(self)}")
        return image, self._class[self._mask(self.masks[index])]

    def _mask(self, path: Path) -> np.ndarray:
        mask = self._read(path, None)
        if mask.shape[0] != 1:
            raise DatasetError(f"{path} has {mask.shape[0]} channels; a mask has one, or a palette")
        if mask.shape[1:] != self.shape[1:]:
            raise DatasetError(f"{path} is {_size(mask)}, but {self.images[0].name} {_size(self)}")
        return mask[0]

    def _read(self, path: Path, mode: str | None = "") -> np.ndarray:
        """uint8 (C, H, W) in a mode of Pillow; '' is grey or RGB, as the file is; None the values as stored."""
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError:
            raise DatasetError("ImageMasks needs the package Pillow: pip install 'dlc[models]'") from None
        try:
            with Image.open(path, formats=["PNG"]) as file:
                if mode == "":
                    mode = "L" if file.mode in ("1", "L", "LA") else "RGB"
                pixels = np.array(file.convert(mode) if mode else file)
        except FileNotFoundError:
            raise DatasetError(f"{path} is missing") from None
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DatasetError(f"{path} is no sound PNG file: {error}") from None
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        if pixels.dtype != np.uint8:
            raise DatasetError(f"{path} has more than 8 bits a value")
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _size(image: np.ndarray | ImageMasks) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"
