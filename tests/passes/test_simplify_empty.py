"""Tensors without elements become constants, and what is made of nothing its neutral element."""

from __future__ import annotations

import pytest

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
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


def test_a_reduction_of_what_an_index_selects_from_nothing():
    x, i = tensor("x", 4, 0), tensor("i", 2, dtype=dtypes.int64)
    rows = make("gather", (x, i), axis=0)
    (out,) = simple(Graph((x, i), [B.sum_(B.op("mul", rows, rows), (1,))])).outputs
    assert out.op == "const" and out.shape == (2,)


@pytest.mark.parametrize("descending", [False, True])
def test_values_and_positions_of_an_empty_row(descending):
    x = tensor("x", 3, 0)
    both = make("sort", (x,), axis=1, descending=descending)
    graph = simple(Graph((x,), [B.item(both, 0), B.item(both, 1)]))
    assert [(o.op, o.dtype) for o in graph.outputs] == [("const", dtypes.float32), ("const", dtypes.int64)]
