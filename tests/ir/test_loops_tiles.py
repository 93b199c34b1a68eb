"""Tiles of a CPU's matrix unit in the Loop IR: text, rules, and meaning."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dlc.base.errors import InterpError, ParseError, VerifyError
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.interp.values import dot2
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.traverse import canonical
from dlc.ir.loops.verify import verify

# x is 12 x 10 bfloat16, w 10 x 16 of them as 5 x 16 pairs; two tiles of 6 rows
PRODUCT = """\
kernel product(x: bf16[120], w: u32[80], out: f32[192] writes)
  alloc acc: tile f32[2,6,16]
  for k in 1:
    for t in 2 unroll:
      tilemma(5, 10, 16) acc[t, 0, 0] += x[t*60 + k*10] * w[k*80]
  alloc sums: shared f32[12,16]
  for t in 2 unroll:
    store_tile sums[t*6, 0] = acc[t, 0, 0]
  for i in 12:
    for j in 16 vector(16):
      out[i*16 + j] = sums[i, j]
"""


def operands() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return tuple(rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((12, 10), (10, 16)))


def paired(w: np.ndarray) -> np.ndarray:
    """Neighbours along the first axis in words."""
    k, n = w.shape
    return np.ascontiguousarray(w.reshape(k // 2, 2, n).swapaxes(1, 2)).view(np.uint32).reshape(-1)


def test_prints_and_parses():
    kernel = parse_kernel(PRODUCT)
    verify(kernel)
    assert print_kernel(kernel) == PRODUCT
    same = print_kernel(canonical(kernel))
    assert "tilemma(5, 10, 16) a3[t, 0, 0] += p0[" in same and "store_tile a4[t*6, 0] = a3[t, 0, 0]" in same


def test_multiplies_pairs():
    x, w = operands()
    out = np.zeros(192, np.float32)
    run(parse_kernel(PRODUCT), [x.reshape(-1), paired(w), out])
    want = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(out.reshape(12, 16), want, rtol=1e-5, atol=1e-5)
    first = np.zeros(1, np.float32)  # the order of the sums is that of dot2
    for p in range(5):
        first = dot2(x.reshape(-1).view(np.uint32)[p], paired(w)[p * 16], first)
    assert out[0] == first[0]


def test_words_on_both_sides_and_several_steps():
    x, w = operands()
    text = PRODUCT.replace("x: bf16[120]", "x: u32[60]").replace("for k in 1", "for k in 5")
    text = text.replace("(5, 10, 16)", "(1, 5, 16)").replace("x[t*60 + k*10] * w[k*80]", "x[t*30 + k] * w[k*16]")
    kernel, out = parse_kernel(text), np.zeros(192, np.float32)
    verify(kernel)
    run(kernel, [x.reshape(-1).view(np.uint32), paired(w), out])
    one = np.zeros(192, np.float32)
    run(parse_kernel(PRODUCT), [x.reshape(-1), paired(w), one])
    np.testing.assert_array_equal(out, one)


@pytest.mark.parametrize("old, new, message", [
    ("alloc acc: tile f32[2,6,16]", "alloc acc: tile f32[2,6,17]", "no tile of at most 16 x 16"),
    ("alloc acc: tile f32[2,6,16]", "alloc acc: tile bf16[2,6,16]", "no tile of at most 16 x 16"),
    ("tilemma(5,", "tilemma(17,", "tiles of 17 pairs"),
    ("tilemma(5, 10,", "tilemma(5, 11,", "runs from 64 to 124, outside 0..119"),
    ("tilemma(5, 10, 16)", "tilemma(5, 10, 17)", "runs from 83 to 83, outside 0..79"),
    ("w[k*80]", "x[k*80]", "multiplies tiles of words"),
    ("store_tile sums[t*6, 0]", "store_tile sums[t*7, 0]", "outside 0..11"),
    ("store_tile sums[t*6, 0] = acc[t, 0, 0]", "store_tile acc[t, 0, 0] = acc[t, 0, 0]",
     "a StoreTile of acc to tile acc"),
    ("    store_tile sums[t*6, 0] = acc[t, 0, 0]", "    sums[t*6, 0] = acc[t, 0, 0]", "must be drained to be read"),
    ("    store_tile sums[t*6, 0] = acc[t, 0, 0]", "    acc[t, 0, 0] = 1.0", "which a Store cannot reach"),
    ("for t in 2 unroll:\n    store_tile", "for t in 2:\n    store_tile", "neither constant after unrolling"),
    ("for k in 1:", "for k in 1 vector(1):", "in a vector loop"),
    ("= acc[t, 0, 0]", "= acc[t, 1, 0]", "the last two indices of a tile are 0"),
])
def test_rules(old, new, message):
    assert old in PRODUCT
    with pytest.raises(VerifyError, match=message.replace("(", r"\(")):
        verify(parse_kernel(PRODUCT.replace(old, new)))


def test_tiles_of_one_kernel_are_alike():
    text = PRODUCT.replace("  alloc sums", "  alloc other: tile f32[6,8]\n  alloc sums")
    with pytest.raises(VerifyError, match="tiles of different shapes"):
        verify(parse_kernel(text))


def test_what_is_no_product_of_tiles():
    with pytest.raises(ParseError, match="expected 'tilemma"):
        parse_kernel(PRODUCT.replace("* w[k*80]", "+ w[k*80]"))


def test_reading_what_was_never_written():
    text = PRODUCT.replace("  for k in 1", "  alloc panel: shared u32[80]\n  for k in 1")
    text = text.replace("w[k*80]", "panel[k*80]")
    kernel = parse_kernel(text)
    verify(kernel)
    x, w = operands()
    with pytest.raises(InterpError, match="where nothing was written"):
        run(kernel, [x.reshape(-1), paired(w), np.zeros(192, np.float32)])
