"""State that the trace itself changes, modules that it imports, and what schedules and optimizers hold."""

import importlib
import itertools
import random
import sys
import types

import numpy as np
import pytest

import dlc
from dlc import nn
from tests.frontend.guard_cases import C, same_as_python, values


def test_random_numbers_of_python_and_numpy():
    same_as_python(lambda x: x * random.random(), lambda: random.seed(1))
    same_as_python(lambda x: x * float(np.random.rand()), lambda: np.random.seed(1))
    from random import gauss

    same_as_python(lambda x: x * gauss(0, 1), lambda: random.seed(1))


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng, np.random.RandomState])
def test_random_generators_of_others(make):
    c = C()
    draw = "random" if make is not np.random.RandomState else "rand"
    same_as_python(lambda x: x * float(getattr(c.rng, draw)()), lambda: setattr(c, "rng", make(1)))


def test_bound_methods_of_random_generators():
    holder = {}
    same_as_python(lambda x: x * holder["draw"](), lambda: holder.update(draw=random.Random(1).random))


def test_a_generator_that_is_not_drawn_from():
    rng = random.Random(0)
    f = dlc.jit(lambda x: x * (1 if rng else 2))
    values(f)
    rng.random()
    values(f)
    assert f.traces == 1


def test_iterators_are_consumed():
    c = C()

    def ones():
        yield from (1.0, 2.0, 3.0, 4.0)

    same_as_python(lambda x: x * next(c.it), lambda: setattr(c, "it", itertools.count(1)))
    same_as_python(lambda x: x * next(c.it), lambda: setattr(c, "it", ones()))
    same_as_python(lambda x: x * next(c.it), lambda: setattr(c, "it", iter([1.0, 2.0, 3.0, 4.0])))
    same_as_python(lambda x: x * c.it(), lambda: setattr(c, "it", itertools.count(1).__next__))
    same_as_python(lambda x: x * next(c.it)[1], lambda: setattr(c, "it", enumerate([1.0, 2.0, 3.0, 4.0])))


def test_an_iterator_of_the_users():
    class Count:
        def __init__(self):
            self.n = 0

        def __next__(self):
            self.n += 1
            return self.n

    c = C()
    same_as_python(lambda x: x * next(c.it), lambda: setattr(c, "it", Count()))


def test_counters_of_all_kinds():
    c, calls, table = C(), [], {"n": 0}

    class K:
        count = 0

    def in_a_class(x):
        K.count += 1
        return x * K.count

    def in_an_object(x):
        c.n += 1
        return x * c.n

    def in_a_list(x):
        calls.append(1)
        return x * len(calls)

    def in_a_dict(x):
        table["n"] += 1
        return x * table["n"]

    def of_a_function(x):
        of_a_function.n += 1
        return x * of_a_function.n

    def popping(x):
        return x * calls.pop()

    same_as_python(in_a_class, lambda: setattr(K, "count", 0))
    same_as_python(in_an_object, lambda: setattr(c, "n", 0))
    same_as_python(in_a_list, calls.clear)
    same_as_python(in_a_dict, lambda: table.update(n=0))
    same_as_python(of_a_function, lambda: setattr(of_a_function, "n", 0))
    same_as_python(popping, lambda: calls.__setitem__(slice(None), [1, 2, 3, 4, 5]))


def test_a_flag_that_goes_back_and_forth():
    c = C()

    def f(x):
        c.on = not c.on
        return x * (1 if c.on else 2)

    same_as_python(f, lambda: setattr(c, "on", False))


def test_a_value_made_at_the_first_call():
    c = C()
    c.scale = None

    def f(x):
        if c.scale is None:
            c.scale = c.s * 2
        return x * c.scale

    g = dlc.jit(f)
    assert values(g) == [2, 2, 2, 2]
    assert g.traces == 2  # the first trace changed what it read
    c.scale = 3.0
    assert values(g) == [3, 3, 3, 3]


