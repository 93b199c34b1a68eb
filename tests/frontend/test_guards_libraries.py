"""What is read through the standard library, NumPy and dlc itself."""

import contextvars
import enum
import functools
import os
import sys
import threading
import weakref

import pytest

import dlc
from dlc import nn
from tests.frontend.guard_cases import CHECKS, TWICE, C, Cases, name_of, setter

case = Cases()


@case.settling
def case_object_that_is_made_in_a_cache():
    made = []

    @functools.lru_cache
    def config():
        made.append(C())
        return made[-1]

    return lambda x: x * config().s, lambda v: made and setattr(made[-1], "s", v), lambda: None


@case
def case_cached_property():
    class K(C):
        @functools.cached_property
        def scale(self):
            return self.s

    k = K()

    def set_(v):
        k.s = v
        vars(k).pop("scale", None)

    return lambda x: x * k.scale, set_, setter(k)[1]


@case
def case_context_variable():
    var = contextvars.ContextVar("s", default=1.0)
    return lambda x: x * var.get(), lambda v: var.set(v), lambda: None


@case
def case_environment():
    return lambda x: x * float(os.environ.get("DLC_TEST_S", "1")), \
        lambda v: os.environ.update(DLC_TEST_S=str(v)), lambda: os.environ.update(DLC_TEST_OTHER=str(id(object())))


@case
def case_getenv():
    os.environ.pop("DLC_TEST_S", None)
    return lambda x: x * float(os.getenv("DLC_TEST_S", "1")), \
        lambda v: os.environ.update(DLC_TEST_S=str(v)), lambda: os.environ.update(DLC_TEST_OTHER=str(id(object())))


@case
def case_enumeration():
    class Mode(enum.Enum):
        A = 1.0
        B = 2.0

    c = C()
    c.mode = Mode.A
    return lambda x: x * c.mode.value, lambda v: setattr(c, "mode", Mode(v)), setter(c)[1]


@case
def case_enumeration_with_state():
    class Mode(enum.Enum):
        A = 1

    Mode.A.s = 1.0
    return lambda x: x * Mode.A.s, *setter(Mode.A)


@case
def case_weak_reference():
    c = C()
    ref = weakref.ref(c)
    return lambda x, keep=c: x * ref().s, *setter(c)


@case
def case_weak_proxy():
    c = C()
    proxy = weakref.proxy(c)
    holder = [c]
    return lambda x: x * proxy.s * len(holder), *setter(c)


@case
def case_weak_dictionary():
    c = C()
    table = weakref.WeakValueDictionary(a=c)
    return lambda x: x * table["a"].s, *setter(c)


@case
def case_thread_local():
    local = threading.local()
    local.s = 1.0
    return lambda x: x * local.s, *setter(local)


@case
def case_nested_jit():
    c = C()
    inner = dlc.jit(lambda x: x * c.s)
    return lambda x: inner(x), *setter(c)


@case
def case_gradient_of_a_function():
    c = C()

    def loss(x):
        return (x * c.s).sum()

    return lambda x: dlc.grad(loss)(x), *setter(c)


@case
def case_vmap_of_a_method():
    class K(C):
        def row(self, x):
            return x * self.s

    k = K()
    return lambda x: dlc.vmap(k.row)(x), *setter(k)


@case
def case_scan_of_a_partial():
    c = C()

    def body(k, carry, x):
        return carry, x * k.s

    return lambda x: dlc.scan(functools.partial(body, c), 0.0, x)[1], *setter(c)


@case
def case_attribute_of_a_string():
    class Name(str):
        pass

    name = Name("name")
    name.s = 1.0
    return lambda x: x * name.s, *setter(name)


@case
def case_method_of_an_int_enum():
    c = C()

    class Level(enum.IntEnum):
        A = 1

        def scale(self):
            return c.s

    return lambda x: x * Level.A.scale(), *setter(c)


@case
def case_flag_enum():
    class Flag(enum.Flag):
        A = 1
        B = 2

    c = C()
    return lambda x: x * (2 if Flag.B in c.flags else 1), lambda v: setattr(c, "flags", Flag.A if v == 1 else Flag.B), \
        setter(c)[1]


@case
def case_tensor_that_is_added_to():
    c = C()
    c.w, tensors = None, {1.0: dlc.ones(3), 2.0: dlc.ones(3) + 1}
    return lambda x: c.w.add(x), lambda v: setattr(c, "w", tensors[v]), setter(c)[1]


@case
def case_patched_function_of_a_library():
    first = dlc.abs
    return lambda x: dlc.abs(x), lambda v: setattr(dlc, "abs", first if v == 1 else TWICE), lambda: None


@case
def case_patched_forward_of_a_layer_of_ours():
    m, first = nn.Sequential(nn.Identity()), nn.Identity.forward

    def twice(self, x):
        return x * 2

    return lambda x: m(x), lambda v: setattr(nn.Identity, "forward", first if v == 1 else twice), lambda: None


@case
def case_arguments_of_the_command():
    return lambda x: x * len(sys.argv), lambda v: sys.argv.append("x") if v != 1 else sys.argv.remove("x") \
        if "x" in sys.argv else None, lambda: None


@case
def case_attribute_of_a_parameter():
    p = nn.Parameter(dlc.ones(3))
    p.s = 1.0
    return lambda x: x * p.s + 0 * p, *setter(p)


@pytest.fixture(autouse=True)
def _restore():
    yield
    for name in ("DLC_TEST_S", "DLC_TEST_OTHER"):
        os.environ.pop(name, None)


@pytest.mark.parametrize("checks", CHECKS, ids=CHECKS.get)
@pytest.mark.parametrize("make", case.made, ids=name_of)
def test_what_is_read_is_noticed_and_nothing_else(make, checks, monkeypatch):
    case.agrees(make, checks, monkeypatch)
