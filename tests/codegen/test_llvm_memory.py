"""Access patterns, tails, predicates, dynamic extents: against the interpreter, and never outside a buffer."""

import numpy as np
import pytest

from dlc.codegen.target.cpu import LEVELS
from dlc.ir import dtypes
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Alloc, If, Kernel, Seq, axis, cast, const, load, loop, op, seq, store
from tests.codegen.llvm_run import Compiled, buffer, guarded, kernel, target, untouched
from tests.codegen.test_llvm_ops import finite, samples

EXTENTS = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 67]


def check(k: Kernel, level: str, *arrays: np.ndarray, rtol: float = 0.0) -> list[np.ndarray]:
    """Run natively and interpreted; the parameters must agree afterwards, and nothing around them may change."""
    pairs = [guarded(a) for a in arrays]
    Compiled(k, target(level))(*(view for view, _ in pairs))
    wants = [a.copy() for a in arrays]
    run(k, wants)
    for (view, whole), want, p in zip(pairs, wants, k.params, strict=True):
        assert untouched(whole), f"{p.name}: written outside"
        if rtol:
            np.testing.assert_allclose(view.astype(np.float64), want.astype(np.float64), rtol=rtol, err_msg=p.name)
        else:
            np.testing.assert_array_equal(view, want, err_msg=p.name)
    return [view for view, _ in pairs]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("short", ["f32", "f64", "bf16", "f16", "i8", "u16", "i32", "i64", "bool"])
