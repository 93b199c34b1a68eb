"""Batching every operation against a loop over examples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dlc.base.errors import ShapeError
from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import cumulative, gather, scatter
from dlc.ir.graph.graph import Graph, make, unique
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.table import OPS
from dlc.passes.autodiff.vjp import expand, vjp
from dlc.passes.autodiff.vmap import BATCH, batch
from tests.passes.differences import params_for, total
from tests.passes.test_vjp import CASES, normal, op, rnn, vjp_node

LEAVES = {"const", "iota", "item", "vjp"}
SIZE = 3


def test_every_operation_has_a_row():
    made_later = {"each"}
    assert set(BATCH) == set(OPS) - LEAVES - made_later


def varied(a, rng):
    """A batch of arrays like `a`, the batch as the last axis."""
    if a.dtype.kind == "f":
        rows = [a + 0.01 * rng.normal(size=a.shape) for _ in range(SIZE)]
    elif a.dtype.kind == "b":
        rows = [rng.random(a.shape) < 0.5 for _ in range(SIZE)]
    else:
        rows = [np.roll(a, k) for k in range(SIZE)]
    return np.stack(rows, -1)


def check(f, *args):
    """Each choice of which arguments are mapped, against one example after the other."""
    args = [np.asarray(a) for a in args]
    rng = np.random.default_rng(0)
    for flags in itertools.product([False, True], repeat=len(args)):
        if not any(flags):
            continue
        given = [varied(a, rng) if flag else a for a, flag in zip(args, flags, strict=True)]
        examples, wholes = params_for(args), params_for(given)
        outs = f(*examples)
        outs = list(outs) if isinstance(outs, (list, tuple)) else [outs]
        mapped = {e: (w, w.ndim - 1) for e, w, flag in zip(examples, wholes, flags, strict=True) if flag}
        fixed = [(e, w) for e, w, flag in zip(examples, wholes, flags, strict=True) if not flag]
        params = [e if not flag else w for e, w, flag in zip(examples, wholes, flags, strict=True)]
        got = evaluate(expand(Graph(params, batch(outs, mapped))), given)
        one = expand(Graph(examples, outs))
        want = [
            evaluate(one, [g[..., k] if flag else g for g, flag in zip(given, flags, strict=True)]) for k in range(SIZE)
        ]
        for k, value in enumerate(got):
            whole = np.stack([w[k] for w in want])
            np.testing.assert_allclose(value, whole, rtol=1e-12, atol=1e-12, err_msg=str(flags))
        assert len(fixed) < len(args)


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    f, args = CASES[name]
    check(f, *args)


@pytest.mark.parametrize("name", ["reduce max", "cumprod", "sort", "gather", "contract", "window", "diamond"])
def test_gradient(name):
    f, args = CASES[name]
    floats = [k for k, a in enumerate(args) if a.dtype.kind == "f"]
    check(lambda *ps: vjp([s := total(f(*ps))], [B.like(s, 1)], [ps[k] for k in floats]), *args)


@pytest.mark.parametrize("combine", ["set", "add", "mul", "max", "min"])
def test_scatter(combine):
    check(lambda b, i, u: scatter(b, i, u, 1, combine), normal(2, 5), np.array([3, 9, -3]), normal(2, 3))


def test_gather_along_middle_axis_with_matrix_of_small_indices():
    check(lambda x, i: gather(x, i, 1), normal(2, 3, 2), np.array([[2, 0, 1], [2, 120, -7]], np.int8))


def test_other_operations():
    check(op("atan2"), normal(2), normal(2))
    check(lambda x: B.reduce(x, "argmax", (0, 2)), normal(2, 3, 2))
    check(lambda x: cumulative(x, "max", 0), normal(3, 2))
    check(lambda x: make("stop_gradient", (make("barrier", (x,), uid=unique()),)), normal(2))
    check(lambda x: [B.item(make("sort", (x,), axis=0, descending=True), k) for k in (0, 1)], normal(4))


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    check(rnn(reverse), normal(2, 2), normal(1, 2), normal(3, 1, 2))


def test_per_example_gradient_through_vjp_node():
    def f(x, w):
        y = B.sum_(B.op("sin", B.op("mul", x, w)), (0,))
        return vjp_node(y, B.like(y, 1), w)

    check(f, normal(3), normal(3))


def test_checkpoint():
    def f(a, b):
        ps = params_for([np.zeros(2), np.zeros(2)])
        body = Graph(ps, [B.op("mul", *ps), B.op("exp", ps[0])])
        node = make("checkpoint", (a, b), body=body)
        return [B.item(node, 0), B.item(node, 1)]

    check(f, normal(2), normal(2))


def test_sizes_that_disagree_are_an_error():
    (a, b), (wa, wb) = params_for([np.zeros(2)] * 2), params_for([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ShapeError, match="sizes 3 and 4"):
        batch([B.op("add", a, b)], {a: (wa, 1), b: (wb, 1)})
    with pytest.raises(ShapeError, match="does not give"):
        batch([a], {a: (wa, 0)})
