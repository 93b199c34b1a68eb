"""Forward mode against reverse mode (<J t, w> = <t, J^T w>) on every case of the reverse tests, and composed."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add, cumulative, mul, scatter
from dlc.ir.graph.graph import Graph, make
from dlc.ir.graph.interp import evaluate
from dlc.passes.autodiff.jvp import JVP, jvp
from dlc.passes.autodiff.vjp import VJP, expand, vjp
from tests.passes.differences import build, params_for, run, total
from tests.passes.test_vjp import CASES, ELEMENTWISE, between, loops, normal, op, rnn, scan, vjp_node

NOT_FORWARD = {"item", "vjp"}  # done by the engine; expanded before


def test_every_differentiable_operation_has_a_row():
    assert set(JVP) == {name for name, rule in VJP.items() if rule is not None} - NOT_FORWARD


def check_dot(f, *args):
    """The two modes agree on random directions, for f and for its gradient."""
    args = [np.asarray(a) for a in args]
    floats = [k for k, a in enumerate(args) if a.dtype.kind == "f"]

    def agree(g):
        ps = params_for(args)
        s = total(g(*ps))
        wrt = [ps[k] for k in floats]
        directions = [np.cos(np.arange(args[k].size) + k).reshape(args[k].shape) for k in floats]
        ts = params_for(directions)
        (forward,) = jvp([s], wrt, ts)
        grads = vjp([s], [B.like(s, 1)], wrt)
        graph = expand(Graph([*ps, *ts], [forward, *grads]))
        got, *backward = evaluate(graph, [*args, *directions])
        want = sum(float((g * d).sum()) for g, d in zip(backward, directions, strict=True))
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)

    agree(f)
    agree(lambda *ps: vjp([s := total(f(*ps), 1)], [B.like(s, 1)], [ps[k] for k in floats]))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    binary = name in ("add", "sub", "mul", "div", "mod", "pow", "atan2", "max", "min")
    check_dot(op(name), *(between(*ELEMENTWISE[name], 2, 3) for _ in range(1 + binary)))


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    f, args = CASES[name]
    check_dot(f, *args)


@pytest.mark.parametrize("combine", ["set", "add", "mul", "max", "min"])
def test_scatter(combine):
    index = np.array([3, 1, 3])
    check_dot(lambda b, i, u: B.op("sin", scatter(b, i, u, 1, combine)), normal(2, 5), index, normal(2, 3))


def test_zeros_and_ties():
    check_dot(lambda x: B.reduce(x, "prod", (0,)), np.array([2.0, 0.0, 3.0]))
    check_dot(lambda x: cumulative(x, "prod", 0), np.array([2.0, 0.0, 3.0]))
    check_dot(lambda x: B.reduce(x, "max", (0,)), np.array([3.0, 1.0, 3.0]))


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    check_dot(rnn(reverse), 0.5 * normal(2, 2), normal(1, 2), normal(3, 1, 2))


def test_scan_where_only_one_carry_moves():
    def body(w, a, n, x):
        return [mul(a, add(w, x)), add(n, B.like(n, 1)), mul(n, n), a]

    def f(w, a, n, xs):
        return scan(body, 3, [w], [a, make("stop_gradient", (n,))], [xs])

    check_dot(f, normal(2), normal(2), normal(2), normal(3, 2))


def test_value_and_tangent_run_in_one_loop():
    args = [np.zeros((2, 2)), np.zeros((1, 2)), np.zeros((3, 1, 2))]

    def f(w, h, xs):
        last, ys = rnn()(w, h, xs)
        return [last, ys, *jvp([last, ys], [w], [B.op("cos", w)])]

    def g(w, h, xs):
        last, _, tangent, _ = f(w, h, xs)
        return [last, tangent, *vjp([tangent], [B.like(tangent, 1)], [w])]

    assert [n.attrs["carry"] for n in loops(expand(build(f, args)))] == [2]
    assert [n.attrs["carry"] for n in loops(expand(build(g, args)))] == [2, 2]


def test_forward_over_vjp_node_and_independent_output():
    def f(x, t):
        y = B.op("sin", x)
        g = vjp_node(y, B.like(y, 1), x)
        return jvp([g, B.like(x, 3)], [x], [t])

    got, zero = run(f, np.array(0.7), np.array(2.0))
    np.testing.assert_allclose(got, -np.sin(0.7) * 2)
    assert float(zero) == 0
