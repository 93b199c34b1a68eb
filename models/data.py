"""The data sets that the models train on."""

from __future__ import annotations

from typing import NamedTuple

from dlc.data import CIFAR10, MNIST, DataLoader, Digits, cifar10, mnist, transforms

NORMALIZE = {
    "digits": transforms.Normalize((0.3055,), (0.3759,)),
    "mnist": transforms.Normalize(mnist.MEAN, mnist.STD),
    "cifar10": transforms.Normalize(cifar10.MEAN, cifar10.STD),
}
# Changes that leave an image what it is: `load` makes them, at random, to normalised images, where 0 is the mean.
AUGMENT = {
    "digits": [transforms.RandomCrop(8, padding=1)],
    "mnist": [transforms.RandomCrop(28, padding=2)],
    "cifar10": [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.Cutout(8)],
}


class Data(NamedTuple):
    """Images to train on and to test on, and their form: `channels` planes of `size` x `size`."""

    train: DataLoader
    test: DataLoader
    channels: int
    size: int
    classes: int = 10


def load(name: str, batch_size: int, seed: int, augment: bool = False, centred: bool = False) -> Data:
    """'digits' comes with scikit-learn; 'mnist' and 'cifar10' are read from the folder `$DLC_DATA`, and downloaded if
    they are not there. Pixels have mean 0 and deviation 1, or, if `centred`, go from -1 to 1.

    Raises DatasetError naming the file that is missing or damaged.
    """
    if name == "digits":
        train, test = Digits(train=True), Digits(train=False)
    else:
        kind = {"mnist": MNIST, "cifar10": CIFAR10}[name]
        train, test = kind(train=True, download=True), kind(train=False, download=True)
    channels, size = train.images.shape[1:3]
    normalize = transforms.Normalize((0.5,) * channels, (0.5,) * channels) if centred else NORMALIZE[name]
    plain = transforms.Compose([transforms.ToFloat(), normalize])
    varied = transforms.Compose([plain, *AUGMENT[name]]) if augment else plain
    return Data(
        # varying images takes longer than a training step on a GPU: threads do it meanwhile
        DataLoader(train, batch_size, shuffle=True, drop_last=True, num_workers=2 * augment, seed=seed,
                   transform=varied),
        DataLoader(test, min(1000, len(test)), seed=seed, transform=plain),
        channels,
        size,
    )


def augmented(name: str, batch_size: int, seed: int) -> Data:
    """`load` with augmented training images."""
    return load(name, batch_size, seed, augment=True)


def centred(name: str, batch_size: int, seed: int) -> Data:
    """`load` with pixels from -1 to 1, as the models that make images want them."""
    return load(name, batch_size, seed, centred=True)
