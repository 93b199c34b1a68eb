"""The data sets that the models train on."""

from __future__ import annotations

from typing import NamedTuple

from dlc.data import MNIST, DataLoader, Digits, mnist, transforms


class Data(NamedTuple):
    """Images to train on and to test on, and their form: `channels` planes of `size` x `size`."""

    train: DataLoader
    test: DataLoader
    channels: int
    size: int


def load(name: str, batch_size: int, seed: int) -> Data:
    """'digits' comes with scikit-learn; 'mnist' is read from `$DLC_DATA/mnist`, and downloaded if it is not there.

    Raises DatasetError naming the file that is missing or damaged.
    """
    if name == "digits":
        train, test = Digits(train=True), Digits(train=False)
        transform = transforms.Normalize((0.3055,), (0.3759,))
    else:
        train, test = MNIST(train=True, download=True), MNIST(train=False, download=True)
        transform = transforms.Compose([transforms.ToFloat(), transforms.Normalize(mnist.MEAN, mnist.STD)])
    return Data(
        DataLoader(train, batch_size, shuffle=True, drop_last=True, seed=seed, transform=transform),
        DataLoader(test, min(1000, len(test)), seed=seed, transform=transform),
        train.images.shape[1],
        train.images.shape[2],
    )
