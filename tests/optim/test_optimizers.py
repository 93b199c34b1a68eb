"""Optimizers against PyTorch: the same losses over several steps, state both ways, hyperparameters."""

import numpy as np
import pytest

import dlc
from dlc import nn, optim
from tests.nn.against_torch import normal, torch

CASES = [
    ("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05}), ("Adam", {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
    ("Adam", {"lr": 0.05, "amsgrad": True}), ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    ("RMSprop", {}), ("RMSprop", {"lr": 0.02, "centered": True, "momentum": 0.9, "weight_decay": 0.1, "alpha": 0.9}),
]  # fmt: skip


def pair():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def loss_of(net, kind, step):
    x, y = normal(6, 4, seed=step), normal(6, 2, seed=step + 100)
    if kind is dlc:
        return nn.functional.mse_loss(net(dlc.asarray(x)), dlc.asarray(y))
    return torch.nn.functional.mse_loss(net(torch.tensor(x)), torch.tensor(y))


def optimizers(name, ours, theirs, settings):
    """Ours and PyTorch's optimizer of one name."""
    return tuple(getattr(m, name)(n.parameters(), **settings) for m, n in ((optim, ours), (torch.optim, theirs)))


def train(net, opt, kind, steps, start=0):
    losses = []
    for k in range(start, start + steps):
        opt.zero_grad()
        loss = loss_of(net, kind, k)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def same_parameters(ours, theirs, rtol=2e-5, atol=2e-6):
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_losses_over_steps(name, settings):
    ours, theirs = pair()
    mine = train(ours, getattr(optim, name)(ours.parameters(), **settings), dlc, 8)
    want = train(theirs, getattr(torch.optim, name)(theirs.parameters(), **settings), torch, 8)
    np.testing.assert_allclose(mine, want, rtol=1e-5)
    same_parameters(ours, theirs, 1e-4, 1e-5)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_state_both_ways(name, settings):
    ours, theirs = pair()
    a, b = optimizers(name, ours, theirs, settings)
    train(ours, a, dlc, 3), train(theirs, b, torch, 3)
    # torch's state continued by us
    net, _ = pair()
    net.load_state_dict(theirs.state_dict())
    opt = getattr(optim, name)(net.parameters(), **(settings | {"lr": 123.0}))
    opt.load_state_dict(b.state_dict())
    assert opt.param_groups[0]["lr"] == settings.get("lr", 0.01)
    # ours continued by torch
    other = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    other.load_state_dict({n: torch.tensor(np.array(t.numpy())) for n, t in ours.state_dict().items()})
    topt = getattr(torch.optim, name)(other.parameters(), **settings)
    saved = a.state_dict()
    saved["state"] = {
        k: {n: torch.tensor(np.array(t.numpy())) for n, t in s.items()} for k, s in saved["state"].items()
    }
    topt.load_state_dict(saved)
    want = train(theirs, b, torch, 3, start=3)
    np.testing.assert_allclose(train(net, opt, dlc, 3, start=3), want, rtol=2e-5)
    np.testing.assert_allclose(train(other, topt, torch, 3, start=3), want, rtol=2e-5)


def test_resume_is_exact():
    ours, _ = pair()
    opt = optim.Adam(ours.parameters(), lr=0.01)
    train(ours, opt, dlc, 3)
    twin, _ = pair()
    twin.load_state_dict(ours.state_dict())
    again = optim.Adam(twin.parameters())
    again.load_state_dict(opt.state_dict())
    assert train(ours, opt, dlc, 3, 3) == train(twin, again, dlc, 3, 3)
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        assert (p.numpy() == q.numpy()).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Adam", {}), ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}), ("AdamW", {"amsgrad": True})],
)
def test_parameters_without_gradient_are_passed_by(name, settings):
    """Freezing and thawing: a parameter's bias correction counts its own steps."""
    ours, theirs = pair()
    a, b = optimizers(name, ours, theirs, settings)
    for k in range(6):
        frozen = k in (1, 2, 4)
        for net in (ours, theirs):
            for p in net[0].parameters():
                p.requires_grad_(not frozen)
        train(ours, a, dlc, 1, k), train(theirs, b, torch, 1, k)
    same_parameters(ours, theirs, 1e-4, 1e-5)
    counts = [float(s["step"]) for s in a.state_dict()["state"].values()]
    assert counts == [3, 3, 6, 6]


