"""Sums: equal factors are taken out, deviations from a mean vanish."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make
from dlc.ir.graph.verify import verify
from dlc.passes.autodiff.vjp import expand
from dlc.passes.simplify.simplify import simplify
from tests.passes.programs import mean_of, tensor
from tests.random_graphs import arguments

SHAPE = (4, 3, 5)


def simple(graph: Graph) -> Graph:
    """The simplified graph, which has the same values."""
    new = simplify(graph)
    verify(new)
    args = arguments(graph)
    for a, b in zip(graph_interp.evaluate(graph, args), graph_interp.evaluate(new, args), strict=True):
        np.testing.assert_allclose(b, a, 1e-4, 1e-5)
    return new


def finite(c: Node) -> Node:
    """c, its infinities as NaN."""
    return B.select(B.op("lt", B.op("abs", c), B.like(c, np.inf)), c, B.like(c, np.nan))


def sums(graph: Graph) -> int:
    return sum(n.op == "reduce" for n in graph.nodes())


def test_sums_that_differ_by_factors_are_one():
    x, y, c, d = tensor("x", *SHAPE), tensor("y", *SHAPE), tensor("c", 3), tensor("d", 1, 3, 1)
    wide = B.broadcast(finite(c), SHAPE, (1,)), B.broadcast(B.op("tanh", d), SHAPE, (0, 1, 2))
    first = B.op("mul", B.op("mul", x, wide[0]), B.op("mul", y, wide[1]))
    second = B.op("neg", B.op("mul", B.op("mul", x, B.like(x, 3.0)), B.op("mul", wide[1], y)))
    third = B.op("mul", x, y)
    graph = Graph((x, y, c, d), [B.sum_(t, (0, 2)) for t in (first, second, third)])
    assert sums(graph) == 3 and sums(simple(graph)) == 1


@pytest.mark.parametrize("axes", [(0, 2), (1,), (0, 1, 2)])
def test_factors_that_vary_along_the_sum_stay(axes):
    x, c = tensor("x", *SHAPE), tensor("c", 4, 3)
    graph = Graph((x, c), [B.sum_(B.op("mul", x, B.broadcast(c, SHAPE, (0, 1))), axes)])
    (node,) = [n for n in simple(graph).nodes() if n.op == "reduce"]
    assert node.inputs[0].op == "mul"


_FACTORS = {
    "any": (lambda c: c, False),
    "finite": (finite, True),
    "reciprocal": (lambda c: B.op("div", B.like(c, 1), c), False),
    "of at least 1": (lambda c: B.op("div", B.like(c, 1), B.op("add", B.op("mul", c, c), B.like(c, 1))), True),
    "root": (lambda c: B.op("rsqrt", B.op("abs", c)), False),
    "guarded root": (lambda c: B.op("rsqrt", B.op("add", B.op("abs", c), B.like(c, 1e-6))), True),
    "root of what may be negative": (lambda c: B.op("rsqrt", B.op("add", c, B.like(c, 1e-6))), False),
    "exponential": (lambda c: B.op("exp", c), False),
    "sigmoid": (lambda c: B.op("sigmoid", c), True),
    "square": (lambda c: B.op("mul", finite(c), finite(c)), False),
    "maximum": (lambda c: B.op("max", c, B.like(c, 1.0)), False),
    "clipped": (lambda c: B.op("min", B.op("max", c, B.like(c, -2.0)), B.like(c, 2.0)), True),
}


@pytest.mark.parametrize("name", _FACTORS)
def test_a_factor_that_may_be_infinite_stays(name):
    """inf * 1 + inf * -0.5 is NaN, inf * (1 - 0.5) is not; whether the sum is the same number for all of c's values."""
    make_factor, taken = _FACTORS[name]
    x, c = tensor("x", 6, 4), tensor("c", 6)
    graph = Graph((x, c), [B.sum_(B.op("mul", x, B.broadcast(make_factor(c), (6, 4), (0,))), (1,))])
    new = simplify(graph)
    assert (new.outputs[0].op == "mul") == taken
    values = np.array([np.inf, -np.inf, np.nan, 0.0, -1e-6, 3.0], np.float32)
    inf = np.inf
    rows = ([1, -0.5, 2, 4], [1, 0.5, 2, 4], [1, 0, 2, 4], [1, inf, 2, 4], [inf, -inf, 1, 1], [1, np.nan, 2, 4])
    for row in rows:
        args = [np.tile(np.float32(row), (6, 1)), values]
        with np.errstate(all="ignore"):
            (want,), (got,) = graph_interp.evaluate(graph, args), graph_interp.evaluate(new, args)
        np.testing.assert_array_equal(got, want)


def test_half_floats_and_integers_stay():
    for dtype in (dtypes.float16, dtypes.int32):
        x, c = tensor("x", *SHAPE, dtype=dtype), tensor("c", 3, dtype=dtype)
        graph = Graph((x, c), [B.sum_(B.op("mul", x, B.broadcast(c, SHAPE, (1,))), (0, 2))])
        assert simplify(graph).outputs[0].op == "reduce"


def spread_of(x: Node, axes) -> tuple[Node, Node]:
    """The deviations of x from its mean over `axes`, and their sum of squares, spread over x's shape."""
    deviation = B.op("sub", x, mean_of(x, axes))
    kept = [a for a in range(x.ndim) if a not in axes]
    return deviation, B.broadcast(B.sum_(B.op("mul", deviation, deviation), axes), x.shape, kept)


