"""What is read of objects by attributes, however they are named, and by special methods."""

import copy
import dataclasses
import operator

import pytest

import dlc
from tests.frontend.guard_cases import CHECKS, C, Cases, Data, name_of, setter

case = Cases()


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
    case(make)


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
def case_slotted_log_with_a_method():
    class Log:
        __slots__ = ("s",)

        def append(self, x):
            return x * self.s

    log = Log()
    log.s = 1.0
    return lambda x: log.append(x), lambda v: setattr(log, "s", v), lambda: None


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


@pytest.mark.parametrize("checks", CHECKS, ids=CHECKS.get)
@pytest.mark.parametrize("make", case.made, ids=name_of)
def test_what_is_read_is_noticed_and_nothing_else(make, checks, monkeypatch):
    case.agrees(make, checks, monkeypatch)
