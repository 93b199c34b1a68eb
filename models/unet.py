"""A U-Net that says of every pixel which digit it belongs to: `python -m models.unet`, or with `--data mnist`.

`--data FOLDER` learns from `images/NAME.png` and `masks/NAME.png` in a folder; every fifth pair is held out.
(Ronneberger, Fischer, Brox 2015, arXiv:1505.04597)
"""

from __future__ import annotations

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.data import MNIST, DataLoader, DatasetError, Digits, ImageMasks, Subset, TensorDataset, transforms
from models import pictures, training
from models.data import Data


def double(inputs: int, outputs: int) -> nn.Module:
    """Two convolutions of 3 x 3."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images (N, channels, H, W) to scores (N, classes, H, W); H and W are multiples of 4."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, int, int] = (16, 32, 64)):
        super().__init__()
        fine, middle, coarse = widths
        self.down1, self.down2, self.bottom = double(channels, fine), double(fine, middle), double(middle, coarse)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.merge2 = nn.ConvTranspose2d(coarse, middle, 2, 2), double(2 * middle, middle)
        self.up1, self.merge1 = nn.ConvTranspose2d(middle, fine, 2, 2), double(2 * fine, fine)
        self.out = nn.Conv2d(fine, classes, 1)

    def forward(self, x: dlc.Tensor) -> dlc.Tensor:
        fine = self.down1(x)
        middle = self.down2(self.pool(fine))
        x = self.up2(self.bottom(self.pool(middle)))
        x = self.up1(self.merge2(dlc.concat((middle, x), 1)))
        return self.out(self.merge1(dlc.concat((fine, x), 1)))


@dlc.jit
def train_step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@dlc.jit
def predict(model, x):
    return dlc.argmax(model(x), 1)


def example_args_train_step():
    """What `dlc dump models/unet.py:train_step` compiles for: a batch of digits on clutter."""
    model = UNet(1, 11)
    return model, optim.Adam(model.parameters()), dlc.zeros(32, 1, 24, 24), dlc.zeros(32, 24, 24, dtype=dlc.int64)


def example_args_predict():
    return UNet(1, 11).eval(), dlc.zeros(32, 1, 24, 24)


# -- data


def compose(digits: TensorDataset, count: int, size: int, each: int, seed: int) -> TensorDataset:
    """`count` images uint8 (1, size, size) of `each` digits on clutter, with classes int64: 0 is none, 1 the digit 0.

    Clutter is pieces of digits at half their brightness.
    """
    rng = np.random.default_rng(seed)
    bright = digits.images[:, 0].astype(np.float32)
    bright *= 255 / bright.max()
    side = bright.shape[1]
    piece = side // 2
    images, classes = np.zeros((count, size, size), np.float32), np.zeros((count, size, size), np.int64)
    for image, mask in zip(images, classes, strict=True):
        for part in bright[rng.integers(len(bright), size=3 * size // side)]:
            (y, x), (top, left) = rng.integers(side - piece + 1, size=2), rng.integers(size - piece + 1, size=2)
            place = image[top : top + piece, left : left + piece]
            np.maximum(place, 0.5 * part[y : y + piece, x : x + piece], out=place)
        free = np.ones((size - side + 1,) * 2, bool)  # where a digit's corner may be
        for k in rng.integers(len(bright), size=each):
            corners = np.argwhere(free)
            if not len(corners):
                break
            top, left = corners[rng.integers(len(corners))]
            free[max(0, top - side + 1) : top + side, max(0, left - side + 1) : left + side] = False
            here = np.s_[top : top + side, left : left + side]
            image[here] = np.maximum(image[here], bright[k])
            mask[here][bright[k] >= 128] = 1 + digits.targets[k]
    return TensorDataset(images[:, None].astype(np.uint8), classes)


def load(name: str, batch_size: int, seed: int) -> Data:
    """'digits' or 'mnist' on clutter, or the image and mask pairs of a folder."""
    if name in ("digits", "mnist"):
        if name == "digits":
            train, test, count, size, each = Digits(), Digits(train=False), 8192, 24, 4
        else:
            train, test, count, size, each = MNIST(download=True), MNIST(train=False, download=True), 4096, 64, 3
        train, test = compose(train, count, size, each, seed=1), compose(test, 512, size, each, seed=2)
        channels, classes = 1, 11
    else:
        pairs = ImageMasks(name)
        channels, size, width = pairs.shape
        classes = len(pairs.values)
        if size % 4 or width % 4:
            raise DatasetError(f"{name}: height and width must be multiples of 4, not {size} and {width}")
        numbers = np.arange(len(pairs))
        train, test = Subset(pairs, numbers[numbers % 5 != 4]), Subset(pairs, numbers[numbers % 5 == 4])
        if not len(test):
            raise DatasetError(f"{name}: {len(pairs)} pairs are too few: every fifth is held out")
    transform = transforms.Compose([transforms.ToFloat(), transforms.Normalize((0.5,) * channels, (0.5,) * channels)])
    return Data(
        DataLoader(train, batch_size, shuffle=True, drop_last=True, seed=seed, transform=transform),
        DataLoader(test, min(64, len(test)), seed=seed, transform=transform),
        channels,
        size,
        classes,
    )


def mean_iou(model: nn.Module, data: Data) -> float:
    """Mean over the classes of (pixels in both truth and prediction) / (pixels in either)."""
    count = data.classes
    pairs = np.zeros((count, count), np.int64)
    for x, y in data.test:
        both = y.numpy() * count + predict(model, x).numpy()
        pairs += np.bincount(both.ravel(), minlength=count * count).reshape(count, count)
    both, either = np.diag(pairs), pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
    return float(np.mean(both[either > 0] / either[either > 0]))


def picture(model: nn.Module, data: Data, path: str) -> None:
    """Eight held-out images: input, truth and prediction under one another."""
    x, y = next(iter(data.test))
    guess = predict(model, x).numpy()[:8]
    images = np.moveaxis(x.numpy()[:8] / 2 + 0.5, 1, -1) * np.ones(3)
    truth, guess = pictures.colours(y.numpy()[:8], data.classes), pictures.colours(guess, data.classes)
    pictures.save(path, np.concatenate([images, truth, guess]), columns=len(images))


def build(data: Data, lr: float, wide: bool = False):
    model = UNet(data.channels, data.classes, (64, 128, 256) if wide else (16, 32, 64))
    return model, optim.AdamW(model.parameters(), lr=lr)


TASK = training.Task(load, "mean IoU", measure=mean_iou, picture=picture, variants={"wide": {"batch_size": 64}})

if __name__ == "__main__":
    epochs = {"digits": 5, "mnist": 8, "FOLDER": 40}
    training.command(build, train_step, None, epochs, batch_size=32, lr=5e-3, task=TASK)()
