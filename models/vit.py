"""A small vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929): `python -m models.vit --data cifar10`."""

from __future__ import annotations

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import data, training


class ViT(nn.Module):
    """Images (N, channels, size, size) to scores (N, classes): patches as tokens, encoded, their mean classified."""

    def __init__(self, channels: int, size: int, patch: int, width: int, depth: int, heads: int, classes: int = 10,
                 dropout: float = 0.1):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(dlc.zeros((size // patch) ** 2, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.encoder = nn.Sequential(*(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        ))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: dlc.Tensor) -> dlc.Tensor:
        tokens = dlc.swapaxes(dlc.flatten(self.patches(x), 2), 1, 2) + self.position
        return self.head(dlc.mean(self.norm(self.encoder(tokens)), 1))


@dlc.jit
def train_step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    nn.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


@dlc.jit
def predict(model, x):
    return dlc.argmax(model(x), 1)


def vit(channels: int, size: int) -> ViT:
    """Sized for digits (8 x 8), MNIST (28 x 28) or CIFAR-10 (32 x 32): 16, 49 or 64 patches."""
    if size == 8:
        return ViT(channels, size, patch=2, width=64, depth=4, heads=4)
    return ViT(channels, size, patch=4, width=192, depth=6, heads=6)


def example_args_train_step():
    """What `dlc dump models/vit.py:train_step` compiles for: a batch of CIFAR-10."""
    model = vit(3, 32)
    return model, optim.AdamW(model.parameters()), dlc.zeros(128, 3, 32, 32), dlc.zeros(128, dtype=dlc.int64)


def example_args_predict():
    return vit(3, 32).eval(), dlc.zeros(128, 3, 32, 32)


def build(data: data.Data, lr: float):
    model = vit(data.channels, data.size)
    return model, optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)


TASK = training.Task(data.augmented)

if __name__ == "__main__":
    epochs = {"digits": 120, "mnist": 10, "cifar10": 50}
    training.command(build, train_step, predict, epochs, batch_size=128, lr=2e-3, task=TASK)()
