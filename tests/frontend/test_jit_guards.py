"""What a jitted function read is noticed when it changes, however it is spelled; what it did not read is not.

Each case gives a function, how to set the state that it reads (1.0 to begin with), and how to change something beside
it. A case that is traced a second time before it settles (it fills a cache at the trace) says so.
"""

import collections
import contextlib
import contextvars
import copy
import dataclasses
import enum
import functools
import gc
import importlib
import inspect
import itertools
import operator
import os
import random
import sys
import threading
import types
import typing
import warnings
import weakref

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.frontend.jit import function as jit_module

S = 1.0
OTHER = 1.0
CASES = []


class C:
    """An object with a number to read, `s`, and one that nobody reads."""

    def __init__(self, s=1.0):
        self.s = s
        self.other = 0


def case(make):
    CASES.append(make)
    return make


def setter(obj, name="s"):
    return lambda v: setattr(obj, name, v), lambda: setattr(obj, "other", object())


@case
def case_default_factory():
    table = collections.defaultdict(float)
    factories = {1.0: lambda: 1.0, 2.0: lambda: 2.0}

    def set_(s):
        table.default_factory = factories[s]

    return lambda x: x * table.default_factory(), set_, lambda: None


@case
def case_string_object():
    c = C(collections.UserString("1"))
    return lambda x: x * float(str(c.s)), lambda s: setattr(c.s, "data", str(int(s))), lambda: None


@case
def case_smallest_data_object():
    @dataclasses.dataclass(order=True)
    class D:
        s: float

    items = [D(1.0), D(1.5)]
    return lambda x: x * (1.0 if min(items) is items[0] else 2.0), lambda s: setattr(items[0], "s", s), lambda: None


@case
def case_equal_namespaces():
    a, b = types.SimpleNamespace(p=1.0), types.SimpleNamespace(p=1.0)
    return lambda x: x * (1.0 if a == b else 2.0), lambda s: setattr(a, "p", s), lambda: None


@case
def case_direct():
    c = C()
    return lambda x: x * c.s, *setter(c)


@case
def case_local_alias():
    c = C()

    def f(x):
        k = c
        return x * k.s

    return f, *setter(c)


@case
def case_alias_of_an_alias():
    c = C()
    c.inner = C()

    def f(x):
        a = c
        b, y = a.inner, x
        return y * b.s

    return f, *setter(c.inner)


@case
def case_walrus():
    c = C()
    return lambda x: x * (k := c).s + k.s * 0, *setter(c)


@case
def case_unpacked():
    a, b = C(), C()
    pair = (a, b)

    def f(x):
        (k, (m)) = pair
        return x * k.s * m.s

    return f, *setter(b)


@case
def case_starred():
    items = [C(), C(), C()]

    def f(x):
        first, *rest = items
        return x * rest[-1].s * first.s

    return f, *setter(items[2])


@case
def case_loop_variable():
    items = [C(), C()]

    def f(x):
        for k in items:
            x = x * k.s
        return x

    return f, *setter(items[1])


@case
def case_while_with_an_index():
    items = [C(), C()]

    def f(x):
        k = 0
        while k < 2:
            x = x * items[k].s
            k += 1
        return x

    return f, *setter(items[1])


@case
def case_element_of_a_list():
    items = [C()]
    return lambda x: x * items[0].s, *setter(items[0])


@case
def case_element_of_a_dict():
    items = {"a": C()}
    return lambda x: x * items["a"].s, *setter(items["a"])


@case
def case_value_in_a_nested_dict():
    items = {"a": {"b": [1.0, {"c": 1.0}]}}

    def set_(v):
        items["a"]["b"][1]["c"] = v

    c = C()
    return lambda x: x * items["a"]["b"][1]["c"] + 0 * len(items), set_, setter(c)[1]


@case
def case_get_of_a_dict():
    items = {"k": 1.0}
    return lambda x: x * items.get("s", 1.0), lambda v: items.update(s=v) if v != 1 else items.pop("s", 0), lambda: 0


@case
def case_items_of_a_dict():
    table = {"a": C(), "b": C()}

    def f(x):
        for _, v in table.items():
            x = x * v.s
        return x

    return f, *setter(table["b"])