def test_a_module_imported_at_the_first_call(tmp_path, monkeypatch):
    (tmp_path / "lazily_imported.py").write_text("s = 1.0\nother = 0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def f(x):
        from lazily_imported import s

        return x * s

    g = dlc.jit(f)
    values(g)
    import lazily_imported

    lazily_imported.s = 2.0
    assert values(g) == [2, 2, 2, 2]
    traces = g.traces
    lazily_imported.other = 1
    values(g)
    assert g.traces == traces


@pytest.mark.parametrize(
    "body",
    [
        "    import user_config\n    return x * user_config.s",
        "    import user_config as c\n    return x * c.s",
        "    from user_config import s\n    return x * s",
        "    from user_config import scaled\n    return scaled(x)",
        "    import user_config\n    return x * user_config.dynamic",
        "    import user_package.config\n    return x * user_package.config.s",
        "    from user_package import config\n    return x * config.s",
        "    return x * importlib.import_module('user_config').s",
    ],
)
def test_modules_of_the_users(tmp_path, monkeypatch, body):
    (tmp_path / "user_config.py").write_text(
        "s = 1.0\ndef scaled(x): return x * s\ndef __getattr__(name):\n    if name == 'dynamic': return s\n"
        "    raise AttributeError(name)\n"
    )
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "__init__.py").write_text("")
    (tmp_path / "user_package" / "config.py").write_text("s = 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("user_config", "user_package", "user_package.config"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    config = importlib.import_module("user_package.config" if "user_package" in body else "user_config")
    scope = {"importlib": importlib}
    exec(f"def f(x):\n{body}\n", scope)
    f = dlc.jit(scope["f"])
    for s, traces in ((1.0, 1), (2.0, 2), (1.0, 2), (2.0, 2)):
        config.s, config.other = s, object()
        assert values(f) == [s] * 4
        assert f.traces == traces


@pytest.mark.parametrize("body", ["from . import config", "from .config import s", "from ..inner import config"])
def test_relative_imports(tmp_path, monkeypatch, body):
    monkeypatch.syspath_prepend(tmp_path)
    inner = tmp_path / "outer_package" / "inner"
    inner.mkdir(parents=True)
    (inner / "config.py").write_text("s = 1.0\n")
    (inner / "code.py").write_text(f"def f(x):\n    {body}\n    return x * {'s' if body[-1] == 's' else 'config.s'}\n")
    for name in ("outer_package", "outer_package.inner", "outer_package.inner.config", "outer_package.inner.code"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    config = importlib.import_module("outer_package.inner.config")
    f = dlc.jit(importlib.import_module("outer_package.inner.code").f)
    for s, traces in ((1.0, 1), (2.0, 2), (1.0, 2)):
        config.s, config.other = s, object()
        assert values(f) == [s] * 4
        assert f.traces == traces


def test_modules_that_are_replaced_and_modules_without_a_file(monkeypatch):
    def f(x):
        from user_made import scaled

        return scaled(x)

    for s in (1.0, 2.0):
        made = types.ModuleType("user_made")
        exec("def scaled(x): return x * s", vars(made))
        made.s = s
        monkeypatch.setitem(sys.modules, "user_made", made)
        if s == 1.0:
            f = dlc.jit(f)
        assert values(f) == [s] * 4
        made.s = s + 4
        assert values(f) == [s + 4] * 4
    assert f.traces <= 4


@pytest.mark.parametrize("kind", ["tree", "shared", "itself", "deep"])
def test_containers_that_hold_each_other(kind):
    leaf = {"s": 1.0}
    held = [leaf]
    if kind == "tree":
        for _ in range(30):
            node = {"up": held, "leaf": leaf}
            node["down"] = [{"up": node}, {"up": node}]
            held.append(node)
    for _ in range(60):
        held = {"shared": [held, held], "deep": [held]}.get(kind, held)
    if kind == "itself":
        held += [held, held]

    @dlc.jit
    def f(x):
        found = held
        while type(found) is list:
            found = found[0]
        return x * found["s"]

    for s, traces in ((1.0, 1), (2.0, 2), (1.0, 2)):
        leaf["s"] = s
        assert values(f) == [s] * 4
        assert f.traces == traces


def test_attributes_that_a_schedule_or_a_data_set_looks_at():
    w = nn.Parameter(np.ones(1, np.float32))
    schedule = dlc.optim.lr_scheduler.ExponentialLR(dlc.optim.SGD([w], lr=1.0), 0.5)
    rate, factor = dlc.jit(lambda x: x * schedule.get_last_lr()[0]), dlc.jit(lambda x: x * schedule.factor(1))
    for expected in (1.0, 0.5, 0.25):
        assert values(rate) == [expected] * 4
        schedule.step()
    assert values(factor) == [0.5] * 4
    schedule.gamma = 0.25
    assert values(factor) == [0.25] * 4


def test_defaults_of_an_optimizer():
    optimizer = dlc.optim.SGD([nn.Parameter(np.ones(1, np.float32))], lr=1.0)
    f = dlc.jit(lambda x: x * optimizer.defaults["lr"])
    assert values(f) == [1] * 4
    optimizer.defaults["lr"] = 2.0
    assert values(f) == [2] * 4


def test_forward_given_to_a_layer_that_inherits_it(monkeypatch):
    layer = nn.ReLU()
    f = dlc.jit(lambda x: layer(x))
    assert values(f) == [1] * 4
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x * 3, raising=False)
    assert values(f) == [3] * 4
