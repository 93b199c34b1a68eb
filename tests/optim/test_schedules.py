"""Learning rate schedules: PyTorch's numbers, step by step."""

import copy
import json
import math

import pytest

import dlc
from dlc import nn, optim
from dlc.optim import lr_scheduler as ours
from tests.nn.against_torch import torch

theirs = torch.optim.lr_scheduler


def optimizers(kind="SGD", **settings):
    settings = settings or ({"momentum": 0.9} if kind == "SGD" else {})
    p, q = nn.Parameter(dlc.zeros((2,))), torch.nn.Parameter(torch.zeros(2))
    p2, q2 = nn.Parameter(dlc.zeros((2,))), torch.nn.Parameter(torch.zeros(2))
    a = getattr(optim, kind)([{"params": [p]}, {"params": [p2], "lr": 0.02}], lr=0.1, **settings)
    b = getattr(torch.optim, kind)([{"params": [q]}, {"params": [q2], "lr": 0.02}], lr=0.1, **settings)
    return a, b


def same(a, b, scheduler, other, steps, keys=("lr",)):
    for k in range(steps):
        for g, h in zip(a.param_groups, b.param_groups, strict=True):
            for key in keys:
                assert g[key] == pytest.approx(h[key], rel=1e-9, abs=1e-15), (k, key)
        assert scheduler.get_last_lr() == pytest.approx(other.get_last_lr())
        b.step()
        scheduler.step(), other.step()