@case
def case_element_of_a_set():
    items = {1.0}

    def set_(v):
        items.clear()
        items.add(v)

    return lambda x: x * max(items), set_, lambda: None


@case
def case_deque():
    items = collections.deque([1.0])

    def set_(v):
        items.append(v)
        items.popleft()

    return lambda x: x * items[0], set_, lambda: None


@case
def case_object_in_a_deque():
    items = collections.deque([C()])
    return lambda x: x * items[-1].s, *setter(items[0])


@case
def case_ordered_dict():
    table = collections.OrderedDict(a=1.0, b=2.0)

    def set_(v):
        table.move_to_end("a" if v != 1 else "b")

    return lambda x: x * next(iter(table.values())) if 0 else x * list(table.values())[0], set_, lambda: None


@case
def case_default_dict():
    table = collections.defaultdict(lambda: 1.0, s=1.0)
    return lambda x: x * table["s"], lambda v: table.update(s=v), lambda: None


@case
def case_counter_object():
    table = collections.Counter(s=1)
    return lambda x: x * table["s"], lambda v: table.update(s=int(v) - table["s"]), lambda: None


@case
def case_chain_map():
    inner = {"s": 1.0}
    chain = collections.ChainMap({}, inner)
    return lambda x: x * chain["s"], lambda v: inner.update(s=v), lambda: None


@case
def case_user_dict_and_list():
    table, items = collections.UserDict(s=1.0), collections.UserList([1.0])
    return lambda x: x * table["s"] * items[0], lambda v: operator.setitem(items, 0, v), lambda: None


@case
def case_mapping_proxy():
    inner = {"s": 1.0}
    proxy = types.MappingProxyType(inner)
    return lambda x: x * proxy["s"], lambda v: inner.update(s=v), lambda: None


@case
def case_simple_namespace():
    c = types.SimpleNamespace(s=1.0, other=0)
    return lambda x: x * c.s, *setter(c)


@case
def case_subclass_of_dict():
    class Config(dict):
        def __getattr__(self, name):
            return self[name]

    c = Config(s=1.0)
    return lambda x: x * c.s, lambda v: c.update(s=v), lambda: setattr(c, "other", 1)


@case
def case_subclass_of_list_with_an_attribute():
    class Items(list):
        pass

    c = Items([1.0])
    c.s = 1.0
    return lambda x: x * c.s * c[0], *setter(c)


@case
def case_named_tuple():
    Point = collections.namedtuple("Point", "s other")
    holder = C()
    holder.p = Point(1.0, 0)
    return lambda x: x * holder.p.s, lambda v: setattr(holder, "p", Point(v, 0)), setter(holder)[1]


def scaled_by(x, cfg):
    return x * cfg.s


@case
def case_parameter_of_a_helper():
    c = C()
    return lambda x: scaled_by(x, c), *setter(c)


@case
def case_keyword_of_a_helper():
    c = C()
    return lambda x: scaled_by(cfg=c, x=x), *setter(c)


@case
def case_star_args():
    c = C()

    def helper(*args, **kwargs):
        return args[0] * args[1].s * kwargs["cfg"].s

    def f(x):
        args, kwargs = (x, c), {"cfg": c}
        return helper(*args, **kwargs)

    return f, lambda v: setattr(c, "s", v), setter(c)[1]


@case
def case_returned_by_a_helper():
    c = C()

    def get():
        return c

    return lambda x: x * get().s, *setter(c)


@case
def case_made_by_a_helper():
    c = C()

    def make():
        out = C()
        out.s = c.s
        return out

    return lambda x: x * make().s, *setter(c)


@case
def case_read_in_a_constructor():
    c = C()

    class Made:
        def __init__(self):
            self.scale = c.s

    return lambda x: x * Made().scale, *setter(c)


@case
def case_a_global():
    def f(x):
        return x * S

    return f, lambda v: globals().update(S=v), lambda: globals().update(OTHER=object())


@case
def case_a_global_through_globals():
    return lambda x: x * globals()["S"], lambda v: globals().update(S=v), lambda: None


