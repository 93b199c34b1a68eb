"""Positions that users compute in integers that wrap: every read and write stays inside, at NumPy's place."""

from __future__ import annotations

import numpy as np
import pytest

import dlc
from dlc.ir import dtypes
from tests.sweeps.canaries import canaries
from tests.sweeps.indices import at

N = 100
CASES = [  # index of i, dtype, values, dtype of the index if another
    ("i.astype(lib.int16)", "u2", [65535, 65436, 5]),
    ("i.astype(lib.int8)", "u4", [255, 128, 2**31, 99]),
    ("i.astype(lib.uint8)", "i8", [-1, -2**63, 300, 99]),
    ("clip(i, 0, 100) * 2", "i1", [100, 90, 3]),
    ("clip(i, 0, 10) - 11", "u4", [0, 5, 10]),
    ("clip(i, 0, 10) - 11", "u8", [0, 5, 10]),
    ("clip(i, 0, 7) * (1 << 30)", "i4", [2, 3, 7]),
    ("clip(i, 0, 7) * (1 << 61)", "i8", [4, 3, 7]),
    ("clip(i, 0, 7) << 61", "i8", [4, 3, 7]),
    ("clip(i, 0, 100) + 100", "i1", [100, 50, 3]),
    ("-clip(i, -128, 0)", "i1", [-128, -5, 0]),
    ("lib.abs(clip(i, -128, 0))", "i1", [-128, -5, 0]),
    ("clip(i, -100, 0) - 100", "i1", [-100, -28, 0]),
    ("(i * (1 << 62)) % 100", "i8", [1, 2, 3, -1]),
    ("(i * 4 + 3) // 4", "i8", [2**62, -2**62, 2**61, 7]),
    ("i * 4 // 4 % 100", "i4", [2**30, 2**29, 5, -2**31]),
    ("i + (1 << 62)", "i8", [2**62, -2**62, -2**62 + 5]),
    ("i", "u8", [2**63, 2**64 - 1, 2**63 - 1, 3]),
    ("i + 5", "u8", [2**64 - 3, 2**63, 3]),
    ("i - 5", "u1", [3, 5, 104]),
    ("lib.arange(3) * (1 << 62) + 0 * i", "i8", [0, 0, 0]),
    ("lib.arange(3) * (1 << 31) + 0 * i", "i8", [0, 0, 0]),
    ("(i < 0) * (1 << 40) + i", "i8", [-1, -1, 2]),
]


class _Numpy:
    """What the cases need, in NumPy."""

    int16, int8, uint8 = np.int16, np.int8, np.uint8
    abs, arange = staticmethod(np.abs), staticmethod(np.arange)


@pytest.mark.parametrize("how", ["{x}[{i}]", "dlc.take({x}, {i}, axis=0)", "dlc.gather({x}, 0, {i})", "vmap",
                                 "dlc.take_along_axis({x}, {i}, axis=0)", "F.embedding({i}, {x}[:, None])[:, 0]"])
def test_reads_stay_inside(how):
    x = np.arange(N, dtype=np.float32)
    if how == "vmap":
        how = "dlc.vmap(lambda k: {x}[k])({i})"
    text = [how.format(x="x", i=f"({e})") for e, *_ in CASES]
    with canaries() as watch:
        for t, (e, dtype, values) in zip(text, CASES, strict=True):
            i = np.array(values, dtype)
            want = x[at(_index(e, i), N)]
            f = dlc.jit(lambda x, i, t=t: eval(t, _names(dlc, i) | {"x": x}))
            np.testing.assert_array_equal(f(dlc.asarray(x), dlc.asarray(i)).numpy(), want, f"{t} of {values}")
            assert not watch.check()


@pytest.mark.parametrize("combine", ["set", "add", "max"])
def test_writes_stay_inside(combine):
    x = np.arange(N, dtype=np.float32)
    ufunc = {"add": np.add, "max": np.maximum}.get(combine)
    with canaries() as watch:
        for e, dtype, values in CASES:
            i, want = np.array(values, dtype), x.copy()
            places = at(_index(e, i), N)
            if ufunc is None:
                want[places] = 500
            else:
                ufunc.at(want, places, np.float32(500))
            f = dlc.jit(lambda x, i, e=e: getattr(x.at[eval(e, _names(dlc, i))], combine)(500))
            np.testing.assert_array_equal(f(dlc.asarray(x), dlc.asarray(i)).numpy(), want, f"{e} of {values}")
            assert not watch.check()


def test_two_indices_and_gradients_stay_inside():
    x = np.arange(2 * N, dtype=np.float32).reshape(2, N)
    with canaries() as watch:
        for e, dtype, values in CASES:
            i, want = np.array(values, dtype), np.zeros_like(x)
            places = at(_index("i * 0 + 1", i), 2), at(_index(e, i), N)
            f = dlc.jit(lambda x, i, e=e: (x[i * 0 + 1, eval(e, _names(dlc, i))],
                                           dlc.grad(lambda x: (x[i * 0 + 1, eval(e, _names(dlc, i))] * 3).sum())(x)))
            got, gradient = f(dlc.asarray(x), dlc.asarray(i))
            np.add.at(want, places, 3)
            np.testing.assert_array_equal(got.numpy(), x[places], f"{e} of {values}")
            np.testing.assert_array_equal(gradient.numpy(), want, f"{e} of {values}")
            assert not watch.check()


def _names(lib, i):
    import dlc.nn.functional as F

    return {"lib": lib, "clip": lambda a, low, high: dlc.clip(a, max(low, dtypes.limits(a.dtype)[0]), high), "i": i,
            "dlc": dlc, "F": F}


def _index(e, i):
    def clip(a, low, high):
        return np.clip(a, a.dtype.type(max(low, np.iinfo(a.dtype).min)), a.dtype.type(high))

    with np.errstate(all="ignore"):
        return eval(e, {"lib": _Numpy, "clip": clip, "i": i})


def test_positions_beyond_32_bits():
    """A view of more than 2**31 elements, none of which is stored."""
    x = dlc.asarray(np.arange(7, dtype=np.float32))
    i = np.array([0, 3, 2**31 + 5, 2**32 + 1, 2**33 - 1, -1, 2**40])
    n = 1 << 33
    got = dlc.jit(lambda x, i: dlc.broadcast_to(x[:, None], (7, n))[3, i])(x, dlc.asarray(i))
    np.testing.assert_array_equal(got.numpy(), np.full(7, 3, np.float32))
    flat = dlc.jit(lambda x, i: dlc.broadcast_to(x[:, None], (7, n)).reshape(-1)[i])(x, dlc.asarray(i))
    np.testing.assert_array_equal(flat.numpy(), np.array([0, 0, 0, 0, 0, 6, 6], np.float32))
    rows = dlc.jit(lambda x, i: (dlc.arange(n) * 3 + x[0].astype(dlc.int64))[i])(x, dlc.asarray(i))
    np.testing.assert_array_equal(rows.numpy(), 3 * at(i, n))
