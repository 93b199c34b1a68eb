"""Random graphs: forward agrees with reverse mode, batched with a loop, simplified with plain."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, settings

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.verify import verify
from dlc.passes.autodiff.jvp import jvp
from dlc.passes.autodiff.vjp import expand, vjp
from dlc.passes.autodiff.vmap import batch
from dlc.passes.simplify.simplify import simplify
from tests.passes.differences import total
from tests.random_graphs import arguments, graphs

PROPERTY = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
DOUBLES = graphs(float_types=(dtypes.float64,))


def floats(nodes):
    return [n for n in nodes if n.dtype.is_float]


@PROPERTY
@given(DOUBLES)
def test_forward_agrees_with_reverse_and_both_survive_simplification(graph):
    wrt, outs = floats(graph.params), floats(graph.outputs)
    assume(wrt and outs)
    s = total(outs)
    ts = [param(p.type) for p in wrt]
    both = expand(Graph([*graph.params, *ts], [*jvp([s], wrt, ts), *vjp([s], [B.like(s, 1)], wrt)]))
    simple = simplify(both)
    verify(both)
    verify(simple)
    rng = np.random.default_rng(3)
    directions = [rng.normal(size=p.shape) for p in wrt]
    args = [*arguments(graph), *directions]
    forward, *grads = evaluate(both, args)
    scale = max([1.0, *(float(np.abs(g).max()) for g in grads if g.size)])
    want = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    np.testing.assert_allclose(forward, want, rtol=1e-8, atol=1e-8 * scale)
    for a, b in zip([forward, *grads], evaluate(simple, args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * scale)


@PROPERTY
@given(graphs())
def test_derivatives_keep_types_in_all_dtypes(graph):
    wrt, outs = floats(graph.params), floats(graph.outputs)
    assume(wrt and outs)
    grads, tangents = vjp(outs, outs, wrt), jvp(outs, wrt, wrt)
    assert [g.type for g in grads] == [p.type for p in wrt]
    assert [t.type for t in tangents] == [o.type for o in outs]
    derivatives = expand(Graph(graph.params, [*grads, *tangents]))
    verify(derivatives)
    verify(simplify(derivatives))
    evaluate(derivatives, arguments(graph))


@PROPERTY
@given(DOUBLES)
def test_batching_agrees_with_a_loop(graph):
    size = 2
    wholes = [param(TensorType(p.dtype, (size, *p.shape))) for p in graph.params]
    batched = Graph(wholes, batch(graph.outputs, {p: (w, 0) for p, w in zip(graph.params, wholes, strict=True)}))
    verify(batched)
    examples = [arguments(graph, seed) for seed in range(size)]
    got = evaluate(batched, [np.stack(column) for column in zip(*examples, strict=True)])
    want = [evaluate(graph, args) for args in examples]
    for k, value in enumerate(got):
        np.testing.assert_allclose(value, np.stack([w[k] for w in want]), rtol=1e-10, atol=1e-10)
