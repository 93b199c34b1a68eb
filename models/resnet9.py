"""Residual networks of nine layers on small images: `python -m models.resnet9 --data cifar10`, and with `--wide`."""

from __future__ import annotations

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import data, training


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True, pool: int = 1) -> nn.Module:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(pool)] if pool > 1 else []))


def resnet9(channels: int = 3, size: int = 32, classes: int = 10) -> nn.Module:
    """Images (N, channels, size, size) to scores (N, classes); the first layer makes them 8 x 8."""
    stride = max(1, size // 8)
    side = -(-size // stride)
    for _ in range(3):
        side = -(-side // 2)
    return nn.Sequential(
        conv(channels, 16, kernel=7, stride=stride),
        conv(16, 32, stride=2),
        nn.Residual(nn.Sequential(conv(32, 32), conv(32, 32))),
        conv(32, 64, stride=2),
        conv(64, 128, stride=2),
        nn.Residual(nn.Sequential(conv(128, 128), conv(128, 128))),
        nn.Flatten(),
        nn.Linear(128 * side * side, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


class Scale(nn.Module):
    """x * factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, input: dlc.Tensor) -> dlc.Tensor:
        return input * self.factor


def wide_resnet9(channels: int = 3, size: int = 32, classes: int = 10) -> nn.Module:
    """The wide and fast one of DAWNBench (David Page, "How to train your ResNet", 2018)."""
    return nn.Sequential(
        conv(channels, 64, bias=False),
        conv(64, 128, bias=False, pool=2),
        nn.Residual(nn.Sequential(conv(128, 128, bias=False), conv(128, 128, bias=False))),
        conv(128, 256, bias=False, pool=2),
        conv(256, 512, bias=False, pool=2),
        nn.Residual(nn.Sequential(conv(512, 512, bias=False), conv(512, 512, bias=False))),
        nn.MaxPool2d(size // 8),
        nn.Flatten(),
        nn.Linear(512, classes, bias=False),
        Scale(0.125),
    )


@dlc.jit
def train_step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@dlc.jit
def predict(model, x):
    return dlc.argmax(model(x), 1)


def example_args_train_step():
    """What `dlc dump models/resnet9.py:train_step` compiles for: a batch of CIFAR-10."""
    model = resnet9()
    return model, optim.Adam(model.parameters()), dlc.zeros(128, 3, 32, 32), dlc.zeros(128, dtype=dlc.int64)


def example_args_predict():
    return resnet9().eval(), dlc.zeros(128, 3, 32, 32)


def build(data: data.Data, lr: float, wide: bool = False):
    if wide:
        model = wide_resnet9(data.channels, data.size)
        return model, optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model = resnet9(data.channels, data.size)
    return model, optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)


def schedule(optimizer: optim.Optimizer, lr: float, steps: int) -> optim.lr_scheduler.LRScheduler:
    """One cycle; that of the wide net, which has SGD, rises for a fifth of the steps and leaves the momentum alone."""
    if isinstance(optimizer, optim.SGD):
        return optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2, cycle_momentum=False)
    return training.one_cycle(optimizer, lr, steps)


TASK = training.Task(data.augmented, schedule=schedule, variants={"wide": {"epochs": 20, "batch_size": 512, "lr": 0.4}})

if __name__ == "__main__":
    epochs = {"digits": 30, "mnist": 5, "cifar10": 10}
    training.command(build, train_step, predict, epochs, batch_size=128, lr=5e-3, task=TASK)()
