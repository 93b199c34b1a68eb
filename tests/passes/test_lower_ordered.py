"""Scatter, cumulative and sort: kernels against the graph interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.lower import scatter_sort_scan
from dlc.ir import dtypes
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, make, param
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import For
from dlc.ir.loops.traverse import walk
from tests.passes.lowering import evaluate, kernels, naive

rng = np.random.default_rng(3)
LANES = (0, 4, 16)


def _x(dtype, *shape):
    return param(TensorType(dtype, shape))


def _random(dtype, shape, low=-4, high=5):
    if dtype.is_bool:
        return rng.random(shape) < 0.5
    if dtype.is_float:
        return np.asarray(rng.integers(low, high, shape) / 2).astype(dtype.np)
    return rng.integers(max(low, 0) if dtype.kind == "u" else low, high, shape).astype(dtype.np)


def _check(graph, args, lanes, equal=True):
    def choice(fused, group):
        ordered = group.kind in ("scatter", "cumulative", "sort")
        return schedule.Plain(lanes) if ordered else naive(fused, group)

    want = graph_interp.evaluate(graph, args)
    got = evaluate(graph, args, choice, seed=lanes)
    for w, g in zip(want, got, strict=True):
        if equal:
            np.testing.assert_array_equal(g, w)
        else:
            # the interpreter rounds each of up to 9 partial results to a half type, the kernel the last one
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=2e-2, atol=1e-2)


@pytest.fixture(params=["few", "many"])
def pieces(request, monkeypatch):
    """Small kernels cut as large ones are."""
    if request.param == "many":
        monkeypatch.setattr(scatter_sort_scan, "TASK_ELEMENTS", 4)
        monkeypatch.setattr(scatter_sort_scan, "LINE", 8)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("combine", ["set", "add", "mul", "max", "min"])
@pytest.mark.parametrize("shape, index_shape, axis", [
    ((5, 7), (9,), 0), ((5, 7), (9,), 1), ((3, 4, 5), (2, 3), 1), ((6,), (11,), 0), ((6,), (), 0), ((1, 37), (3,), 0),
    ((13, 1), (40,), 0), ((4, 5), (0,), 0), ((2, 1, 3), (4,), 1), ((2, 3, 2, 3), (5,), 1), ((2, 40, 3), (7,), 1),
    ((1, 1), (2, 2), 0), ((1,), (1,), 0), ((2, 1), (3,), 1),
])  # fmt: skip
def test_scatter(pieces, shape, index_shape, axis, combine, lanes):
    base, index = _x(dtypes.float32, *shape), _x(dtypes.int64, *index_shape)
    updates = _x(dtypes.float32, *shape[:axis], *index_shape, *shape[axis + 1 :])
    graph = Graph((base, index, updates), [make("scatter", (base, index, updates), axis=axis, combine=combine)])
    args = [
        _random(base.dtype, shape),
        rng.integers(-2, shape[axis] + 2, index_shape),
        _random(base.dtype, updates.shape),
    ]
    _check(graph, args, lanes)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("combine", ["set", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
def test_scatter_dtypes(pieces, dtype, combine, lanes):
    base, index, updates = _x(dtype, 5, 6), _x(dtypes.int32, 8), _x(dtype, 8, 6)
    graph = Graph((base, index, updates), [make("scatter", (base, index, updates), axis=0, combine=combine)])
    args = [_random(dtype, (5, 6), 1, 3), rng.integers(0, 5, 8).astype(np.int32), _random(dtype, (8, 6), 1, 3)]
    _check(graph, args, lanes)


@pytest.mark.parametrize("lanes", LANES)
def test_scatter_of_computed_values(pieces, lanes):
    """The embedding's gradient: zeros, computed indices, updates through views."""
    index, updates = _x(dtypes.int64, 2, 5), _x(dtypes.float32, 11, 10)
    zeros = B.const(0, dtypes.float32, (9, 11))
    at = B.op("mod", B.op("mul", index, B.like(index, 3)), B.like(index, 9))
    rows = B.op("mul", B.permute(updates, (1, 0)), B.const(2, dtypes.float32, (10, 11)))
    node = make("scatter", (zeros, at, B.reshape(rows, (2, 5, 11))), axis=0, combine="add")
    args = [rng.integers(0, 9, (2, 5)), _random(dtypes.float32, (11, 10))]
    _check(Graph((index, updates), [node, B.op("neg", node)]), args, lanes)


