"""A small convolutional network on handwritten digits: `python -m models.cnn`, or with `--data mnist`."""

from __future__ import annotations

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import training


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def cnn(channels: int, classes: int = 10, width: int = 16) -> nn.Module:
    """Images (N, channels, height, width) to scores (N, classes)."""
    return nn.Sequential(
        conv(channels, width),
        conv(width, width),
        nn.MaxPool2d(2),
        conv(width, 2 * width),
        conv(2 * width, 2 * width),
        nn.MaxPool2d(2),
        conv(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


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
    """What `dlc dump models/cnn.py:train_step` compiles for: a batch of MNIST."""
    model = cnn(1)
    return model, optim.Adam(model.parameters()), dlc.zeros(100, 1, 28, 28), dlc.zeros(100, dtype=dlc.int64)


def example_args_predict():
    return cnn(1).eval(), dlc.zeros(100, 1, 28, 28)


def build(data: training.Data, lr: float):
    model = cnn(data.channels)
    return model, optim.Adam(model.parameters(), lr=lr)


if __name__ == "__main__":
    training.command(build, train_step, predict, epochs={"digits": 20, "mnist": 8}, batch_size=100, lr=1e-2)()
