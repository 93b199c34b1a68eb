"""Every reverse-mode rule against central differences in float64, first and second order."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add, cumulative, gather, mul, scale, scatter
from dlc.ir.graph.graph import Graph, TensorType, make, param, structure, unique
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.table import OPS
from dlc.passes.autodiff.vjp import VJP, expand, pullback, vjp
from dlc.passes.simplify.markers import remove_markers
from tests.passes.differences import build, check, run

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape)


def between(low, high, *shape):
    return rng.uniform(low, high, size=shape)


def op(name):
    return lambda *xs: make(name, xs)


def sort_values(x, axis, descending):
    return B.item(make("sort", (x,), axis=axis, descending=descending), 0)


def test_every_operation_has_a_row():
    made_later = {"each"}  # by a pass after derivatives and batching
    assert set(OPS) - made_later | {"param"} == set(VJP)


ELEMENTWISE = {
    "neg": (-2, 2), "abs": (0.2, 2), "sqrt": (0.2, 2), "rsqrt": (0.2, 2), "exp": (-2, 2), "expm1": (-2, 2),
    "log": (0.2, 2), "log2": (0.2, 2), "log1p": (-0.5, 2), "sin": (-3, 3), "cos": (-3, 3), "tan": (-1, 1),
    "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atan": (-3, 3), "sinh": (-2, 2), "cosh": (-2, 2), "tanh": (-2, 2),
    "sigmoid": (-3, 3),
    "asinh": (-2, 2), "acosh": (1.2, 3), "atanh": (-0.9, 0.9), "erf": (-2, 2), "add": (-2, 2), "sub": (-2, 2),
    "mul": (-2, 2), "div": (0.5, 2), "mod": (1.1, 2), "pow": (0.3, 2), "atan2": (0.3, 2), "max": (-2, 2),
    "min": (-2, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    low, high = ELEMENTWISE[name]
    arity = 1 if name not in ("add", "sub", "mul", "div", "mod", "pow", "atan2", "max", "min") else 2
    check(op(name), *(between(low, high, 2, 3) for _ in range(arity)))
    check(op(name), *(between(low, high) for _ in range(arity)), order=1)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, -1.5, 0.5])
def test_pow_by_constant(exponent):
    if exponent == 0:
        assert pullback([y := make("pow", (x := param(TensorType(dtypes.float64, (2,))), B.like(x, 0)))], [x], [x]) == [
            None
        ], y
    else:
        check(lambda x: mul(x, make("pow", (x, B.like(x, exponent)))), between(0.3, 2, 3))


CASES = {
    "select": (
        lambda c, a, b: mul(a, B.select(c, a, mul(b, b))),
        [rng.random((2, 3)) < 0.5, normal(2, 3), normal(2, 3)],
    ),
    "reshape": (lambda x: mul(y := B.reshape(x, (3, 2)), y), [normal(2, 3)]),
    "permute": (lambda x: B.op("sin", B.permute(x, (2, 0, 1))), [normal(2, 3, 2)]),
    "broadcast": (lambda x: B.op("sin", B.broadcast(x, (2, 3, 4), (0, 2))), [normal(2, 1)]),
    "broadcast scalar": (lambda x: B.op("exp", B.broadcast(x, (2, 3), ())), [normal()]),
    "slice": (lambda x: B.op("sin", B.slice_(x, (1, 0), (6, 2), (2, 1))), [normal(7, 3)]),
    "slice to nothing": (lambda x: add(B.sum_(x, (0,)), B.sum_(B.slice_(x, (1,), (1,)), (0,))), [normal(3)]),
    "flip": (lambda x: B.op("sin", B.flip(x, (0,))), [normal(3, 2)]),
    "pad": (lambda x: B.op("sin", B.pad(x, (1, -1), (2, 0), (1, 2), 0.5)), [normal(3, 3)]),
    "pad cropped away": (lambda x: B.op("cos", B.pad(x, (-5,), (4,))), [normal(3)]),
    "pad other side": (lambda x: B.op("cos", B.pad(x, (4,), (-5,))), [normal(3)]),
    "window": (lambda x: B.op("sin", B.window(x, (1, 0), (2, 3), (2, 1), (1, 2))), [normal(6, 5)]),
    "unwindow": (
        lambda x: B.op("sin", make("unwindow", (x,), shape=(7,), axes=(0,), sizes=(3,), strides=(2,), dilations=(1,))),
        [normal(3, 3)],
    ),
    "sum": (lambda x: B.op("sin", B.sum_(x, (0, 2))), [normal(2, 3, 2)]),
    "sum of nothing": (lambda x: add(B.sum_(x, (0,)), B.const(1, dtypes.float64, (2,))), [normal(0, 2)]),
    "prod": (lambda x: B.reduce(x, "prod", (0, 2)), [normal(2, 3, 2)]),
    "prod one": (lambda x: B.op("sin", B.reduce(x, "prod", (1,))), [normal(3, 1)]),
    "reduce max": (lambda x: B.op("sin", B.reduce(x, "max", (1,))), [normal(2, 4)]),
    "reduce min": (lambda x: B.op("sin", B.reduce(x, "min", (0, 1))), [normal(2, 4)]),
    "cumsum": (lambda x: B.op("sin", cumulative(x, "sum", 1)), [normal(2, 4)]),
    "cumsum reverse": (lambda x: B.op("sin", cumulative(x, "sum", 0, True)), [normal(3, 2)]),
    "cumprod": (lambda x: B.op("sin", cumulative(x, "prod", 1)), [normal(2, 4)]),
    "cumprod reverse": (lambda x: B.op("sin", cumulative(x, "prod", 0, True)), [normal(3, 2)]),
    "cummax": (lambda x: B.op("sin", cumulative(x, "max", 1)), [normal(2, 5)]),
    "cummin reverse": (lambda x: B.op("sin", cumulative(x, "min", 1, True)), [normal(2, 5)]),
    "sort": (lambda x: B.op("sin", sort_values(x, 1, False)), [normal(2, 5)]),
    "sort descending": (lambda x: B.op("sin", sort_values(x, 0, True)), [normal(4, 2, 2)]),
    "contract": (lambda a, b: B.op("sin", B.contract(a, b, "bik,bkj->jbi")), [normal(2, 2, 3), normal(2, 3, 2)]),
    "contract square": (lambda a: B.contract(a, a, "ik,jk->ij"), [normal(2, 3)]),
    "outer": (lambda a, b: B.op("sin", B.contract(a, b, "i,j->ij")), [normal(2), normal(3)]),
    "contract nothing": (lambda a, b: B.contract(a, b, "ik,kj->ij"), [normal(2, 0), normal(0, 3)]),
    "gather": (lambda x, i: B.op("sin", gather(x, i, 1)), [normal(2, 3, 2), np.array([[2, 0], [2, 9]])]),
    "concat": (lambda a, b: B.op("sin", make("concat", (a, b, a), axis=1)), [normal(2, 3), normal(2, 1)]),
    "tag": (lambda x: make("tag", (mul(x, x),), uid=unique()), [normal(3)]),
    "barrier": (lambda x: make("barrier", (mul(x, x),), uid=unique()), [normal(3)]),
    "cast": (lambda x: B.cast(B.cast(mul(x, x), dtypes.float64), dtypes.float64), [normal(3)]),
    "diamond": (lambda x: mul(y := mul(x, x), add(y, B.op("exp", y))), [normal(3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    f, args = CASES[name]
    check(f, *args)


@pytest.mark.parametrize("combine", ["set", "add", "mul", "max", "min"])
def test_scatter(combine):
    index = np.array([3, 1, 3, 0])
    check(lambda b, i, u: B.op("sin", scatter(b, i, u, 1, combine)), normal(2, 5), index, normal(2, 4))


def test_prod_with_zeros_has_exact_gradients():
    for x in ([2.0, 0.0, 3.0], [0.0, 0.0, 3.0]):
        check(lambda x: B.reduce(x, "prod", (0,)), np.array(x))
        check(lambda x: cumulative(x, "prod", 0), np.array(x))


def test_scatter_mul_with_zeros():
    index = np.array([0, 0, 1, 1, 1])
    base, updates = np.array([2.0, 3.0]), np.array([0.0, 4.0, 0.0, 0.0, 2.0])
    check(lambda b, i, u: scatter(b, i, u, 0, "mul"), base, index, updates, order=1)


def grad_at(f, *args):
    args = [np.asarray(a) for a in args]
    return run(lambda *ps: vjp([y := f(*ps)], [B.like(y, 1)], [p for p in ps if p.dtype.is_float]), *args)


def test_ties_are_shared():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 0.0])
    for got, want in zip(grad_at(op("max"), x, y), ([0.5, 0, 1], [0.5, 1, 0]), strict=True):
        np.testing.assert_array_equal(got, want)
    (got,) = grad_at(lambda x: B.reduce(x, "max", (0,)), np.array([3.0, 1.0, 3.0]))
    np.testing.assert_array_equal(got, [0.5, 0, 0.5])


def test_no_nan_from_branches_not_taken():
    zero = np.zeros(2)
    (got,) = grad_at(lambda x: B.select(make("lt", (B.like(x, 0), x)), B.op("log", x), x), zero - 1)
    np.testing.assert_array_equal(got, [1, 1])
    base, exponent = grad_at(op("pow"), zero, np.array([0.0, 2.0]))
    np.testing.assert_array_equal(base, [0, 0])
    np.testing.assert_array_equal(exponent, [0, 0])
    (got,) = grad_at(lambda x: B.reduce(x, "max", (0,)), np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(got, [0, 0])


def test_zero_where_independent_and_none_from_pullback():
    x, y = (param(TensorType(dtypes.float32, (2,))) for _ in range(2))
    assert pullback([mul(x, x)], [x], [y]) == [None]
    assert vjp([mul(x, x)], [x], [y]) == [B.like(y, 0)]
    assert pullback([make("stop_gradient", (mul(x, x),))], [x], [x]) == [None]
    assert pullback([B.op("sign", x)], [x], [x]) == [None]


def test_gradient_with_respect_to_inner_node_counts_paths_through_it():
    x = param(TensorType(dtypes.float64, ()))
    y = mul(x, x)
    z = mul(y, x)
    gx, gy = vjp([z], [B.like(z, 1)], [x, y])
    got = evaluate(Graph([x], [gx, gy]), [np.array(3.0)])
    assert [float(g) for g in got] == [27.0, 3.0]


def test_half_contraction_keeps_dtype():
    a, b = (param(TensorType(dtypes.bfloat16, (4, 4))) for _ in range(2))
    y = B.contract(a, b, "ik,kj->ij", dtypes.float32)
    da, db = vjp([y], [B.like(y, 1)], [a, b])
    assert da.dtype is db.dtype is dtypes.bfloat16 and da.inputs[1].dtype is dtypes.bfloat16
    evaluate(Graph([a, b], [da, db]), [np.ones((4, 4), ml_dtypes.bfloat16)] * 2)


def vjp_node(y, ct, x):
    return B.item(make("vjp", (y, ct, x), outputs=1), 0)


def test_nested_vjp_nodes_expand_innermost_first():
    x = param(TensorType(dtypes.float64, ()))
    value = x
    y = B.op("sin", value)
    for _ in range(3):
        y = vjp_node(y, B.like(y, 1), x)
    graph = expand(Graph([x], [y]))
    assert all(n.op != "vjp" for n in graph.nodes())
    np.testing.assert_allclose(evaluate(graph, [np.array(0.7)])[0], -np.cos(0.7))


def test_nested_gradients_do_not_confuse_their_variables():
    """d/dx [x * d/dy (x + y) at y = x] = 1."""
    x = param(TensorType(dtypes.float64, ()))
    outer = make("tag", (x,), uid=unique())
    inner = make("tag", (outer,), uid=unique())
    s = add(outer, inner)
    y = mul(outer, vjp_node(s, B.like(s, 1), inner))
    graph = remove_markers(expand(Graph([x], [vjp_node(y, B.like(y, 1), outer)])))
    assert float(evaluate(graph, [np.array(5.0)])[0]) == 1.0


# ------------------------------------------------------------------------------------------------------------- scan


def rnn_body(w, h, x):
    """h' = tanh(h w + x); y = h' * x"""
    new = B.op("tanh", add(B.contract(h, w, "bk,kj->bj"), x))
    return [new, mul(new, x)]


def scan(body, length, consts, carry, xs, reverse=False):
    types = [c.type for c in (*consts, *carry)] + [TensorType(x.dtype, x.shape[1:]) for x in xs]
    ps = [param(t) for t in types]
    graph = Graph(ps, body(*ps), "step")
    node = make(
        "scan", (*consts, *carry, *xs), body=graph, length=length, consts=len(consts), carry=len(carry), reverse=reverse
    )
    return [B.item(node, k) for k in range(len(node.type))]


def rnn(reverse=False):
    return lambda w, h, xs: scan(rnn_body, xs.shape[0], [w], [h], [xs], reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    check(rnn(reverse), 0.5 * normal(2, 2), normal(1, 2), normal(3, 1, 2))


def test_scan_of_no_steps_and_one_step():
    check(rnn(), 0.5 * normal(2, 2), normal(1, 2), normal(0, 1, 2), order=1)
    check(rnn(), 0.5 * normal(2, 2), normal(1, 2), normal(1, 1, 2))


def test_scan_with_transposed_weight_bias_and_expensive_constant():
    def step(w, b, g, h, c, x):
        z = B.contract(x, B.permute(w, (1, 0)), "bk,kj->bj")
        z = add(z, B.contract(B.permute(h, (1, 0)), w, "kb,kj->bj"))
        z = add(z, B.broadcast(b, z.shape, (1,)))
        f = B.op("tanh", z)
        new_c = add(mul(f, c), scale(B.broadcast(B.op("exp", g), c.shape, (1,)), 0.5))
        return [mul(f, B.op("sin", new_c)), new_c, B.cast(make("lt", (f, c)), dtypes.float64)]

    def f(w, b, g, h, c, xs):
        return scan(step, 3, [w, b, g], [h, c], [xs])[:2]

    args = 0.5 * normal(2, 2), normal(2), normal(2), normal(2, 2), normal(2, 2), normal(3, 2, 2)
    check(f, *args)


def test_scan_in_scan_and_checkpoint_in_scan():
    def inner(w, h, x):
        return [B.op("tanh", add(mul(h, w), x))]

    def body(w, h, x):
        seen = scan(inner, 2, [w], [h], [B.broadcast(x, (2, 2), (1,))])
        ps = [param(seen[0].type)]
        block = Graph(ps, [B.op("sin", B.op("exp", ps[0]))], "block")
        return [B.item(make("checkpoint", (seen[0],), body=block), 0)]

    check(lambda w, h, xs: scan(body, 2, [w], [h], [xs]), normal(2), normal(2), normal(2, 2))


def loops(graph):
    """All scans of a graph, those inside bodies too."""
    found = []
    for n in graph.nodes():
        if n.op == "scan":
            found.append(n)
            found += loops(n.attrs["body"])
    return found


def test_scan_runs_forward_once_and_contracts_weight_gradient_after_the_loop():
    args = [np.zeros((2, 2)), np.zeros((1, 2)), np.zeros((3, 1, 2))]

    def f(w, h, xs):
        last, _ = rnn()(w, h, xs)
        return [last, *vjp([last], [B.like(last, 1)], [w, h, xs])]

    graph = expand(build(f, args))
    forward, backward = loops(graph)
    assert len(forward.attrs["body"].outputs) == 4  # carry, y, and two residuals: the h it began with, and tanh
    assert backward.attrs["carry"] == 1
    assert any(n.op == "contract" and n.attrs["spec"].startswith("t") for n in graph.nodes())
    assert [n.op for n in backward.attrs["body"].nodes()].count("contract") == 1


def test_checkpoint_recomputes_behind_barriers():
    def block(x):
        ps = [param(x.type)]
        return B.item(make("checkpoint", (x,), body=Graph(ps, [B.op("sin", B.op("exp", ps[0]))])), 0)

    check(lambda x: mul(block(mul(x, x)), x), normal(3))
    x = param(TensorType(dtypes.float32, (3,)))
    y = block(x)
    graph = remove_markers(Graph([x], [y, *vjp([y], [x], [x])]))
    ops = [n.op for n in graph.nodes()]
    assert ops.count("exp") == 2 and ops.count("barrier") == 1 and "checkpoint" not in ops


def test_gradient_keeps_the_users_line():
    from dlc.ir.loc import Loc

    x = param(TensorType(dtypes.float32, (3,)))
    y = make("exp", (x,), Loc("train.py", 7))
    (g,) = vjp([y], [x], [x])
    assert str(g.loc) == "train.py:7"


def test_expand_leaves_other_graphs_alone():
    g = build(rnn(), [np.zeros((2, 2)), np.zeros((1, 2)), np.zeros((3, 1, 2))])
    assert structure(expand(g)) == structure(g)