def test_scatter_is_cut_into_tasks():
    def tasks(v, d, n):
        index, updates = _x(dtypes.int64, n), _x(dtypes.float32, n, d)
        node = make("scatter", (B.const(0, dtypes.float32, (v, d)), index, updates), axis=0, combine="add")
        (kernel,) = kernels(Graph((index, updates), [node]), lambda f, g: schedule.Plain(16))
        assert any(isinstance(s, For) and s.kind == "vector" for s in walk(kernel.body))
        return kernel.tasks

    assert tasks(5000, 256, 100) == 16
    assert tasks(5000, 32, 100) >= 8
    assert tasks(5000, 1, 100) == 1  # too little work
    assert tasks(500000, 1, 100) == 16


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("monoid", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("shape, axis", [
    ((7,), 0), ((5, 6), 0), ((5, 6), 1), ((2, 3, 19), 1), ((3, 2, 2, 3), 1), ((1, 4), 0), ((4, 1), 0), ((2, 0), 1),
    ((3, 70), 0), ((2, 3, 4), 0),
])  # fmt: skip
def test_cumulative(shape, axis, monoid, reverse, lanes):
    x = _x(dtypes.float32, *shape)
    value = _random(x.dtype, shape)
    if value.size > 5 and monoid in ("max", "min"):
        value.flat[3] = np.nan
    graph = Graph((x,), [make("cumulative", (x,), monoid=monoid, axis=axis, reverse=reverse)])
    _check(graph, [value], lanes)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
@pytest.mark.parametrize("monoid", ["sum", "prod", "max", "min"])
def test_cumulative_dtypes(monoid, dtype, lanes):
    x = _x(dtype, 5, 9)
    nodes = [make("cumulative", (x,), monoid=monoid, axis=a, reverse=False) for a in (0, 1)]
    _check(Graph((x,), nodes), [_random(dtype, (5, 9))], lanes, equal=not dtype.is_half)


@pytest.mark.parametrize("lanes", LANES)
def test_cumulative_of_computed_values(lanes):
    x = _x(dtypes.float32, 6, 5)
    y = B.op("neg", B.pad(B.permute(x, (1, 0)), (1, 0), (0, 2)))
    nodes = [make("cumulative", (y,), monoid="sum", axis=a, reverse=True) for a in (0, 1)]
    _check(Graph((x,), nodes), [_random(x.dtype, (6, 5))], lanes)


def _sort(x, axis, descending):
    node = make("sort", (x,), axis=axis, descending=descending)
    return [B.item(node, 0), B.item(node, 1)]


@pytest.fixture(params=["task", "global"])
def scratch(request, monkeypatch):
    if request.param == "global":
        monkeypatch.setattr(scatter_sort_scan, "SCRATCH_LIMIT", 0)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33])
def test_sort(scratch, n, descending, lanes):
    x = _x(dtypes.float32, 3, n)
    value = _random(x.dtype, (3, n))
    value[:, n // 2] = np.nan
    value[0, :] = np.nan
    value[1, 0] = -np.inf
    value[2, -1] = np.inf
    _check(Graph((x,), _sort(x, 1, descending)), [value], lanes)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
@pytest.mark.parametrize("descending", [False, True])
def test_sort_dtypes(scratch, dtype, descending, lanes):
    x = _x(dtype, 4, 6, 2)
    value = _random(dtype, x.shape)
    if dtype.is_int:
        value.flat[:2] = dtypes.limits(dtype)
    for axis in range(3):
        _check(Graph((x,), _sort(x, axis, descending)), [value], lanes)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("used", [0, 1])
def test_sort_with_one_result_unused(scratch, used, lanes):
    x = _x(dtypes.int32, 9)
    _check(Graph((x,), [_sort(x, 0, True)[used]]), [_random(x.dtype, (9,))], lanes)


@pytest.mark.parametrize("lanes", LANES)
def test_sort_of_computed_halves(scratch, lanes):
    """Keys are compared as they would be stored: rounding makes ties."""
    x = _x(dtypes.float16, 20)
    y = B.op("add", x, B.like(x, 100))
    value = (1 - np.arange(20) / 1000).astype(np.float16)
    _check(Graph((x,), _sort(y, 0, False)), [value], lanes)


def test_empty_sort():
    x = _x(dtypes.float32, 0, 3)
    _check(Graph((x,), _sort(x, 0, False)), [np.zeros((0, 3), np.float32)], 4)