def test_groups_and_changing_rates():
    ours, theirs = pair()
    a = optim.SGD([{"params": ours[0].parameters(), "lr": 0.5}, {"params": ours[2].parameters()}], lr=0.1)
    b = torch.optim.SGD([{"params": theirs[0].parameters(), "lr": 0.5}, {"params": theirs[2].parameters()}], lr=0.1)
    assert [g["lr"] for g in a.param_groups] == [0.5, 0.1]
    for k in range(4):
        for opt in (a, b):
            opt.param_groups[0]["lr"] *= 0.5
            opt.param_groups[1]["weight_decay"] = 0.1 * (k % 2)
        train(ours, a, dlc, 1, k), train(theirs, b, torch, 1, k)
    same_parameters(ours, theirs)
    assert a.param_groups[0]["lr"] == 0.5 / 16
    assert set(a.param_groups[0]) >= {"params", "lr", "momentum", "nesterov"}


def test_momentum_switched_on_later():
    ours, theirs = pair()
    a, b = optim.SGD(ours.parameters(), lr=0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)
    train(ours, a, dlc, 1), train(theirs, b, torch, 1)
    a.param_groups[0]["momentum"] = b.param_groups[0]["momentum"] = 0.9
    train(ours, a, dlc, 3, 1), train(theirs, b, torch, 3, 1)
    same_parameters(ours, theirs)


def test_closure_and_add_param_group():
    ours, _ = pair()
    opt = optim.SGD(ours[0].parameters(), lr=0.1)
    opt.add_param_group({"params": ours[2].weight, "lr": 0.0})

    def closure():
        opt.zero_grad()
        loss = loss_of(ours, dlc, 0)
        loss.backward()
        return loss

    before = ours[2].weight.numpy().copy()
    assert opt.step(closure).shape == ()
    assert (ours[2].weight.numpy() == before).all()
    assert "lr: 0.1" in repr(opt)


