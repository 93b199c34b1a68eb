"""A target for the tests of the command line."""

import dlc
import dlc.nn.functional as F
from dlc import nn, optim

model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))
optimizer = optim.Adam(model.parameters())


@dlc.jit
def train_step(x, y):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def example_args():
    return dlc.ones(6, 8), dlc.zeros(6, dtype=dlc.int64)


@dlc.jit
def adam_step():
    """Only the update: the gradients are there already."""
    updater.step()


updated = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16))
updater = optim.Adam(updated.parameters())
for _parameter in updated.parameters():
    _parameter.grad = dlc.ones_like(_parameter)


def softmax(x):
    return F.softmax(x, 1)


def example_args_softmax():
    return (dlc.ones(5, 33),)


def layer_norm(x, scale):
    return F.layer_norm(x, (33,)) * scale


def example_args_layer_norm():
    return {"x": dlc.ones(5, 33), "scale": 2.0}


def cross_entropy(x, y):
    return F.cross_entropy(x, y)


cross_entropy.example_args = lambda: (dlc.ones(5, 33), dlc.zeros(5, dtype=dlc.int64))


@dlc.jit
def recurrence(x):
    return dlc.scan(lambda h, row: (dlc.tanh(h + row), h), dlc.zeros(4), x)


recurrence.example_args = (dlc.ones(7, 4),)


def nothing():
    return dlc.arange(4) + 1


def wrong(x):
    return x @ dlc.ones(3, 3)


wrong.example_args = (dlc.ones(2, 4),)


def one_tensor(x):
    return x


one_tensor.example_args = 3


def broken_hook(x):
    return x


def example_args_broken_hook():
    return undefined_name  # noqa: F821
