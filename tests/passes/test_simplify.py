"""Simplification: the same values on random graphs and for special ones. What each rule does is in
`tests/golden/simplify`."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, make, param, structure
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.text import print_graph
from dlc.ir.graph.verify import verify
from dlc.passes.autodiff.vjp import expand, vjp
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.scalars import lossless
from dlc.passes.simplify.simplify import simplify
from dlc.passes.simplify.windows import lower_unwindow
from tests.passes.differences import build
from tests.passes.test_vjp import CASES, loops, normal, rnn
from tests.random_graphs import arguments, graphs, integer_graphs


def values_agree(before, after, args, exact=False):
    verify(after)
    for a, b in zip(evaluate(before, args), evaluate(after, args), strict=True):
        if exact or a.dtype.kind in "biu":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


PROPERTY = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@PROPERTY
@given(graphs(float_types=(dtypes.float64,)))
def test_random_graphs_keep_their_values(graph):
    args = arguments(graph)
    simple = simplify(graph)
    values_agree(graph, simple, args)
    lowered = lower_unwindow(simple)
    assert all(n.op != "unwindow" for n in lowered.nodes())
    values_agree(graph, lowered, args)


@PROPERTY
@given(integer_graphs())
def test_random_integer_graphs_exactly(graph):
    values_agree(graph, simplify(graph), arguments(graph), exact=True)


@pytest.mark.parametrize("name", CASES)
def test_gradients_keep_their_values(name):
    f, args = CASES[name]
    floats = [k for k, a in enumerate(args) if np.asarray(a).dtype.kind == "f"]
    graph = expand(
        build(lambda *ps: vjp([y := f(*ps)], [B.op("cos", y)], [ps[k] for k in floats]), [np.asarray(a) for a in args])
    )
    values_agree(graph, simplify(remove_markers(graph)), [np.asarray(a) for a in args])


CONVOLUTIONS = [
    # input, kernel, stride, dilation, groups
    ((2, 3, 7, 6), (4, 3, 3, 2), (1, 1), (1, 1)),
    ((1, 2, 9, 8), (3, 2, 3, 3), (2, 3), (1, 2)),
    ((1, 1, 5, 5), (1, 1, 5, 5), (1, 1), (1, 1)),
    ((2, 2, 6, 6), (2, 2, 2, 2), (2, 2), (1, 1)),
    ((1, 2, 6, 6), (2, 2, 1, 1), (2, 2), (1, 1)),
]


@pytest.mark.parametrize("x_shape,w_shape,stride,dilation", CONVOLUTIONS)
def test_gradients_of_convolutions_have_no_unwindow(x_shape, w_shape, stride, dilation):
    def conv(x, w):
        seen = B.window(x, (2, 3), w.shape[2:], stride, dilation)
        return B.contract(seen, w, "nchwij,ocij->nohw")

    args = [normal(*x_shape), normal(*w_shape)]
    graph = expand(build(lambda x, w: vjp([y := conv(x, w)], [B.op("sin", y)], [x, w]), args))
    simple = simplify(graph)
    assert any(n.op == "unwindow" for n in graph.nodes())
    assert all(n.op != "unwindow" for n in simple.nodes())
    values_agree(graph, simple, args)


def test_channels_last_and_grouped_convolution():
    def conv(x, w):  # x: n h w g c, w: g o c i j
        seen = B.window(x, (1, 2), (3, 3), (2, 1), (1, 1))
        return B.permute(B.contract(seen, w, "nhwgcij,gocij->gnohw"), (1, 3, 4, 0, 2))

    args = [normal(1, 7, 6, 2, 2), normal(2, 3, 2, 3, 3)]
    graph = expand(build(lambda x, w: vjp([y := conv(x, w)], [B.op("sin", y)], [x, w]), args))
    simple = simplify(graph)
    assert all(n.op not in ("unwindow", "permute") for n in simple.nodes())
    values_agree(graph, simple, args)


def test_special_values_survive():
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0], np.float32)

    def f(x):
        zero, one = B.like(x, 0), B.like(x, 1)
        return [
            B.op("mul", x, zero), B.op("add", x, zero), B.op("sub", zero, x), B.op("sub", x, x), B.op("div", x, x),
            B.op("eq", x, x), B.op("not", B.op("lt", x, one)), B.op("sub", x, zero), B.op("mul", one, x),
            B.op("div", x, B.like(x, -2)), B.op("max", x, x), B.op("pow", x, one), B.op("neg", B.op("sub", zero, x)),
        ]  # fmt: skip

    graph = build(f, [special])
    for a, b in zip(evaluate(graph, [special]), evaluate(simplify(graph), [special]), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.signbit(a[:4]), np.signbit(b[:4]))


@pytest.mark.parametrize("a", dtypes.ALL, ids=str)
@pytest.mark.parametrize("b", dtypes.ALL, ids=str)
def test_lossless_casts_are_undone_exactly(a, b):
    if not lossless(a, b):
        return
    if a.is_bool:
        values = np.array([False, True])
    elif a.is_float:
        values = np.array([0.0, -1.5, dtypes.limits(a)[1], np.inf, np.nan], a.np)
    else:
        low, high = dtypes.limits(a)
        values = np.array([low, low + 1, 0, 3, high - 1, high], a.np)
    x = param(TensorType(a, values.shape))
    (back,) = evaluate(Graph([x], [B.cast(B.cast(x, b), a)]), [values])
    exact = np.float64 if a.is_float else a.np  # NumPy does not take bfloat16 NaNs for equal
    np.testing.assert_array_equal(back.astype(exact), values.astype(exact))


def test_dead_parts_of_loops_go():
    args = [0.5 * normal(2, 2), normal(1, 2), normal(3, 1, 2)]

    def f(w, h, xs):
        last, _ = rnn()(w, h, xs)
        return [last, *vjp([last], [B.like(last, 1)], [w])]

    graph = expand(build(f, args))
    simple = simplify(graph)
    forward, backward = loops(simple)
    assert [len(n.attrs["body"].outputs) for n in (forward, backward)] == [3, 2]
    values_agree(graph, simple, args)


def test_what_a_loop_stacks_twice_it_stacks_once():
    """Also what only is the same once the body is simple: for an LSTM's weights and its input, the gates' gradient."""
    x, p = (param(TensorType(dtypes.float64, shape)) for shape in ((3, 2), (2,)))
    twice = B.op("mul", B.op("add", p, p), B.const(1.0, dtypes.float64, (2,)))
    body = Graph([p], [B.op("add", p, p), B.op("neg", p), twice], "step")
    node = make("scan", (x,), body=body, length=3, consts=0, carry=0, reverse=False)
    graph = Graph([x], [B.item(node, k) for k in (0, 1, 2)])
    simple = simplify(graph)
    (loop,) = loops(simple)
    assert len(loop.attrs["body"].outputs) == 2
    assert simple.outputs[0] is simple.outputs[2]
    values_agree(graph, simple, [normal(3, 2)], exact=True)


def test_simplifying_twice_changes_nothing_more():
    for name in CASES:
        f, args = CASES[name]
        once = simplify(build(f, [np.asarray(a) for a in args]))
        assert structure(simplify(once)) == structure(once), name


def _chains(dtype, seed):
    """Chains of three integer operations on %x with constants near the limits, any of which a rule may meet."""
    pick = random.Random(seed)
    low, high = dtypes.limits(dtype)
    constants = [k for k in (low, low + 1, -100, -2, -1, 0, 1, 2, 3, 7, 100, high - 1, high) if low <= k <= high]
    x = param(TensorType(dtype, (256,)), "x")

    def step(node):
        name = pick.choice(("neg", "abs", "sign", "not", "add", "sub", "mul", "floordiv", "mod", "max", "min", "and",
                            "or", "xor", "shl", "shr", "select", "cast"))  # fmt: skip
        if name in ("neg", "abs", "sign", "not"):
            return make(name, (node,))
        if name == "cast":
            return B.cast(B.cast(node, pick.choice(dtypes.ALL)), dtype)
        other = x if pick.random() < 0.2 else B.const(pick.choice(constants), dtype, (256,))
        pair = (node, other) if pick.random() < 0.7 else (other, node)
        if name == "select":
            return B.select(make(pick.choice(("eq", "ne", "lt", "le")), pair), *pair)
        return make(name, pair)

    for _ in range(120):
        node = step(step(step(x)))
        if pick.random() < 0.3:
            node = make(pick.choice(("eq", "ne", "lt", "le")), (node, step(x)))
            node = make("not", (node,)) if pick.random() < 0.5 else node
        yield Graph([x], [node])


@pytest.mark.parametrize("dtype", (dtypes.int8, dtypes.uint8), ids=("int8", "uint8"))
@pytest.mark.parametrize("seed", range(4))
def test_all_values_of_chains_of_integer_operations(dtype, seed):
    low, high = dtypes.limits(dtype)
    x = np.arange(low, high + 1).astype(dtype.np)
    for graph in _chains(dtype, seed):
        want, got = evaluate(graph, [x])[0], evaluate(simplify(graph), [x])[0]
        np.testing.assert_array_equal(got, want, print_graph(graph, locs=False))
