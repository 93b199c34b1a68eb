"""Whole networks through the compiler against PyTorch: outputs, gradients of every parameter, buffers."""

import numpy as np
import pytest

from dlc import nn
from tests.nn.against_torch import normal, same_module, torch

COMPILED = True


def convolutional(m):
    return m.Sequential(
        m.Conv2d(3, 8, 3, padding=1, bias=False), m.BatchNorm2d(8), m.ReLU(), m.MaxPool2d(2),
        m.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=4), m.GroupNorm(2, 8), m.SiLU(),
        m.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1), m.AvgPool2d(3, 2, 1),
        m.Upsample(scale_factor=2, mode="bilinear"), m.AdaptiveAvgPool2d((2, 3)), m.Flatten(), m.Linear(36, 5),
        m.LogSoftmax(-1),
    )  # fmt: skip


def attention(m):
    return m.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, activation="gelu", norm_first=True)


def embedding(m):
    return m.Sequential(m.Embedding(11, 6, padding_idx=0), m.LayerNorm(6), m.Linear(6, 4), m.Tanh(), m.Softmax(-1))


NETWORKS = [
    (convolutional, [normal(2, 3, 12, 10)]), (attention, [normal(5, 3, 8)]),
    (embedding, [np.arange(12).reshape(3, 4) % 11]),
    (lambda m: m.LSTM(4, 7, num_layers=2, bidirectional=True), [normal(5, 3, 4)]),
    (lambda m: m.GRU(4, 7, bidirectional=True), [normal(5, 3, 4), normal(2, 3, 7)]),
    (lambda m: m.RNN(4, 7, num_layers=2), [normal(5, 3, 4), normal(2, 3, 7)]),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(NETWORKS)), ids=["conv", "attention", "embedding", "lstm", "gru", "rnn"])
def test_network(k):
    make, arrays = NETWORKS[k]
    same_module(make(nn), make(torch.nn), arrays, rtol=2e-4, atol=2e-5)
