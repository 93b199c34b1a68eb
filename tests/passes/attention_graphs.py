"""Attention as users write it, in plain operations, with and without derivatives."""

from __future__ import annotations

import math

from dlc.ir.dtypes import DType, bfloat16, bool_, float32, float64
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make
from tests.passes.programs import tensor


def attention(batch: tuple[int, ...] = (2,), queries: int = 40, keys: int | None = None, inner: int = 16,
              value: int | None = None, dtype: DType = bfloat16, mask: str = "", drop: bool = False,
              gradient: bool = False, swap: bool = False) -> Graph:
    """Weights times values of one attention, and by a cotangent their gradients.

    `mask`: causal, window (and causal), bool (a tensor, rows may be empty), float (added). `drop`: weights are
    zeroed where a bool tensor says. `gradient`: the gradients of q, k and v by a cotangent. `swap`: k first."""
    keys, value, n = keys or queries, value or inner, len(batch)
    q, k = tensor("q", *batch, queries, inner, dtype=dtype), tensor("k", *batch, keys, inner, dtype=dtype)
    v = tensor("v", *batch, keys, value, dtype=dtype)
    params, letters = [q, k, v], "abc"[:n]
    turned = B.permute(k, (*range(n), n + 1, n))
    if swap:
        s = B.contract(k, q, f"{letters}ki,{letters}qi->{letters}qk")
    else:
        s = B.contract(q, turned, f"{letters}qi,{letters}ik->{letters}qk")
    x = B.cast(B.op("mul", s, B.like(s, 1 / math.sqrt(inner))), float64 if dtype is float64 else float32)
    low = B.like(x, -math.inf)
    i, j = B.iota(x.shape, n), B.iota(x.shape, n + 1)
    if mask in ("causal", "window"):
        x = B.select(B.op("le", j, i), x, low)
    if mask == "window":
        x = B.select(B.op("lt", B.op("sub", i, B.like(i, 20)), j), x, low)
    if mask == "bool":
        params.append(tensor("mask", queries, keys, dtype=bool_))
        x = B.select(B.broadcast(params[-1], x.shape, (n, n + 1)), x, low)
    if mask == "float":
        params.append(tensor("bias", *batch[:1], keys))
        x = B.op("add", x, B.broadcast(params[-1], x.shape, (0, n + 1)))
    weights = _softmax(x, mask == "bool")
    w = B.cast(weights, dtype)
    if drop:
        params.append(tensor("keep", *x.shape, dtype=bool_))
        w = B.select(params[-1], B.op("mul", w, B.like(w, 1.25)), B.like(w, 0))
    out = B.contract(w, v, f"{letters}qk,{letters}kv->{letters}qv")
    if not gradient:
        return Graph(params, [out])
    ct = tensor("ct", *out.shape, dtype=dtype)
    grads = make("vjp", (out, ct, q, k, v), outputs=1)
    return Graph([*params, ct], [out, *(B.item(grads, g) for g in range(3))])


def _softmax(x: Node, may_be_empty: bool) -> Node:
    axis = x.ndim - 1
    kept = (*x.shape[:-1], 1)

    def rows(y: Node) -> Node:
        return B.broadcast(y, x.shape, range(x.ndim))

    top = make("stop_gradient", (B.reshape(B.reduce(x, "max", (axis,)), kept),))
    if not may_be_empty:
        e = B.op("exp", B.op("sub", x, rows(top)))
        return B.op("div", e, rows(B.reshape(B.sum_(e, (axis,)), kept)))
    none = B.op("eq", top, B.like(top, -math.inf))
    e = B.op("exp", B.op("sub", x, rows(B.select(none, B.like(top, 0), top))))
    total = B.reshape(B.sum_(e, (axis,)), kept)
    return B.op("div", e, rows(B.select(none, B.like(total, 1), total)))
