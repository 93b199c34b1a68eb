"""`dlc.debug()` finds every position outside its axis that only a run knows, and nothing that functions compute."""

from __future__ import annotations

import re

import numpy as np
import pytest

import dlc

X = np.arange(12, dtype=np.float32).reshape(3, 4)
GOOD, BAD = np.array([0, -3]), np.array([1, 3])  # for an axis of 3


def columns(*positions):
    return np.array([[p] for p in positions])


PROGRAMS = {
    "x[i]": (lambda x, i: x[i], GOOD, BAD, 0),
    "x[i], negative": (lambda x, i: x[i], GOOD, np.array([0, -4]), 0),
    "x[i, i]": (lambda x, i: x[i, i], GOOD, BAD, 0),
    "x[0, i]": (lambda x, i: x[0, i], np.array([3, -4]), np.array([4, 0]), 1),
    "x[i, 2]": (lambda x, i: x[i, 2], GOOD, BAD, 0),
    "x[[0, 1], i]": (lambda x, i: x[[0, 1], i], np.array([3, -4]), np.array([0, -5]), 1),
    "x[:, i]": (lambda x, i: x[:, i], np.array([3]), np.array([4]), 1),
    "x[i, None, 1:]": (lambda x, i: x[i, None, 1:], GOOD, BAD, 0),
    "x[i[:, None], [0, 1]]": (lambda x, i: x[i[:, None], [0, 1]], GOOD, BAD, 0),
    "x[n, n]": (lambda x, n: x[n, n], 2, 3, 0),
    "small type": (lambda x, i: x[:, i], np.array([3], np.uint8), np.array([200], np.uint8), 1),
    "large type": (lambda x, i: x[0, i], np.array([3], np.uint64), np.array([2**63], np.uint64), 1),
    "at[i, i].add": (lambda x, i: x.at[i, i].add(1.0), GOOD, BAD, 0),
    "at[i].set": (lambda x, i: x.at[i].set(1.0), GOOD, BAD, 0),
    "take": (lambda x, i: dlc.take(x, i, axis=0), GOOD, BAD, 0),
    "take of all": (lambda x, i: dlc.take(x, i), np.array([-12, 11]), np.array([12]), 0),
    "take_along_axis": (lambda x, i: dlc.take_along_axis(x, i, axis=1), columns(0, 3, -4), columns(0, 4, 1), 1),
    "gather": (lambda x, i: dlc.gather(x, 1, i), columns(0, 3, 1), columns(0, 1, -5), 1),
    "scatter": (lambda x, i: dlc.scatter(x, 1, i, 2.0), columns(0, 3, 1), columns(0, 4, 1), 1),
    "scatter_add": (lambda x, i: dlc.scatter_add(x, 1, i, 2.0), columns(0, 3, 1), columns(4, 0, 1), 1),
    "index_add": (lambda x, i: dlc.index_add(x, 0, i, dlc.ones((2, 4))), GOOD, BAD, 0),
    "index_fill": (lambda x, i: dlc.index_fill(x, 1, i, 2.0), np.array([3]), np.array([4]), 1),
    "embedding": (lambda x, i: dlc.nn.functional.embedding(i, x), GOOD, BAD, 0),
    "sorter": (lambda x, i: dlc.searchsorted(x[0, :3], x[1], sorter=i), np.array([0, 1, 2]), np.array([0, 1, 3]), 0),
    "bincount": (lambda x, i: dlc.bincount(i, 3), np.array([0, 2]), np.array([0, 3]), 0),
    "grad": (lambda x, i: dlc.grad(lambda x: x[i, i].sum())(x), GOOD, BAD, 0),
    "checkpoint": (lambda x, i: dlc.checkpoint(lambda x: x[i, i])(x), GOOD, BAD, 0),
    "vmap": (lambda x, i: dlc.vmap(lambda i: x[i, i])(i), GOOD, BAD, 0),
    "scan": (lambda x, i: dlc.scan(lambda c, k: (c + x[k, k], c), dlc.zeros(()), i), GOOD, BAD, 0),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_positions_outside_are_found_and_others_are_not(program):
    f, good, bad, axis = program
    f, x = dlc.jit(f), dlc.tensor(X)
    good, bad = (v if isinstance(v, int) else dlc.tensor(v) for v in (good, bad))
    f(x, bad)  # which clamps
    want = f(x, good)
    with dlc.debug():
        got = f(x, good)
        with pytest.raises(dlc.IndexOutOfRange, match=rf"is outside axis {axis} of extent") as info:
            f(x, bad)
    text = str(info.value)
    assert text.count("\n  at ") == 1 and re.search(rf"at {re.escape(__file__)}:\d+", text), text
    wrong = bad if isinstance(bad, int) else next(int(v) for v in bad.numpy().flat if abs(int(v)) > 2)
    assert f" {wrong} is outside" in text
    for a, w in zip(*(v if isinstance(v, tuple) else [v] for v in (got, want)), strict=True):
        np.testing.assert_array_equal(a.numpy(), w.numpy())


@pytest.mark.parametrize("jit", [lambda f: f, dlc.jit], ids=["eager", "jit"])
def test_what_functions_compute_is_theirs(jit):
    """A binary search looks beyond the end of its table, and doesn't use what it finds there."""
    with dlc.debug():
        for n in (1, 4, 5, 8, 100):
            table = np.arange(n, dtype=np.float32)
            asked = np.array([-1.0, 0.5, n - 1, n + 5], np.float32)
            got = jit(dlc.searchsorted)(dlc.tensor(table), dlc.tensor(asked))
            np.testing.assert_array_equal(got.numpy(), np.searchsorted(table, asked))


@pytest.mark.parametrize("transform", ["vmap", "scan"])
def test_the_line_is_the_index_and_not_the_loop(transform):
    x, i = dlc.tensor(X), dlc.tensor(BAD)
    body = {
        "vmap": lambda: dlc.vmap(lambda k: x[k, k])(i),
        "scan": lambda: dlc.scan(lambda c, k: (c + x[k, k], c), dlc.zeros(()), i),
    }[transform]
    with dlc.debug(), pytest.raises(dlc.IndexOutOfRange, match=r"^index: 3 is outside axis 0 of extent 3") as info:
        body()
    assert str(info.value).count("\n  at ") == 1
