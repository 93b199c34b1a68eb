"""What is read of containers: elements, keys, sizes, and objects that they hold."""

import collections
import dataclasses
import operator
import types

import numpy as np
import pytest

from tests.frontend.guard_cases import CHECKS, C, Cases, name_of, scaled_by, setter

case = Cases()


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


@case
def case_parameter_of_a_helper():
    c = C()
    return lambda x: scaled_by(x, c), *setter(c)


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
def case_whole_dictionary_replaced():
    c = C()
    return lambda x: x * c.s, lambda v: setattr(c, "__dict__", {"s": v}), setter(c)[1]


@pytest.mark.parametrize("checks", CHECKS, ids=CHECKS.get)
@pytest.mark.parametrize("make", case.made, ids=name_of)
def test_what_is_read_is_noticed_and_nothing_else(make, checks, monkeypatch):
    case.agrees(make, checks, monkeypatch)
