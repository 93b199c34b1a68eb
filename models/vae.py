"""A variational autoencoder of handwritten digits: `python -m models.vae --picture digits.png`, or with `--data mnist`.

Images become points of a small space and images again, and random points become new images (Kingma and Welling 2013,
arXiv:1312.6114). The loss is the negative evidence lower bound, in nats an image.
"""

from __future__ import annotations

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import data, pictures, training

LATENT = 16  # numbers that an image becomes


class VAE(nn.Module):
    """Images (N, channels, size, size) in [-1, 1]; size is a multiple of 4."""

    def __init__(self, channels: int, size: int, width: int = 32):
        super().__init__()
        side = size // 4
        flat = 2 * width * side * side
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(flat, 256),
            nn.SiLU(),
            nn.Linear(256, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 256),
            nn.SiLU(),
            nn.Linear(256, flat),
            nn.SiLU(),
            nn.Unflatten(1, (2 * width, side, side)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, padding=1),
        )

    def loss(self, x: dlc.Tensor, noise: dlc.Tensor) -> dlc.Tensor:
        """Nats an image: those of the pixels, given their point, and those of the point (its divergence from noise)."""
        mean, log_var = dlc.chunk(self.encoder(x), 2, axis=1)
        logits = self.decoder(mean + dlc.exp(log_var / 2) * noise)
        pixels = F.binary_cross_entropy_with_logits(logits, x / 2 + 0.5, reduction="sum")
        divergence = 0.5 * dlc.sum(mean * mean + dlc.exp(log_var) - log_var - 1)
        return (pixels + divergence) / len(x)


@dlc.jit
def train_step(model, optimizer, x, y):
    loss = model.loss(x, dlc.randn(len(x), LATENT))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@dlc.jit
def test_loss(model, x, noise):
    return model.loss(x, noise)


@dlc.jit
def decode(model, points):
    return dlc.sigmoid(model.decoder(points))


@dlc.jit
def reconstruct(model, x):
    mean, _ = dlc.chunk(model.encoder(x), 2, axis=1)
    return dlc.sigmoid(model.decoder(mean))


def sample(model: VAE, count: int, seed: int) -> np.ndarray:
    """`count` images (count, channels, H, W) in [0, 1]."""
    return decode(model, dlc.random.normal((count, LATENT), key=dlc.random.key(seed))).numpy()


def example_args_train_step():
    """What `dlc dump models/vae.py:train_step` compiles for: a batch of scikit-learn's digits."""
    model = VAE(1, 8)
    return model, optim.Adam(model.parameters()), dlc.zeros(128, 1, 8, 8), dlc.zeros(128, dtype=dlc.int64)


def measure(model: VAE, data: data.Data) -> float:
    """The mean loss on held-out images, always with the same noise."""
    losses = []
    for k, (x, _) in enumerate(data.test):
        noise = dlc.random.normal((len(x), LATENT), key=dlc.random.key(1000 + k))
        losses.append(test_loss(model, x, noise).item())
    return float(np.mean(losses))


def picture(model: VAE, data: data.Data, path: str) -> None:
    """Two rows of held-out images, what they become, and four rows of samples."""
    x, _ = next(iter(data.test))
    old, made = x.numpy()[:16] / 2 + 0.5, reconstruct(model, x).numpy()[:16]
    rows = [old[:8], made[:8], old[8:], made[8:], sample(model, 32, seed=0)]
    pictures.save(path, np.concatenate(rows)[:, 0], columns=8)


def build(data: data.Data, lr: float):
    model = VAE(data.channels, data.size)
    return model, optim.Adam(model.parameters(), lr=lr)


TASK = training.Task(data.centred, "test loss", ".3f", measure, picture=picture)

if __name__ == "__main__":
    training.command(build, train_step, None, {"digits": 60, "mnist": 10}, batch_size=128, lr=2e-3, task=TASK)()
