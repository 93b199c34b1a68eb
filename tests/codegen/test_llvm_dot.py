"""Pairs of bfloat16 and their dot products: the emitter for every instruction level against the interpreter."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.target.cpu import LEVELS
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, TensorType, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Buffer, Expr, Kernel, Seq, axis, const, load, loop, op, store
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify
from tests.codegen.llvm_run import Compiled, kernel, target

BF16, F32, U32 = dtypes.bfloat16, dtypes.float32, dtypes.uint32


def bf16(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n).astype(ml_dtypes.bfloat16)


def both_ways(k: Kernel, level: str, *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray, Compiled]:
    """The last array as the interpreter and as machine code leave it."""
    verify(k)
    assert print_kernel(parse_kernel(print_kernel(k))) == print_kernel(k)
    want, got = [[a.copy() for a in arrays] for _ in range(2)]
    run(k, want)
    compiled = Compiled(k, target(level))
    compiled(*got)
    return want[-1], got[-1], compiled


def neighbours(x: Buffer, at: Expr, predicate: Expr | None = None) -> Expr:
    return op("pair", load(x, at, predicate=predicate), load(x, at + 1, predicate=predicate))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lanes", [0, 2, 4, 8, 16, 32])
def test_dot_products(level, lanes):
    """sum over k of a[k] * b[k, j], both as pairs along k: a scalar one and a vector, with a tail of lanes."""
    rng, depth, columns = np.random.default_rng(1), 6, 37
    a, b, c = Buffer("a", BF16, (2 * depth,)), Buffer("b", BF16, (2 * depth * columns,)), Buffer("c", F32, (columns,))
    j, k = axis("j", columns), axis("k", depth)
    product = op("dot2", neighbours(a, k * 2), neighbours(b, (k * columns + j) * 2), load(c, j))
    body = loop(j, store(c, [j], product), "vector", None, lanes) if lanes else loop(j, store(c, [j], product))
    want, got, compiled = both_ways(kernel("k", [a, b, c], loop(k, body)), level, bf16(rng, a.size),
                                    bf16(rng, b.size), rng.standard_normal(columns).astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
    if target(level).has_avx512bf16 and lanes == 16:
        assert "dpbf16ps.512" in compiled.text


@pytest.mark.parametrize("level", LEVELS)
def test_neighbours_in_memory_are_read_as_words(level):
    rng, n = np.random.default_rng(2), 20
    x, far, out = Buffer("x", BF16, (4 * n,)), Buffer("far", BF16, (2 * n,)), Buffer("out", U32, (6 * n,))
    i = axis("i", n)
    reads = [
        neighbours(x, i * 2), neighbours(x, i * 4), neighbours(x, i * 2 + 8, i < n - 3),
        neighbours(x, (n - 1 - i) * 2), op("pair", load(far, i), load(far, i + n)), neighbours(x, i * 3),
    ]
    stores = [store(out, [i + k * n], e) for k, e in enumerate(reads)]
    for lanes in (0, 16):
        for s in stores:
            body = loop(i, s, "vector", None, lanes) if lanes else loop(i, s)
            want, got, compiled = both_ways(kernel("k", [x, far, out], body), level, bf16(rng, x.size),
                                            bf16(rng, far.size), np.zeros(out.size, np.uint32))
            np.testing.assert_array_equal(got, want)
            words = s.value.args[0].attr is x and s is not stores[-1]
            assert ("zext i16" in compiled.text or "zext <16 x i16>" in compiled.text) != words


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("step", [2, 4, 1])
def test_floats_are_rounded_two_by_two(level, step):
    rng, n = np.random.default_rng(5), 37
    x, out = Buffer("x", F32, (4 * n,)), Buffer("out", U32, (n,))
    i = axis("i", n)
    halves = [op("cast", load(x, i * step + k), dtype=BF16) for k in (0, 1)]
    body = loop(i, store(out, [i], op("pair", *halves)), "vector", None, 16)
    values = rng.standard_normal(x.size).astype(np.float32)
    want, got, compiled = both_ways(kernel("k", [x, out], body), level, values, np.zeros(n, np.uint32))
    np.testing.assert_array_equal(got, want)
    assert ("load <32 x float>" in compiled.text) == (step == 2)


@pytest.mark.parametrize("level", LEVELS)
def test_a_pair_that_is_written_meanwhile(level):
    """What is read as a word is not what was there before a store to its halves."""
    x, out = Buffer("x", BF16, (2,)), Buffer("out", U32, (2,))
    both = op("pair", load(x, const(0)), load(x, const(1)))
    body = loop(axis("one", 1), store(out, [const(0)], both))
    flip = store(x, [const(1)], load(x, const(0)))
    k = kernel("k", [x, out], Seq((body, flip, store(out, [const(1)], both))))
    want, got, _ = both_ways(k, level, np.array([1, 2], ml_dtypes.bfloat16), np.zeros(2, np.uint32))
    np.testing.assert_array_equal(got, want)
    assert got.tolist() == [0x40003F80, 0x3F803F80]


@pytest.mark.parametrize("level", LEVELS)
def test_error_of_a_long_sum(level):
    """The roundings of a long sum add up like a random walk, no worse; infinities and NaN arrive."""
    rng, n = np.random.default_rng(3), 512
    a, b, c = Buffer("a", BF16, (2 * n,)), Buffer("b", BF16, (2 * n * 16,)), Buffer("c", F32, (16,))
    j, k = axis("j", 16), axis("k", n)
    product = op("dot2", neighbours(a, k * 2), neighbours(b, (k * 16 + j) * 2), load(c, j))
    k_loop = loop(k, loop(j, store(c, [j], product), "vector", None, 16))
    x, y = bf16(rng, a.size), bf16(rng, b.size)
    y[0::32][0] = np.inf
    y[1 + 2 * 5] = np.nan
    want, got, _ = both_ways(kernel("k", [a, b, c], k_loop), level, x, y, np.zeros(16, np.float32))
    assert np.isinf(got[0]) and np.isnan(got[5])
    terms = np.einsum("kp,kjp->kj", *(v.astype(np.float64).reshape(n, -1, 2).squeeze() for v in (x, y)))
    fine = np.isfinite(terms).all(0)
    assert fine.sum() == 14
    partial = np.cumsum(terms[:, fine], 0)
    bound = 4 * np.sqrt(2 * n) * 2.0**-24 * np.abs(partial).max()
    assert np.abs(got[fine] - partial[-1]).max() <= bound
    assert np.abs(want[fine] - partial[-1]).max() <= bound


def test_pairs_in_graphs():
    """The Graph IR's `pair` and a contraction of pairs mean what the halves' contraction does."""
    rng = np.random.default_rng(4)
    a, b = param(TensorType(BF16, (3, 6)), "a"), param(TensorType(BF16, (6, 5)), "b")
    product = build.contract(build.pair(a, 1), build.pair(b, 0), "mk,kn->mn", F32, pairs=True)
    assert product.inputs[0].type == TensorType(U32, (3, 3))
    x, y = bf16(rng, 18).reshape(3, 6), bf16(rng, 30).reshape(6, 5)
    (got,) = evaluate(Graph([a, b], [product]), [x, y])
    np.testing.assert_allclose(got, x.astype(np.float32) @ y.astype(np.float32), rtol=1e-5, atol=1e-6)
