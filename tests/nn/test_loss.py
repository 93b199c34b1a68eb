"""Losses against PyTorch, and the errors for bad targets."""

import os

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn
from tests.nn.against_torch import normal, same_function, same_module, torch

TF = torch.nn.functional
REDUCTIONS = ["mean", "sum", "none"]


def labels(*shape, classes=5, seed=3):
    return np.random.default_rng(seed).integers(0, classes, shape)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4), (5,)])
def test_cross_entropy(reduction, label_smoothing, weighted, ignore, shape):
    target = labels(*(shape[:1] + shape[2:] if len(shape) > 1 else ()))
    settings = {"reduction": reduction, "label_smoothing": label_smoothing, "ignore_index": 2 if ignore else -100}
    weight = np.abs(normal(5)) + 0.1 if weighted else None
    if ignore and len(shape) == 1:
        target = np.asarray(1)
    same_function(
        lambda x: F.cross_entropy(x, dlc.asarray(target), None if weight is None else dlc.asarray(weight), **settings),
        lambda x: TF.cross_entropy(
            x, torch.tensor(target), None if weight is None else torch.tensor(weight), **settings
        ),
        [normal(*shape) * 3],
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4), (5,)])
def test_cross_entropy_of_probabilities(reduction, label_smoothing, weighted, shape):
    p = np.exp(normal(*shape, seed=5))
    p /= p.sum(axis=1 if len(shape) > 1 else 0, keepdims=True)
    weight = np.abs(normal(5)) + 0.1 if weighted else None
    settings = {"reduction": reduction, "label_smoothing": label_smoothing}
    same_function(
        lambda x, t: F.cross_entropy(x, t, None if weight is None else dlc.asarray(weight), **settings),
        lambda x, t: TF.cross_entropy(x, t, None if weight is None else torch.tensor(weight), **settings),
        [normal(*shape) * 3, p.astype(np.float32)],
    )


def test_cross_entropy_of_large_logits_and_int32_labels():
    x = dlc.asarray([[1e4, 0.0], [0.0, 1e4]])
    out = F.cross_entropy(x, dlc.asarray(np.array([0, 0], np.int32)), reduction="none")
    assert out.numpy().tolist() == [0.0, 1e4]


def test_cross_entropy_where_all_is_ignored():
    out = F.cross_entropy(dlc.zeros((2, 3)), dlc.asarray([-100, -100]))
    assert np.isnan(out.numpy())  # as in PyTorch
    assert F.cross_entropy(dlc.zeros((2, 3)), dlc.asarray([-100, -100]), reduction="sum").item() == 0.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss(reduction, weighted):
    target = labels(6, 3)
    weight = np.abs(normal(5)) + 0.1 if weighted else None
    settings = {"reduction": reduction, "ignore_index": 1}
    same_function(
        lambda x: F.nll_loss(x, dlc.asarray(target), None if weight is None else dlc.asarray(weight), **settings),
        lambda x: TF.nll_loss(x, torch.tensor(target), None if weight is None else torch.tensor(weight), **settings),
        [normal(6, 5, 3)],
    )


PAIRS = [
    ("mse_loss", {}), ("l1_loss", {}), ("smooth_l1_loss", {}), ("smooth_l1_loss", {"beta": 0.3}),
    ("huber_loss", {"delta": 0.7}), ("binary_cross_entropy_with_logits", {}), ("kl_div", {"log_target": True}),
]  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "settings"), PAIRS)
def test_pairs(name, settings, reduction):
    same_function(
        lambda x, y: getattr(F, name)(x, y, reduction=reduction, **settings),
        lambda x, y: getattr(TF, name)(x, y, reduction=reduction, **settings),
        [normal(4, 3), normal(4, 3, seed=1)],
    )


