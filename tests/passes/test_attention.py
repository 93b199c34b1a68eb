"""What is found to be attention, and that `attention` and its derivative mean what they replace."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.dtypes import float16, float32, float64
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify
from dlc.passes.attention.find import find_attention
from dlc.passes.autodiff.jvp import jvp
from dlc.passes.autodiff.vjp import expand
from dlc.passes.autodiff.vmap import batch
from tests.passes.attention_graphs import attention
from tests.passes.programs import tensor
from tests.random_graphs import arguments


def operations(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes()]


def same(graph: Graph, other: Graph, args=None, wide=True) -> None:
    args = arguments(graph) if args is None else args
    for a, b in zip(graph_interp.evaluate(graph, args, wide), graph_interp.evaluate(other, args, wide), strict=True):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), 1e-9, 1e-9)


CASES = [
    {}, {"mask": "causal"}, {"mask": "window"}, {"mask": "bool"}, {"mask": "float"}, {"drop": True, "mask": "causal"},
    {"batch": ()}, {"batch": (2, 3)}, {"queries": 20, "keys": 33}, {"inner": 24, "value": 8}, {"swap": True},
    {"dtype": float16},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("gradient", [False, True])
def test_found(case, gradient):
    graph = attention(**case, gradient=gradient)
    found = expand(find_attention(graph))
    verify(found)
    assert operations(found).count("attention") == 1
    assert operations(found).count("attention_grad") == 2 * gradient
    scores = (*case.get("batch", (2,)), case.get("queries", 40), case.get("keys", case.get("queries", 40)))
    outside = [n for n in found.nodes() if n.op != "param" and getattr(n.type, "shape", ()) == scores]
    assert not outside
    same(expand(graph), found)
    text = print_graph(found)
    assert print_graph(parse_graph(text)) == text


def test_rows_without_scores_are_zero_or_nan():
    for mask, bad in (("bool", False), ("window", True)):
        graph = attention((), 20, mask=mask, gradient=False)
        args = arguments(graph)
        if mask == "bool":
            args[3][:] = False
        else:  # no key is in the window of the last queries
            graph = attention((), 60, 17, mask=mask)
            args = arguments(graph)
        plain, found = (graph_interp.evaluate(g, args, True)[0] for g in (graph, find_attention(graph)))
        np.testing.assert_array_equal(np.isnan(plain), np.isnan(found))
        assert np.isnan(plain).any() == bad


@pytest.mark.parametrize("case", [
    {"dtype": float32}, {"dtype": float64}, {"inner": 12}, {"inner": 136}, {"queries": 8}, {"keys": 8},
    {"value": 132}, {"batch": (0,)},
], ids=str)  # fmt: skip
def test_forms_that_no_kernel_takes_stay(case):
    assert "attention" not in operations(find_attention(attention(**case)))


def test_weights_that_are_needed_elsewhere_stay():
    graph = attention(mask="causal")
    (out,) = graph.outputs
    for other in (out.inputs[0], *out.inputs[0].inputs):
        assert "attention" not in operations(find_attention(Graph(graph.params, [out, other])))


def test_what_is_almost_a_softmax_stays():
    q, k, v = (tensor(n, 32, 16, dtype=dtypes.bfloat16) for n in "qkv")

    def out(weigh):
        s = B.cast(B.contract(q, k, "id,jd->ij"), float32)
        return Graph((q, k, v), [B.contract(B.cast(weigh(s), dtypes.bfloat16), v, "ij,jd->id")])

    def rows(y, axis=0):
        return B.broadcast(y, (32, 32), (axis,))

    def soft(s, top=None, below=None, axis=0):
        e = B.op("exp", B.op("sub", s, rows(B.reduce(s, "max", (1,)) if top is None else top, axis)))
        return B.op("div", e, rows(B.sum_(e if below is None else below, (1,)), axis))

    assert "attention" in operations(find_attention(out(soft)))
    wrong = [
        lambda s: soft(s, axis=1), lambda s: soft(s, B.reduce(s, "min", (1,))), lambda s: soft(s, below=s),
        lambda s: soft(s, B.reduce(s, "max", (0,))), lambda s: B.op("mul", soft(s), soft(s)),
        lambda s: B.op("add", soft(s), B.like(s, 1)), lambda s: B.op("exp", soft(s)), lambda s: B.op("exp", s),
    ]  # fmt: skip
    for weigh in wrong:
        assert "attention" not in operations(find_attention(out(weigh)))


def test_bodies_of_loops():
    inner = attention((), 16)
    q, k, v = inner.params
    body = Graph((k, v, q), [inner.outputs[0]], "body")
    scan = make("scan", (k, v, tensor("q", 3, 16, 16, dtype=q.dtype)), body=body, length=3, consts=2, carry=0,
                reverse=False)
    # inputs of the node are leaves of their own
    outer = [tensor("k", 16, 16, dtype=q.dtype), tensor("v", 16, 16, dtype=q.dtype), scan.inputs[2]]
    scan = make("scan", outer, body=body, length=3, consts=2, carry=0, reverse=False)
    graph = Graph(outer, [B.item(scan, 0)])
    found = find_attention(graph)
    (loop,) = [n for n in found.nodes() if n.op == "scan"]
    assert "attention" in operations(loop.attrs["body"])
    same(graph, found)


def test_a_bias_that_learns_has_its_gradient():
    graph = attention((2,), 20, mask="float")
    ct = tensor("ct", *graph.outputs[0].shape, dtype=dtypes.bfloat16)
    grads = make("vjp", (graph.outputs[0], ct, *graph.params), outputs=1)
    graph = Graph((*graph.params, ct), [B.item(grads, k) for k in range(4)])
    found = expand(find_attention(graph))
    assert "attention_grad" not in operations(found)
    same(expand(graph), found)


def test_second_derivatives_tangents_and_batches():
    plain = attention((), 16, mask="causal")
    q, k, v = plain.params
    fused = find_attention(plain)
    ct = tensor("ct", 16, 16, dtype=q.dtype)
    both = []
    for graph in (plain, fused):
        first = make("vjp", (graph.outputs[0], ct, q, k), outputs=1)
        total = B.sum_(B.cast(B.item(first, 0), float32), (0, 1))
        second = make("vjp", (total, B.const(1, float32), q, k, v), outputs=1)
        both.append(expand(Graph((q, k, v, ct), [B.item(second, n) for n in range(3)])))
    same(*both)
    moves = [tensor(f"d{p.attrs['name']}", *p.shape, dtype=p.dtype) for p in (q, v)]
    tangents = [Graph((q, k, v, *moves), jvp(g.outputs, (q, v), moves)) for g in (plain, fused)]
    same(*tangents)
    many = tensor("many", 3, 16, 16, dtype=q.dtype)
    same(*(Graph((many, k, v), batch(g.outputs, {q: (many, 0)})) for g in (plain, fused)))
