"""Module: registration, walking, state, modes, printing, errors."""

import copy
import pickle

import numpy as np
import pytest

import dlc
from dlc import nn
from tests.nn.against_torch import close, normal, torch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.scale = nn.Parameter(dlc.ones((3,)))
        self.register_buffer("offset", dlc.zeros((3,)))
        self.register_buffer("scratch", dlc.zeros((1,)), persistent=False)
        self.register_parameter("nothing", None)

    def forward(self, x):
        return self.body(x) * self.scale + self.offset


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU())
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.register_parameter("nothing", None)

    def forward(self, x):
        return self.body(x) * self.scale + self.offset


def test_names_and_order_are_torchs():
    ours, theirs = Net(), TorchNet()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for walk in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, walk)()] == [n for n, _ in getattr(theirs, walk)()], walk
    nested = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    assert repr(nn.Sequential(nn.Linear(4, 3), nn.ReLU())) == repr(nested)
    assert repr(ours.body[0]) == repr(theirs.body[0])
    assert repr(nn.Conv2d(3, 4, 3, padding=1)) == repr(torch.nn.Conv2d(3, 4, 3, padding=1))


def test_attributes():
    net = Net()
    assert net.scale is net._parameters["scale"]
    assert net.nothing is None
    with pytest.raises(AttributeError, match="Net has no attribute 'wrong'"):
        getattr(net, "wrong")  # noqa: B009
    with pytest.raises(TypeError, match="Net.scale is a parameter"):
        net.scale = dlc.zeros((3,))
    net.offset = dlc.ones((3,))  # a buffer stays a buffer
    assert dict(net.named_buffers())["offset"].numpy().tolist() == [1.0, 1.0, 1.0]
    net.scale = None
    assert "scale" not in dict(net.named_parameters())
    del net.offset
    assert "offset" not in net.state_dict()
    net.body = nn.Identity()
    assert list(net.state_dict()) == []
    assert "body" in dir(net)


def test_bad_names_and_order():
    net = nn.Module()
    for bad in ("", "a.b"):
        with pytest.raises(KeyError):
            net.add_module(bad, nn.ReLU())
    with pytest.raises(KeyError, match="already has an attribute 'forward'"):
        net.register_buffer("forward", dlc.zeros(()))
    with pytest.raises(TypeError, match="'x' is a int, not a Module"):
        net.add_module("x", 3)

    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\) before assigning 'layer'"):
        Early()


def test_state_dict_both_ways():
    ours, theirs = Net(), TorchNet()
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    x = normal(5, 4)
    close(ours(dlc.asarray(x)), theirs(torch.tensor(x)), "forward")
    back = {name: torch.tensor(np.array(value.numpy())) for name, value in ours.state_dict().items()}
    fresh = TorchNet()
    fresh.load_state_dict(back)
    ours.eval(), fresh.eval()
    close(ours(dlc.asarray(x)), fresh(torch.tensor(x)), "after the way back")


def test_state_dict_gives_the_cells():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = net.state_dict()
    state["0.weight"].copy_(dlc.full((2, 2), 3.0))  # detached: no no_grad needed
    state["1.running_mean"] += 2.0
    state["0.bias"][0] = 7.0
    assert (net[0].weight.numpy() == 3).all() and net[0].weight.requires_grad
    assert net[1].running_mean.numpy().tolist() == [2, 2] and net[0].bias.numpy()[0] == 7
    net(dlc.ones(3, 2)).sum().backward()
    assert net[0].weight.grad is not None and state["0.weight"].grad is None
    assert not state["0.weight"].requires_grad and not (state["0.weight"] * 2).requires_grad
    nn.init.zeros_(net[0].weight)
    assert (state["0.weight"].numpy() == 0).all()
    state["0.weight"].requires_grad_(False).detach_().mul_(2.0)
    assert net[0].weight.requires_grad
    with pytest.raises(dlc.GradientError, match=r"clone\(\) it first"):
        state["0.weight"].requires_grad_()


def test_copies_of_a_state_dict_are_snapshots():
    net = nn.Linear(2, 2)
    state = net.state_dict()
    before = state["weight"].numpy().copy()
    copies = [
        {name: t.clone() for name, t in state.items()},
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        {name: copy.copy(t) for name, t in state.items()},
        {name: t.detach() for name, t in state.items()},
    ]
    nn.init.zeros_(net.weight)
    for snapshot in copies:
        assert type(snapshot["weight"]) is dlc.Tensor
        snapshot["bias"].zero_()
        assert (snapshot["weight"].numpy() == before).all() and (state["bias"].numpy() != 0).any()
        net.load_state_dict(snapshot | {"bias": state["bias"]})
        assert (net.weight.numpy() == before).all()
        nn.init.zeros_(net.weight)
    net.load_state_dict({name: np.zeros(t.shape) for name, t in state.items()})  # NumPy float64: converted
    assert (net.weight.numpy() == 0).all()
    assert net.weight.dtype == dlc.float32
    assert net.weight.requires_grad