@case
def case_a_global_that_hides_a_builtin():
    def set_(v):
        if v == 1:
            globals().pop("abs", None)
        else:
            globals()["abs"] = TWICE

    return lambda x: x * abs(1.0), set_, lambda: globals().update(OTHER=object())


@case
def case_a_closure_variable():
    s = 1.0

    def set_(v):
        nonlocal s
        s = v

    return lambda x: x * s, set_, lambda: None


@case
def case_nested_functions():
    c = C()

    def f(x):
        def inner():
            def innermost():
                k = c
                return k.s

            return innermost()

        return x * inner()

    return f, *setter(c)


@case
def case_comprehensions():
    items = [C(), C()]
    return lambda x: x * sum([k.s for k in items]) * max({k.s for k in items}), *setter(items[0])


@case
def case_generator_expression_and_map():
    items = [C(), C()]
    return lambda x: x * sum(k.s for k in items) * sum(map(lambda k: k.s, items)), *setter(items[0])


@case
def case_sorted_with_a_key():
    items = [C(1.0), C(1.5)]
    return lambda x: x * sorted(items, key=lambda k: -k.s)[0].s, *setter(items[0])


@case
def case_match_on_a_class():
    c = C()

    def f(x):
        match c:
            case C(s=k):
                return x * k

    return f, *setter(c)


@dataclasses.dataclass
class Data:
    s: float = 1.0
    other: object = 0


@case
def case_match_by_position():
    d = Data()

    def f(x):
        match d:
            case Data(k, _):
                return x * k

    return f, lambda v: setattr(d, "s", v), lambda: setattr(d, "unknown", 1)


@case
def case_match_on_a_mapping():
    table = {"s": 1.0}

    def f(x):
        match table:
            case {"s": k}:
                return x * k

    return f, lambda v: table.update(s=v), lambda: None


@case
def case_match_on_a_value():
    c = C()

    def f(x):
        match c.s:
            case 1.0:
                return x
            case 2.0:
                return x * 2

    return f, *setter(c)


@case
def case_try_and_except():
    c = C()

    def f(x):
        try:
            return x * c.t
        except AttributeError:
            return x

    return f, lambda v: setattr(c, "t", v) if v != 1 else c.__dict__.pop("t", None), setter(c)[1]


@case
def case_context_manager():
    c = C()

    class Scope:
        def __enter__(self):
            return c.s

        def __exit__(self, *exc):
            return False

    scope = Scope()

    def f(x):
        with scope as k:
            return x * k

    return f, *setter(c)


@case
def case_getattr_with_a_constant():
    c = C()
    return lambda x: x * getattr(c, "s"), *setter(c)  # noqa: B009


@case
def case_getattr_with_a_default():
    c = C()
    del c.s
    return lambda x: x * getattr(c, "s", 1.0), lambda v: setattr(c, "s", v) if v != 1 else delattr(c, "s") \
        if hasattr(c, "s") else None, setter(c)[1]


@case
def case_getattr_with_names_in_a_list():
    c, names = C(), ["s"]

    def f(x):
        for name in names:
            x = x * getattr(c, name)
        return x

    return f, *setter(c)


@case
def case_getattr_with_a_name_in_an_object():
    c = C()
    c.which = "s"
    return lambda x: x * getattr(c, c.which), *setter(c)


@case
def case_has_attribute():
    c = C()
    return lambda x: x * (2.0 if hasattr(c, "t") else 1.0), \
        lambda v: setattr(c, "t", 0) if v != 1 else c.__dict__.pop("t", None), setter(c)[1]


@case
def case_vars_of_an_object():
    c = C()
    return lambda x: x * vars(c)["s"], setter(c)[0], lambda: None


@case
def case_dict_of_an_object():
    c = C()
    name = "".join(["s"])
    return lambda x: x * c.__dict__[name], setter(c)[0], lambda: None


@case
def case_number_of_attributes():
    c = C()
    return lambda x: x * (len(vars(c)) - 1), lambda v: setattr(c, "t", 0) if v != 1 else c.__dict__.pop("t", None), \
        lambda: None


@case
def case_attrgetter():
    c, get = C(), operator.attrgetter("s")
    return lambda x: x * get(c), *setter(c)


@case
def case_attrgetter_with_a_path():
    c = C()
    c.inner = C()
    return lambda x: x * operator.attrgetter("inner.s")(c), *setter(c.inner)


