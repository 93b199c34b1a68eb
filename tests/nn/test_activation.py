"""Activations against PyTorch: values and derivatives, at 0, at the knees and far out."""

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn
from tests.nn.against_torch import normal, same_function, same_module, torch

TF = torch.nn.functional

ELEMENTWISE = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.2}), ("elu", {"alpha": 1.5}),
    ("celu", {"alpha": 0.7}), ("selu", {}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}),
    ("sigmoid", {}), ("logsigmoid", {}), ("tanh", {}), ("softplus", {}), ("softplus", {"beta": 2.0, "threshold": 5.0}),
    ("softsign", {}), ("tanhshrink", {}), ("hardtanh", {}), ("hardsigmoid", {}), ("hardswish", {}),
    ("threshold", {"threshold": 0.5, "value": -1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), ELEMENTWISE)
def test_elementwise(name, settings):
    x = np.concatenate([normal(50) * 3, np.float32([0.0, 25.0, -25.0, 5.9, -2.9])])
    theirs = getattr(TF, name)
    same_function(lambda t: getattr(F, name)(t, **settings), lambda t: theirs(t, **settings), [x], rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "logsigmoid", "elu", "gelu", "silu", "mish", "softplus"])
def test_derivatives_are_finite_far_out(name):
    x = dlc.tensor([-1e4, -200.0, -90.0, 90.0, 200.0, 1e4], requires_grad=True)
    y = getattr(F, name)(x)
    dlc.sum(y).backward()
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax(name, dim):
    x = normal(3, 4, 5) * 10
    same_function(lambda t: getattr(F, name)(t, dim), lambda t: getattr(TF, name)(t, dim), [x])


def test_softmax_of_large_numbers_and_in_half():
    assert F.softmax(dlc.asarray([1e30, 0.0])).numpy().tolist() == [1.0, 0.0]
    x = dlc.astype(dlc.asarray(normal(4, 16)), dlc.bfloat16)
    y = F.softmax(x)
    assert y.dtype == dlc.bfloat16
    total = dlc.sum(dlc.astype(y, dlc.float32), axis=-1)
    np.testing.assert_allclose(total.numpy(), 1.0, atol=2.0**-8)  # 16 terms, rounded to 8 bits


def test_glu_prelu_normalize():
    same_function(lambda t: F.glu(t, 1), lambda t: TF.glu(t, 1), [normal(3, 6, 2)])
    same_function(F.prelu, TF.prelu, [normal(3, 4, 2), normal(4)])
    same_function(F.prelu, TF.prelu, [normal(3, 4), normal(1)])
    for p in (1.0, 2.0, 3.0):
        same_function(lambda t, p=p: F.normalize(t, p), lambda t, p=p: TF.normalize(t, p), [normal(3, 4)])
    with pytest.raises(ValueError, match="odd extent 3"):
        F.glu(dlc.zeros((2, 3)))


LAYERS = [
    ("ReLU", ()), ("ReLU6", ()), ("LeakyReLU", (0.3,)), ("PReLU", (4,)), ("ELU", (0.5,)), ("CELU", (0.5,)),
    ("SELU", ()), ("GELU", ()), ("GELU", ("tanh",)), ("SiLU", ()), ("Mish", ()), ("Sigmoid", ()), ("Tanh", ()),
    ("LogSigmoid", ()), ("Softplus", (2.0,)), ("Softsign", ()), ("Hardtanh", (-0.5, 2.0)), ("Hardsigmoid", ()),
    ("Hardswish", ()), ("GLU", (1,)), ("Softmax", (1,)), ("LogSoftmax", (-1,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), LAYERS)
def test_layers(name, args):
    ours, theirs = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
    same_module(ours, theirs, [normal(3, 4)])


def test_unknown_approximation():
    with pytest.raises(ValueError, match="'none' or 'tanh', not 'sigmoid'"):
        F.gelu(dlc.zeros((2,)), approximate="sigmoid")