def test_copy_with_tails(short, level):
    dtype = dtypes.by_name(short)
    for n in EXTENTS:
        x, y, i = buffer("x", dtype, n), buffer("y", dtype, n), axis("i", n)
        data = samples(dtype, np.random.default_rng(n), 67)[:n]
        pairs = [guarded(data), guarded(np.zeros(n, dtype.np))]
        Compiled(kernel("copy", [x, y], loop(i, store(y, [i], load(x, i)), "vector", lanes=16)), target(level))(
            pairs[0][0], pairs[1][0]
        )
        assert pairs[1][0].tobytes() == data.tobytes(), n
        assert untouched(pairs[1][1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [5, 16, 67])
@pytest.mark.parametrize("short", ["f32", "bool", "bf16"])
def test_strides(n, short, level):
    """Reversed, strided, broadcast and constant accesses, read and written."""
    dtype = dtypes.by_name(short)
    x, i = buffer("x", dtype, 3 * n), axis("i", n)
    outs = [buffer(f"y{k}", dtype, 3 * n) for k in range(5)]
    body = seq(
        store(outs[0], [i], load(x, (n - 1) - i)),
        store(outs[1], [(n - 1) - i], load(x, i)),
        store(outs[2], [i], load(x, i * 3 + 1)),
        store(outs[3], [(n - 1 - i) * 2], load(x, i)),
        store(outs[4], [i], load(x, const(2))),
    )
    data = samples(dtype, np.random.default_rng(0), 3 * 67)[: 3 * n]
    check(
        kernel("strides", [x, *outs], loop(i, body, "vector", lanes=16)),
        level,
        finite(data),
        *(np.zeros(3 * n, dtype.np) for _ in outs),
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("short", ["f32", "i64", "bf16", "bool"])
@pytest.mark.parametrize("index", ["i32", "i64", "u8"])
def test_gather_and_scatter(short, index, level):
    n, m, dtype = 37, 50, dtypes.by_name(short)
    rng = np.random.default_rng(1)
    x, y, z, where = buffer("x", dtype, m), buffer("y", dtype, n), buffer("z", dtype, m), buffer("where", index, n)
    i = axis("i", n)
    at = cast(load(where, i), dtypes.int64)
    body = seq(store(y, [i], load(x, at)), store(z, [at], load(x, i), None, op("ne", i % 3, const(1))))
    check(
        kernel("gather", [x, y, z, where], loop(i, body, "vector", lanes=8)),
        level,
        finite(samples(dtype, rng, m)),
        np.zeros(n, dtype.np),
        np.zeros(m, dtype.np),
        rng.permutation(m)[:n].astype(where.dtype.np),
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("divisor", [1, 3, 5, 16, 32, 48, 67])
def test_division_of_the_vector_axis(divisor, level):
    n, i = 96, axis("i", 96)
    x, y, z = buffer("x", "f32", 4 * n), buffer("y", "f32", n), buffer("z", "f32", n)
    body = seq(
        store(y, [i], load(x, i // divisor * 2 + i % divisor)), store(z, [i], cast(i % divisor, dtypes.float32), "add")
    )
    data = np.random.default_rng(0).standard_normal(4 * n).astype(np.float32)
    check(
        kernel("divide", [x, y, z], loop(i, body, "vector", lanes=16)), level, data, np.zeros(n, np.float32), data[:n]
    )


@pytest.mark.parametrize("level", LEVELS)
def test_index_values(level):
    """The axis itself as a value, narrow and wide."""
    n, i, r = 37, axis("i", 37), axis("r", 3)
    outs = [buffer(d, d, 3 * n) for d in ("i64", "i32", "u8", "f32", "f64", "bool")]
    value = r * 1000 + i * 7 - 3
    body = seq(*(store(o, [r * n + i], cast(value if o.dtype.name != "bool" else i % 2, o.dtype)) for o in outs))
    check(
        kernel("iota", outs, loop(r, loop(i, body, "vector", lanes=16))),
        level,
        *(np.zeros(3 * n, o.dtype.np) for o in outs),
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", EXTENTS)
def test_padding(n, level):
    """A load predicate keeps a window inside its row; comparisons of every shape."""
    x, y, r, i = buffer("x", "f32", 3 * n), buffer("y", "f32", 3 * (n + 4)), axis("r", 3), axis("i", n + 4)
    inside = op("and", op("le", const(2), i), i < n + 2)
    body = store(y, [r * (n + 4) + i], load(x, r * n + i - 2, predicate=inside))
    data = np.random.default_rng(0).standard_normal(3 * n).astype(np.float32)
    check(
        kernel("pad", [x, y], loop(r, loop(i, body, "vector", lanes=16))), level, data, np.ones(3 * (n + 4), np.float32)
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("short", ["f32", "i8", "f16", "bool"])
def test_lane_comparisons(short, level):
    """Conditions on the vector axis as masks of loads, stores and branches, with and without an else."""
    n, m, dtype = 37, 40, dtypes.by_name(short)
    x, i, r = buffer("x", dtype, 64), axis("i", n), axis("r", m)
    outs = [buffer(f"y{k}", dtype, n * m) for k in range(4)]
    v, at = load(x, i), r * n + i
    body = seq(
        store(outs[0], [at], v, None, i < r),
        store(outs[1], [at], load(x, i + r, predicate=op("lt", i + r, const(37))), None, op("le", r, i)),
        If(op("eq", i, r), store(outs[2], [at], v), store(outs[2], [at], load(x, r))),
        If(op("le", i * 2, r), seq(store(outs[3], [at], v), If(op("ne", i, r), store(outs[3], [at], load(x, r))))),
    )
    data = finite(samples(dtype, np.random.default_rng(0), 64))
    check(
        kernel("lanes", [x, *outs], loop(r, loop(i, body, "vector", lanes=16))),
        level,
        data,
        *(np.zeros(n * m, dtype.np) for _ in outs),
    )


@pytest.mark.parametrize("level", LEVELS)
def test_conditions_on_data(level):
    n = 67
    x, y, z, i = buffer("x", "f32", n), buffer("y", "f32", n), buffer("z", "f32", n), axis("i", n)
    v = load(x, i)
    body = seq(
        If(op("lt", const(0, dtypes.float32), v), store(y, [i], op("sqrt", v)), store(y, [i], op("neg", v))),
        store(z, [i], v, "add", op("lt", v, const(1, dtypes.float32))),
    )
    data = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    for lanes in (16, 0):
        k = kernel("data", [x, y, z], loop(i, body, "vector" if lanes else "serial", lanes=lanes))
        check(k, level, data, np.zeros(n, np.float32), data)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("extent", [-3, 0, 1, 15, 16, 17, 32, 50])
def test_dynamic_extents(extent, level):
    """Loops whose bounds are data: vector (sums over lanes, too) and serial, with values carried in registers."""
    n, f32 = 50, dtypes.float32
    x, y, s, size = buffer("x", "f32", n), buffer("y", "f32", n), buffer("s", "f32", 3), buffer("size", "i32", 1)
    acc, acc2 = buffer("acc", "f32", 1, space="reg"), buffer("acc2", "f32", space="reg")
    i, j, bound = axis("i", n), axis("j", n), cast(load(size, const(0)), dtypes.int64)
    body = Seq((
        Alloc(acc), Alloc(acc2), store(acc, [0], const(1, f32)), store(acc2, [], const(2, f32)),
        loop(i, seq(store(y, [i], load(x, i), "add"), store(s, [0], load(x, i), "add"),
                    store(acc2, [], load(x, i), "max")), "vector", bound, 16),
        loop(j, store(acc, [0], load(x, j), "add"), "serial", bound),
        store(s, [1], load(acc, 0)), store(s, [2], load(acc2)),
    ))  # fmt: skip
    data = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    check(
        kernel("dynamic", [x, y, s, size], body),
        level,
        data,
        data,
        np.ones(3, np.float32),
        np.array([extent], np.int32),
        rtol=1e-5,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_predicated_scalar_load(level):
    """A false predicate must not touch memory, not even far outside."""
    n = 20
    x, y, i = buffer("x", "f32", 4), buffer("y", "f32", n), axis("i", n)
    k = kernel("far", [x, y], loop(i, store(y, [i], load(x, (i - 8) * (1 << 40) + i, predicate=op("eq", i, const(8))))))
    one = np.arange(4, dtype=np.float32)
    got = np.ones(n, np.float32)
    Compiled(
        kernel("near", [x, y], loop(i, store(y, [i], load(x, i * (1 << 40) + 1, predicate=i < 1)))), target(level)
    )(one, got)
    assert got[0] == 1 and not got[1:].any()
    assert k.tasks == 1


@pytest.mark.parametrize("level", LEVELS)
def test_in_place(level):
    """A buffer that is read and written, by element and by neighbour."""
    n, i = 67, axis("i", 67)
    x = buffer("x", "f32", n)
    data = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    twice = op("add", load(x, i), load(x, i))
    check(kernel("twice", [x], loop(i, store(x, [i], twice), "vector", lanes=16)), level, data)
    j = axis("j", n - 1)
    scan = store(x, [j + 1], op("add", load(x, j), load(x, j + 1)))
    check(kernel("scan", [x], loop(j, scan)), level, data)
    u = axis("u", 4)
    check(
        kernel("again", [x], loop(u, store(x, [0], op("add", load(x, const(0)), load(x, u + 1))), "unroll")),
        level,
        data,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_hoisting_is_safe(level):
    """An index that is valid only where its branch or its loop runs."""
    n = 16
    x, y, count = buffer("x", "f32", n), buffer("y", "f32", n), buffer("count", "i64", 1)
    i, j = axis("i", n), axis("j", 4)
    far = load(count, const(0)) * (1 << 40)
    body = loop(
        i,
        seq(
            If(
                op("lt", load(count, const(0)), const(1)),
                store(y, [i], load(x, far + i)),
                store(y, [i], const(-1, dtypes.float32)),
            ),
            loop(j, store(y, [i], load(x, far), "add"), "serial", op("sub", const(1), load(count, const(0)))),
        ),
    )
    for c in (0, 1):
        got, data = np.zeros(n, np.float32), np.arange(n, dtype=np.float32)
        Compiled(kernel("hoist", [x, y, count], body), target(level))(data, got, np.array([c], np.int64))
        assert (got == (-1 if c else data + data[0])).all()


@pytest.mark.parametrize("level", LEVELS)
def test_parallel_range(level):
    n, t, i = 10, axis("t", 10), axis("i", 20)
    x = buffer("x", "i32", 20 * n)
    k = kernel(
        "range", [x], loop(t, loop(i, store(x, [t * 20 + i], cast(t, dtypes.int32)), "vector", lanes=8), "parallel")
    )
    compiled, got = Compiled(k, target(level)), np.full(20 * n, -1, np.int32)
    compiled(got, begin=3, end=5)
    compiled(got, begin=7, end=7)
    want = np.full((n, 20), -1)
    want[3:5] = [[3], [4]]
    assert (got.reshape(n, 20) == want).all()
