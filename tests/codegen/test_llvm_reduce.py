"""Folds across lanes, values carried in registers, scratch memory, register transposes: against the interpreter."""

import numpy as np
import pytest

from dlc.codegen.target.cpu import LEVELS
from dlc.ir import dtypes
from dlc.ir.dtypes import float32
from dlc.ir.loops.ir import Alloc, If, Seq, axis, const, load, loop, op, seq, store
from tests.codegen.llvm_run import Compiled, buffer, kernel, target
from tests.codegen.test_llvm_memory import EXTENTS, check
from tests.codegen.test_llvm_ops import finite, samples
from tests.ir import loops_examples


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("short", ["f32", "f64", "bf16", "i32", "u8", "i64", "bool"])
def test_folds(short, level):
    """Every combine over every kind of extent, into memory and into a register."""
    dtype = dtypes.by_name(short)
    combines = ["max", "min", "and", "or"] if dtype.is_bool else ["add", "mul", "max", "min"]
    combines += ["and", "or"] if dtype.is_int else []
    for n in (1, 7, 16, 33, 64):
        x, i, r = buffer("x", dtype, 2 * n), axis("i", n), axis("r", 2)
        y, z = buffer("y", dtype, 2 * len(combines)), buffer("z", dtype, 2 * len(combines))
        t = buffer("t", dtype, len(combines), space="reg")
        start, v = const(1, dtype), load(x, r * n + i)
        body = Seq((
            Alloc(t), *(store(t, [c], start) for c in range(len(combines))),
            loop(i, seq(*(store(y, [r * len(combines) + c], v, name) for c, name in enumerate(combines)),
                        *(store(t, [c], v, name) for c, name in enumerate(combines))),
                 "vector", lanes=16),
            *(store(z, [r * len(combines) + c], load(t, c)) for c in range(len(combines))),
        ))  # fmt: skip
        data = finite(samples(dtype, np.random.default_rng(n), 134)[: 2 * n])
        if dtype.is_float:
            data = np.clip(np.abs(data.astype(np.float64)) / 2, 0.25, 1.5).astype(dtype.np)  # nothing cancels
        k = kernel("folds", [x, y, z], loop(r, body, "parallel"))
        check(
            k,
            level,
            data,
            np.ones(y.size, dtype.np),
            np.ones(z.size, dtype.np),
            rtol=0.05 if dtype.is_half else 1e-5 if dtype.is_float else 0,
        )


@pytest.mark.parametrize("level", LEVELS)
def test_folds_keep_nan_and_infinity(level):
    n = 50
    x, y, i = buffer("x", "f32", n), buffer("y", "f32", 4), axis("i", n)
    body = seq(*(store(y, [c], load(x, i), name) for c, name in enumerate(("add", "mul", "max", "min"))))
    compiled = Compiled(kernel("nan", [x, y], loop(i, body, "vector", lanes=16)), target(level))
    for at in (0, 17, 49):
        data, got = np.ones(n, np.float32), np.ones(4, np.float32)
        data[at] = np.nan
        compiled(data, got)
        assert np.isnan(got).all(), at
    data, got = np.full(n, -np.inf, np.float32), np.array([0, 1, -np.inf, np.inf], np.float32)
    compiled(data, got)
    assert got.tolist() == [-np.inf, np.inf, -np.inf, -np.inf]


