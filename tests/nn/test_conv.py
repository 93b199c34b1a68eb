"""Convolutions and their transposes against PyTorch, over strides, paddings, dilations and groups."""

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn
from tests.nn.against_torch import normal, same_function, same_module, torch

TF = torch.nn.functional

CONV2D = [
    {}, {"stride": 2}, {"padding": 1}, {"padding": (2, 0), "stride": (1, 2)}, {"dilation": 2, "padding": 2},
    {"groups": 2}, {"groups": 4, "padding": 1}, {"padding": "same"}, {"padding": "same", "dilation": (1, 2)},
    {"padding": "valid"}, {"bias": False}, {"groups": 2, "stride": 2, "dilation": 2, "padding": 3},
    {"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "padding_mode": "circular"},
    {"padding": (1, 2), "padding_mode": "replicate"}, {"padding": "same", "padding_mode": "replicate"},
]  # fmt: skip


@pytest.mark.parametrize("settings", CONV2D)
@pytest.mark.parametrize("kernel", [3, (2, 3)])
def test_conv2d(settings, kernel):
    if settings.get("padding_mode") and settings["padding"] == "same" and kernel != 3:
        pytest.skip("torch pads unevenly on the other side in this mode")
    same_module(nn.Conv2d(4, 8, kernel, **settings), torch.nn.Conv2d(4, 8, kernel, **settings), [normal(2, 4, 7, 8)])


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 3}, {"padding": 2}, {"dilation": 2, "groups": 2}, {"padding": "same"}]
)
def test_conv1d(settings):
    same_module(nn.Conv1d(4, 6, 3, **settings), torch.nn.Conv1d(4, 6, 3, **settings), [normal(2, 4, 10)])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("extent, reached", [(1, 0), (2, 4), (5, 25)])
def test_weights_that_only_meet_padding(bad, extent, reached, monkeypatch):
    """docs/semantics.md: they are not multiplied with it; those that meet the image anywhere are, everywhere."""
    monkeypatch.delenv("DLC_INTERPRET", raising=False)
    w = np.ones((4, 3, 3, 3), np.float32)
    w[2, 0, 0, 0] = bad
    y = F.conv2d(dlc.asarray(normal(1, 3, extent, extent)), dlc.asarray(w), padding=1).numpy()
    assert (~np.isfinite(y[0, 2])).sum() == reached
    assert np.isfinite(y[0, [0, 1, 3]]).all()


TRANSPOSED = [
    {}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"padding": 2}, {"groups": 2},
    {"groups": 2, "stride": (2, 3), "padding": (1, 0), "output_padding": (0, 2)}, {"dilation": 2, "padding": 1},
    {"stride": 3, "dilation": 2, "output_padding": 2}, {"bias": False, "padding": 3},
]  # fmt: skip


@pytest.mark.parametrize("settings", TRANSPOSED)
@pytest.mark.parametrize("kernel", [3, (4, 2)])
def test_conv_transpose2d(settings, kernel):
    if settings.get("padding") == 3:
        kernel = (5, 4)
    same_module(
        nn.ConvTranspose2d(4, 6, kernel, **settings),
        torch.nn.ConvTranspose2d(4, 6, kernel, **settings), [normal(2, 4, 5, 5)],
    )  # fmt: skip


def test_conv_transpose1d():
    settings = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    theirs = torch.nn.ConvTranspose1d(4, 6, 3, **settings)
    same_module(nn.ConvTranspose1d(4, 6, 3, **settings), theirs, [normal(2, 4, 5)])


def test_without_batch():
    same_function(F.conv2d, TF.conv2d, [normal(3, 5, 6), normal(4, 3, 2, 2), normal(4)])
    same_function(F.conv1d, TF.conv1d, [normal(3, 6), normal(4, 3, 2), normal(4)])
    same_function(F.conv_transpose2d, TF.conv_transpose2d, [normal(3, 5, 6), normal(3, 4, 2, 2), normal(4)])


def test_transposed_is_the_adjoint():
    x, w, y = (dlc.asarray(normal(*s)) for s in [(1, 3, 7, 7), (4, 3, 3, 3), (1, 4, 4, 4)])
    a = dlc.sum(F.conv2d(x, w, stride=2, padding=1) * y).item()
    b = dlc.sum(x * F.conv_transpose2d(y, w, stride=2, padding=1)).item()
    assert a == pytest.approx(b, rel=1e-4)


