"""Text form of graphs: exact output, round trips on random graphs, and errors that name the line."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from dlc.base.errors import ParseError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, make, param, structure, unique
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify
from dlc.ir.loc import Loc
from tests.random_graphs import arguments, graphs

F32 = dtypes.float32


def linear():
    x, w = param(TensorType(F32, (102, 784)), "x"), param(TensorType(F32, (10, 784)), "w")
    y = B.contract(x, w, "mk,nk->mn", loc=Loc("train.py", 12))
    return Graph([x, w], [B.op("max", y, B.like(y, 0)), y])


LINEAR = """\
graph main(%x: f32[102,784], %w: f32[10,784]) {
  %0: f32[102,10] = contract(%x, %w) dtype=f32 spec="mk,nk->mn"  # train.py:12
  %1: f32[102,10] = const() dtype=f32 shape=[102,10] value=0.0
  %2: f32[102,10] = max(%0, %1)
  return %2, %0
}"""


def test_exact_text():
    assert print_graph(linear()) == LINEAR
    assert "train.py" not in print_graph(linear(), locs=False)
    assert structure(parse_graph(LINEAR)) == structure(linear())


def scan_graph():
    h, x = param(TensorType(F32, (2,)), "h"), param(TensorType(F32, (2,)), "x")
    new = B.op("add", h, x)
    body = Graph([h, x], [new, B.op("tanh", new)], "b")
    h0, xs = param(TensorType(F32, (2,)), "h"), param(TensorType(F32, (3, 2)), "xs")
    node = make("scan", (h0, xs), Loc("rnn.py", 3), body=body, length=3, consts=0, carry=1, reverse=True)
    return Graph([h0, xs], [B.item(node, 0), B.item(node, 1)])


SCAN = """\
graph main(%h: f32[2], %xs: f32[3,2]) {
  %0: (f32[2], f32[3,2]) = scan(%h, %xs) carry=1 consts=0 length=3 reverse=true body=graph b(%h: f32[2], %x: f32[2]) {
    %0: f32[2] = add(%h, %x)
    %1: f32[2] = tanh(%0)
    return %0, %1
  }  # rnn.py:3
  %1: f32[2] = item(%0) index=0  # rnn.py:3
  %2: f32[3,2] = item(%0) index=1  # rnn.py:3
  return %1, %2
}"""


def test_bodies_are_nested():
    assert print_graph(scan_graph()) == SCAN
    again = parse_graph(SCAN)
    verify(again)
    assert structure(again) == structure(scan_graph())


def test_names_are_kept_when_unique():
    t = TensorType(F32, ())
    params = [param(t, name) for name in ("a", "b", "b", "", "layer.weight", "not a name")]
    text = print_graph(Graph(params, params))
    assert "(%a: f32[], %b1: f32[], %b2: f32[], %p3: f32[], %layer.weight: f32[], %p5: f32[])" in text


@pytest.mark.parametrize("value", [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-30, 0.1, 3e38])
def test_floats_survive(value):
    g = Graph([], [B.const(value, F32, (2,))])
    assert structure(parse_graph(print_graph(g))) == structure(g)


def test_every_kind_of_attribute_survives():
    x = param(TensorType(dtypes.uint8, (4, 4)), "x")
    y = make("barrier", (make("tag", (x,), uid=unique()),), uid=unique())
    g = Graph([x], [B.const(True, dtypes.bool_, ()), B.const(2**64 - 1, dtypes.uint64, ()), B.pad(y, (1, 0), (0, -1))])
    assert structure(parse_graph(print_graph(g))) == structure(g)


def test_parsing_gives_new_uids():
    x = param(TensorType(F32, ()), "x")
    g = Graph([x], [make("barrier", (x,), uid=unique()), make("barrier", (x,), uid=unique())])
    again = parse_graph(print_graph(g))
    uids = {o.attrs["uid"] for o in again.outputs}
    assert len(uids) == 2 and uids.isdisjoint(o.attrs["uid"] for o in g.outputs)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_round_trip_of_random_graphs(graph):
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text)
    verify(again)
    assert structure(again) == structure(graph)
    assert print_graph(again) == text
    args = arguments(graph)
    for a, b in zip(evaluate(graph, args), evaluate(again, args), strict=True):
        assert a.tobytes() == b.tobytes()


ERRORS = [
    ("graph main(%x: f32[2]) {\n  return %y\n}", "line 2: %y is not defined"),
    ("graph main(%x: f32[2]) {\n  %0: f32[2] = frob(%x)\n  return %0\n}", "line 2: unknown operation frob"),
    ("graph main(%x: f32[2]) {\n\n  %0: f32[3] = neg(%x)\n  return %0\n}", "line 3: %0 is declared f32[3], but is"),
    ("graph main(%x: q8[2]) {\n  return %x\n}", "line 1: q8 is not a dtype"),
    ("graph main(%x: f32[2]) {\n  %x: f32[2] = neg(%x)\n  return %x\n}", "line 2: %x is defined twice"),
    ("graph main(%x: f32[2]) {\n  %0: f32[2] = add(%x)\n  return %0\n}", "line 2: add takes 2 operands, got 1"),
    ("graph main(%x: f32[2]) {\n  %0: f32[2] = cast(%x)\n  return %0\n}", "line 2: cast: missing or malformed"),
    ("graph main(%x: f32[2]) {\n  return %x\n} more", "line 3: unexpected 'more' after the graph"),
    ("graph main(%x: f32[2]) {\n  return %x", "line 2: expected"),
    ("graph main(%x: f32[2]) {\n  ? }", "line 2: unexpected '?'"),
]


@pytest.mark.parametrize("text,message", ERRORS)
def test_errors_name_the_line(text, message):
    with pytest.raises(ParseError) as e:
        parse_graph(text)
    assert str(e.value).startswith(message)
