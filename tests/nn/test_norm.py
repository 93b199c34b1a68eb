"""Normalisations against PyTorch, running statistics included."""

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn
from tests.nn.against_torch import close, normal, same_function, same_module, torch


def randomise(module):
    """Weights that are not all ones and zeros."""
    for k, p in enumerate(module.parameters()):
        p.data = torch.tensor(normal(*p.shape, seed=50 + k))
    return module


@pytest.mark.parametrize("shape", [(6,), (4, 6)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(shape, affine):
    theirs = randomise(torch.nn.LayerNorm(shape, elementwise_affine=affine))
    same_module(nn.LayerNorm(shape, elementwise_affine=affine), theirs, [normal(3, 4, 6) + 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_rms_norm(eps):
    same_module(nn.RMSNorm(6, eps=eps), randomise(torch.nn.RMSNorm(6, eps=eps)), [normal(3, 4, 6)])


@pytest.mark.parametrize(("groups", "channels"), [(1, 4), (2, 4), (4, 4)])
def test_group_norm(groups, channels):
    x = normal(3, channels, 5, 2) * 2 + 1
    same_module(
        nn.GroupNorm(groups, channels), randomise(torch.nn.GroupNorm(groups, channels)), [x], rtol=1e-4, atol=1e-5
    )
    same_function(F.instance_norm, torch.nn.functional.instance_norm, [x], rtol=1e-4, atol=1e-5)


BATCH = [("BatchNorm1d", (7, 4)), ("BatchNorm1d", (3, 4, 5)), ("BatchNorm2d", (3, 4, 2, 5))]


@pytest.mark.parametrize(("name", "shape"), BATCH)
@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1, "momentum": 0.3}],
)
def test_batch_norm(name, shape, settings):
    ours, theirs = getattr(nn, name)(4, **settings), randomise(getattr(torch.nn, name)(4, **settings))
    same_module(ours, theirs, [normal(*shape) * 3 + 1], rtol=2e-4, atol=2e-5)
    for k in range(3):  # the running statistics over several batches
        x = normal(*shape, seed=k) + k
        close(ours(dlc.asarray(x)), theirs(torch.tensor(x)), f"batch {k}", rtol=1e-4, atol=1e-5)
    ours.eval(), theirs.eval()
    same_module(ours, theirs, [normal(*shape)], rtol=1e-4, atol=1e-5)


def test_batch_norm_of_one_value_per_channel():
    with pytest.raises(dlc.ShapeError, match="more than one value per channel"):
        nn.BatchNorm1d(3)(dlc.zeros((1, 3)))


def test_running_statistics_are_no_gradient_path():
    m = nn.BatchNorm1d(3)
    dlc.sum(m(dlc.asarray(normal(4, 3)))).backward()
    assert not m.running_mean.requires_grad
    assert m.num_batches_tracked.item() == 1


def test_half_is_normalised_in_float32():
    x = dlc.astype(dlc.asarray(normal(2, 64) + 100), dlc.bfloat16)
    y = F.layer_norm(x, (64,))
    assert y.dtype == dlc.bfloat16
    assert abs(float(np.asarray(dlc.astype(y, dlc.float32)).std()) - 1) < 0.02


def test_errors():
    with pytest.raises(dlc.ShapeError, match=r"does not end in normalized_shape \(5,\)"):
        nn.LayerNorm(5)(dlc.zeros((2, 4)))
    with pytest.raises(dlc.ShapeError, match=r"4 channels in the second, got \(2, 3, 5, 5\)"):
        nn.BatchNorm2d(4)(dlc.zeros((2, 3, 5, 5)))
    with pytest.raises(ValueError, match="3 groups do not divide 4 channels"):
        nn.GroupNorm(3, 4)


def test_group_norm_of_an_empty_batch():
    assert F.group_norm(dlc.zeros(0, 4, 2, 2), 2).shape == (0, 4, 2, 2)