@pytest.mark.parametrize("reduction", ["batchmean", *REDUCTIONS])
def test_kl_div(reduction):
    target = np.abs(normal(4, 3, seed=1))
    target[0, 0] = 0.0
    same_function(
        lambda x: F.kl_div(x, dlc.asarray(target), reduction=reduction),
        lambda x: TF.kl_div(x, torch.tensor(target), reduction=reduction),
        [normal(4, 3)],
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy(reduction):
    y = (normal(4, 3) > 0).astype(np.float32)
    p = 1 / (1 + np.exp(-normal(4, 3, seed=2)))
    weight = np.abs(normal(4, 3, seed=4))
    same_function(
        lambda p: F.binary_cross_entropy(p, dlc.asarray(y), dlc.asarray(weight), reduction=reduction),
        lambda p: TF.binary_cross_entropy(p, torch.tensor(y), torch.tensor(weight), reduction=reduction),
        [p],
    )
    assert F.binary_cross_entropy(dlc.asarray([0.0]), dlc.asarray([1.0])).item() == 100.0
    pos = np.abs(normal(3))
    same_function(
        lambda x: F.binary_cross_entropy_with_logits(
            x, dlc.asarray(y), reduction=reduction, pos_weight=dlc.asarray(pos)
        ),
        lambda x: TF.binary_cross_entropy_with_logits(
            x, torch.tensor(y), reduction=reduction, pos_weight=torch.tensor(pos)
        ),
        [normal(4, 3) * 20],
    )


def test_layers():
    x, y, t = normal(6, 5), normal(6, 5, seed=1), labels(6)
    same_module(nn.CrossEntropyLoss(label_smoothing=0.1), torch.nn.CrossEntropyLoss(label_smoothing=0.1), [x, t])
    w = np.abs(normal(5))
    same_module(
        nn.CrossEntropyLoss(dlc.asarray(w), ignore_index=2),
        torch.nn.CrossEntropyLoss(torch.tensor(w), ignore_index=2), [x, t],
    )  # fmt: skip
    same_module(nn.NLLLoss(reduction="sum"), torch.nn.NLLLoss(reduction="sum"), [x, t])
    for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCEWithLogitsLoss"):
        same_module(getattr(nn, name)(), getattr(torch.nn, name)(), [x, y])
    same_module(nn.BCELoss(), torch.nn.BCELoss(), [1 / (1 + np.exp(-x)), (y > 0).astype(np.float32)])
    same_module(
        nn.KLDivLoss("batchmean", log_target=True), torch.nn.KLDivLoss(reduction="batchmean", log_target=True), [x, y],
    )  # fmt: skip


@pytest.mark.parametrize("bad", [-1, 3])
def test_class_numbers_out_of_range(bad, watched):
    x, target = dlc.zeros((4, 3)), dlc.asarray([0, 1, bad, 2])
    more = "" if os.environ.get("DLC_TEST_DEVICE") else "\n  operands: float32 "  # `debug` names no operands
    for loss in (F.cross_entropy, F.nll_loss):
        with watched(), pytest.raises(dlc.IndexOutOfRange, match=f"class {bad} is outside the 3 classes{more}"):
            loss(x, target)
        # inside jit the numbers are not known: the loss is NaN, never a plausible number
        assert np.isnan(dlc.jit(loss)(x, target).item())


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.uint32, np.uint64, np.int32])
def test_class_numbers_of_any_integer_dtype(dtype):
    x = dlc.asarray(np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32))
    numbers = np.array([100, 7, 0])
    for loss in (F.cross_entropy, F.nll_loss):
        want = loss(x, dlc.asarray(numbers)).item()
        assert loss(x, dlc.asarray(numbers.astype(dtype))).item() == want
        assert dlc.jit(loss)(x, dlc.asarray(numbers.astype(dtype))).item() == pytest.approx(want, rel=1e-6)


def test_errors():
    x = dlc.zeros((4, 3))
    with pytest.raises(dlc.ShapeError, match=r"input \(4, 3\) needs class numbers of shape \(4,\), got \(5,\)"):
        F.cross_entropy(x, dlc.zeros((5,), dtype=dlc.int64))
    with pytest.raises(dlc.DTypeError, match="neither class numbers"):
        F.cross_entropy(x, dlc.zeros((4,)))
    with pytest.raises(dlc.ShapeError, match=r"weight has shape \(2,\), expected \(3,\)"):
        F.cross_entropy(x, dlc.zeros((4,), dtype=dlc.int64), dlc.ones((2,)))
    with pytest.raises(dlc.ShapeError, match=r"input \(4, 3\) and target \(3,\) differ in shape"):
        F.mse_loss(x, dlc.zeros((3,)))
    with pytest.raises(ValueError, match="reduction is 'mean', 'sum' or 'none', not 'avg'"):
        F.l1_loss(x, x, reduction="avg")
    with pytest.raises(ValueError, match="not 'median'"):
        nn.MSELoss("median")
