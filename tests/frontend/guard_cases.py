"""Cases of state that a jitted function reads, and what must hold for each: a change of it is noticed at the next call,
a change beside it traces nothing again.

A case gives a function, how to set the state that it reads (1.0 to begin with), and how to change something beside it.
One that is traced a second time before it settles (it fills a cache at the trace) is made by `case.settling`.
"""

from __future__ import annotations

import dataclasses

import dlc
from dlc.frontend.jit import guards

# How many checks of an entry's guards come before one that is compiled.
CHECKS = {guards.CHECKS_BEFORE_COMPILING: "read first", 1: "compiled at once"}


class Cases:
    """The cases of one file: what `case` decorates, in order."""

    def __init__(self):
        self.made = []
        self.settles = set()

    def __call__(self, make):
        self.made.append(make)
        return make

    def settling(self, make):
        self.settles.add(make)
        return self(make)

    def agrees(self, make, checks, monkeypatch):
        """Go to another state, back and beside: the values are Python's, the traces no more than the states."""
        monkeypatch.setattr(guards, "CHECKS_BEFORE_COMPILING", checks)
        fn, set_, beside = make()
        set_(1.0)
        f, x = dlc.jit(fn), dlc.ones(3)

        def agree(traces):
            assert f(x).tolist() == fn(x).tolist()
            assert f.traces == traces

        first = 2 if make in self.settles else 1
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


def name_of(make):
    return make.__name__.removeprefix("case_")


# --- what several cases are made of ---


class C:
    """An object with a number to read, `s`, and one that nobody reads."""

    def __init__(self, s=1.0):
        self.s = s
        self.other = 0


@dataclasses.dataclass
class Data:
    s: float = 1.0
    other: object = 0


def setter(obj, name="s"):
    return lambda v: setattr(obj, name, v), lambda: setattr(obj, "other", object())


def scaled_by(x, cfg):
    return x * cfg.s


def delattr_reported(module):
    module.forward = None
    del module.forward


def PATCH():
    return 2.0


def TWICE(x):
    return x * 2.0


def values(f, n=4):
    return [f(dlc.ones(1)).item() for _ in range(n)]


def same_as_python(fn, reset):
    """A jitted `fn`, of which four calls in a row gave what Python gives."""
    reset()
    want = [fn(dlc.ones(1)).item() for _ in range(4)]
    reset()
    f = dlc.jit(fn)
    assert values(f) == want
    return f
