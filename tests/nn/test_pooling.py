"""Pooling against PyTorch."""

import pytest

import dlc
from dlc import nn
from tests.nn.against_torch import normal, same_module, torch

X = normal(2, 3, 7, 8)

MAX = [
    (2, {}), (3, {"stride": 2, "padding": 1}), ((2, 3), {"stride": 1}), (3, {"stride": 2, "ceil_mode": True}),
    (2, {"dilation": 2}), (2, {"ceil_mode": True}), (3, {"stride": 3, "padding": 1, "ceil_mode": True}),
    (2, {"stride": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "settings"), MAX)
def test_max_pool(kernel, settings):
    same_module(nn.MaxPool2d(kernel, **settings), torch.nn.MaxPool2d(kernel, **settings), [X])
    if isinstance(kernel, int):
        same_module(nn.MaxPool1d(kernel, **settings), torch.nn.MaxPool1d(kernel, **settings), [normal(2, 3, 9)])


def test_padding_never_wins():
    same_module(nn.MaxPool2d(3, 1, 1), torch.nn.MaxPool2d(3, 1, 1), [-abs(X) - 1])
    ours = nn.MaxPool2d(2, padding=1)(dlc.asarray([[[[-5, -7], [-6, -8]]]]))
    assert ours.numpy().tolist() == [[[[-5, -7], [-6, -8]]]]


AVG = [
    (2, {}), (3, {"stride": 2, "padding": 1}), (3, {"stride": 2, "padding": 1, "count_include_pad": False}),
    (3, {"stride": 2, "ceil_mode": True}), (3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    (3, {"stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": False}), (2, {"stride": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "settings"), AVG)
def test_avg_pool(kernel, settings):
    same_module(nn.AvgPool2d(kernel, **settings), torch.nn.AvgPool2d(kernel, **settings), [X])
    same_module(nn.AvgPool1d(kernel, **settings), torch.nn.AvgPool1d(kernel, **settings), [normal(2, 3, 9)])


def test_divisor_override():
    settings = {"stride": 2, "padding": 1, "divisor_override": 5}
    same_module(nn.AvgPool2d((3, 2), **settings), torch.nn.AvgPool2d((3, 2), **settings), [X])


@pytest.mark.parametrize("size", [1, (7, 4), (3, 5), (None, 2), (7, 8), 9])
def test_adaptive_avg_pool(size):
    same_module(nn.AdaptiveAvgPool2d(size), torch.nn.AdaptiveAvgPool2d(size), [X])


def test_adaptive_avg_pool1d():
    same_module(nn.AdaptiveAvgPool1d(4), torch.nn.AdaptiveAvgPool1d(4), [normal(2, 3, 9)])


def test_errors():
    with pytest.raises(ValueError, match="more than half of the kernel size"):
        nn.MaxPool2d(2, padding=2)(dlc.zeros((1, 1, 4, 4)))
    with pytest.raises(dlc.ShapeError, match=r"input \(1, 1, 2, 2\) is smaller than the kernel \(3, 3\)"):
        nn.MaxPool2d(3)(dlc.zeros((1, 1, 2, 2)))
    with pytest.raises(dlc.ShapeError, match="3 or 4 dimensions"):
        nn.AvgPool2d(2)(dlc.zeros((4, 4)))
