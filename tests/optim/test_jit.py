"""Training steps under jit: the same numbers as PyTorch, nothing stale, nothing compiled twice."""

import copy

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from tests.nn.against_torch import normal, torch

TF = torch.nn.functional
COMPILED = True


def data(k):
    return normal(8, 4, seed=k), np.random.default_rng(k).integers(0, 3, 8)


def networks(*extra):
    bias = not extra  # in front of BatchNorm a bias has no gradient but rounding errors

    def make(m):
        return m.Sequential(m.Linear(4, 8, bias), *[getattr(m, n)(*a) for n, a in extra], m.ReLU(), m.Linear(8, 3))

    ours, theirs = make(nn), make(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def jitted(net, opt, max_norm=None):
    @dlc.jit
    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if max_norm is not None:
            nn.clip_grad_norm_(net.parameters(), max_norm)
        opt.step()
        return loss

    return step


def torch_step(net, opt, k, max_norm=None):
    x, y = data(k)
    opt.zero_grad()
    loss = TF.cross_entropy(net(torch.tensor(x)), torch.tensor(y))
    loss.backward()
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    opt.step()
    return loss.item()


def our_step(step, k):
    x, y = data(k)
    return step(dlc.asarray(x), dlc.asarray(y)).item()


def same_state(ours, theirs):
    want = theirs.state_dict()
    for name, t in ours.state_dict().items():
        np.testing.assert_allclose(t.numpy(), want[name].numpy(), rtol=1e-4, atol=2e-6, err_msg=name)


CASES = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}), ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("AdamW", {"lr": 0.02}), ("Adam", {"lr": 0.02, "amsgrad": True}), ("RMSprop", {"centered": True, "momentum": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_training(name, settings):
    ours, theirs = networks(("BatchNorm1d", (8,)))
    a = getattr(optim, name)(ours.parameters(), **settings)
    b = getattr(torch.optim, name)(theirs.parameters(), **settings)
    step = jitted(ours, a, max_norm=0.5)
    for k in range(6):
        assert our_step(step, k) == pytest.approx(torch_step(theirs, b, k, 0.5), rel=1e-5), k
    assert step.traces == 1
    same_state(ours, theirs)


def test_a_schedule_compiles_nothing_again():
    ours, theirs = networks()
    a, b = optim.SGD(ours.parameters(), 0.1, momentum=0.9), torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    s = optim.lr_scheduler.OneCycleLR(a, 0.5, total_steps=8)
    t = torch.optim.lr_scheduler.OneCycleLR(b, 0.5, total_steps=8)
    step = jitted(ours, a)
    for k in range(7):
        assert our_step(step, k) == pytest.approx(torch_step(theirs, b, k), rel=1e-5), k
        s.step(), t.step()
    assert step.traces == 1
    a.param_groups[0]["weight_decay"] = b.param_groups[0]["weight_decay"] = 0.3  # a new term: traced again
    our_step(step, 7), torch_step(theirs, b, 7)
    a.param_groups[0]["weight_decay"] = b.param_groups[0]["weight_decay"] = 0.1  # another number: not
    our_step(step, 8), torch_step(theirs, b, 8)
    assert step.traces == 2
    same_state(ours, theirs)


def test_freezing_and_thawing():
    ours, theirs = networks()
    a, b = optim.Adam(ours.parameters(), 0.05), torch.optim.Adam(theirs.parameters(), 0.05)
    step = jitted(ours, a)
    for k in range(8):
        for net in (ours, theirs):
            for p in net[0].parameters():
                p.requires_grad_(k in (0, 4, 5, 7))
        assert our_step(step, k) == pytest.approx(torch_step(theirs, b, k), rel=1e-5), k
    same_state(ours, theirs)


def test_train_and_eval_switch_the_compiled_code():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    forward = dlc.jit(lambda x: net(x))
    x = dlc.asarray(normal(16, 4) + 3)
    first, second = forward(x).numpy(), forward(x).numpy()
    assert (first != second).any()  # new random numbers at every call
    assert net[0].num_batches_tracked.item() == 2
    net.eval()
    still, again = forward(x).numpy(), forward(x).numpy()
    assert (still == again).all()
    assert net[0].num_batches_tracked.item() == 2
    np.testing.assert_allclose(still, net(x).numpy(), rtol=1e-5, atol=1e-6)
    net.train()
    assert (forward(x).numpy() == 0).any()
    assert forward.traces == 2  # going back finds the first compiled code again


def test_replacing_a_layer_is_seen():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    forward = dlc.jit(lambda x: net(x))
    x = dlc.asarray(normal(2, 3))
    forward(x)
    net[1] = nn.Tanh()
    np.testing.assert_allclose(forward(x).numpy(), np.tanh(net[0](x).numpy()), rtol=1e-5)
    net[0].weight = nn.Parameter(dlc.zeros((3, 3)))
    np.testing.assert_allclose(forward(x).numpy(), np.tanh(np.broadcast_to(net[0].bias.numpy(), (2, 3))), rtol=1e-5)
    net[0].load_state_dict({"weight": np.eye(3), "bias": np.zeros(3)})
    np.testing.assert_allclose(forward(x).numpy(), np.tanh(x.numpy()), rtol=1e-5)


def test_reading_and_setting_the_rate_inside():
    p = nn.Parameter(dlc.ones((2,)))
    opt = optim.SGD([p], lr=1.0)

    @dlc.jit
    def step():
        opt.zero_grad()
        dlc.sum(p).backward()
        opt.step()
        opt.param_groups[0]["lr"] = opt.param_groups[0]["lr"] * 0.5
        return opt.param_groups[0]["lr"]

    assert [float(step()) for _ in range(3)] == [0.5, 0.25, 0.125]
    assert opt.param_groups[0]["lr"] == 0.125
    assert p.numpy().tolist() == [-0.75, -0.75]


def test_schedule_step_inside_is_an_error():
    opt = optim.SGD([nn.Parameter(dlc.ones((2,)))], lr=1.0)
    schedule = optim.lr_scheduler.StepLR(opt, 1)

    @dlc.jit
    def step(x):
        schedule.step()
        return x

    with pytest.raises(dlc.TraceError, match=r"StepLR.step\(\) inside a traced function would run once"):
        step(dlc.ones((2,)))
    assert schedule.last_epoch == 0


def test_gradient_accumulation():
    ours, theirs = networks()
    a, b = optim.SGD(ours.parameters(), 0.1), torch.optim.SGD(theirs.parameters(), 0.1)

    @dlc.jit
    def accumulate(x, y):
        loss = F.cross_entropy(ours(x), y) / 2
        loss.backward()
        return loss

    @dlc.jit
    def apply():
        a.step()
        a.zero_grad()

    for k in range(3):
        b.zero_grad()
        for half in range(2):
            x, y = data(2 * k + half)
            accumulate(dlc.asarray(x), dlc.asarray(y))
            (TF.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)) / 2).backward()
        apply()
        b.step()
    same_state(ours, theirs)


