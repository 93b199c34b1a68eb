"""The Loop IR verifier: accepts the examples, refuses one thing at a time."""

from __future__ import annotations

import pytest

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.dtypes import float32
from dlc.ir.loops.ir import Alloc, Buffer, For, If, Kernel, Seq, axis, const, load, loop, op, store
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.verify import verify

HEAD = "kernel k(x: f32[64], idx: i64[64], out: f32[64] writes, y: f32[64])\n"

BAD = {
    "a f32 value is no index": ("  for i in 64:\n    out[i64(x[i])] = x[i]\n", None),
    "not declared": ("  for i in 64:\n    y[i] = x[i]\n", "y is written but not declared"),
    "past the end": ("  for i in 64:\n    out[i] = x[i + 1]\n", r"index i \+ 1 of x runs from 1 to 64, outside 0..63"),
    "before the start": ("  for i in 64:\n    out[i - 1] = x[i]\n", "runs from -1 to 62"),
    "correlated axes": ("  for i in 8:\n    for j in 8:\n      out[i*8 + j] = x[i*9 + j - i + 1]\n", "from 1 to 64"),
    "never inside": ("  for i in 64:\n    if i < 4:\n      out[i] = x[i + 64]\n", "from 64 to 127"),
    "inner parallel": ("  for i in 8:\n    for j in 8 parallel:\n      out[i*8 + j] = x[i]\n", "must be the outermost"),
    "two parallel": (
        "  for i in 8 parallel:\n    out[i] = x[i]\n  for j in 8 parallel:\n    out[j] = x[j]\n", "the only one",
    ),
    "nested vector": (
        "  for i in 8 vector(8):\n    for j in 8 vector(8):\n      out[i*8 + j] = x[i]\n", "inside another",
    ),
    "no lanes": ("  for i in 64 vector:\n    out[i] = x[i]\n", "number of lanes"),
    "variable unroll": ("  for i in 8:\n    for j in i of 8 unroll:\n      out[j] = x[j]\n", "must be a constant"),
    "extent above the axis": ("  for i in 9 of 8:\n    out[i] = x[i]\n", "exceeds the axis' own"),
    "lanes overwrite": ("  for i in 8 vector(8):\n    out[0] = x[i]\n", "overwrites the same place"),
    "fold and read": ("  for i in 8 vector(8):\n    out[0] += x[i]\n    out[i] = out[0]\n", "folds its lanes"),
    "serial reg index": ("  alloc a: reg f32[8]\n  for i in 8:\n    a[i] = x[i]\n", "neither constant after unrolling"),
    "vector plus one": ("  alloc a: reg f32[9]\n  for i in 8 vector(8):\n    a[i + 1] = x[i]\n", "neither constant"),
    "part of a dimension": ("  alloc a: reg f32[16]\n  for i in 8 vector(8):\n    a[i] = x[i]\n", "walk the whole"),
    "a loop of many groups": ("  alloc a: reg f32[16]\n  for i in 16 vector(8):\n    a[i] = x[i]\n", "walk the whole"),
    "reg out of bounds": (
        "  alloc a: reg f32[2]\n  for u in 3 unroll:\n    a[u] = x[u]\n", "from 0 to 2, outside 0..1",
    ),
    "global alloc": ("  alloc a: global f32[8]\n  a[0] = 1.0\n", "cannot allocate a global"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_broken_rule(name):
    body, message = BAD[name]
    kernel = parse_kernel(HEAD + body)
    if message is None:
        verify(kernel)
        return
    with pytest.raises(VerifyError, match=message) as error:
        verify(kernel, "some pass")
    assert "kernel k after some pass: " in str(error.value)


GOOD = {
    "guarded": "  for i in 64:\n    if i < 63:\n      out[i] = x[i + 1]\n",
    "predicated": "  for i in 64:\n    out[i] = x[i + 1 if i < 63]\n",
    "gathered": "  for i in 64:\n    out[i] = x[idx[i]]\n",
    "div and mod": "  for i in 64:\n    out[i%8*8 + i//8] = x[63 - i]\n",
    "masked tail": "  for i in 13 vector(8):\n    out[i] = x[i]\n",
    "one lane stores": "  for i in 8 vector(8):\n    out[0] = x[i] if i == 3\n",
    "horizontal": "  alloc a: reg f32[8]\n  for i in 8 vector(8):\n    a[i] = x[i]\n"
    "  for i in 8 vector(8):\n    out[0] += a[i]\n",
    "unrolled sum": "  alloc a: reg f32[8]\n  for u in 4 unroll:\n    for v in 2 unroll:\n      a[u*2 + v] = x[u]\n",
    "empty": "  for i in 0:\n    out[i + 99] = 1.0\n",
    "partial": "  for i in 64:\n    for j in min(4, 64 - i) of 4:\n      out[i + j] = x[i + j]\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_legal(name):
    verify(parse_kernel(HEAD + GOOD[name]))


X, OUT = Buffer("x", float32, (8,)), Buffer("out", float32, (8,))
AX, J = axis("i", 8), axis("j", 8)


def _kernel(body, writes=(OUT,), params=(X, OUT)):
    return Kernel("k", params, frozenset(writes), body)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (_kernel(store(OUT, [AX], load(X, AX))), "axis i is not in scope"),
        (_kernel(loop(AX, loop(AX, store(OUT, [AX], load(X, AX))))), "already bound"),
        (_kernel(loop(AX, store(OUT, [AX], load(Buffer("z", float32, (8,)), AX)))), "z is not in scope"),
        (_kernel(loop(AX, store(OUT, [AX], AX))), "a int64 is stored into out, which holds float32"),
        (_kernel(loop(AX, store(OUT, [AX], op("add", load(X, AX), AX)))), "add of .float32, int64. giving float32"),
        (_kernel(loop(AX, store(OUT, [AX], op("div", AX, AX)))), "a int64 is stored into out"),
        (_kernel(loop(AX, store(OUT, [AX], op("select", AX, load(X, AX), load(X, AX))))), "select of"),
        (_kernel(loop(AX, store(OUT, [op("cast", AX, dtype=dtypes.int32)], load(X, AX)))), "is int32, not int64"),
        (_kernel(loop(AX, If(AX, store(OUT, [AX], load(X, AX))))), "the condition is int64, not bool"),
        (_kernel(loop(AX, store(OUT, [AX], load(X, AX), "and"))), "and is not defined for float32"),
        (_kernel(loop(AX, store(OUT, [AX], load(X, AX), "sub"))), "cannot combine with 'sub'"),
        (_kernel(loop(AX, store(OUT, [AX], load(X, AX), None, AX))), "the predicate is int64"),
        (_kernel(loop(AX, store(OUT, [AX], load(X, AX))), writes=(OUT, Buffer("w", float32, (1,)))), "not a parameter"),
        (_kernel(loop(AX, store(OUT, [AX], load(X, AX))), params=(X, OUT, X)), "parameter twice"),
        (_kernel(For(const(8), const(8), Seq(()))), "the loop variable is not an axis"),
        (_kernel(Alloc(Buffer("a", float32, (8,), "reg"))), "must stand in a Seq"),
        (_kernel(loop(AX, store(OUT, [AX], op("bitcast", load(X, AX), dtype=dtypes.int64)))), "stored into out"),
        (_kernel(loop(AX, store(OUT, [AX], op("fma", AX, AX, AX)))), "stored into out"),
    ],
)
def test_what_text_cannot_say(kernel, message):
    with pytest.raises(VerifyError, match=message):
        verify(kernel)
