"""Numbers that change in eager code: no new compilation for each, and the values that the numbers mean."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

import dlc
from dlc import optim
from dlc.frontend.core import eager, numbers
from dlc.runtime import programs


@pytest.fixture
def compilations(monkeypatch):
    """The graphs that are compiled, from nothing known."""
    made = []
    real = programs.compile_graph

    def counted(graph, *args, **kwargs):
        made.append(graph)
        return real(graph, *args, **kwargs)

    monkeypatch.setattr(programs, "compile_graph", counted)
    eager._executables.clear()
    numbers._seen.clear()
    return made


X = np.linspace(-3, 3, 7)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("f", [
    lambda x, c: x * c, lambda x, c: c - x, lambda x, c: x / c, lambda x, c: x + c * 2, lambda x, c: abs(x) ** c,
    lambda x, c: dlc.clip(x, -c, c), lambda x, c: dlc.where(x > c, x, c), lambda x, c: dlc.full((7,), c) + x,
    lambda x, c: x * dlc.asarray(c, dtype=x.dtype), lambda x, c: dlc.exp(x).sum() * c,
])  # fmt: skip
def test_a_changing_float_is_compiled_twice(compilations, f, dtype):
    x = dlc.asarray(X).astype(getattr(dlc, dtype)).realize()
    compilations.clear()
    r = random.Random(1)
    for _ in range(6):
        c = r.uniform(0.5, 2)
        got = f(x, c).numpy().astype(np.float64)
        want = dlc.jit(lambda x, c=c: f(x, c))(x).numpy().astype(np.float64)  # there it is a constant
        tolerance = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
        np.testing.assert_allclose(got, want, tolerance, tolerance)
    eager_ones = [g for g in compilations if g.name == "eager"]
    assert len(eager_ones) <= 2


def test_integers_and_several_numbers(compilations):
    x = dlc.asarray(np.arange(6)).realize()
    compilations.clear()
    for a, c in [(3, 5), (4, 5), (5, 6), (7, 8), (-2, 2**40)]:
        assert ((x * a + c) % 1000).tolist() == ((np.arange(6) * a + c) % 1000).tolist()
    assert len(compilations) <= 4  # one with two constants, one with an input, one with two; `% 1000` stays a constant
    assert any(n.op == "const" and n.attrs["value"] == 1000 for n in compilations[-1].nodes())


def test_numbers_that_do_not_change_stay_constants(compilations):
    for _ in range(3):
        (dlc.asarray(X) * 2 + 1).numpy()
    assert len(compilations) == 1


@pytest.mark.parametrize("numbers_", [[0.0, -0.0], [1.0, math.inf, -math.inf], [math.nan, 1.0, math.nan]])
def test_strange_numbers(compilations, numbers_):
    x = dlc.asarray(np.array([1.0, -2.0, 0.5], np.float32)).realize()
    for c in [2.0, 3.0, *numbers_, *numbers_]:
        got, want = (x * c).numpy(), np.array([1.0, -2.0, 0.5], np.float32) * np.float32(c)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


def test_gradients_and_optimizers(compilations):
    w = dlc.asarray(X.astype(np.float32))
    w.requires_grad = True
    optimizer = optim.SGD([w], lr=0.1)
    want = X.astype(np.float32)
    r = random.Random(2)
    counts = []
    for _ in range(8):
        optimizer.param_groups[0]["lr"] = rate = r.uniform(0.01, 0.1)
        scale = r.uniform(0.5, 1.5)
        optimizer.zero_grad()
        ((w * w).sum() * scale).backward()
        optimizer.step()
        want = want - np.float32(rate) * np.float32(scale) * 2 * want
        np.testing.assert_allclose(w.numpy(), want, 1e-5)
        counts.append(len(compilations))
    assert counts[-1] == counts[3]


def test_what_was_seen_is_bounded(compilations, monkeypatch):
    monkeypatch.setattr(numbers, "REMEMBERED", 4)
    for n in range(2, 12):
        (dlc.zeros(n) + 1.5).numpy()
    assert len(numbers._seen) <= 4


def test_under_debug_nothing_is_compiled(compilations):
    with dlc.debug():
        for c in (1.5, 2.5, 3.5):
            assert (dlc.asarray([2.0]) * c).tolist() == [2 * c]
    assert not compilations
