"""What is read in every shape of code: names, scopes, closures, statements and expressions."""

import pytest

from tests.frontend.guard_cases import CHECKS, TWICE, C, Cases, Data, name_of, scaled_by, setter

S = 1.0
OTHER = 1.0
case = Cases()


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
def case_text_of_an_expression():
    globals()["CONFIG"] = C()
    return lambda x: x * eval("CONFIG.s"), lambda v: setattr(CONFIG, "s", v), lambda: setattr(CONFIG, "other", 1)  # noqa: F821


@pytest.fixture(autouse=True)
def _restore():
    yield
    globals().update(S=1.0, OTHER=1.0)
    globals().pop("abs", None)


@pytest.mark.parametrize("checks", CHECKS, ids=CHECKS.get)
@pytest.mark.parametrize("make", case.made, ids=name_of)
def test_what_is_read_is_noticed_and_nothing_else(make, checks, monkeypatch):
    case.agrees(make, checks, monkeypatch)
