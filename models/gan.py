"""A generative adversarial network of handwritten digits: `python -m models.gan --picture digits.png --data mnist`.

Convolutional generator and discriminator (Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2015,
arXiv:1511.06434). Both take their step at once. How steeply scores change at real images is penalised (Mescheder,
Geiger, Nowozin 2018, arXiv:1801.04406), and the average of the generator's weights makes the samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import data, pictures, training

NOISE = 64  # numbers that a sample is made from
WIDTH = 32  # channels at half the images' size
PENALTY = 0.3  # weight of the discriminator's slope
DECAY = 0.999  # of the average of the generator's weights


def generator(channels: int, size: int, width: int = WIDTH) -> nn.Module:
    """Noise (N, NOISE) to images (N, channels, size, size) in [-1, 1]; size is a multiple of 4."""
    side = size // 4
    return nn.Sequential(
        nn.Linear(NOISE, 4 * width * side * side, bias=False),
        nn.Unflatten(1, (4 * width, side, side)),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.Conv2d(4 * width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, 2, padding=1),
        nn.Tanh(),
    )


def discriminator(channels: int, size: int, width: int = WIDTH) -> nn.Module:
    """Images (N, channels, size, size) to scores (N,): how much they look real."""
    side = size // 4
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * side * side, 1),
        nn.Flatten(0),
    )


class GAN(nn.Module):
    """Both players, and the average generator."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.generator, self.discriminator = generator(channels, size), discriminator(channels, size)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("steps", dlc.zeros(()))

    def update_average(self) -> None:
        """Weights, and what BatchNorm measured, towards the present ones; at first faster, to forget the start."""
        self.steps.assign(self.steps + 1)
        keep = dlc.minimum((self.steps + 1) / (self.steps + 10), DECAY)
        old, new = ([*part.parameters(), *part.buffers()] for part in (self.average, self.generator))
        for mean, now in zip(old, new, strict=True):
            counts = now.dtype == dlc.int64  # those of BatchNorm
            mean.assign(now if counts else dlc.lerp(now.detach(), mean, keep))


def scored(scores: dlc.Tensor, target: float) -> dlc.Tensor:
    return F.binary_cross_entropy_with_logits(scores, dlc.full_like(scores, target))


def slope(discriminator: Callable[[dlc.Tensor], dlc.Tensor], x: dlc.Tensor) -> dlc.Tensor:
    """The mean of the squared lengths of the score's gradients with respect to images."""
    gradient = dlc.grad(lambda images: discriminator(images).sum())(x)
    return (gradient * gradient).sum() / len(x)


@dlc.jit
def train_step(model, optimizer, x, y):
    """One step of both players; returns the discriminator's loss."""
    made = model.generator(dlc.randn(len(x), NOISE))
    optimizer.zero_grad()
    scored(model.discriminator(made), 1.0).backward()
    model.discriminator.zero_grad()  # it does not learn from being deceived
    loss = scored(model.discriminator(x), 1.0) + scored(model.discriminator(made.detach()), 0.0)
    (loss + PENALTY / 2 * slope(model.discriminator, x)).backward()
    optimizer.step()
    model.update_average()
    return loss


@dlc.jit
def generate(model, noise):
    return model.average(noise)


@dlc.jit
def looks_real(model, x):
    return model.discriminator(x) > 0


def sample(model: GAN, count: int, seed: int) -> np.ndarray:
    """`count` images (count, channels, H, W) in [0, 1]."""
    model.eval()
    noise = dlc.random.normal((count, NOISE), key=dlc.random.key(seed))
    return generate(model, noise).numpy() / 2 + 0.5


def example_args_train_step():
    """What `dlc dump models/gan.py:train_step` compiles for: a batch of scikit-learn's digits."""
    model = GAN(1, 8)
    return model, optim.Adam(model.parameters()), dlc.zeros(128, 1, 8, 8), dlc.zeros(128, dtype=dlc.int64)


def told_apart(model: GAN, data: data.Data) -> float:
    """How often the discriminator is right on held-out images and as many samples: 50% is the generator's victory."""
    right = []
    for k, (x, _) in enumerate(data.test):
        noise = dlc.random.normal((len(x), NOISE), key=dlc.random.key(1000 + k))
        right += [looks_real(model, x).numpy(), ~looks_real(model, generate(model, noise)).numpy()]
    return float(np.concatenate(right).mean())


def picture(model: GAN, data: data.Data, path: str) -> None:
    pictures.save(path, sample(model, 64, seed=0)[:, 0], columns=8)


def schedule(optimizer: optim.Optimizer, lr: float, steps: int) -> optim.lr_scheduler.LRScheduler:
    """`lr` for two fifths of the steps, then down to nothing."""
    return optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (steps - step) / (0.6 * steps)))


def build(data: data.Data, lr: float):
    model = GAN(data.channels, data.size)
    players = [*model.generator.parameters(), *model.discriminator.parameters()]
    return model, optim.Adam(players, lr=lr, betas=(0.0, 0.99))


TASK = training.Task(data.centred, "told apart", measure=told_apart, schedule=schedule, picture=picture)

if __name__ == "__main__":
    training.command(build, train_step, None, {"digits": 300, "mnist": 25}, batch_size=128, lr=1e-3, task=TASK)()
