"""Python integers of any size as operands and arguments: compiled functions take them as eager ones do."""

from __future__ import annotations

import re

import numpy as np
import pytest

import dlc

VALUES = {
    "max": 2**63 - 1, "2**63": 2**63, "2**64-1": 2**64 - 1, "2**64": 2**64, "below": -(2**63) - 1, "2**70": 2**70,
    "2**1000": 2**1000, "largest": 2**1024 - 2**970 - 1, "first too large": 2**1024 - 2**970, "10**5000": 10**5000,
}  # fmt: skip
TENSORS = {
    "int64": np.array([1, 2]), "uint64": np.array([1, 2], np.uint64), "bool": np.array([True]),
    "float32": np.array([1.5], np.float32), "float64": np.array([1.5]), "float16": np.array([1.5], np.float16),
}  # fmt: skip


def outcome(function, *args):
    """What a call gives, or the first line of its error and whether that names this file."""
    try:
        out = function(*args)
        return out.dtype, out.numpy().tolist()
    except dlc.DTypeError as error:
        text = str(error)
        assert re.search(rf"at {re.escape(__file__)}:\d+", text), text
        assert len(text) < 500
        return text.split("\n")[0]


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("array", TENSORS.values(), ids=TENSORS)
def test_under_jit_as_without(array, value):
    x = dlc.tensor(array)
    eager = outcome(lambda a, n: a + n, x, value)
    assert outcome(dlc.jit(lambda a, n: a + n), x, value) == eager
    assert outcome(dlc.jit(lambda a: a + value), x) == eager
    assert outcome(dlc.jit(lambda d: d["a"] + d["n"][0]), {"a": x, "n": (value,)}) == eager
    fits = value < 2**63 if array.dtype.kind != "u" else 0 <= value < 2**64
    fits = abs(value) < 2**1024 - 2**970 if array.dtype.kind == "f" else fits and value >= -(2**63)
    assert isinstance(eager, str) != fits, eager


def test_small_and_large_integers_of_one_function():
    f = dlc.jit(lambda a, n: a * n)
    x = dlc.tensor([0.5])
    for _ in range(2):
        for n in (3, -7, 2**70, 2**63 - 1, 2**64):
            np.testing.assert_array_equal(f(x, n).numpy(), np.float32(n * 0.5))
    assert f.traces == 3  # of inputs, and one for each that is none
    assert dlc.jit(lambda a, n: a)(x, 10**5000) is x
