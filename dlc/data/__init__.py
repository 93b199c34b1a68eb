"""Datasets, batch loading and image transforms, under PyTorch's names; NumPy at heart, dlc Tensors at the border."""

from dlc.data import transforms
from dlc.data.cifar10 import CIFAR10
from dlc.data.collate import default_collate, numpy_collate
from dlc.data.dataset import Dataset, Subset, TensorDataset, random_split
from dlc.data.digits import Digits
from dlc.data.errors import DatasetError
from dlc.data.images import ImageMasks
from dlc.data.loader import DataLoader
from dlc.data.mnist import MNIST
from dlc.data.ptb import penn_treebank
from dlc.data.text import Vocabulary, Windows, python_sources, read_text, time_steps, tiny_shakespeare

__all__ = [
    "CIFAR10",
    "MNIST",
    "DataLoader",
    "Dataset",
    "DatasetError",
    "Digits",
    "ImageMasks",
    "Subset",
    "TensorDataset",
    "Vocabulary",
    "Windows",
    "default_collate",
    "numpy_collate",
    "penn_treebank",
    "python_sources",
    "random_split",
    "read_text",
    "time_steps",
    "tiny_shakespeare",
    "transforms",
]