def test_a_state_dict_in_jit():
    net, average = nn.Linear(2, 2), nn.Linear(2, 2)
    want = [np.array(p.numpy()) for p in average.parameters()]

    @dlc.jit
    def step(mean, now):
        with dlc.no_grad():
            net.weight.mul_(2.0)  # the same cell as now["weight"]
        for name in mean:
            mean[name].lerp_(now[name], 0.5)
        return now["weight"] + 0.0, mean["weight"]

    for _ in range(3):
        seen, returned = step(average.state_dict(), net.state_dict())
        assert (seen.numpy() == net.weight.numpy()).all() and (returned.numpy() == average.weight.numpy()).all()
        want = [0.5 * w + 0.5 * p.numpy() for w, p in zip(want, net.parameters(), strict=True)]
    assert step.traces == 1
    for w, p in zip(want, average.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), w, rtol=1e-6)
        assert p.requires_grad
    step(net.state_dict(), average.state_dict())  # others: another program
    average(dlc.ones(1, 2)).sum().backward()
    assert average.weight.grad.numpy().tolist() == [[1, 1], [1, 1]]


def test_load_errors_name_everything_and_change_nothing():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {n: t.numpy().copy() for n, t in net.state_dict().items()}
    state = {"0.weight": np.zeros((2, 3)), "0.bias": np.zeros(5), "extra": np.zeros(1)}
    with pytest.raises(ValueError, match="load_state_dict of Sequential") as e:
        net.load_state_dict(state)
    text = str(e.value)
    assert "missing keys: 1.weight, 1.bias" in text
    assert "unexpected keys: extra" in text
    assert "0.bias has shape (5,), the module's is (2,)" in text
    for name, t in net.state_dict().items():
        assert (t.numpy() == before[name]).all()
    result = net.load_state_dict({"0.weight": np.zeros((2, 3)), "extra": np.zeros(1)}, strict=False)
    assert result.missing_keys == ["0.bias", "1.weight", "1.bias"]
    assert result.unexpected_keys == ["extra"]


def test_modes_and_apply():
    net = Net()
    net.eval()
    assert not any(m.training for m in net.modules())
    net.body.train()
    assert net.body[0].training
    assert not net.training
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "BatchNorm1d", "ReLU", "Sequential", "Net"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_zero_grad_and_tied_parameters():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert len(net.state_dict()) == 4
    dlc.sum(net(dlc.asarray(normal(2, 3)))).backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.to(dlc.float64)
    assert net[0].weight is net[1].weight
    assert net[0].weight.dtype == dlc.float64


def test_to_dtype():
    net = Net().bfloat16()
    assert {p.dtype for p in net.parameters()} == {dlc.bfloat16}
    assert net.body[1].running_mean.dtype == dlc.bfloat16
    assert net.body[1].num_batches_tracked.dtype == dlc.int64
    assert net(dlc.astype(dlc.asarray(normal(5, 4)), dlc.bfloat16)).dtype == dlc.bfloat16
    with pytest.raises(TypeError, match="float dtype"):
        net.to(dlc.int32)


def test_deepcopy_is_independent():
    net = Net()
    twin = copy.deepcopy(net)
    before = twin.body[0].weight.numpy().copy()
    nn.init.zeros_(net.body[0].weight)
    assert (twin.body[0].weight.numpy() == before).all()
    assert isinstance(twin.body[0].weight, nn.Parameter)
    assert twin.body[0].weight.requires_grad


def test_a_parameter_made_from_a_tensor_is_a_leaf_of_its_own():
    source = dlc.asarray(normal(3))
    p = nn.Parameter(source)
    dlc.sum(source * p).backward()
    close(p.grad, source.numpy(), "gradient")


def test_shape_errors_name_the_module_and_the_users_line():
    net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(dlc.ShapeError) as e:
        net(dlc.zeros((2, 4)))
    text = str(e.value)
    assert "input of shape (2, 3) has no last dimension of 5" in text
    assert "test_module.py:" in text
    assert "in module 1.1: Linear(in_features=5, out_features=2, bias=True)" in text


def test_forward_is_missing():
    with pytest.raises(NotImplementedError, match="Module has no forward method"):
        nn.Module()(1)


def test_get_submodule():
    net = Net()
    assert net.get_submodule("body.0") is net.body[0]
    with pytest.raises(AttributeError, match="Sequential has no child '7'"):
        net.get_submodule("body.7")
