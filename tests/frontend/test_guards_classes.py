"""What is read of classes: attributes, bases, methods, and what type an object is of."""

import functools
import typing

import pytest

from dlc import nn
from tests.frontend.guard_cases import CHECKS, PATCH, TWICE, C, Cases, delattr_reported, name_of, setter

case = Cases()


@case
def case_class_attribute_in_a_classmethod():
    class K:
        s = 1.0

        @classmethod
        def scale(cls):
            return cls.s

    return lambda x: x * K.scale(), *setter(K)


@case
def case_class_attribute_of_a_base():
    class Base:
        s = 1.0

    class K(Base):
        def scale(self):
            return self.s

    k = K()
    return lambda x: x * k.scale(), *setter(Base)


@case
def case_shadowed_class_attribute():
    class Base:
        s = 1.0

    class K(Base):
        pass

    k = K()
    return lambda x: x * k.s, lambda v: setattr(K, "s", v) if v != 1 else delattr(K, "s") if "s" in vars(K) else None, \
        lambda: setattr(K, "other", object())


@case
def case_instance_attribute_that_hides_the_class():
    class K:
        s = 1.0

    k = K()
    return lambda x: x * k.s, lambda v: setattr(k, "s", v) if v != 1 else vars(k).pop("s", None), setter(k)[1]


@case
def case_type_of_self():
    class K:
        s = 1.0

        def scale(self):
            return type(self).s * self.__class__.s

    k = K()
    return lambda x: x * k.scale(), *setter(K)


@case
def case_static_method():
    c = C()

    class K:
        @staticmethod
        def scale():
            return c.s

    return lambda x: x * K.scale(), *setter(c)


@case
def case_meta_class():
    class Meta(type):
        s = 1.0

        @property
        def scale(cls):
            return cls.s

    class K(metaclass=Meta):
        pass

    return lambda x: x * K.scale, *setter(Meta)


@case
def case_super_reads_a_global_object():
    c = C()

    class Base(nn.Module):
        def forward(self, x):
            return x * c.s

    class Derived(Base):
        def forward(self, x):
            return super().forward(x)

    m = Derived()
    return lambda x: m(x), *setter(c)


@case
def case_super_reads_self():
    class Base:
        def run(self, x):
            return x * self.s

    class Derived(Base):
        def run(self, x):
            return super().run(x)

    d = Derived()
    d.s = 1.0
    return lambda x: d.run(x), *setter(d)


@case
def case_attribute_of_a_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.s = 1.0

        def forward(self, x):
            k = self
            return x * k.s

    m = Net()
    return lambda x: m(x), *setter(m)


@case
def case_object_in_a_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cfg = C()
            self.table = {"s": 1.0}

        def forward(self, x):
            return x * self.cfg.s * self.table["s"]

    m = nn.Sequential(Net())
    return lambda x: m(x), lambda v: m[0].table.update(s=v), lambda: setattr(m, "epoch", object())


@case
def case_patched_method_of_an_object():
    class K:
        def scale(self):
            return 1.0

    k = K()
    return lambda x: x * k.scale(), lambda v: setattr(k, "scale", PATCH) if v != 1 else vars(k).pop("scale", None), \
        setter(k)[1]


@case
def case_patched_method_of_a_class():
    class K:
        def scale(self):
            return 1.0

    def second(self):
        return 2.0

    k, first = K(), K.scale
    return lambda x: x * k.scale(), lambda v: setattr(K, "scale", first if v == 1 else second), setter(k)[1]


@case
def case_patched_forward():
    m = nn.Sequential(nn.Identity())
    return lambda x: m(x), lambda v: setattr(m[0], "forward", TWICE) if v != 1 else vars(m[0]).pop("forward", None) \
        and delattr_reported(m[0]), lambda: setattr(m[0], "epoch", object())


@case
def case_code_of_a_function():
    def scale():
        return 1.0

    def twice():
        return 2.0

    first = scale.__code__
    return lambda x: x * scale(), lambda v: setattr(scale, "__code__", first if v == 1 else twice.__code__), \
        lambda: setattr(scale, "other", 1)


@case
def case_class_of_an_object():
    class A:
        def scale(self):
            return 1.0

    class B:
        def scale(self):
            return 2.0

    a = A()
    return lambda x: x * a.scale(), lambda v: setattr(a, "__class__", A if v == 1 else B), setter(a)[1]


@case
def case_bases_of_a_class():
    class A:
        def scale(self):
            return 1.0

    class B:
        def scale(self):
            return 2.0

    class K(A):
        pass

    k = K()
    return lambda x: x * k.scale(), lambda v: setattr(K, "__bases__", (A,) if v == 1 else (B,)), setter(k)[1]


@case
def case_attribute_of_a_function():
    def scale():
        return scale.s

    scale.s = 1.0
    return lambda x: x * scale(), *setter(scale)


@case
def case_a_registry_of_classes():
    class A:
        s = 1.0

    registry = {"a": A}
    return lambda x: x * registry["a"]().s, *setter(A)


@case
def case_total_ordering():
    c = C()

    @functools.total_ordering
    class K:
        def __lt__(self, other):
            return c.s == 1.0

        def __eq__(self, other):
            return False

    a, b = K(), K()
    return lambda x: x if a <= b else x * 2, *setter(c)


@case
def case_item_of_a_class():
    c = C()

    class K:
        def __class_getitem__(cls, k):
            return c.s

    return lambda x: x * K[0], *setter(c)


@case
def case_isinstance_of_a_meta_class():
    c = C()

    class Meta(type):
        def __instancecheck__(cls, value):
            return c.s == 1.0

    class K(metaclass=Meta):
        pass

    return lambda x: x if isinstance(3, K) else x * 2, *setter(c)


@case
def case_method_of_a_named_tuple():
    c = C()

    class Point(typing.NamedTuple):
        k: float = 1.0

        def scale(self):
            return self.k * c.s

    p = Point()
    return lambda x: x * p.scale(), *setter(c)


@case
def case_method_of_a_number():
    c = C()

    class Level(int):
        def scale(self):
            return self * c.s

    level = Level(1)
    return lambda x: x * level.scale(), *setter(c)


@case
def case_dict_of_a_class():
    class K:
        s = 1.0

    name = "".join(["s"])
    return lambda x: x * vars(K)[name], setter(K)[0], lambda: None


@pytest.mark.parametrize("checks", CHECKS, ids=CHECKS.get)
@pytest.mark.parametrize("make", case.made, ids=name_of)
def test_what_is_read_is_noticed_and_nothing_else(make, checks, monkeypatch):
    case.agrees(make, checks, monkeypatch)
