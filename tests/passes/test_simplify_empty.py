"""Tensors without elements become constants, and what is made of nothing its neutral element."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.verify import verify
from dlc.passes.simplify.simplify import simplify
from tests.passes.programs import tensor

NEUTRAL = {"sum": 0, "prod": 1}


def simple(graph: Graph) -> Graph:
    """The simplified graph; no empty tensor is computed in it."""
    new = simplify(graph)
    verify(new)
    assert all(n.op in ("param", "const") for n in new.nodes() if hasattr(n.type, "size") and not n.type.size)
    return new


@pytest.mark.parametrize("monoid", NEUTRAL)
def test_reductions_of_nothing(monoid):
    x = tensor("x", 3, 0)
    (out,) = simple(Graph((x,), [B.reduce(B.op("exp", x), monoid, (1,))])).outputs
    assert out.op == "const" and out.attrs["value"] == NEUTRAL[monoid] and out.shape == (3,)


@pytest.mark.parametrize("monoid", ["any", "all"])
def test_truth_of_nothing(monoid):
    x = tensor("x", 3, 0)
    (out,) = simple(Graph((x,), [B.reduce(B.op("lt", x, B.op("exp", x)), monoid, (1,))])).outputs
    assert out.op == "const" and out.attrs["value"] is (monoid == "all")


def test_sums_of_no_products_and_what_is_joined_or_added_to():
    a, b, y = tensor("a", 2, 0), tensor("b", 0, 3), tensor("y", 2, 3)
    index = tensor("i", 0, dtype=dtypes.int64)
    product = B.contract(a, b, "ij,jk->ik")
    joined = make("concat", (tensor("z", 0, 3), y, B.slice_(y, (0, 0), (0, 3))), axis=0)
    added = make("scatter", (y, index, B.slice_(y, (0, 0), (0, 3))), axis=0, combine="add")
    padded = B.pad(a, (0, 1), (0, 2), None, 7.0)
    graph = simple(Graph((a, b, y, index, joined.inputs[0]), [product, joined, added, padded]))
    assert [o.op for o in graph.outputs] == ["const", "param", "param", "const"]
    want = np.full((2, 3), 7, np.float32)
    given = [np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32), want, np.zeros(0, np.int64),
             np.zeros((0, 3), np.float32)]  # fmt: skip
    for got, w in zip(evaluate(graph, given), (0 * want, want, want, want), strict=True):
        np.testing.assert_array_equal(got, w)


def test_a_reduction_of_what_an_index_selects_from_nothing():
    x, i = tensor("x", 4, 0), tensor("i", 2, dtype=dtypes.int64)
    rows = make("gather", (x, i), axis=0)
    (out,) = simple(Graph((x, i), [B.sum_(B.op("mul", rows, rows), (1,))])).outputs
    assert out.op == "const" and out.shape == (2,)


def test_a_loop_without_iterations():
    start, rows = tensor("s", 3), tensor("rows", 0, 3)
    c, r = param(start.type), param(start.type)
    total = B.op("add", c, r)
    scan = make("scan", (start, rows), body=Graph((c, r), (total, total), "body"), length=0, consts=0, carry=1,
                reverse=False)  # fmt: skip
    graph = simple(Graph((start, rows), [B.item(scan, 0), B.item(scan, 1)]))
    assert graph.outputs[0] is start and graph.outputs[1].op == "const"


@pytest.mark.parametrize("descending", [False, True])
def test_values_and_positions_of_an_empty_row(descending):
    x = tensor("x", 3, 0)
    both = make("sort", (x,), axis=1, descending=descending)
    graph = simple(Graph((x,), [B.item(both, 0), B.item(both, 1)]))
    assert [(o.op, o.dtype) for o in graph.outputs] == [("const", dtypes.float32), ("const", dtypes.int64)]
