"""`attention` and `attention_grad`: softmax over scores that never stand in memory.

    attention       (q, k, v, extras...), scores, score, weights, values, scores_dtype, dtype, empty
                        s = contract(q, k, scores)          x = score(s, extras...)         elementwise, float32
                        p = softmax of x over the keys      w = weights(p, extras...)       elementwise, linear in p
                    -> (contract(w, v, values), log(sum(exp(x))) over the keys)
    attention_grad  (q, k, v, dout, lse, delta, extras...), the same and weights_grad, score_grad, wrt
                    -> the gradient of q (wrt "q"), or those of k and v (wrt "kv")

`scores` and `values` are einsum specs with common labels: the result of the first is the left operand of the second.
The key is the label that `values` sums over. `empty`: a row whose scores are all -inf has weights 0 instead of NaN.
`lse` is the second result of `attention`, `delta` the sum of out * dout over the values; score_grad(s, dx, extras...)
and weights_grad(dw, extras...) are the elementwise derivatives. Between the two contractions half floats need not be
rounded. Only a target that has one kernel for all of it makes these operations; everything else takes `plain`.
"""

from __future__ import annotations

from typing import NamedTuple

from dlc.base.errors import ShapeError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, TensorType, inline, make, param
from dlc.ir.graph.ops import split_spec
from dlc.ir.graph.table import Attrs, Op, Types, register

GRAD_INPUTS = 6  # of attention_grad before the extras
INPUTS = 3  # of attention


class Labels(NamedTuple):
    """The labels of an attention: of its operands, and what they stand for."""

    q: str
    k: str
    s: str
    v: str
    out: str

    @property
    def key(self) -> str:
        """The softmax runs along it."""
        return next(x for x in self.s if x not in self.out)

    @property
    def query(self) -> str:
        return next(x for x in self.s if x not in self.k)

    @property
    def inner(self) -> str:
        """The scores are sums over it."""
        return next(x for x in self.q if x not in self.s)

    @property
    def value(self) -> str:
        return next(x for x in self.out if x not in self.s)

    @property
    def batch(self) -> str:
        return "".join(x for x in self.s if x not in (self.query, self.key))

    @property
    def row(self) -> str:
        """Of what there is one of for each query."""
        return self.s.replace(self.key, "")