@case
def case_methodcaller():
    class M(C):
        def scale(self):
            return self.s

    c = M()
    get = operator.methodcaller("scale")
    return lambda x: x * get(c), *setter(c)


@case
def case_format_string():
    c = C()
    return lambda x: x * float("{0.s}".format(c)), *setter(c)  # noqa: UP030, UP032


@case
def case_f_string():
    c = C()
    return lambda x: x * float(f"{c.s}"), *setter(c)


def special(name, use):
    """A special method that no name in the code mentions."""

    def make():
        c = C()

        class Special(C):
            pass

        setattr(Special, name, lambda self, *args: c.s if name not in ("__len__", "__hash__") else int(c.s))
        if name == "__iter__":
            Special.__iter__ = lambda self: iter([c.s])
        if name == "__bool__":
            Special.__bool__ = lambda self: c.s != 1.0
        if name == "__contains__":
            Special.__contains__ = lambda self, k: c.s != 1.0
        s = Special()
        return lambda x: x * use(s), *setter(c)

    make.__name__ = f"case_special_method_{name}"
    CASES.append(make)


special("__getitem__", lambda s: s[0])
special("__len__", lambda s: len(s))
special("__iter__", lambda s: sum(s))
special("__bool__", lambda s: 2.0 if s else 1.0)
special("__call__", lambda s: s())
special("__getattr__", lambda s: s.whatever)
special("__contains__", lambda s: 2.0 if 3 in s else 1.0)
special("__eq__", lambda s: s == 1)
special("__lt__", lambda s: s < 1)
special("__add__", lambda s: s + 1)
special("__radd__", lambda s: 1 + s)
special("__neg__", lambda s: -s)
special("__mul__", lambda s: s * 2)
special("__matmul__", lambda s: s @ 2)
special("__float__", lambda s: float(s))
special("__abs__", lambda s: abs(s))
special("__round__", lambda s: round(s))
special("__hash__", lambda s: hash(s))
special("__getattribute__", lambda s: s.any)


@case
def case_a_replaced_special_method():
    class V:
        def __len__(self):
            return 1

    v = V()
    first = V.__len__

    def second(self):
        return 2

    def set_(k):
        V.__len__ = first if k == 1 else second

    return lambda x: x * len(v), set_, lambda: setattr(v, "other", 1)


@case
def case_a_new_special_method():
    class V:
        pass

    v = V()

    def false(self):
        return False

    def set_(k):
        if k != 1:
            V.__bool__ = false
        elif "__bool__" in vars(V):
            del V.__bool__

    return lambda x: x * (1.0 if v else 2.0), set_, lambda: setattr(v, "other", 1)


@case
def case_property_of_a_class():
    class P(C):
        @property
        def scale(self):
            return self.s

    c = P()
    return lambda x: x * c.scale, *setter(c)


@case
def case_property_setter():
    c = C()

    class P:
        @property
        def scale(self):
            return self.kept

        @scale.setter
        def scale(self, v):
            self.kept = v * c.s

    def f(x):
        p = P()
        p.scale = 1.0
        return x * p.kept

    return f, *setter(c)


@case
def case_a_descriptor():
    class Descriptor:
        def __init__(self):
            self.s = 1.0

        def __get__(self, obj, cls=None):
            return self.s

    class Holder:
        scale = Descriptor()

    h = Holder()
    return lambda x: x * h.scale, *setter(vars(Holder)["scale"])


@case
def case_slots():
    class Slotted:
        __slots__ = ("s", "other")

    c = Slotted()
    c.s, c.other = 1.0, 0
    return lambda x: x * c.s, *setter(c)


@case
def case_slots_of_a_base_class():
    class Base:
        __slots__ = ("s",)

    class Derived(Base):
        pass

    c = Derived()
    c.s = 1.0
    return lambda x: x * c.s, *setter(c)


@case
def case_slotted_element():
    @dataclasses.dataclass(slots=True)
    class Slotted:
        s: float = 1.0

    items = [Slotted()]
    return lambda x: x * items[0].s, lambda v: setattr(items[0], "s", v), lambda: None