@pytest.mark.parametrize("axes", [(0, 2), (2,)])
def test_deviations_vanish(axes):
    x, y, c = tensor("x", *SHAPE), tensor("y", *SHAPE), tensor("c", 3)
    deviation, spread = spread_of(x, axes)
    told = B.op("rsqrt", B.op("add", spread, B.like(spread, 1e-5)))
    scaled, y_scaled = B.op("mul", deviation, B.broadcast(c, SHAPE, (1,))), B.op("mul", y, told)
    before, after = B.op("sub", scaled, B.op("neg", y_scaled)), B.op("add", y_scaled, scaled)
    for term in (before, after, B.op("add", before, scaled), B.op("sub", scaled, y_scaled)):
        new = simple(Graph((x, y, c), [B.sum_(term, axes)]))
        assert {n.inputs[0] for n in new.nodes() if n.op == "reduce"} == {x, y, B.op("mul", deviation, deviation)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("remembered", [False, True])
def test_what_is_not_finite_stays_seen(bad, remembered):
    """Deviations that nothing else in the sum knows of stay."""
    x, y, c = tensor("x", *SHAPE), tensor("y", *SHAPE), tensor("c", 3)
    deviation, spread = spread_of(x, (0, 2))
    scaled = B.op("mul", deviation, B.broadcast(c, SHAPE, (1,)))
    other = B.op("mul", y, B.op("rsqrt", B.op("add", spread, B.like(spread, 1e-5)))) if remembered else y
    graph = Graph((x, y, c), [B.sum_(B.op("add", other, scaled), (0, 2))])
    new = simplify(graph)
    assert any(n.op == "add" and n.shape == SHAPE for n in new.nodes()) != remembered
    for which in range(3):
        assert_not_finite_alike(graph, new, which, bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("told", [False, True])
def test_coefficients_that_are_not_finite_stay_seen(bad, told):
    """One that is a factor elsewhere in the sum needs nothing more; others are added, times 0."""
    x, y, c = tensor("x", *SHAPE), tensor("y", *SHAPE), tensor("c", 3)
    deviation, spread = spread_of(x, (0, 2))
    scale = B.broadcast(c, SHAPE, (1,))
    other = B.op("mul", B.op("mul", y, spread), scale if told else B.like(y, 1.0))
    graph = Graph((x, y, c), [B.sum_(B.op("sub", other, B.op("mul", scale, deviation)), (0, 2))])
    new = simple(graph)
    assert not any(n.op == "sub" and n.shape == SHAPE and deviation in n.inputs for n in new.nodes())
    assert any(n.op == "mul" and n.shape == (3,) and n.inputs[1].attrs.get("value") == 0 for n in new.nodes()) != told
    for which in range(3):
        assert_not_finite_alike(graph, new, which, bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_coefficient_of_other_rows_is_not_told(bad):
    """c by columns, in a term that has c by rows: where one is not finite the other may well be."""
    x, y, c = tensor("x", 4, 4, 5), tensor("y", 4, 4, 5), tensor("c", 4)
    deviation, spread = spread_of(x, (2,))
    other = B.op("mul", B.op("mul", y, spread), B.broadcast(c, x.shape, (0,)))
    graph = Graph((x, y, c), [B.sum_(B.op("add", other, B.op("mul", B.broadcast(c, x.shape, (1,)), deviation)), (2,))])
    assert_not_finite_alike(graph, simple(graph), 2, bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_derivative_of_a_normalisation_keeps_what_is_not_finite(bad, which):
    x, w, ct = tensor("x", *SHAPE), tensor("w", 3), tensor("ct", *SHAPE)
    grads = make("vjp", (normalised(x, w), ct, x, w), outputs=1)
    graph = expand(Graph((x, w, ct), [B.sum_(B.item(grads, 0), (0, 2)), B.item(grads, 1)]))
    new = simplify(graph)
    assert sums(new) < sums(graph)
    assert_not_finite_alike(graph, new, which, bad)


def assert_not_finite_alike(graph: Graph, new: Graph, which: int, bad: float) -> None:
    """Are results finite at the same places in both, where an element of one argument is not?"""
    args = [a.copy() for a in arguments(graph)]
    args[which].reshape(-1)[1] = bad
    with np.errstate(all="ignore"):
        for want, got in zip(graph_interp.evaluate(graph, args), graph_interp.evaluate(new, args), strict=True):
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


def test_what_is_no_deviation_stays():
    x, y = tensor("x", *SHAPE), tensor("y", *SHAPE)
    for other in (mean_of(y, (0, 2)), B.op("mul", mean_of(x, (0, 2)), B.like(x, 1.5))):
        graph = Graph((x, y), [B.sum_(B.op("sub", x, other), (0, 2))])
        assert simple(graph).outputs[0].op == "reduce"
    graph = Graph((x,), [B.sum_(B.op("sub", x, mean_of(x, (0, 2))), (0, 1, 2))])  # of other axes than the mean's
    assert simple(graph).outputs[0].op == "reduce"


def normalised(x: Node, w: Node) -> Node:
    centred = B.op("sub", x, mean_of(x, (0, 2)))
    spread = mean_of(B.op("mul", centred, centred), (0, 2))
    y = B.op("mul", centred, B.op("rsqrt", B.op("add", spread, B.like(spread, 1e-5))))
    return B.op("mul", y, B.broadcast(finite(w), x.shape, (1,)))


def test_the_derivative_of_a_normalisation_needs_two_sums():
    x, w, ct = tensor("x", *SHAPE), tensor("w", 3), tensor("ct", *SHAPE)
    grads = make("vjp", (normalised(x, w), ct, x, w), outputs=1)
    graph = expand(Graph((x, w, ct), [B.item(grads, 0), B.item(grads, 1)]))
    assert sums(simple(graph)) == 4  # of which two are the mean and the variance
