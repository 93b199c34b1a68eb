"""A residual multilayer perceptron on handwritten digits: `python -m models.mlp`, or with `--data mnist`."""

from __future__ import annotations

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import training


def block(width: int, hidden: int, dropout: float) -> nn.Module:
    """relu(x + two layers of x)."""
    layers = nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.BatchNorm1d(width),
    )
    return nn.Sequential(nn.Residual(layers), nn.ReLU())


def mlp(features: int, classes: int = 10, width: int = 100, blocks: int = 3, dropout: float = 0.1) -> nn.Module:
    """Images (N, ..., features in all) to scores (N, classes)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, width),
        nn.ReLU(),
        *(block(width, width // 2, dropout) for _ in range(blocks)),
        nn.Linear(width, classes),
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
    """What `dlc dump models/mlp.py:train_step` compiles for: a batch of MNIST."""
    model = mlp(28 * 28)
    return model, optim.Adam(model.parameters()), dlc.zeros(100, 1, 28, 28), dlc.zeros(100, dtype=dlc.int64)


def example_args_predict():
    return mlp(28 * 28).eval(), dlc.zeros(100, 1, 28, 28)


def build(data: training.Data, lr: float):
    model = mlp(data.channels * data.size * data.size)
    return model, optim.Adam(model.parameters(), lr=lr)


if __name__ == "__main__":
    training.command(build, train_step, predict, epochs={"digits": 40, "mnist": 10}, batch_size=100, lr=4e-3)()