@case
def case_data_class():
    d = Data()
    return lambda x: x * d.s, *setter(d)


@case
def case_frozen_data_class():
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        s: float = 1.0

    holder = C()
    holder.cfg = Frozen()
    keep = {1.0: holder.cfg, 2.0: Frozen(2.0)}
    return lambda x: x * holder.cfg.s, lambda v: setattr(holder, "cfg", keep[v]), setter(holder)[1]


@case
def case_as_dict_of_a_data_class():
    d = Data()
    return lambda x: x * dataclasses.asdict(d)["".join(["s"])], lambda v: setattr(d, "s", v), lambda: None


@case
def case_data_class_as_a_tree():
    d = Data()
    return lambda x: x * sum(dlc.tree_leaves(d)), lambda v: setattr(d, "s", v), lambda: setattr(d, "unknown", 1)


@case
def case_copied_object():
    c = C()
    return lambda x: x * copy.copy(c).s, setter(c)[0], lambda: None


@case
def case_class_attribute():
    class K:
        s = 1.0

    k = K()
    return lambda x: x * k.s, *setter(K)


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


def delattr_reported(module):
    module.forward = None
    del module.forward


def PATCH():
    return 2.0


def TWICE(x):
    return x * 2.0


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
def case_global_statement_in_a_helper():
    def get():
        global S
        return S

    return lambda x: x * get(), lambda v: globals().update(S=v), lambda: None


@case
def case_conditional_expression():
    c = C()
    return lambda x: x if c.s == 1.0 else x * 2, *setter(c)


@case
def case_short_circuit():
    c = C()
    return lambda x: x * ((c.s == 1.0 and 1.0) or 2.0), *setter(c)


@case
def case_type_of_a_number():
    c = C()
    c.s = 1
    return lambda x: x * (2 - (type(c.s) is int)), lambda v: setattr(c, "s", 1 if v == 1 else True), setter(c)[1]


@case
def case_an_object_with_a_cycle():
    a, b = C(), C()
    a.peer, b.peer = b, a
    return lambda x: x * a.peer.peer.peer.s, *setter(b)


@case
def case_a_list_in_itself():
    items = [1.0]
    items.append(items)
    return lambda x: x * items[1][0], lambda v: operator.setitem(items, 0, v), lambda: None


@case
def case_a_registry_of_classes():
    class A:
        s = 1.0

    registry = {"a": A}
    return lambda x: x * registry["a"]().s, *setter(A)


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
def case_numpy_scalar():
    c = C()
    c.s = np.float32(1)
    return lambda x: x * float(c.s), lambda v: setattr(c, "s", np.float32(v)), setter(c)[1]


@case
def case_element_of_an_array():
    table, other = np.ones(3), np.ones(3)

    def beside():
        other[0] += 1

    return lambda x: x * float(table[0]) + 0 * len(other.shape), lambda v: table.__setitem__(0, v), lambda: None


@case
def case_mutable_bytes():
    table = bytearray([1])
    view = memoryview(table)
    return lambda x: x * table[0] * view[0], lambda v: table.__setitem__(0, int(v)), lambda: None


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
def case_slotted_log_with_a_method():
    class Log:
        __slots__ = ("s",)

        def append(self, x):
            return x * self.s

    log = Log()
    log.s = 1.0
    return lambda x: log.append(x), lambda v: setattr(log, "s", v), lambda: None


@case
def case_tensor_that_is_added_to():
    c = C()
    c.w, tensors = None, {1.0: dlc.ones(3), 2.0: dlc.ones(3) + 1}
    return lambda x: c.w.add(x), lambda v: setattr(c, "w", tensors[v]), setter(c)[1]


@case
def case_private_attribute():
    class K(C):
        def __init__(self):
            super().__init__()
            self.__scale = 1.0

        def set(self, v):
            self.__scale = v

        def run(self, x):
            return x * self.__scale

    k = K()
    return k.run, lambda v: k.set(v), setter(k)[1]


@case
def case_dict_of_a_class():
    class K:
        s = 1.0

    name = "".join(["s"])
    return lambda x: x * vars(K)[name], setter(K)[0], lambda: None