@pytest.mark.parametrize("level", LEVELS)
def test_folds_inside_loops_and_conditions(level):
    """A fold under a serial loop, an unrolled one, a branch, a predicate; into a place that the loop moves."""
    n, m = 37, 5
    x, i, j, u = buffer("x", "f32", n * m), axis("i", n), axis("j", m), axis("u", m)
    a, b, c, d = (buffer(name, "f32", m) for name in "abcd")
    body = seq(
        loop(j, seq(store(a, [j], load(x, j * n + i), "add"), store(b, [0], load(x, j * n + i), "add"))),
        loop(u, store(c, [u], load(x, u * n + i), "add"), "unroll"),
        If(i < 20, store(d, [1], load(x, i), "add"), store(d, [2], load(x, i), "add", i < 30)),
    )
    check(
        kernel("inside", [x, a, b, c, d], loop(i, body, "vector", lanes=8)),
        level,
        normal(n * m),
        *(np.ones(m, np.float32) for _ in range(4)),
        rtol=1e-4,
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cols", EXTENTS)
def test_row_softmax(cols, level):
    """The row in `shared`, vector accumulators in `reg`, folds of both; the exponential is a square here."""
    rows, lanes = 3, 16
    groups = -(-cols // lanes)
    x, y = buffer("x", "f32", rows * cols), buffer("y", "f32", rows * cols)
    row = buffer("row", "f32", groups * lanes, space="shared")
    top, acc = buffer("top", "f32", lanes, space="reg"), buffer("acc", "f32", lanes, space="reg")
    m, total = buffer("m", "f32", space="reg"), buffer("total", "f32", space="reg")
    r, g, v = axis("r", rows), axis("g", groups), axis("v", lanes)
    col = g * lanes + v
    low = const(-np.inf, float32)

    def vector(body):
        return loop(v, body, "vector", lanes=lanes)

    e = op("sub", load(row, col), load(m))
    body = Seq((
        Alloc(row), Alloc(top), Alloc(acc), Alloc(m), Alloc(total),
        vector(seq(store(top, [v], low), store(acc, [v], const(0, float32)))),
        loop(g, vector(seq(
            store(row, [col], op("select", col < cols, load(x, r * cols + col, predicate=col < cols), low)),
            store(top, [v], load(row, col), "max")))),
        store(m, [], low),
        vector(store(m, [], load(top, v), "max")),
        loop(g, vector(seq(store(row, [col], op("select", col < cols, op("mul", e, e), const(0, float32))),
                           store(acc, [v], load(row, col), "add")))),
        store(total, [], const(1, float32)),
        vector(store(total, [], load(acc, v), "add")),
        loop(g, vector(store(y, [r * cols + col], op("div", load(row, col), load(total)), None, col < cols))),
    ))  # fmt: skip
    check(
        kernel("softmax", [x, y], loop(r, body, "parallel")),
        level,
        normal(rows * cols),
        np.zeros(rows * cols, np.float32),
        rtol=1e-5,
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cols", [1, 5, 16, 40, 67])
def test_column_sum(cols, level):
    """Rows serial, columns in lanes, one accumulator vector, into f64."""
    rows = 9
    x, y, acc = buffer("x", "f32", rows * cols), buffer("y", "f64", cols), buffer("acc", "f64", 8, space="reg")
    t, r, v = axis("t", -(-cols // 8)), axis("r", rows), axis("v", 8)
    col = t * 8 + v
    value = op("cast", load(x, r * cols + col, predicate=col < cols), dtype=dtypes.float64)
    body = Seq(
        (
            Alloc(acc),
            loop(v, store(acc, [v], const(0, dtypes.float64)), "vector", lanes=8),
            loop(r, loop(v, store(acc, [v], value, "add"), "vector", lanes=8)),
            loop(v, store(y, [col], load(acc, v), None, col < cols), "vector", lanes=8),
        )
    )
    check(kernel("columns", [x, y], loop(t, body, "parallel")), level, normal(rows * cols), np.zeros(cols), rtol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("short", ["f32", "f64", "i8", "bf16", "bool"])
def test_register_transpose(n, short, level):
    """A tile is loaded by rows and stored by columns, in a loop, so that tiles must not be mixed up."""
    dtype, tiles = dtypes.by_name(short), 3
    x, y = buffer("x", dtype, tiles * n * n), buffer("y", dtype, tiles * n * n)
    tile = buffer("tile", dtype, n, n, space="reg")
    t, i, v = axis("t", tiles), axis("i", n), axis("v", n)
    body = Seq(
        (
            Alloc(tile),
            loop(i, loop(v, store(tile, [i, v], load(x, (t * n + i) * n + v)), "vector", lanes=n), "unroll"),
            loop(i, loop(v, store(y, [(t * n + i) * n + v], load(tile, v, i)), "vector", lanes=n), "unroll"),
        )
    )
    data = finite(samples(dtype, np.random.default_rng(0), tiles * n * n + 20)[: tiles * n * n])
    got = check(kernel("transpose", [x, y], loop(t, body)), level, data, np.zeros(data.size, dtype.np))
    assert (got[1].reshape(tiles, n, n) == data.reshape(tiles, n, n).transpose(0, 2, 1)).all()


@pytest.mark.parametrize("level", LEVELS)
def test_registers_across_control_flow(level):
    """Scalars and rows that loops carry and branches change; a fresh Alloc in each iteration."""
    n, f32 = 12, float32
    x, y = buffer("x", "f32", n * 4), buffer("y", "f32", n * 4)
    s, row = buffer("s", "f32", 2, space="reg"), buffer("row", "f32", 2, 4, space="reg")
    fresh = buffer("fresh", "f32", 1, space="reg")
    i, j, v = axis("i", n), axis("j", 3), axis("v", 4)
    body = Seq((
        Alloc(s), Alloc(row),
        store(s, [0], const(0, f32)), store(s, [1], const(5, f32)),
        loop(v, seq(store(row, [0, v], const(1, f32)), store(row, [1, v], load(x, v))), "vector", lanes=4),
        loop(i, Seq((
            Alloc(fresh), store(fresh, [0], load(x, i)),
            loop(j, seq(store(fresh, [0], const(1, f32), "add"),
                        If(op("eq", j, const(1)),
                           store(s, [0], load(fresh, 0), "add"), store(s, [1], load(s, 0), "max")))),
            If(op("lt", load(s, 0), load(s, 1)),
               loop(v, store(row, [0, v], load(x, i * 4 + v), "add", i < 7), "vector", lanes=4)),
            loop(v, store(row, [1, v], load(s, 1), "max"), "vector", lanes=4),
            store(row, [1, 2], load(row, 0, 1), "add"),
            loop(v, store(y, [i * 4 + v], op("add", load(row, 0, v), load(row, 1, v))), "vector", lanes=4),
        ))),
    ))  # fmt: skip
    check(kernel("flow", [x, y], body), level, normal(4 * n), np.zeros(4 * n, np.float32), rtol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["transpose", "matmul"])
def test_shared_examples(name, level):
    k = loops_examples.ALL[name]()
    check(k, level, *(normal(p.size, n) for n, p in enumerate(k.params)), rtol=1e-5)