def labels_of(attrs: Attrs) -> Labels:
    """The labels of a node's specs. Raises ShapeError for what is no attention."""
    q, k, s = split_spec(attrs["scores"])
    w, v, out = split_spec(attrs["values"])
    if w != s:
        raise ShapeError(f"attention: the scores are {s}, the weights {w}")
    batch = [x for x in s if x in q and x in k and x in v and x in out]
    own = [set(x) - set(batch) for x in (q, k, s, v, out)]
    # {query, inner}, {key, inner}, {query, key}, {key, value}, {query, value}
    pairs = [len(own[x] & own[y]) for x, y in ((0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (0, 4), (1, 3))]
    if {len(x) for x in own} != {2} or set(pairs) != {1} or any(len(set(x)) != len(batch) + 2 for x in (q, k, v)):
        raise ShapeError(f"attention: bad specs {attrs['scores']} and {attrs['values']}")
    return Labels(q, k, s, v, out)


def sizes_of(labels: Labels, q: TensorType, k: TensorType, v: TensorType) -> dict[str, int]:
    """The extent of each label."""
    sizes: dict[str, int] = {}
    for own, t in ((labels.q, q), (labels.k, k), (labels.v, v)):
        if len(own) != len(t.shape) or any(sizes.setdefault(x, n) != n for x, n in zip(own, t.shape, strict=True)):
            raise ShapeError(f"attention: operands {q}, {k} and {v} do not fit")
    return sizes


def _body(graph: Graph, given: list[TensorType], shape: tuple[int, ...]) -> None:
    if [p.type for p in graph.params] != given or [o.shape for o in graph.outputs] != [shape]:
        raise ShapeError(f"attention: {graph.name} takes {', '.join(str(p.type) for p in graph.params)}")


def infer_attention(ins: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    labels = labels_of(attrs)
    sizes = sizes_of(labels, *ins[:INPUTS])
    _check(ins[INPUTS:], attrs, labels, sizes)
    return (TensorType(attrs["dtype"], tuple(sizes[x] for x in labels.out)),
            TensorType(dtypes.float32, tuple(sizes[x] for x in labels.row)))


def infer_attention_grad(ins: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    labels = labels_of(attrs)
    sizes = sizes_of(labels, *ins[:INPUTS])
    s, x, w = _check(ins[GRAD_INPUTS:], attrs, labels, sizes)
    extras = list(ins[GRAD_INPUTS:])
    _body(attrs["score_grad"], [s, x, *extras], s.shape)
    _body(attrs["weights_grad"], [w, *extras], s.shape)
    row = TensorType(dtypes.float32, tuple(sizes[x] for x in labels.row))
    out = tuple(sizes[x] for x in labels.out)
    if ins[3].shape != out or ins[3].dtype is not ins[2].dtype or ins[4] != row or ins[5] != row:
        raise ShapeError(f"attention_grad: given {', '.join(map(str, ins[3:GRAD_INPUTS]))}")
    return (ins[0],) if attrs["wrt"] == "q" else (ins[1], ins[2])


def _check(extras: Types, attrs: Attrs, labels: Labels, sizes: dict[str, int]) -> tuple[TensorType, ...]:
    """The types of scores, masked scores and weights."""
    s = TensorType(attrs["scores_dtype"], tuple(sizes[x] for x in labels.s))
    _body(attrs["score"], [s, *extras], s.shape)
    x = attrs["score"].outputs[0].type
    _body(attrs["weights"], [x, *extras], s.shape)
    return s, x, attrs["weights"].outputs[0].type


def plain(node: Node) -> Graph:
    """What the node computes, as a graph of other operations."""
    attrs, labels = node.attrs, labels_of(node.attrs)
    params = tuple(param(i.type) for i in node.inputs)
    key = labels.s.index(labels.key)
    q, k, v = params[:INPUTS]
    extras = params[INPUTS if node.op == "attention" else GRAD_INPUTS :]
    s = build.contract(q, k, attrs["scores"], attrs["scores_dtype"])
    (raw,) = inline(attrs["score"], (s, *extras))
    x = build.cast(raw, dtypes.float32)

    def rows(y: Node) -> Node:
        return build.expand(y, x.shape, (key,))

    def weighted(p: Node) -> Node:
        return inline(attrs["weights"], (build.cast(p, raw.dtype), *extras))[0]

    if node.op == "attention":
        top = build.reduce(x, "max", (key,))
        none = build.op("eq", top, build.like(top, float("-inf")))
        base = make("stop_gradient", (build.select(none, build.like(top, 0), top),))
        e = build.op("exp", build.op("sub", x, rows(base)))
        total = build.sum_(e, (key,))
        if attrs["empty"]:
            total = build.select(none, build.like(total, 1), total)
        out = build.contract(weighted(build.op("div", e, rows(total))), v, attrs["values"], attrs["dtype"])
        return Graph(params, (out, build.op("add", base, build.op("log", total))), "attention")
    dout, lse, delta = params[INPUTS:GRAD_INPUTS]
    p = build.op("exp", build.op("sub", x, rows(lse)))
    w = weighted(p)
    if attrs["wrt"] == "q":
        given: tuple[Node, ...] = ()
    else:
        given = (build.contract(w, dout, f"{labels.s},{labels.out}->{labels.v}", v.dtype),)
    dw = build.contract(dout, v, f"{labels.out},{labels.v}->{labels.s}", w.dtype)
    (dp,) = inline(attrs["weights_grad"], (dw, *extras))
    dx = build.op("mul", p, build.op("sub", build.cast(dp, dtypes.float32), rows(delta)))
    (ds,) = inline(attrs["score_grad"], (s, build.cast(dx, raw.dtype), *extras))
    ds = build.cast(ds, q.dtype)
    if attrs["wrt"] == "q":
        return Graph(params, (build.contract(ds, k, f"{labels.s},{labels.k}->{labels.q}", q.dtype),), "attention_grad")
    dk = build.contract(ds, q, f"{labels.s},{labels.q}->{labels.k}", k.dtype)
    return Graph(params, (dk, *given), "attention_grad")


register(
    Op("attention", infer_attention, plain=plain),
    Op("attention_grad", infer_attention_grad, plain=plain),
)
