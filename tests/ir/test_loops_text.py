"""Loop IR text: readable, exact, and the same after a round trip."""

from __future__ import annotations

from functools import partialmethod

import numpy as np
import pytest

from dlc.base.errors import ParseError
from dlc.ir import dtypes
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Buffer, Kernel, axis, const, load, loop, op, store
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_expr, print_kernel
from dlc.ir.loops.verify import verify
from dlc.ir.scalar import SCALAR_OPS, threefry2x32
from tests.ir import loops_examples as examples

SOFTMAX = """\
kernel softmax_0(x: f32[240], out: f32[240] writes)  # flops: 1200; bytes: 1920; at train.py:12, net.py:3
  # x: %x f32[5,48]
  for r in 5 parallel:
    alloc m: reg f32[]
    alloc acc: reg f32[16]
    alloc s: reg f32[]
    m[] = -inf
    for l in 16 vector(16):
      acc[l] = -inf
    for c in 3:
      for l in 16 vector(16):
        acc[l] max= x[r*48 + c*16 + l]
    for l in 16 vector(16):
      m[] max= acc[l]
    s[] = 0.0
    for c in 3:
      for l in 16 vector(16):
        out[r*48 + c*16 + l] = exp(x[r*48 + c*16 + l] - m[])
        s[] += out[r*48 + c*16 + l]
    for c in 3:
      for l in 16 vector(16):
        out[r*48 + c*16 + l] = out[r*48 + c*16 + l] / s[]
"""

MIXED = """\
kernel mixed(x: bf16[64], if_1: u32[4], n: i32[1], out: f64[64] writes, flags: bool[64] writes)  # schedule: Tile(1, 2)
  for i in 64 parallel:
    alloc t: reg f64[2]  # a pair
    t[0] = 1.5
    t[1] = select(f64(x[i]) < -0.25, inf, -1e-300)
    scope:
      alloc t_1: shared f64[1]
      t_1[0] = t[0] * (t[1] - (f64(x[i]) + 2.0))
      out[i] = t_1[0]
    out[i] += f64(threefry(if_1[0], if_1[1], if_1[2], if_1[3]) >> 40) if (i < 5) & (i%2 == 1)
    if i64(n[0]) <= i:
      flags[i] = 1:u32 + 2:u32 < 4:u32
    else:
      flags[i] = false
      for i_1 in min(3, max(i64(n[0]), 0)) of 4:
        out[i_1] max= neg(fma(f64(x[i]), f64(x[i]), nan))
    if bitcast(x[i], u16) != 0:
      pass
"""


def test_a_kernel_is_a_readable_page():
    assert print_kernel(examples.softmax()) == SOFTMAX
    assert print_kernel(examples.mixed()) == MIXED


@pytest.mark.parametrize("name", examples.ALL)
def test_round_trip(name):
    kernel = examples.ALL[name]()
    text = print_kernel(kernel)
    again = parse_kernel(text)
    assert print_kernel(again) == text
    verify(kernel, "construction")
    verify(again, "parsing")
    assert (again.flops, again.bytes, again.tasks) == (kernel.flops, kernel.bytes, kernel.tasks)
    assert [(b.dtype, b.shape, b.note) for b in again.params] == [(b.dtype, b.shape, b.note) for b in kernel.params]
    assert [str(loc) for loc in again.locs] == [str(loc) for loc in kernel.locs]


@pytest.mark.parametrize(("name", "dtype"), [
    pytest.param(name, dtype, id=f"{name}-{dtype.short}") for name, row in SCALAR_OPS.items() for dtype in dtypes.ALL
    if dtype.kind in row.kinds and (name != "threefry" or dtype is dtypes.uint32)
])  # fmt: skip
def test_round_trip_of_every_operation_and_type(name, dtype):
    row = SCALAR_OPS[name]
    src = Buffer("src", dtype, (8,))
    i = axis("i", 8)
    value = 1 if dtype.is_bool else 0.1 if dtype.is_float else 3
    zero = const(-0.0 if dtype.is_float else 0, dtype)
    mixed = [const(value, dtype), load(src, i), zero, load(src, i)]
    for args in ([load(src, i)] * row.arity, [const(value, dtype)] * row.arity, mixed[: row.arity]):
        e = op(name, *args)
        out = Buffer("out", e.dtype, (8,))
        kernel = Kernel("k", (src, out), frozenset({out}), loop(i, store(out, [i], e)))
        text = print_kernel(kernel)
        again = parse_kernel(text)
        assert print_kernel(again) == text
        verify(again)
        assert [a.dtype for a in again.body.body.value.args] == [a.dtype for a in args]