@case
def case_fields_by_name():
    d = Data()

    def f(x):
        return x * [getattr(d, field.name) for field in dataclasses.fields(d)][0]

    return f, lambda v: setattr(d, "s", v), lambda: None


@case
def case_equal_data_classes():
    d, e = Data(), Data()
    return lambda x: x if d == e else x * 2, lambda v: setattr(d, "s", v), lambda: setattr(d, "unknown", 1)


@case
def case_string_of_a_data_class():
    d = Data()
    return lambda x: x * len(f"{d}"), lambda v: setattr(d, "s", v if v == 1 else 22.0), lambda: setattr(d, "unknown", 1)


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
def case_attribute_of_the_jitted_function():
    @dlc.jit
    def f(x):
        return x * f.s

    f.s = 1.0
    return lambda x: f(x), *setter(f)


@case
def case_arguments_of_the_command():
    return lambda x: x * len(sys.argv), lambda v: sys.argv.append("x") if v != 1 else sys.argv.remove("x") \
        if "x" in sys.argv else None, lambda: None


@case
def case_whole_dictionary_replaced():
    c = C()
    return lambda x: x * c.s, lambda v: setattr(c, "__dict__", {"s": v}), setter(c)[1]


@case
def case_variable_that_was_unbound():
    def f(x):
        try:
            return x * late
        except NameError:
            return x

    def set_(v):
        nonlocal late
        late = v
        if v == 1:
            del late

    late = 1.0
    return f, set_, lambda: None


@case
def case_attribute_of_a_parameter():
    p = nn.Parameter(dlc.ones(3))
    p.s = 1.0
    return lambda x: x * p.s + 0 * p, *setter(p)


@case
def case_object_behind_a_proxy():
    class Proxy:
        def __init__(self, target):
            object.__setattr__(self, "target", target)

        def __getattribute__(self, name):
            return getattr(object.__getattribute__(self, "target"), name)

    c = C()
    proxy = Proxy(c)
    return lambda x: x * proxy.s, *setter(c)


@case
def case_config_with_getattr():
    class Config:
        def __init__(self, **values):
            self.__dict__["values"] = values

        def __getattr__(self, name):
            return self.values[name]

        def __setattr__(self, name, value):
            self.values[name] = value

    c = Config(s=1.0)
    return lambda x: x * c.s, lambda v: setattr(c, "s", v), lambda: None


@case
def case_text_of_an_expression():
    globals()["CONFIG"] = C()
    return lambda x: x * eval("CONFIG.s"), lambda v: setattr(CONFIG, "s", v), lambda: setattr(CONFIG, "other", 1)  # noqa: F821


SECOND_TRACE = {"case_object_that_is_made_in_a_cache"}


@pytest.fixture(autouse=True)
def _restore():
    yield
    globals().update(S=1.0, OTHER=1.0)
    globals().pop("abs", None)
    for name in ("DLC_TEST_S", "DLC_TEST_OTHER"):
        os.environ.pop(name, None)


@pytest.mark.parametrize("make", CASES, ids=[make.__name__[5:] for make in CASES])
def test_what_is_read_is_noticed_and_nothing_else(make):
    fn, set_, beside = make()
    set_(1.0)
    f, x = dlc.jit(fn), dlc.ones(3)

    def agree(traces):
        assert f(x).tolist() == fn(x).tolist()
        assert f.traces == traces

    first = 2 if make.__name__ in SECOND_TRACE else 1
    agree(1)
    agree(first)
    beside()
    agree(first)
    before = f(x).tolist()
    set_(2.0)
    agree(first + 1)
    assert f(x).tolist() != before  # the change is one
    set_(1.0)
    agree(first + 1)
    set_(2.0)
    beside()
    agree(first + 1)
    set_(1.0)  # some of it is the program's


# --- state that the trace itself changes ---


def values(f, n=4):
    return [f(dlc.ones(1)).item() for _ in range(n)]


def same_as_python(fn, reset):
    reset()
    want = [fn(dlc.ones(1)).item() for _ in range(4)]
    reset()
    f = dlc.jit(fn)
    assert values(f) == want
    return f


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


# --- arguments ---


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


# --- what is kept ---


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


# --- modules ---


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


# --- messages ---


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


# --- methods ---


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
