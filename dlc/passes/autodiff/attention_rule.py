"""Derivatives and batching of attention: by `attention_grad` where that has it, else by what attention stands for."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.attention import INPUTS, labels_of
from dlc.ir.graph.graph import Graph, Node, make, param, substitute
from dlc.passes.autodiff.vjp import VJP, pullback, through_plain
from dlc.passes.autodiff.vjp_rules import Ct


def attention_vjp(node: Node, cts: Sequence[Ct], need: Sequence[bool]) -> list[Ct]:
    """Gradients by `attention_grad`; by the operations that it stands for where more than q, k and v are wanted."""
    ct, of_lse = cts
    if ct is None or of_lse is not None or any(need[INPUTS:]):
        return through_plain(node, list(cts), tuple(need))
    labels = labels_of(node.attrs)
    q, k, v = node.inputs[:INPUTS]
    out, lse = build.item(node, 0), build.item(node, 1)
    ct = build.cast(ct, v.dtype)
    product = build.op("mul", build.cast(out, dtypes.float32), build.cast(ct, dtypes.float32))
    delta = build.sum_(product, (labels.out.index(labels.value),))
    left = labels.out.replace(labels.value, "")
    delta = build.permute(delta, [left.index(x) for x in labels.row])
    attrs = {**node.attrs, "weights_grad": _gradient(node.attrs["weights"], False),
             "score_grad": _gradient(node.attrs["score"], True)}
    inputs = (q, k, v, ct, lse, delta, *node.inputs[INPUTS:])
    found: list[Ct] = [None] * len(node.inputs)
    if need[0]:
        found[0] = build.item(make("attention_grad", inputs, wrt="q", **attrs), 0)
    if need[1] or need[2]:
        both = make("attention_grad", inputs, wrt="kv", **attrs)
        found[1], found[2] = build.item(both, 0), build.item(both, 1)
    return found


def _gradient(body: Graph, keep: bool) -> Graph:
    """The derivative of a pointwise body by its first parameter, as a function of the result's cotangent; with `keep`
    of that parameter, too."""
    (y,) = body.outputs
    x, *extras = (param(p.type, p.attrs["name"]) for p in body.params)
    ct = param(y.type, "d")
    (own,) = substitute([y], dict(zip(body.params, (x, *extras), strict=True)))
    (grad,) = pullback([own], [ct], [x])
    if grad is None:
        grad = build.like(x, 0)
    return Graph((x, ct, *extras) if keep else (ct, *extras), (grad,), f"{body.name}_grad")


VJP["attention"], VJP["attention_grad"] = attention_vjp, through_plain