def test_precedence_and_left_association():
    i, j = axis("i", 8), axis("j", 8)

    def sub(a, b):
        return op("sub", a, b)

    assert print_expr(sub(sub(i, j), i)) == "i - j - i"
    assert print_expr(sub(i, sub(j, i))) == "i - (j - i)"
    assert print_expr((i + j) * (i + 1)) == "(i + j) * (i + 1)"
    assert print_expr(i * 4 % 3 + j // 2) == "i*4 % 3 + j//2"
    assert print_expr(op("eq", i < j, j <= i)) == "(i < j) == (j <= i)"
    assert print_expr(op("shl", op("and", i, j), op("or", i, j))) == "(i & j) << (i | j)"
    assert print_expr(i - -3) == "i - -3"


def test_what_is_shared_is_printed_once():
    words = [load(Buffer(f"k{n}", dtypes.uint32, (1,)), const(0)) for n in range(4)]

    class Word:
        def __init__(self, e):
            self.e = e

        def with_(self, name, other):
            return Word(op(name, self.e, other.e if isinstance(other, Word) else const(other, dtypes.uint32)))

        __add__ = partialmethod(with_, "add")
        __xor__ = partialmethod(with_, "xor")
        __or__ = partialmethod(with_, "or")
        __lshift__ = partialmethod(with_, "shl")
        __rshift__ = partialmethod(with_, "shr")

    x0, x1 = threefry2x32(*map(Word, words))
    out = Buffer("out", dtypes.uint32, (1,))
    kernel = Kernel("k", (*(w.attr for w in words), out), frozenset({out}), store(out, [0], (x0 ^ x1).e))
    text = print_kernel(kernel)
    assert len(text) < 6000
    again = parse_kernel(text)
    assert print_kernel(again) == text
    verify(again)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("out[i] = y[i]", "no 'y' in scope"),
        ("out[i] = x[i, i]", "x has 1 axes, got 2 indices"),
        ("out[i] = frob(x[i])", "no operation 'frob'"),
        ("out[i] = exp(x[i], x[i])", "exp takes 1 operands, got 2"),
        ("out[i] = x[i] +", "expected a value, found 'end of line'"),
        ("out[i] = x[i] x[i]", "unexpected 'x'"),
        ("out[1.5] = x[i]", "1.5 is no int64"),
        ("out[i]", "not a statement"),
        ("out[i] = x[i] ?", "cannot read '?'"),
        ("for j in 4 sideways:", "no loop kind 'sideways'"),
        ("for j in many:", "expected 'for axis in"),
        ("if i < 4:", "expected an indented block"),
    ],
)
def test_errors_name_the_line(line, message):
    with pytest.raises(ParseError, match=r"line [34], column \d+: ") as error:
        parse_kernel(f"kernel k(x: f32[4], out: f32[4] writes)\n  for i in 4:\n    {line}\n")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("out[i] = x[i] + y[i]", 21, "no 'y' in scope"),
        ("out[i] = exp(x[i]) * frob(x[i])", 26, "no operation 'frob'"),
        ("out[i] = x[i] + i", 19, "add is not defined for (f32, i64)"),
        ("out[i] = x[i] & x[i]", 19, "and is not defined for (f32, f32)"),
        ("out[i] = x[i + 99999999999999999999]", 20, "99999999999999999999 is no int64"),
        ("out[i] = x[i", 17, "expected ']', found 'end of line'"),
        ("out[exp] = x[i]", 9, "no 'exp' in scope"),
        ("for if in 4:", 9, "'if' cannot be a name"),
        ("for j in 9999999999999:", 14, "expected a size up to 2**40"),
        ("alloc t: reg f32[q]", 11, "expected a size up to 2**40, found 'q'"),
        ("let 3 = x[i]", 9, "'3' cannot be a name"),
        ("\tout[i] = x[i]", 5, "indented by a tab"),
        ("out[i] = bitcast(x[i], u16)", 14, "bitcast: f32 and u16 differ in width"),
        ("out[i] = " + "(" * 5000, 5, "nested too deeply"),
    ],
)
def test_errors_name_the_column(line, column, message):
    with pytest.raises(ParseError) as error:
        parse_kernel(f"kernel k(x: f32[4], out: f32[4] writes)\n  for i in 4:\n    {line}\n")
    assert f"line 3, column {column}: {message}" in str(error.value)


@pytest.mark.parametrize("header", ["kernel k(x f32[4])", "kernel k(x: f32[4], x: f32[4] writes)", "kernel(x: f32[4])",
                                    "kernel k(x: f32[n4])", "kernel k(x: f33[4])", "def k():"])
def test_bad_headers(header):
    with pytest.raises(ParseError, match="line 1, column"):
        parse_kernel(f"{header}\n  pass\n")


def test_what_only_people_write():
    """Comments, other indentation, minus signs and turned comparisons read as what the printer would have written."""
    by_hand = parse_kernel("""
# a comment before all
kernel k(x: f32[4],  out: f32[4] writes)  # of ours
        # and one here
        for i in 4:   # each
            # inside
            out[i]=-x[i] + -(x[i]*2.0) if x[i] > 0.0
            if i >= 2:
                out[i] max= 1.0
            else:
                pass
""")
    printed = parse_kernel("""\
kernel k(x: f32[4], out: f32[4] writes)
  for i in 4:
    out[i] = neg(x[i]) + neg(x[i] * 2.0) if 0.0 < x[i]
    if 2 <= i:
      out[i] max= 1.0
    else:
      pass
""")
    assert print_kernel(by_hand) == print_kernel(printed)


def test_prefetches():
    text = """\
kernel k(x: f32[64], out: f32[64] writes)
  for i in 64:
    prefetch x[i + 16]
    prefetch out[i*2]
    out[i] = x[i]
"""
    kernel = parse_kernel(text)
    verify(kernel, "parsing")
    assert print_kernel(kernel) == text
    got, data = np.zeros(64, np.float32), np.arange(64, dtype=np.float32)
    run(kernel, [data, got])
    assert (got == data).all()
    with pytest.raises(ParseError):
        parse_kernel(text.replace("prefetch x[i + 16]", "prefetch i"))