def test_half_parameters_update_in_float32():
    p = nn.Parameter(dlc.astype(dlc.ones((4,)), dlc.bfloat16))
    opt = optim.SGD([p], lr=0.5)
    p.grad = dlc.astype(dlc.ones((4,)), dlc.bfloat16)
    opt.step()
    assert p.dtype == dlc.bfloat16
    assert np.asarray(dlc.astype(p, dlc.float32)).tolist() == [0.5] * 4


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_clip_grad_norm(norm_type, max_norm):
    ours, theirs = pair()
    loss_of(ours, dlc, 0).backward(), loss_of(theirs, torch, 0).backward()
    mine = optim.clip_grad_norm_(ours.parameters(), max_norm, norm_type)
    want = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type)
    np.testing.assert_allclose(mine.item(), want.item(), rtol=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_clip_grad_value():
    p = nn.Parameter(dlc.zeros((3,)))
    assert nn.clip_grad_norm_([p], 1.0).item() == 0.0  # no gradients at all
    p.grad = dlc.asarray([-5.0, 0.5, 5.0])
    nn.clip_grad_value_(p, 1.0)
    assert p.grad.numpy().tolist() == [-1.0, 0.5, 1.0]


def test_errors():
    p = nn.Parameter(dlc.zeros((3,)))
    with pytest.raises(ValueError, match="SGD: got an empty list of parameters"):
        optim.SGD([])
    with pytest.raises(TypeError, match="not one Parameter"):
        optim.SGD(p)
    with pytest.raises(TypeError, match="parameter 1 is a int, not a Tensor"):
        optim.SGD([p, 3])
    with pytest.raises(ValueError, match="appears twice"):
        optim.SGD([p, p])
    for bad in (-1, float("nan"), float("inf"), dlc.asarray(-1.0)):
        with pytest.raises(ValueError, match=f"Adam: lr is {float(bad)}|Adam: lr is {bad}"):
            optim.Adam([p], lr=bad)
    with pytest.raises(TypeError, match="Adam: lr is '1e-3', it must be a number"):
        optim.Adam([p], lr="1e-3")
    with pytest.raises(TypeError, match=r"such as model.parameters\(\); got Linear"):
        optim.SGD(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"betas is \(0.9, 1.0\), it must be in \[0, 1\)"):
        optim.Adam([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        optim.SGD([p], nesterov=True)
    opt = optim.Adam([p])
    with pytest.raises(ValueError, match="betas takes 2 numbers"):
        opt.param_groups[0]["betas"] = 0.9
    with pytest.raises(ValueError, match="a dict with 'param_groups' and 'state'"):
        opt.load_state_dict({"foo": 1})
    with pytest.raises(ValueError, match="2 saved parameter groups for 1"):
        opt.load_state_dict({"state": {}, "param_groups": [{"params": []}] * 2})
    with pytest.raises(ValueError, match="group 0 has 1 parameters, 2 saved"):
        opt.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})
    with pytest.raises(ValueError, match=r"saved exp_avg of parameter 0 has shape \(2,\), the parameter \(3,\)"):
        opt.load_state_dict({"state": {0: {"exp_avg": np.zeros(2)}}, "param_groups": [{"params": [0]}]})


def _trained(optimizer, p, steps):
    for k in range(steps):
        optimizer.zero_grad()
        (p * p * (k - 1.5)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make, plain", [
    (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.SGD(p, lr=0.1)),
    (lambda p: optim.Adam(p, lr=0.1, amsgrad=True), lambda p: optim.Adam(p, lr=0.1)),
    (lambda p: optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True), lambda p: optim.RMSprop(p, lr=0.1)),
])  # fmt: skip
def test_a_loaded_state_brings_what_its_hyperparameters_need(make, plain):
    p = nn.Parameter(np.array([1.0, 2.0], np.float32))
    first = make([p])
    _trained(first, p, 3)
    q = nn.Parameter(p.numpy().copy())
    second = plain([q])
    second.load_state_dict(first.state_dict())
    _trained(first, p, 4)
    _trained(second, q, 4)
    np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_hyperparameters_that_are_switched_act_from_then_on():
    p = nn.Parameter(np.array([1.0, 2.0], np.float32))
    optimizer = optim.Adam([p], lr=0.1)
    _trained(optimizer, p, 1)
    optimizer.param_groups[0]["amsgrad"] = True
    _trained(optimizer, p, 1)
    assert optimizer.state[p]["max_exp_avg_sq"].numpy().all()
    q = nn.Parameter(np.array([1.0, 2.0], np.float32))
    optimizer = optim.SGD([q], lr=0.1, momentum=0.9, dampening=0.5)
    _trained(optimizer, q, 2)
    optimizer.param_groups[0]["momentum"] = 0.0
    before = q.numpy().copy()
    optimizer.zero_grad()
    (q * q).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(q.numpy(), before * 0.8, rtol=1e-6)  # dampening belongs to momentum


def test_state_dict_gives_the_optimizers_own_tensors():
    ours, _ = pair()
    opt = optim.Adam(ours.parameters(), lr=0.01)
    state = opt.state_dict()
    train(ours, opt, dlc, 1)
    p = next(ours.parameters())
    assert (state["state"][0]["exp_avg"].numpy() != 0).any()
    state["state"][0]["exp_avg"].zero_()
    assert (opt.state[p]["exp_avg"].numpy() == 0).all()


def test_an_optimizer_of_ones_own():
    """A subclass with a step of its own, as in PyTorch's documentation: under no_grad, in place."""

    class Scaled(optim.SGD):
        @dlc.no_grad()
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad, alpha=-group["lr"])

    class Assigned(optim.SGD):
        def step(self):
            for p in self.param_groups[0]["params"]:
                p.assign(p - self.param_groups[0]["lr"] * p.grad)

    losses = []
    for kind in (optim.SGD, Scaled, Assigned):
        ours, _ = pair()
        losses.append(train(ours, kind(ours.parameters(), lr=0.1), dlc, 4))
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-6)
