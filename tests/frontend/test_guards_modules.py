"""Neural network modules, and what warnings of retraces say."""

import itertools
import random
import warnings

import pytest

import dlc
from dlc import nn
from tests.frontend.guard_cases import C


def test_attributes_that_nobody_reads_retrace_nothing():
    m, other = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(0.5)), nn.Linear(2, 2)
    f = dlc.jit(lambda x: m(x))
    f(dlc.ones(1, 2))
    for k in range(3):
        m.epoch = m[0].epoch = k
        other.note = k
        other.eval() if k % 2 else other.train()
        other.weight = nn.Parameter(dlc.ones(2, 2))
        f(dlc.ones(1, 2))
    assert f.traces == 1
    m.eval()
    f(dlc.ones(1, 2))
    m.train()
    f(dlc.ones(1, 2))
    assert f.traces == 2


def test_settings_of_layers():
    m = nn.Sequential(nn.LeakyReLU(0.5), nn.Dropout(0.0))
    f = dlc.jit(lambda x: m(x))
    assert f(-dlc.ones(1)).item() == -0.5
    m[0].negative_slope = 0.25
    assert f(-dlc.ones(1)).item() == -0.25
    m[0] = nn.ReLU()
    assert f(-dlc.ones(1)).item() == 0
    m[1].p = 1.0
    assert f(dlc.ones(1)).item() == 0


def test_modules_in_lists_and_dicts_of_a_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])
            self.scales = [1.0, {"a": 1.0}]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x * self.scales[0] * self.scales[1]["a"]

    net = Net()
    f = dlc.jit(net)
    assert f(-dlc.ones(1)).item() == -1
    net.layers.append(nn.ReLU())
    assert f(-dlc.ones(1)).item() == 0
    del net.layers[1]
    net.scales[1]["a"] = 3.0
    assert f(-dlc.ones(1)).item() == -3
    net.register_buffer("unused", None)
    net.scales[0] = 2.0
    assert f(-dlc.ones(1)).item() == -6


def test_a_learning_rate_is_an_input_and_a_flag_is_not():
    w = dlc.Tensor([1.0], requires_grad=True)
    opt = dlc.optim.SGD([w], lr=1.0)

    @dlc.jit
    def step():
        opt.zero_grad()
        (w * 1.0).sum().backward()
        opt.step()

    step()
    opt.param_groups[0]["lr"] = 0.5
    step()
    assert (w.item(), step.traces) == (-0.5, 1)
    opt.param_groups[0]["maximize"] = True
    step()
    assert (w.item(), step.traces) == (0.0, 2)


def test_hooks_that_a_module_comes_to_have():
    class Hooked(nn.Module):
        def forward(self, x):
            for hook in getattr(self, "hooks", ()):
                x = hook(x)
            return x

    m = Hooked()
    f = dlc.jit(m)
    assert f(dlc.ones(1)).item() == 1
    m.hooks = [lambda x: x * 3]
    assert f(dlc.ones(1)).item() == 3
    m.hooks.append(lambda x: x * 2)
    assert f(dlc.ones(1)).item() == 6


def test_flags_of_tensors():
    m = nn.Linear(2, 2)
    f = dlc.jit(lambda x: x * len([p for p in m.parameters() if p.requires_grad]))
    assert f(dlc.ones(1)).item() == 2
    m.bias.requires_grad = False
    assert f(dlc.ones(1)).item() == 1
    m.bias.requires_grad = True
    assert f(dlc.ones(1)).item() == 2
    assert f.traces == 2


def test_what_a_long_chain_of_objects_holds():
    head = None
    for _ in range(3000):
        node = C()
        node.next, head = head, node

    def f(x):
        total, node = 0.0, head
        while node is not None:
            total, node = total + node.s, node.next
        return x * total

    f = dlc.jit(f)
    assert f(dlc.ones(1)).item() == 3000
    node = head
    while node.next is not None:
        node = node.next
    node.s = 2.0
    assert f(dlc.ones(1)).item() == 3001


def messages(f, change, times=10):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(times):
            change(k)
            f(dlc.ones(1))
    return " ".join(str(w.message) for w in caught)


def test_warnings_say_what_changed():
    c, items, table = C(), [1.0], {"a": 1.0}
    told = messages(dlc.jit(lambda x: x * c.s), lambda k: setattr(c, "s", float(k)))
    assert "'s' of a C changed from 7.0 to 8.0" in told
    told = messages(dlc.jit(lambda x: x * items[0]), lambda k: items.__setitem__(0, float(k)))
    assert "an element of variable items (in <lambda>) changed from 7.0 to 8.0" in told
    told = messages(dlc.jit(lambda x: x * table["a"]), lambda k: table.update({str(k): 1.0}))
    assert "the number of elements of variable table (in <lambda>) changed" in told
    told = messages(dlc.jit(lambda x: x * random.random()), lambda k: None)
    assert "it changes Python's random numbers" in told
    counter = itertools.count()
    assert "it reads a count, which" in messages(dlc.jit(lambda x: x * next(counter)), lambda k: None)


def test_a_trace_that_raises_is_not_counted():
    @dlc.jit
    def f(x):
        raise ValueError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            with pytest.raises(ValueError):
                f(dlc.ones(1))
    assert f.traces == 0


def test_the_warning_for_a_method_names_the_callers_line():
    class K(C):
        @dlc.jit
        def step(self, x):
            return x * self.s

    k = K()
    with pytest.warns(RuntimeWarning, match="'s' of a K changed from 7.0 to 8.0") as caught:
        for s in range(9):
            k.s = float(s)
            k.step(dlc.ones(1))
    assert caught[0].filename == __file__
