"""Objects as arguments, what compiled entries keep alive, and jitted methods."""

import dataclasses
import functools
import gc
import inspect
import warnings
import weakref

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.frontend.jit import function as jit_module
from tests.frontend.guard_cases import C

S = 1.0


def test_attributes_of_arguments_of_all_kinds():
    c, x = C(), dlc.ones(1)
    f = dlc.jit(lambda x, c: x * c.s)
    g = dlc.jit(lambda x, cs: x * cs["a"][0].s)
    h = dlc.jit(lambda x, fn: x * fn())
    part = functools.partial(getattr, c, "s")
    for k, calls in enumerate(([1.0, 1.0], [2.0, 2.0], [1.0, 2.0]), 1):
        for s in calls:
            c.s = s
            assert f(x, c).item() == g(x, {"a": [c]}).item() == h(x, lambda_of(c)).item() == s
            assert h(x, part).item() == s
        assert f.traces == g.traces == min(k, 2)


@functools.lru_cache
def lambda_of(c):
    return lambda: c.s


@dataclasses.dataclass
class Scaled:
    w: object

    def apply(self, x):
        return x * self.w * S


def test_methods_of_arguments_that_are_trees():
    f = dlc.jit(lambda state, x: state.apply(x))
    for s, traces in ((1.0, 1), (2.0, 2), (1.0, 2)):
        globals()["S"] = s
        assert f(Scaled(dlc.ones(1)), dlc.ones(1)).item() == s
        assert f.traces == traces


def test_methods_of_a_class_of_tensors():
    class Mine(dlc.Tensor):
        def scaled(self):
            return self * c.s

    c = C()
    f = dlc.jit(lambda x: x.scaled())
    for c.s in (1.0, 2.0):
        assert f(Mine([1.0])).item() == c.s


def test_bound_methods_as_arguments():
    class K(C):
        def run(self, x):
            return x * self.s

    k, f = K(), dlc.jit(lambda x, run: run(x))
    for k.s, traces in ((1.0, 1), (1.0, 1), (2.0, 2), (1.0, 2)):
        assert f(dlc.ones(1), k.run).item() == k.s
        assert f.traces == traces


def test_a_name_given_as_an_argument():
    c, f = C(), dlc.jit(lambda x, name: x * getattr(c, name))
    for c.s in (1.0, 2.0):
        assert f(dlc.ones(1), "s").item() == c.s


def test_a_class_as_an_argument():
    class K:
        s = 1.0

    f = dlc.jit(lambda x, k: x * k.s)
    assert f(dlc.ones(1), K).item() == 1
    K.s = 2.0
    assert f(dlc.ones(1), K).item() == 2


def test_static_values_are_told_apart_by_value():
    class Point:
        def __init__(self, k):
            self.k = k

        def __eq__(self, other):
            return self.k == other.k

        def __hash__(self):
            return hash(self.k)

    f = dlc.jit(lambda x, p: x * p.k)
    assert [f(dlc.ones(1), Point(k)).item() for k in (1, 1, 2, 1)] == [1, 1, 2, 1]
    assert f.traces == 2


def gone(make):
    """Whether what `make` gives is collected once nobody else has it."""
    ref = make()
    gc.collect()
    return ref() is None


def test_a_model_that_was_an_argument_is_freed():
    f = dlc.jit(lambda model, x: model(x).sum())

    def call():
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        f(model, dlc.ones(1, 2))
        return weakref.ref(model[0].weight)

    assert gone(call)
    assert not f._entries


@pytest.mark.parametrize("train", [False, True])
def test_a_model_that_was_closed_over_is_freed(train):
    holder = {}

    def f(x):
        if train:
            holder["opt"].zero_grad()
            holder["model"](x).sum().backward()
            holder["opt"].step()
        return holder["model"](x), holder["model"]

    f = dlc.jit(f)

    def call():
        holder["model"] = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        holder["opt"] = dlc.optim.Adam(holder["model"].parameters(), lr=0.1)
        assert f(dlc.ones(1, 2))[1] is holder["model"]
        ref = weakref.ref(holder["model"][0].weight)
        holder.clear()
        return ref

    assert gone(call)
    assert not f._entries


def test_what_a_container_held_is_freed():
    w, items, table = dlc.ones(3), [], {}
    f = dlc.jit(lambda x: (x * w).sum() + len(items) + len(table))

    def call():
        nonlocal w
        w = dlc.ones(3).realize()
        c = C()
        items[:] = [c, (c,)]
        table[c] = [w]
        f(dlc.ones(3))
        refs = weakref.ref(w), weakref.ref(c)
        w = dlc.zeros(3)
        items.clear()
        table.clear()
        return lambda: refs[0]() or refs[1]()

    assert gone(call)


def test_methods_do_not_keep_their_objects():
    class Trainer(C):
        @dlc.jit
        def step(self, x):
            return x * self.s

    def call():
        trainer = Trainer()
        trainer.me = trainer
        trainer.step(dlc.ones(1))
        dlc.jit(trainer.step)(dlc.ones(1))
        return weakref.ref(trainer)

    assert gone(call)
    assert not Trainer.step._entries


def test_arrays_are_freed():
    array = np.ones(3, np.float32)
    f = dlc.jit(lambda x: x * array)

    def call():
        nonlocal array
        array = np.ones(3, np.float32)
        f(dlc.ones(3))
        ref = weakref.ref(array)
        array = None
        return ref

    assert gone(call)


def test_the_table_of_signatures_is_bounded(monkeypatch):
    monkeypatch.setattr(jit_module, "MAX_KEYS", 4)
    f = dlc.jit(lambda x: x + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in (1, 2, 3, 4, 1, 5, 1, 6, 1, 7):
            f(dlc.ones(n))
    assert len(f._entries) == 4
    traces = f.traces
    f(dlc.ones(1))  # used most, made first
    f(dlc.ones(7))
    assert f.traces == traces


def test_the_states_of_one_signature_are_bounded(monkeypatch):
    monkeypatch.setattr(jit_module, "MAX_ENTRIES", 3)
    c = C()
    f = dlc.jit(lambda x: x * c.s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for s in (1.0, 2.0, 3.0, 1.0, 4.0, 1.0, 5.0):
            c.s = s
            assert f(dlc.ones(1)).item() == s
    assert sum(map(len, f._entries.values())) == 3
    traces = f.traces
    c.s = 1.0
    f(dlc.ones(1))
    assert f.traces == traces


def test_lower_and_graph_of_a_method_bind_its_object():
    class K(C):
        @dlc.jit
        def step(self, x, y=1.0):
            """Doc."""
            return x * self.s + y

    k = K(3.0)
    assert "mul" in [n.op for n in k.step.graph(dlc.ones(2)).nodes()]
    assert k.step.lower(dlc.ones(2), y=2.0).text("fused")
    assert k.step(dlc.ones(1), 2.0).item() == 5
    assert k.step == k.step and hash(k.step) == hash(k.step) and k.step != K().step
    assert (k.step.__name__, k.step.__doc__, k.step.__self__) == ("step", "Doc.", k)
    assert list(inspect.signature(k.step).parameters) == ["x", "y"]
    assert k.step.traces == 1
    assert dlc.jit(k.step)(dlc.ones(1), 2.0).item() == 5
    assert dlc.grad(k.step)(dlc.ones(())).item() == 3
