"""What docs/semantics.md says that compiled functions do not watch is not watched, and what it says beside it is.

The list is part of the contract: who makes one of these watched takes it out of both.
"""

from __future__ import annotations

import abc
import ctypes
import decimal
import functools
import io
import os
import queue
import random
import threading
from unittest import mock

import numpy as np
import pytest

import dlc

A, B = 1.0, 1.0
UNWATCHED, WATCHED = [], []


class C:
    def __init__(self, s=1.0):
        self.s = s


def unwatched(make):
    UNWATCHED.append(make)


def watched(make):
    WATCHED.append(make)


def _environment(name, read):
    os.environ.pop(name, None)
    return read, lambda: os.environ.__setitem__(name, "1")


@unwatched
def environment_by_prefix():
    return _environment("DLC_TEST_P" + "REFIX", lambda x: x + sum(k.startswith("DLC_TEST_P") for k in os.environ))


@watched
def environment_by_name():
    return _environment("DLC_TEST_N", lambda x: x + ("DLC_TEST_N" in os.environ))


@unwatched
def attribute_by_a_name_put_together():
    c, letter = C(), 115
    return lambda x: x * getattr(c, chr(letter)), lambda: setattr(c, "s", 2.0)


@unwatched
def expression_in_a_string():
    c = C()
    return lambda x: x * eval("c.s * A", {"c": c, "A": A}), lambda: setattr(c, "s", 2.0)


@unwatched
def globals_in_an_expression():
    globals()["A"] = 1.0
    return lambda x: x * eval("A * B"), lambda: globals().__setitem__("A", 2.0)


@watched
def one_name_in_a_string():
    globals()["B"] = 1.0
    return lambda x: x * eval("B"), lambda: globals().__setitem__("B", 2.0)


@unwatched
def global_by_a_name_put_together():
    globals()["A"] = 1.0
    letter = "a"
    return lambda x: x * globals()[letter.upper()], lambda: globals().__setitem__("A", 2.0)


@unwatched
def subclasses():
    class Base:
        pass

    kept = []
    return lambda x: x + len(Base.__subclasses__()), lambda: kept.append(type("D", (Base,), {}))


@unwatched
def registered_with_an_abstract_class():
    class Base(abc.ABC):  # noqa: B024
        pass

    c = C()
    return lambda x: x + isinstance(c, Base), lambda: Base.register(C)


@unwatched
def dispatched_by_type():
    f = functools.singledispatch(lambda v: 1.0)
    return lambda x: x * f(3), lambda: f.register(int, lambda v: 2.0)


@unwatched
def what_an_object_in_an_array_holds():
    objects = np.array([C(), None], dtype=object)
    return lambda x: x * objects[0].s, lambda: setattr(objects[0], "s", 2.0)


@watched
def an_object_in_an_array():
    objects = np.array([C(), None], dtype=object)
    return lambda x: x * objects[0].s, lambda: objects.__setitem__(0, C(2.0))


@unwatched
def ctypes_value():
    value = ctypes.c_double(1.0)
    return lambda x: x * value.value, lambda: setattr(value, "value", 2.0)


@unwatched
def event():
    happened = threading.Event()
    return lambda x: x + happened.is_set(), happened.set


@unwatched
def lock():
    own = threading.Lock()
    return lambda x: x + own.locked(), own.acquire


@unwatched
def queue_size():
    jobs = queue.Queue()
    return lambda x: x + jobs.qsize(), lambda: jobs.put(1)


@unwatched
def stream():
    text = io.StringIO("12")
    return lambda x: x + text.tell(), lambda: text.read(1)


@unwatched
def state_of_a_generator():
    numbers = random.Random(0)
    return lambda x: x + sum(numbers.getstate()[1]) % 1000, lambda: numbers.seed(1)


@unwatched
def state_of_a_numpy_generator():
    numbers = np.random.default_rng(0)
    return lambda x: x + numbers.bit_generator.state["state"]["state"] % 1000, numbers.random


@unwatched
def decimal_context():
    decimal.getcontext().prec = 20
    return lambda x: x * decimal.getcontext().prec, lambda: setattr(decimal.getcontext(), "prec", 21)


def _seen(make):
    f, change = make()
    compiled, x = dlc.jit(f), dlc.tensor([1.0])
    before = compiled(x).item()
    assert before == f(x).item() and compiled(x).item() == before
    change()
    now = f(x).item()
    assert now != before
    got = compiled(x).item()
    assert got in (before, now)
    return got == now


@pytest.mark.parametrize("make", UNWATCHED, ids=lambda m: m.__name__)
def test_what_is_not_watched_is_said(make):
    with decimal.localcontext(), mock.patch.dict(os.environ):
        assert not _seen(make)


@pytest.mark.parametrize("make", WATCHED, ids=lambda m: m.__name__)
def test_what_is_watched_beside_it(make):
    with mock.patch.dict(os.environ):
        assert _seen(make)
