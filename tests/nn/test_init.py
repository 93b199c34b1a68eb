"""Initialisers: moments, bounds, reproducibility."""

import math

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.nn import init


def test_distributions():
    t = dlc.zeros((200, 100))
    a = init.uniform_(t, -2, 3).numpy()
    assert a.min() >= -2
    assert a.max() < 3
    assert abs(a.mean() - 0.5) < 0.05
    n = init.normal_(t, 1.0, 2.0).numpy()
    assert abs(n.mean() - 1) < 0.05
    assert abs(n.std() - 2) < 0.05
    c = init.trunc_normal_(t, std=2.0, a=-1, b=1.5).numpy()
    assert c.min() >= -1
    assert c.max() <= 1.5
    assert (init.constant_(t, 2.5).numpy() == 2.5).all()
    assert (init.eye_(dlc.zeros((2, 3))).numpy() == np.eye(2, 3)).all()


def test_fans():
    t = dlc.zeros((40, 20, 3, 3))
    assert init.fans(t) == (180, 360)
    assert abs(init.kaiming_normal_(t, nonlinearity="relu").numpy().std() - math.sqrt(2 / 180)) < 2e-3
    bound = math.sqrt(6 / (180 * 6))
    u = init.kaiming_uniform_(t, a=math.sqrt(5)).numpy()
    assert bound * 0.98 < np.abs(u).max() <= bound
    x = init.xavier_uniform_(t).numpy()
    assert math.sqrt(6 / 540) * 0.98 < np.abs(x).max() <= math.sqrt(6 / 540)
    assert abs(init.xavier_normal_(t, 2.0).numpy().std() - 2 * math.sqrt(2 / 540)) < 3e-3
    assert init.kaiming_uniform_(t, mode="fan_out").numpy().std() < u.std() * 2
    with pytest.raises(ValueError, match="at least two dimensions"):
        init.xavier_uniform_(dlc.zeros((3,)))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 2, 3)])
def test_orthogonal(shape):
    q = init.orthogonal_(dlc.zeros(shape)).numpy().reshape(shape[0], -1)
    gram = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_gains():
    torch = pytest.importorskip("torch")
    for name in ("linear", "relu", "tanh", "sigmoid", "selu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.2) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.2))


def test_seed_reproduces_a_model():
    def weights():
        dlc.random.manual_seed(7)
        net = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 2, 3))
        return [p.numpy() for p in net.parameters()]

    first, second = weights(), weights()
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first[0] != nn.Linear(4, 4).weight.numpy()).any()
    dlc.random.manual_seed(8)
    assert (nn.Linear(4, 4).weight.numpy() != first[0]).any()


def test_layers_start_like_torchs():
    """The same bounds, measured."""
    for layer, bound in ((nn.Linear(64, 100), 1 / 8), (nn.Conv2d(16, 20, 2), 1 / 8), (nn.LSTM(3, 64), 1 / 8)):
        for p in layer.parameters():
            top = float(np.abs(p.numpy()).max())
            assert bound * 0.9 < top <= bound
