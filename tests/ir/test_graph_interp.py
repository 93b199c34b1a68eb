"""The interpreter against the meaning of each operation spelled out in NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, make, param, unique
from dlc.ir.graph.interp import MEANING, evaluate
from dlc.ir.graph.table import OPS

rng = np.random.default_rng(0)
BF16 = ml_dtypes.bfloat16


def run(f, *arrays, wide=False):
    """All outputs of `f` on `arrays`."""
    arrays = [np.asarray(a) for a in arrays]
    ps = [param(TensorType(dtypes.from_numpy(a.dtype), a.shape)) for a in arrays]
    outs = f(*ps)
    return evaluate(Graph(ps, outs if isinstance(outs, list) else [outs]), arrays, wide)


def same(got, want):
    (got,) = got
    want = np.asarray(want)
    assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, got.shape, want.dtype, want.shape)
    np.testing.assert_array_equal(got, want)


def test_every_operation_has_a_meaning():
    assert set(MEANING) == set(OPS)


def test_halves_round_after_each_operation():
    a, b = np.array([1.0], BF16), np.array([0.005], BF16)
    same(run(lambda x, y: B.op("sub", B.op("add", x, y), x), a, b), np.array([0.0078125], BF16))
    (wide,) = run(lambda x, y: B.op("sub", B.op("add", x, y), x), a, b, wide=True)
    assert wide.dtype == np.float64 and abs(wide[0] - float(b[0])) < 1e-12


def test_halves_accumulate_wide():
    x = np.ones(4096, BF16)
    same(run(lambda v: B.sum_(v, (0,)), x), np.array(4096, BF16))
    same(run(lambda v: B.contract(v, v, "i,i->"), x), np.array(4096, BF16))
    (running,) = run(lambda v: make("cumulative", (v,), monoid="sum", axis=0, reverse=False), x)
    assert running[-1] == 4096


def test_integers_wrap_and_never_trap():
    same(run(lambda a, b: B.op("add", a, b), np.int8(127), np.int8(1)), np.int8(-128))
    same(run(lambda a: B.op("abs", a), np.int8(-128)), np.int8(-128))
    same(run(lambda a: B.op("neg", a), np.uint8(1)), np.uint8(255))
    a, b = np.array([7, -7, 5, -(2**31)], np.int32), np.array([-2, 2, 0, -1], np.int32)
    same(run(lambda a, b: B.op("floordiv", a, b), a, b), np.array([-4, -4, 0, -(2**31)], np.int32))
    same(run(lambda a, b: B.op("mod", a, b), a, b), np.array([-1, 1, 0, 0], np.int32))
    same(run(lambda a: B.contract(a, a, "i,i->"), np.array([100, 100], np.int8)), np.int8(20000 % 256))


def test_max_and_min_propagate_nan():
    a, b = np.array([1.0, np.nan, 2.0]), np.array([np.nan, 1.0, 1.0])
    same(run(lambda a, b: B.op("max", a, b), a, b), np.array([np.nan, np.nan, 2.0]))
    same(run(lambda a: B.reduce(a, "min", (0,)), a), np.array(np.nan))


@pytest.mark.parametrize(
    "dtype,want",
    [
        (dtypes.int8, [127, -128, 0, -3, 127]),
        (dtypes.uint8, [255, 0, 0, 0, 200]),
        (dtypes.int64, [2**63 - 1, -(2**63), 0, -3, 200]),
        (dtypes.uint64, [2**64 - 1, 0, 0, 0, 200]),
        (dtypes.bool_, [True, True, True, True, True]),
    ],
)
def test_cast_of_floats_saturates(dtype, want):
    x = np.array([np.inf, -1e30, np.nan, -3.7, 200.2])
    same(run(lambda x: B.cast(x, dtype), x), np.array(want, dtype.np))


def test_cast_between_integers_wraps_and_bool_is_not_zero():
    same(run(lambda x: B.cast(x, dtypes.int8), np.array([300, -129])), np.array([44, 127], np.int8))
    same(run(lambda x: B.cast(x, dtypes.bool_), np.array([0, 256])), np.array([False, True]))
    same(run(lambda x: B.cast(x, dtypes.float32), np.array([True, False])), np.array([1, 0], np.float32))


def test_bitcast():
    x = np.array([1.0, -2.0], np.float32)
    same(run(lambda x: make("bitcast", (x,), dtype=dtypes.uint32), x), x.view(np.uint32))
    same(run(lambda x: make("bitcast", (x,), dtype=dtypes.uint32), x, wide=True), x.view(np.uint32))


def test_const_iota_select():
    same(evaluate(Graph([], [B.const(300, dtypes.uint8, (2,))]), []), np.array([44, 44], np.uint8))
    same(evaluate(Graph([], [B.iota((2, 3), 1)]), []), np.array([[0, 1, 2], [0, 1, 2]]))
    c, a, b = np.array([True, False]), np.array([1.0, 2.0]), np.array([np.nan, 4.0])
    same(run(B.select, c, a, b), np.array([1.0, 4.0]))


def test_views():
    x = np.arange(24.0).reshape(2, 3, 4)
    same(run(lambda v: B.reshape(v, (4, 6)), x), x.reshape(4, 6))
    same(run(lambda v: B.permute(v, (2, 0, 1)), x), x.transpose(2, 0, 1))
    want = np.broadcast_to(x[None, :, None, :, 0], (5, 2, 4, 3))
    same(run(lambda v: B.broadcast(v, (5, 2, 4, 3), (1, 3)), x[:, :, 0]), want)
    same(run(lambda v: B.broadcast(v, (2, 3), (0, 1)), np.ones((2, 1))), np.ones((2, 3)))
    same(run(lambda v: B.slice_(v, (0, 1, 0), (2, 3, 4), (1, 1, 3)), x), x[:, 1:3, ::3])
    same(run(lambda v: B.flip(v, (0, 2)), x), x[::-1, :, ::-1])


@pytest.mark.parametrize(
    "low,high,interior,want",
    [
        (1, 2, 0, [9, 1, 2, 3, 9, 9]),
        (0, 0, 2, [1, 9, 9, 2, 9, 9, 3]),
        (-1, -1, 0, [2]),
        (-2, 1, 1, [2, 9, 3, 9]),
        (-5, 4, 0, [9, 9]),
        (4, -5, 0, [9, 9]),
    ],
)
def test_pad(low, high, interior, want):
    same(run(lambda v: B.pad(v, (low,), (high,), (interior,), 9), np.array([1, 2, 3])), np.array(want))


def test_pad_of_nothing_and_scalar():
    same(run(lambda v: B.pad(v, (1,), (1,), (3,), 7), np.zeros(0)), np.array([7.0, 7.0]))
    same(run(lambda v: B.pad(v, (), ()), np.array(3.0)), np.array(3.0))


def test_window_and_its_transpose():
    x = rng.normal(size=(7, 3))
    (got,) = run(lambda v: B.window(v, (0,), (3,), (2,), (2,)), x)
    want = np.stack([x[i : i + 5 : 2].T for i in (0, 2)])
    same([got], want)
    attrs = {"axes": (0,), "sizes": (3,), "strides": (2,), "dilations": (2,)}
    y = rng.normal(size=(2, 3, 3))
    (back,) = run(lambda v: make("unwindow", (v,), shape=(7, 3), **attrs), y)
    np.testing.assert_allclose((back * x).sum(), (y * want).sum())
    same(run(lambda v: B.window(v, (0,), (9,)), x), np.zeros((0, 3, 9)))


@pytest.mark.parametrize("monoid", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
def test_reduce(monoid, dtype):
    x = rng.integers(1, 4, (2, 3, 4)).astype(dtype)
    same(run(lambda v: B.reduce(v, monoid, (0, 2)), x), getattr(np, monoid)(x, (0, 2)).astype(dtype))
    assert run(lambda v: B.reduce(v, monoid, (1,)), x[:0])[0].shape == (0, 4)


def test_reduce_of_nothing_gives_the_unit():
    same(run(lambda v: B.reduce(v, "sum", (0,)), np.zeros((0, 2))), np.zeros(2))
    same(run(lambda v: B.reduce(v, "prod", (0,)), np.zeros((0, 2))), np.ones(2))
    same(run(lambda v: B.reduce(v, "all", (0,)), np.zeros((0,), bool)), np.array(True))
    same(run(lambda v: B.reduce(v, "any", (0,)), np.zeros((0,), bool)), np.array(False))


def test_argmax_counts_row_major_over_reduced_axes_first_on_ties():
    x = np.array([[[1, 5], [0, 2]], [[5, 0], [3, 3]]])
    same(run(lambda v: B.reduce(v, "argmax", (0, 2)), x), np.array([1, 2]))
    same(run(lambda v: B.reduce(v, "argmin", (0, 1, 2)), x), np.array(2))


@pytest.mark.parametrize("spec", ["ik,kj->ij", "ik,jk->ji", "bik,bkj->bij", "i,j->ji", "i,i->i", "bi,bi->", ",i->i"])
def test_contract(spec):
    extent = dict(zip("bijk", (2, 3, 4, 5), strict=True))
    left, right = spec.split("->")[0].split(",")
    a, b = (rng.normal(size=[extent[c] for c in labels]) for labels in (left, right))
    (got,) = run(lambda a, b: B.contract(a, b, spec), a, b)
    np.testing.assert_allclose(got, np.einsum(spec, a, b), rtol=1e-12)


def test_contract_into_wider_type():
    a = np.full((1, 2), 200, np.uint8)
    same(run(lambda a: B.contract(a, a, "ik,jk->ij", dtypes.int32), a), np.array([[80000]], np.int32))


def test_gather_and_scatter_clamp():
    x, index = np.arange(6.0).reshape(2, 3), np.array([[2, -5], [99, 0]])
    same(run(lambda v, i: make("gather", (v, i), axis=1), x, index), x[:, np.clip(index, 0, 2)])
    same(run(lambda v, i: make("gather", (v, i), axis=1), x, np.array([255], np.uint8)), x[:, [2]])
    base, updates = np.ones(4), np.array([2.0, 3.0, 5.0, 7.0])
    where = np.array([1, 1, 50, -9])
    for combine, want in {
        "set": [7, 3, 1, 5], "add": [8, 6, 1, 6], "mul": [7, 6, 1, 5], "max": [7, 3, 1, 5], "min": [1, 1, 1, 1],
    }.items():  # fmt: skip
        got = run(lambda b, i, u, c=combine: make("scatter", (b, i, u), axis=0, combine=c), base, where, updates)
        same(got, np.array(want, float))


def test_scatter_in_the_middle():
    base, index, updates = np.zeros((2, 4, 3)), np.array([[0, 1], [1, 3]]), rng.normal(size=(2, 2, 2, 3))
    want = base.copy()
    for i in np.ndindex(2, 2):
        want[:, index[i]] += updates[(slice(None), *i)]
    same(run(lambda b, i, u: make("scatter", (b, i, u), axis=1, combine="add"), base, index, updates), want)


def test_concat():
    a, b = np.ones((2, 0)), np.zeros((2, 3))
    same(run(lambda a, b: make("concat", (a, b, b), axis=1), a, b), np.concatenate([a, b, b], 1))


def test_sort_is_stable_with_nan_the_largest():
    x = np.array([2, np.nan, 1, 2, -np.inf, np.nan, 1])

    def f(descending):
        return lambda v: [B.item(s := make("sort", (v,), axis=0, descending=descending), 0), B.item(s, 1)]

    values, order = run(f(False), x)
    np.testing.assert_array_equal(order, [4, 2, 6, 0, 3, 1, 5])
    np.testing.assert_array_equal(values, x[order])
    values, order = run(f(True), x)
    np.testing.assert_array_equal(order, [1, 5, 0, 3, 2, 6, 4])
    np.testing.assert_array_equal(values, x[order])
    _, order = run(f(True), np.array([-128, 127, -128], np.int8))
    np.testing.assert_array_equal(order, [1, 0, 2])


@pytest.mark.parametrize("monoid,f", [("sum", np.add), ("prod", np.multiply), ("max", np.maximum), ("min", np.minimum)])
def test_cumulative(monoid, f):
    x = rng.integers(-3, 4, (3, 4)).astype(np.int8)
    forwards = f.accumulate(x, 1, dtype=np.int8)
    same(run(lambda v: make("cumulative", (v,), monoid=monoid, axis=1, reverse=False), x), forwards)
    backwards = f.accumulate(x[::-1], 0, dtype=np.int8)[::-1]
    same(run(lambda v: make("cumulative", (v,), monoid=monoid, axis=0, reverse=True), x), backwards)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_scan(reverse, length):
    k, c, x = (param(TensorType(dtypes.float64, ())) for _ in range(3))
    new = B.op("add", B.op("mul", c, k), x)
    body = Graph([k, c, x], [new, B.op("sub", new, x)])
    xs = rng.normal(size=length)

    def f(k, c, xs):
        node = make("scan", (k, c, xs), body=body, length=length, consts=1, carry=1, reverse=reverse)
        return [B.item(node, 0), B.item(node, 1)]

    carry, ys = run(f, 0.5, 2.0, xs)
    want, want_ys = 2.0, np.zeros(length)
    for t in reversed(range(length)) if reverse else range(length):
        want_ys[t] = want * 0.5
        want = want * 0.5 + xs[t]
    np.testing.assert_allclose(carry, want)
    np.testing.assert_allclose(ys, want_ys)


def test_markers_and_checkpoint():
    x = np.array([1.0, 2.0])
    for op in ("tag", "barrier"):
        same(run(lambda v, op=op: make(op, (v,), uid=unique()), x), x)
    same(run(lambda v: make("stop_gradient", (v,)), x), x)
    p = param(TensorType(dtypes.float64, (2,)))
    body = Graph([p], [B.op("neg", p)])
    same(run(lambda v: B.item(make("checkpoint", (v,), body=body), 0), x), -x)


def test_threefry_known_answers():
    """The vectors of the Random123 distribution."""
    u32 = [np.uint32(v) for v in (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)]
    same(run(lambda *v: B.op("threefry", *v), *u32), np.uint64(0xC4923A9C483DF7A0))
    same(run(lambda *v: B.op("threefry", *v), *[np.uint32(0)] * 4), np.uint64(0x6B20015999BA4EFE))


def test_errors():
    x = param(TensorType(dtypes.float32, (2,)))
    with pytest.raises(VerifyError, match=r"parameter f32\[2\] given an array float64"):
        evaluate(Graph([x], [x]), [np.zeros(2)])
    with pytest.raises(VerifyError, match="expand it first"):
        evaluate(Graph([x], [B.item(make("vjp", (x, x, x), outputs=1), 0)]), [np.zeros(2, np.float32)])