def test_resume_is_exact_under_jit():
    def fresh():
        dlc.random.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        opt = optim.AdamW(net.parameters(), lr=0.01)
        return net, opt, jitted(net, opt)

    net, opt, step = fresh()
    for k in range(3):
        our_step(step, k)
    saved = copy.deepcopy((net.state_dict(), opt.state_dict()))
    going_on = [our_step(step, k) for k in range(3, 6)]
    other, opt2, step2 = fresh()
    other.load_state_dict(saved[0])
    opt2.load_state_dict(saved[1])
    assert [our_step(step2, k) for k in range(3, 6)] == going_on


def test_adam_is_elementwise_in_parameters_and_scalars():
    """What the optimizer adds to a step: elementwise operations, no reduction, no gather."""
    net = nn.Linear(4, 3)
    opt = optim.AdamW(net.parameters(), lr=0.01)
    for p in net.parameters():
        p.grad = dlc.ones(p.shape)

    @dlc.jit
    def step():
        opt.step()

    ops = {n.op for n in step.graph().nodes()}
    assert not ops & {"reduce", "contract", "gather", "scatter", "concat", "scan"}


def test_a_look_before_backward_compiles_nothing_new(monkeypatch):
    """The usual `losses.append(loss.item())`: the loss was built on the parameters' last update, whose history no
    gradient of this step passes through."""
    from dlc.runtime import programs

    compiled = []
    monkeypatch.setattr(programs, "compile_graph", lambda *a, to=programs.compile_graph, **k: compiled.append(a[0]) or
                        to(*a, **k))
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    x = dlc.asarray(np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32))
    counts, losses = [], []
    for _ in range(6):
        loss = (model(x) ** 2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counts.append(len(compiled))
    assert counts[-1] == counts[2] and max(len(g.nodes()) for g in compiled) < 2000
    assert losses == sorted(losses, reverse=True)