CASES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}), ("MultiStepLR", {"milestones": [2, 5, 5], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.8}), ("ConstantLR", {"factor": 0.25, "total_iters": 4}),
    ("LinearLR", {"start_factor": 0.1, "total_iters": 6}), ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.001}),
    ("LambdaLR", {"lr_lambda": lambda k: 0.9**k}), ("LambdaLR", {"lr_lambda": [lambda k: 1.0, lambda k: 1 / (k + 1)]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_rates(name, settings):
    a, b = optimizers()
    same(a, b, getattr(ours, name)(a, **settings), getattr(theirs, name)(b, **settings), 12)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_one_cycle(strategy, three_phase, kind):
    a, b = optimizers(kind)
    settings = {"max_lr": [0.5, 0.1], "total_steps": 20, "anneal_strategy": strategy, "three_phase": three_phase}
    keys = ("lr", "momentum") if kind == "SGD" else ("lr", "betas")
    same(a, b, ours.OneCycleLR(a, **settings), theirs.OneCycleLR(b, **settings), 20, keys)


def test_one_cycle_ends_and_checks():
    a, _ = optimizers()
    s = ours.OneCycleLR(a, 0.4, epochs=2, steps_per_epoch=3)
    for _ in range(6):
        s.step()
    with pytest.raises(ValueError, match="step 7 is beyond the total of 6"):
        s.step()
    with pytest.raises(ValueError, match="give total_steps, or epochs"):
        ours.OneCycleLR(a, 0.4)
    plain, _ = optimizers("SGD", momentum=0.0)
    with pytest.raises(ValueError, match="made without momentum"):
        ours.OneCycleLR(plain, 0.4, total_steps=5)
    ours.OneCycleLR(plain, 0.4, total_steps=5, cycle_momentum=False)


def test_warm_up_then_cosine():
    a, b = optimizers()
    mine = ours.SequentialLR(a, [ours.LinearLR(a, 0.1, total_iters=4), ours.CosineAnnealingLR(a, 8)], [4])
    want = theirs.SequentialLR(b, [theirs.LinearLR(b, 0.1, total_iters=4), theirs.CosineAnnealingLR(b, 8)], [4])
    same(a, b, mine, want, 12)


def warm(opt):
    return ours.SequentialLR(opt, [ours.LinearLR(opt, 0.1, total_iters=3), ours.StepLR(opt, 2)], [3])


SCHEDULES = {
    **{f"{name}-{k}": lambda opt, n=name, s=settings: getattr(ours, n)(opt, **s) for k, (name, settings) in
       enumerate(CASES)},
    "OneCycleLR": lambda opt: ours.OneCycleLR(opt, [0.4, 0.2], total_steps=20, three_phase=True),
    "SequentialLR": warm,
    "nested first": lambda opt: ours.SequentialLR(opt, [warm(opt), ours.CosineAnnealingLR(opt, 9)], [6]),
    "nested last": lambda opt: ours.SequentialLR(opt, [ours.ConstantLR(opt), warm(opt)], [2]),
    "nested twice": lambda opt: ours.SequentialLR(
        opt, [ours.ConstantLR(opt), ours.SequentialLR(opt, [warm(opt), ours.ExponentialLR(opt, 0.9)], [4])], [2]
    ),
}  # fmt: skip


@pytest.mark.parametrize("handed", [lambda s: s, lambda s: json.loads(json.dumps(s)), copy.deepcopy])
@pytest.mark.parametrize("name", SCHEDULES)
def test_resume(name, handed):
    a, _ = optimizers()
    s = SCHEDULES[name](a)
    for _ in range(4):
        s.step()
    saved, rates = handed(s.state_dict()), [s.get_last_lr()]
    for _ in range(8):
        s.step()
        rates.append(s.get_last_lr())
    other, _ = optimizers()
    again = SCHEDULES[name](other)
    again.load_state_dict(saved)
    resumed = [[group["lr"] for group in other.param_groups]]
    for _ in range(8):
        again.step()
        resumed.append(again.get_last_lr())
    assert resumed == rates
    again.load_state_dict(saved)  # it kept none of the state's lists
    assert again.get_last_lr() == rates[0]


def test_a_nested_sequence_has_the_rates_of_its_parts():
    a, b = optimizers()
    mine = SCHEDULES["nested first"](a)
    inner = theirs.SequentialLR(b, [theirs.LinearLR(b, 0.1, total_iters=3), theirs.StepLR(b, 2)], [3])
    for step in range(16):
        lr = inner.get_last_lr()[0] if step < 6 else 0.1 * (1 + math.cos(math.pi * (step - 6) / 9)) / 2
        assert mine.get_last_lr()[0] == pytest.approx(lr), step
        b.step()
        mine.step(), inner.step()


def test_a_state_that_does_not_fit_changes_nothing():
    a, _ = optimizers()
    s = SCHEDULES["nested first"](a)
    s.step()
    before = s.state_dict()
    state = copy.deepcopy(before) | {"last_epoch": 7}
    del state["schedulers"][0]["schedulers"][1]["gamma"]
    with pytest.raises(ValueError, match="StepLR: no state_dict of such a schedule: it lacks gamma"):
        s.load_state_dict(state)
    state["schedulers"][0]["schedulers"].pop()
    with pytest.raises(ValueError, match="1 saved schedulers for 2"):
        s.load_state_dict(state)
    assert s.state_dict() == before


def test_errors():
    a, _ = optimizers()
    with pytest.raises(TypeError, match="needs an Optimizer, got float"):
        ours.StepLR(0.1, 3)
    with pytest.raises(ValueError, match="1 functions for 2 parameter groups"):
        ours.LambdaLR(a, [lambda k: 1.0])
    with pytest.raises(KeyError, match="needs 'initial_lr'"):
        ours.StepLR(a, 3, last_epoch=4)
    with pytest.raises(ValueError, match="2 schedulers and 0 milestones"):
        ours.SequentialLR(a, [ours.StepLR(a, 3), ours.StepLR(a, 3)], [])
    with pytest.raises(TypeError, match="needs an Optimizer, got float"):
        ours.SequentialLR(0.1, [ours.StepLR(a, 3)], [])
    with pytest.raises(TypeError, match="schedulers is a list of schedules"):
        ours.SequentialLR(a, [a], [])
    with pytest.raises(ValueError, match="not in order"):
        ours.SequentialLR(a, [ours.StepLR(a, 3)] * 3, [5, 2])
    b, _ = optimizers()
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        ours.SequentialLR(a, [ours.StepLR(b, 3)], [])
