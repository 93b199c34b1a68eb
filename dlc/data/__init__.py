"""Datasets, batch loading and image transforms, under PyTorch's names; NumPy at heart, dlc Tensors at the border."""

from dlc.data import transforms
from dlc.data.collate import default_collate, numpy_collate
from dlc.data.dataset import Dataset, Subset, TensorDataset, random_split
from dlc.data.digits import Digits
from dlc.data.errors import DatasetError
from dlc.data.loader import DataLoader
from dlc.data.mnist import MNIST

__all__ = [
    "MNIST",
    "DataLoader",
    "Dataset",
    "DatasetError",
    "Digits",
    "Subset",
    "TensorDataset",
    "default_collate",
    "numpy_collate",
    "random_split",
    "transforms",
]
