"""What is read of functions: defaults, closures, decorators, partials, caches, and methods that are kept."""

import contextlib
import functools
import operator
import weakref

import pytest

import dlc
from tests.frontend.guard_cases import CHECKS, C, Cases, name_of, scaled_by, setter

case = Cases()


@case
def case_default_argument():
    def scale(s=1.0):
        return s

    return lambda x: x * scale(), lambda v: setattr(scale, "__defaults__", (v,)), lambda: setattr(scale, "other", 1)


@case
def case_keyword_default():
    def scale(*, s=1.0):
        return s

    return lambda x: x * scale(), lambda v: scale.__kwdefaults__.update(s=v), lambda: setattr(scale, "other", 1)


@case
def case_mutable_default():
    def scale(s=[1.0]):  # noqa: B006
        return s[0]

    return lambda x: x * scale(), lambda v: operator.setitem(scale.__defaults__[0], 0, v), lambda: None


@case
def case_closure_of_a_decorator():
    c = C()

    def scaled(by):
        def decorate(fn):
            @functools.wraps(fn)
            def wrapper(*args):
                return fn(*args) * by.s

            return wrapper

        return decorate

    @scaled(c)
    def f(x):
        return x

    return f, *setter(c)


@case
def case_decorator_of_a_helper():
    c = C()

    class Scaled:
        def __init__(self, fn):
            self.fn = fn

        def __call__(self, x):
            return self.fn(x) * c.s

    @Scaled
    def helper(x):
        return x

    return lambda x: helper(x), *setter(c)


@case
def case_partial():
    c = C()
    return functools.partial(scaled_by, cfg=c), *setter(c)


@case
def case_partial_in_a_closure():
    c = C()
    part = functools.partial(scaled_by, cfg=c)
    return lambda x: part(x), *setter(c)


@case
def case_keywords_of_a_partial():
    def helper(x, s):
        return x * s

    part = functools.partial(helper, s=1.0)
    return lambda x: part(x), lambda v: part.keywords.update(s=v), lambda: None


@case
def case_partial_method():
    class K(C):
        def scale(self, x, k):
            return x * k * self.s

        once = functools.partialmethod(scale, k=1.0)

    k = K()
    return lambda x: k.once(x), *setter(k)


@case
def case_bound_method():
    class K(C):
        def run(self, x):
            return x * self.s

    k = K()
    return k.run, *setter(k)


@case
def case_bound_method_in_a_dict():
    class K(C):
        def run(self, x):
            return x * self.s

    k = K()
    table = {"run": k.run}
    return lambda x: table["run"](x), *setter(k)


@case
def case_lambda_in_a_dict():
    c = C()
    table = {"f": lambda x: x * c.s}
    return lambda x: table["f"](x), *setter(c)


@case
def case_callable_object():
    class K(C):
        def __call__(self, x):
            return x * self.s

    k = K()
    return k, *setter(k)


@case
def case_single_dispatch():
    c = C()

    @functools.singledispatch
    def scale(k):
        return 0

    @scale.register
    def _(k: int):
        return c.s

    return lambda x: x * scale(1), *setter(c)


@case
def case_cache_of_results():
    c = C()

    @functools.lru_cache
    def scale():
        return c.s

    def set_(v):
        c.s = v
        scale.cache_clear()

    return lambda x: x * scale(), set_, setter(c)[1]


@case
def case_object_from_a_cache():
    @functools.lru_cache
    def config():
        return C()

    return lambda x: x * config().s, lambda v: setattr(config(), "s", v), lambda: setattr(config(), "other", object())


@case
def case_a_number_of_calls_that_is_only_stored():
    c = C()
    c.log = []

    def f(x):
        c.log.append(x.shape)
        c.last = x.shape
        return x * c.s

    return f, *setter(c)


@case
def case_a_method_with_the_name_of_a_counter():
    class Optimizer:
        def step(self):
            return 1.0

    class Trainer(C):
        def __init__(self):
            super().__init__()
            self.optimizer, self.step = Optimizer(), 0

        def run(self, x):
            return x * self.s * self.optimizer.step()

    t = Trainer()
    return t.run, lambda v: setattr(t, "s", v), lambda: setattr(t, "step", t.step + 1)


@case
def case_reduce():
    items = [C(), C()]
    return lambda x: functools.reduce(lambda a, k: a * k.s, items, x), *setter(items[1])


@case
def case_default_of_a_lambda():
    c = C()
    return lambda x, k=c: x * k.s, *setter(c)


@case
def case_contextmanager():
    c = C()

    @contextlib.contextmanager
    def scope():
        yield c.s

    def f(x):
        with scope() as k:
            return x * k

    return f, *setter(c)


@case
def case_cached_in_a_property():
    c = C()

    @functools.lru_cache
    def scale(self):
        return c.s

    class K:
        scaled = property(scale)

    k = K()

    def set_(v):
        c.s = v
        scale.cache_clear()

    return lambda x: x * k.scaled, set_, setter(c)[1]


@case
def case_class_method_of_a_jitted_function():
    c = C()

    class K:
        run = staticmethod(dlc.jit(lambda x: x * c.s))

    return lambda x: K.run(x), *setter(c)


@case
def case_partial_as_an_attribute():
    class K(C):
        def run(self, x):
            return self.act(x)

    k = K()
    inner = C()
    k.act = functools.partial(scaled_by, cfg=inner)
    return k.run, *setter(inner)


@case
def case_bound_method_as_an_attribute():
    class K(C):
        def act(self, x):
            return x * self.s

        def run(self, x):
            return self.also(x)

    k, other = K(), K()
    k.also = other.act
    return k.run, *setter(other)


@case
def case_weak_method():
    class K(C):
        def act(self, x):
            return x * self.s

    k = K()
    ref = weakref.WeakMethod(k.act)
    return lambda x: ref()(x), lambda v: setattr(k, "s", v), setter(k)[1]


@case
def case_attribute_of_the_jitted_function():
    @dlc.jit
    def f(x):
        return x * f.s

    f.s = 1.0
    return lambda x: f(x), *setter(f)


@pytest.mark.parametrize("checks", CHECKS, ids=CHECKS.get)
@pytest.mark.parametrize("make", case.made, ids=name_of)
def test_what_is_read_is_noticed_and_nothing_else(make, checks, monkeypatch):
    case.agrees(make, checks, monkeypatch)
