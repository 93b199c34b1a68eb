"""Simplification: exact text in and out for each rule, and the same values on random graphs."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, make, param, structure
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify
from dlc.passes.autodiff.vjp import expand, vjp
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.prune import prune_scans
from dlc.passes.simplify.scalars import lossless
from dlc.passes.simplify.simplify import simplify
from dlc.passes.simplify.windows import lower_unwindow
from tests.passes.differences import build
from tests.passes.test_vjp import CASES, loops, normal, rnn
from tests.random_graphs import arguments, graphs, integer_graphs


def lines(text, params):
    body = "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())
    return f"graph main({params}) {{\n{body}\n}}"


def simplified(text, params):
    graph = simplify(parse_graph(lines(text, params)))
    verify(graph, "after simplify")
    return print_graph(graph, locs=False)


X = "%x: f32[2,3]"

# name: (parameters, before, after)
GOLDENS = {
    "fold": (X, """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=2.0
        %1: f32[2,3] = const() dtype=f32 shape=[2,3] value=3.0
        %2: f32[2,3] = mul(%0, %1)
        %3: f32[2,3] = add(%2, %x)
        return %3""", """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=6.0
        %1: f32[2,3] = add(%x, %0)
        return %1"""),
    "times one, minus zero, plus minus zero": (X, """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=1.0
        %1: f32[2,3] = mul(%0, %x)
        %2: f32[2,3] = const() dtype=f32 shape=[2,3] value=0.0
        %3: f32[2,3] = sub(%1, %2)
        %4: f32[2,3] = const() dtype=f32 shape=[2,3] value=-0.0
        %5: f32[2,3] = add(%3, %4)
        return %5""", "return %x"),
    "times zero and plus zero stay": (X, """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=0.0
        %1: f32[2,3] = mul(%x, %0)
        %2: f32[2,3] = add(%1, %0)
        return %2""", None),
    "integer times zero": ("%x: i32[2]", """
        %0: i32[2] = const() dtype=i32 shape=[2] value=0
        %1: i32[2] = mul(%x, %0)
        return %1""", """
        %0: i32[2] = const() dtype=i32 shape=[2] value=0
        return %0"""),
    "divide by four but not by three": (X, """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=4.0
        %1: f32[2,3] = div(%x, %0)
        %2: f32[2,3] = const() dtype=f32 shape=[2,3] value=3.0
        %3: f32[2,3] = div(%1, %2)
        return %3""", """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=0.25
        %1: f32[2,3] = mul(%x, %0)
        %2: f32[2,3] = const() dtype=f32 shape=[2,3] value=3.0
        %3: f32[2,3] = div(%1, %2)
        return %3"""),
    "double negation and subtraction": ("%x: f32[2], %y: f32[2]", """
        %0: f32[2] = neg(%x)
        %1: f32[2] = neg(%0)
        %2: f32[2] = neg(%y)
        %3: f32[2] = add(%1, %2)
        return %3""", """
        %0: f32[2] = sub(%x, %y)
        return %0"""),
    "square": (X, """
        %0: f32[2,3] = const() dtype=f32 shape=[2,3] value=2.0
        %1: f32[2,3] = pow(%x, %0)
        return %1""", """
        %0: f32[2,3] = mul(%x, %x)
        return %0"""),
    "comparison of a float with itself stays": (X, """
        %0: bool[2,3] = eq(%x, %x)
        return %0""", None),
    "comparison of an integer with itself": ("%x: i32[2]", """
        %0: bool[2] = le(%x, %x)
        return %0""", """
        %0: bool[2] = const() dtype=bool shape=[2] value=true
        return %0"""),
    "not less than, floats": (X, """
        %0: bool[2,3] = lt(%x, %x)
        %1: bool[2,3] = not(%0)
        return %1""", """
        %0: bool[2,3] = const() dtype=bool shape=[2,3] value=true
        return %0"""),
    "nested select on one condition": ("%c: bool[2], %x: f32[2], %y: f32[2], %z: f32[2]", """
        %0: bool[2] = not(%c)
        %1: f32[2] = select(%0, %x, %y)
        %2: f32[2] = select(%c, %1, %z)
        return %2""", """
        %0: f32[2] = select(%c, %y, %z)
        return %0"""),
    "cast through a wider type": ("%x: f16[2]", """
        %0: f32[2] = cast(%x) dtype=f32
        %1: f16[2] = cast(%0) dtype=f16
        return %1""", "return %x"),
    "cast through a narrower type stays": ("%x: f32[2]", """
        %0: f16[2] = cast(%x) dtype=f16
        %1: f32[2] = cast(%0) dtype=f32
        return %1""", None),
    "int to float to int saturates and so stays": ("%x: i32[2]", """
        %0: f64[2] = cast(%x) dtype=f64
        %1: i8[2] = cast(%0) dtype=i8
        return %1""", None),
    "views merge": ("%x: f32[2,3,4]", """
        %0: f32[4,3,2] = permute(%x) axes=[2,1,0]
        %1: f32[2,3,4] = permute(%0) axes=[2,1,0]
        %2: f32[6,4] = reshape(%1) shape=[6,4]
        %3: f32[24] = reshape(%2) shape=[24]
        %4: f32[20] = slice(%3) start=[4] step=[1] stop=[24]
        %5: f32[5] = slice(%4) start=[1] step=[2] stop=[11]
        %6: f32[5] = flip(%5) axes=[0]
        %7: f32[5] = flip(%6) axes=[0]
        %8: f32[7] = pad(%7) high=[1] interior=[0] low=[1] value=0.0
        %9: f32[9] = pad(%8) high=[0] interior=[0] low=[2] value=0.0
        return %9""", """
        %0: f32[24] = reshape(%x) shape=[24]
        %1: f32[5] = slice(%0) start=[5] step=[2] stop=[14]
        %2: f32[9] = pad(%1) high=[1] interior=[0] low=[3] value=0.0
        return %2"""),
    "cropping pad is a slice, and pad then slice is nothing": ("%x: f32[5]", """
        %0: f32[3] = pad(%x) high=[-1] interior=[0] low=[-1] value=0.0
        %1: f32[7] = pad(%0) high=[2] interior=[0] low=[2] value=0.0
        %2: f32[3] = slice(%1) start=[2] step=[1] stop=[5]
        return %2""", """
        %0: f32[3] = slice(%x) start=[1] step=[1] stop=[4]
        return %0"""),
    "slice of concat": ("%x: f32[2], %y: f32[3]", """
        %0: f32[5] = concat(%x, %y) axis=0
        %1: f32[2] = slice(%0) start=[3] step=[1] stop=[5]
        return %1""", """
        %0: f32[2] = slice(%y) start=[1] step=[1] stop=[3]
        return %0"""),
    "view of constant": ("", """
        %0: f32[2] = const() dtype=f32 shape=[2] value=nan
        %1: f32[3,2] = broadcast(%0) axes=[1] shape=[3,2]
        %2: f32[6] = reshape(%1) shape=[6]
        return %2""", """
        %0: f32[6] = const() dtype=f32 shape=[6] value=nan
        return %0"""),
    "sum of copies": ("%x: f32[3]", """
        %0: f32[4,3] = broadcast(%x) axes=[1] shape=[4,3]
        %1: f32[] = reduce(%0) axes=[0,1] monoid="sum"
        return %1""", """
        %0: f32[] = reduce(%x) axes=[0] monoid="sum"
        %1: f32[] = const() dtype=f32 shape=[] value=4.0
        %2: f32[] = mul(%0, %1)
        return %2"""),
    "sum of sum of transpose": ("%x: f32[3,4,5]", """
        %0: f32[5,4,3] = permute(%x) axes=[2,1,0]
        %1: f32[4,3] = reduce(%0) axes=[0] monoid="sum"
        %2: f32[3] = reduce(%1) axes=[0] monoid="sum"
        return %2""", """
        %0: f32[3] = reduce(%x) axes=[1,2] monoid="sum"
        return %0"""),
    "transposes go into the contraction": ("%x: f32[2,3], %w: f32[4,3]", """
        %0: f32[3,4] = permute(%w) axes=[1,0]
        %1: f32[2,4] = contract(%x, %0) dtype=f32 spec="ik,kj->ij"
        %2: f32[4,2] = permute(%1) axes=[1,0]
        return %2""", """
        %0: f32[4,2] = contract(%x, %w) dtype=f32 spec="ik,jk->ji"
        return %0"""),
    "transposes of a rounded contraction": ("%x: f32[2,3], %w: f32[3,4]", """
        %0: f32[2,4] = contract(%x, %w) dtype=f32 spec="ik,kj->ij"
        %1: bf16[2,4] = cast(%0) dtype=bf16
        %2: bf16[4,2] = permute(%1) axes=[1,0]
        return %2
    """, """
        %0: f32[4,2] = contract(%x, %w) dtype=f32 spec="ik,kj->ji"
        %1: bf16[4,2] = cast(%0) dtype=bf16
        return %1
    """),
    "contraction over one": ("%x: f32[2,1], %w: f32[1,3]", """
        %0: f32[2,3] = contract(%x, %w) dtype=f32 spec="ik,kj->ij"
        return %0""", """
        %0: f32[2] = reshape(%x) shape=[2]
        %1: f32[3] = reshape(%w) shape=[3]
        %2: f32[2,3] = contract(%0, %1) dtype=f32 spec="i,j->ij"
        return %2"""),
    "contraction with copies": ("%g: f32[2], %w: f32[4,3]", """
        %0: f32[2,4] = broadcast(%g) axes=[0] shape=[2,4]
        %1: f32[2,3] = contract(%0, %w) dtype=f32 spec="ik,kj->ij"
        return %1""", """
        %0: f32[3] = reduce(%w) axes=[0] monoid="sum"
        %1: f32[2,3] = contract(%g, %0) dtype=f32 spec="i,j->ij"
        return %1"""),
    "contraction with ones": ("%x: f32[2,4]", """
        %0: f32[4,3] = const() dtype=f32 shape=[4,3] value=1.0
        %1: f32[2,3] = contract(%x, %0) dtype=f32 spec="ik,kj->ij"
        return %1""", """
        %0: f32[2] = reduce(%x) axes=[1] monoid="sum"
        %1: f32[2,3] = broadcast(%0) axes=[0] shape=[2,3]
        return %1"""),
    "pooling window": ("%x: f32[1,7]", """
        %0: f32[1,3,2] = window(%x) axes=[1] dilations=[1] sizes=[2] strides=[2]
        return %0""", """
        %0: f32[1,6] = slice(%x) start=[0,0] step=[1,1] stop=[1,6]
        %1: f32[1,3,2] = reshape(%0) shape=[1,3,2]
        return %1"""),
    "pooling gradient": ("%x: f32[1,3,2]", """
        %0: f32[1,7] = unwindow(%x) axes=[1] dilations=[1] shape=[1,7] sizes=[2] strides=[2]
        return %0""", """
        %0: f32[1,6] = reshape(%x) shape=[1,6]
        %1: f32[1,7] = pad(%0) high=[0,1] interior=[0,0] low=[0,0] value=0.0
        return %1"""),
    "data gradient of a convolution": ("%dy: f32[2,4,3], %w: f32[4,5,3]", """
        %0: f32[2,5,3,3] = contract(%dy, %w) dtype=f32 spec="noh,oci->nchi"
        %1: f32[2,5,8] = unwindow(%0) axes=[2] dilations=[1] shape=[2,5,8] sizes=[3] strides=[2]
        return %1""", """
        %0: f32[2,4,10] = pad(%dy) high=[0,0,3] interior=[0,0,1] low=[0,0,2] value=0.0
        %1: f32[2,4,8,3] = window(%0) axes=[2] dilations=[1] sizes=[3] strides=[1]
        %2: f32[4,5,3] = flip(%w) axes=[2]
        %3: f32[2,5,8] = contract(%1, %2) dtype=f32 spec="nohi,oci->nch"
        return %3"""),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name):
    params, before, after = GOLDENS[name]
    assert simplified(before, params) == lines(before if after is None else after, params)


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


def test_dead_carry_constant_and_input_go():
    w, a, b, x, y = (param(TensorType(dtypes.float64, (2,)), n) for n in "wabxy")
    body = Graph([w, a, b, x, y], [B.op("add", a, x), B.op("mul", B.op("add", b, w), y), b], "step")
    args = [normal(2), normal(2), normal(2), normal(3, 2), normal(3, 2)]
    ps = [param(TensorType(dtypes.float64, v.shape)) for v in args]
    node = make("scan", ps, body=body, length=3, consts=1, carry=2, reverse=False)
    graph = Graph(ps, [B.item(node, 0)])
    pruned = prune_scans(graph)
    (loop,) = loops(pruned)
    assert [p.attrs["name"] for p in loop.attrs["body"].params] == ["a", "x"]
    values_agree(graph, pruned, args, exact=True)


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