def test_second_derivative():
    x = dlc.tensor(normal(1, 2, 5, 5).astype(np.float64), requires_grad=True)
    w = dlc.tensor(normal(3, 2, 3, 3).astype(np.float64), requires_grad=True)
    y = F.conv2d(x, w, padding=1)
    dlc.sum(y * y * y).backward(create_graph=True)
    g = x.grad
    x.grad = w.grad = None
    dlc.sum(g * g).backward()
    tx, tw = (torch.tensor(t.numpy().copy(), requires_grad=True) for t in (x, w))
    (tg,) = torch.autograd.grad((TF.conv2d(tx, tw, padding=1) ** 3).sum(), tx, create_graph=True)
    (tg * tg).sum().backward()
    for ours, theirs in ((x.grad, tx.grad), (w.grad, tw.grad)):
        torch.testing.assert_close(torch.tensor(ours.numpy().copy()), theirs, rtol=1e-10, atol=1e-7)


PADS = [((1, 2), "constant"), ((1, 0, 2, 1), "constant"), ((-1, 2, 0, -2), "constant"), ((1, 2, 2, 1), "reflect"),
        ((3, 1, 1, 2), "replicate"), ((1, 2, 2, 1), "circular")]  # fmt: skip


@pytest.mark.parametrize(("pad", "mode"), PADS)
def test_pad(pad, mode):
    same_function(lambda x: F.pad(x, pad, mode), lambda x: TF.pad(x, pad, mode), [normal(2, 3, 4, 5)])


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"scale_factor": 2}, (2, 3, 4, 5)), ({"size": (3, 7)}, (2, 3, 4, 5)), ({"scale_factor": 1.5}, (2, 3, 4, 5)),
        ({"scale_factor": 3}, (2, 3, 4)), ({"size": (8, 15), "mode": "bilinear"}, (2, 3, 4, 5)),
        ({"scale_factor": 2, "mode": "bilinear"}, (2, 3, 4, 5)), ({"scale_factor": 3, "mode": "linear"}, (2, 3, 4)),
        ({"size": (7, 3), "mode": "bilinear"}, (2, 3, 4, 5)), ({"size": 6, "mode": "linear"}, (2, 3, 4)),
        ({"size": (7, 9), "mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
        ({"scale_factor": (1.5, 0.7), "mode": "bilinear"}, (2, 3, 4, 5)),
    ],
)  # fmt: skip
def test_interpolate(settings, shape):
    same_module(nn.Upsample(**settings), torch.nn.Upsample(**settings), [normal(*shape)])
    same_function(lambda x: F.interpolate(x, **settings), lambda x: TF.interpolate(x, **settings), [normal(*shape)])


def test_errors():
    with pytest.raises(dlc.ShapeError, match=r"input \(1, 4, 8, 8\) has 4 channels, weight \(8, 3, 3, 3\) takes 3"):
        nn.Conv2d(3, 8, 3)(dlc.zeros((1, 4, 8, 8)))
    with pytest.raises(dlc.ShapeError, match=r"spatial shape \(2, 2\) is smaller than the kernel \(3, 3\)"):
        nn.Conv2d(3, 8, 3)(dlc.zeros((1, 3, 2, 2)))
    with pytest.raises(dlc.ShapeError, match="4 dimensions, or 3 without batch"):
        nn.Conv2d(3, 8, 3)(dlc.zeros((8, 8)))
    with pytest.raises(ValueError, match="2 groups do not divide 3 and 8 channels"):
        nn.Conv2d(3, 8, 3, groups=2)
    with pytest.raises(ValueError, match="padding='same' needs stride 1"):
        nn.Conv2d(3, 8, 3, stride=2, padding="same")
    with pytest.raises(ValueError, match="stride is an integer or 2 integers, each at least 1, not 0"):
        nn.Conv2d(3, 8, 3, stride=0)
    with pytest.raises(ValueError, match="output_padding"):
        nn.ConvTranspose2d(3, 8, 3, output_padding=1)(dlc.zeros((1, 3, 4, 4)))
