"""Linear, Embedding, Dropout and the containers."""

from collections import OrderedDict

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn
from tests.nn.against_torch import normal, same_function, same_module, torch

TF = torch.nn.functional


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (4,)])
def test_linear(bias, shape):
    same_module(nn.Linear(4, 5, bias), torch.nn.Linear(4, 5, bias), [normal(*shape)])


def test_bilinear_and_one_hot():
    same_function(F.bilinear, TF.bilinear, [normal(2, 3, 4), normal(2, 3, 5), normal(6, 4, 5), normal(6)])
    assert F.one_hot(dlc.asarray([0, 2]), 3).numpy().tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx):
    index = np.array([[1, 2, 6], [2, 2, 0]])
    same_module(nn.Embedding(7, 3, padding_idx), torch.nn.Embedding(7, 3, padding_idx), [index])


def test_embedding_pretrained_and_padding_row():
    table = nn.Embedding.from_pretrained(dlc.asarray(normal(4, 3)))
    assert not table.weight.requires_grad
    assert (table(dlc.asarray([1])).numpy() == normal(4, 3)[1]).all()
    assert (nn.Embedding(5, 3, padding_idx=1).weight.numpy()[1] == 0).all()
    with pytest.raises(ValueError, match="padding_idx 9 is outside a table of 5 rows"):
        nn.Embedding(5, 3, padding_idx=9)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Dropout(0.25), (64, 64)), (nn.Dropout1d(0.25), (64, 64, 2)), (nn.Dropout2d(0.25), (64, 64, 2, 2))],
)
def test_dropout(layer, shape):
    x = dlc.ones(shape)
    y = layer(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.03
    if len(shape) > 2:
        flat = y.reshape(64, 64, -1)
        assert (flat == flat[..., :1]).all()  # whole channels
    assert (layer(x).numpy() != y).any()
    assert layer.eval()(x) is x
    layer.train()


def test_dropout_at_the_ends_and_its_gradient():
    x = dlc.tensor(normal(30), requires_grad=True)
    assert F.dropout(x, 0.0) is x
    assert (F.dropout(x, 1.0).numpy() == 0).all()
    y = F.dropout(x, 0.5)
    dlc.sum(y).backward()
    np.testing.assert_allclose(x.grad.numpy(), np.where(y.numpy() == 0, 0, 2.0))
    with pytest.raises(ValueError, match=r"Dropout: probability 1.5 is outside \[0, 1\]"):
        nn.Dropout(1.5)


def test_sequential():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert isinstance(net[1], nn.ReLU)
    assert isinstance(net[-1], nn.Linear)
    assert len(net[:2]) == 2
    net.append(nn.Identity()).insert(0, nn.Flatten())
    assert [type(m).__name__ for m in net] == ["Flatten", "Linear", "ReLU", "Linear", "Identity"]
    del net[0]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    net[1] = nn.Tanh()
    assert isinstance(net[1], nn.Tanh)
    named = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), second=nn.ReLU()))
    assert list(named.state_dict()) == ["first.weight", "first.bias"]
    with pytest.raises(IndexError, match="Sequential: index 7 is outside 4 items"):
        net[7]


def test_lists_and_dicts():
    layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    layers += [nn.Linear(2, 3)]
    assert len(layers) == 4
    assert len(list(layers.parameters())) == 8
    assert len(layers[1:]) == 3
    table = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ReLU()})
    assert list(table) == ["a", "b"]
    assert "a" in table
    assert list(table.state_dict()) == ["a.weight", "a.bias"]
    del table["b"]
    assert len(table) == 1
    values = nn.ParameterList([nn.Parameter(dlc.zeros((2,))), dlc.ones((3,))])
    assert [p.shape for p in values] == [(2,), (3,)]
    assert list(values.state_dict()) == ["0", "1"]
    with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
        layers(dlc.zeros((2,)))


def test_residual_flatten_unflatten():
    x = dlc.asarray(normal(2, 4))
    net = nn.Residual(nn.Sequential(nn.Linear(4, 4)))
    np.testing.assert_allclose(net(x).numpy(), (net.fn(x) + x).numpy())
    assert list(net.state_dict()) == ["fn.0.weight", "fn.0.bias"]
    assert nn.Residual(F.relu)(x).shape == (2, 4)
    with pytest.raises(dlc.ShapeError, match=r"input \(2, 4\) became \(2, 3\)"):
        nn.Residual(nn.Linear(4, 3))(x)
    image = dlc.zeros((2, 3, 4, 5))
    assert nn.Flatten()(image).shape == (2, 60)
    assert nn.Flatten(0, 1)(image).shape == (6, 4, 5)
    assert nn.Unflatten(1, (3, -1))(dlc.zeros((2, 12))).shape == (2, 3, 4)
