"""Well-known pieces of training programs as graphs, for the tests of fusion and lowering."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.ir import dtypes
from dlc.ir.dtypes import DType, float32, int64
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param


def tensor(name: str, *shape: int, dtype: DType = float32) -> Node:
    return param(TensorType(dtype, shape), name)


def rows_of(x: Node, monoid: str, axes: Sequence[int]) -> Node:
    """A reduction, repeated back to the shape of `x`."""
    return B.expand(B.reduce(x, monoid, axes), x.shape, axes)


def mean_of(x: Node, axes: Sequence[int]) -> Node:
    count = 1
    for a in axes:
        count *= x.shape[a]
    total = B.reduce(x, "sum", axes)
    return B.expand(B.op("div", total, B.like(total, count)), x.shape, axes)


def softmax_of(x: Node, axis: int) -> Node:
    e = B.op("exp", B.op("sub", x, rows_of(x, "max", (axis,))))
    return B.op("div", e, rows_of(e, "sum", (axis,)))


def softmax(shape: Sequence[int] = (8, 33), axis: int = 1, dtype: DType = float32) -> Graph:
    x = tensor("x", *shape, dtype=dtype)
    return Graph((x,), [softmax_of(x, axis)])


def log_softmax_of(x: Node) -> Node:
    shifted = B.op("sub", x, rows_of(x, "max", (1,)))
    total = B.reduce(B.op("exp", shifted), "sum", (1,))
    return B.op("sub", shifted, B.expand(B.op("log", total), x.shape, (1,)))


def normalised(x: Node, axes: Sequence[int]) -> Node:
    centred = B.op("sub", x, mean_of(x, axes))
    spread = mean_of(B.op("mul", centred, centred), axes)
    return B.op("mul", centred, B.op("rsqrt", B.op("add", spread, B.like(spread, 1e-5))))


def layernorm(n: int = 8, d: int = 40, dtype: DType = float32) -> Graph:
    x, w, b = tensor("x", n, d, dtype=dtype), tensor("w", d, dtype=dtype), tensor("b", d, dtype=dtype)
    y = B.op("mul", normalised(x, (1,)), B.broadcast_to(w, x.shape))
    return Graph((x, w, b), [B.op("add", y, B.broadcast_to(b, x.shape))])


def cross_entropy(n: int = 9, c: int = 10, gradient: bool = False) -> Graph:
    x, y = tensor("x", n, c), tensor("y", n, dtype=int64)
    logp = log_softmax_of(x)
    classes = B.iota((n, c), 1)
    hot = B.op("eq", classes, B.broadcast(y, (n, c), (0,)))
    picked = B.reduce(B.select(hot, logp, B.like(logp, 0)), "sum", (1,))
    loss = B.op("neg", B.op("div", B.reduce(picked, "sum", (0,)), B.const(n, float32)))
    outputs = [loss]
    if gradient:
        outputs.append(B.op("sub", B.op("exp", logp), B.cast(hot, float32)))
    return Graph((x, y), outputs)


def batchnorm(n: int = 6, c: int = 5, h: int = 4) -> Graph:
    """Training mode on NCHW, with updated running statistics."""
    x, w, b = tensor("x", n, c, h, h), tensor("w", c), tensor("b", c)
    mean, var = tensor("running_mean", c), tensor("running_var", c)
    count = n * h * h

    def over(t: Node) -> Node:
        total = B.reduce(t, "sum", (0, 2, 3))
        return B.op("div", total, B.like(total, count))

    def wide(t: Node) -> Node:
        return B.broadcast(t, x.shape, (1,))

    mu = over(x)
    centred = B.op("sub", x, wide(mu))
    sigma = over(B.op("mul", centred, centred))
    scale = B.op("mul", w, B.op("rsqrt", B.op("add", sigma, B.like(sigma, 1e-5))))
    y = B.op("add", B.op("mul", centred, wide(scale)), wide(b))

    def moved(old: Node, new: Node) -> Node:
        return B.op("add", B.op("mul", old, B.like(old, 0.9)), B.op("mul", new, B.like(new, 0.1)))

    return Graph((x, w, b, mean, var), [y, moved(mean, mu), moved(var, sigma)])


def gelu_of(x: Node) -> Node:
    inner = B.op("add", B.op("erf", B.op("mul", x, B.like(x, 0.5**0.5))), B.like(x, 1))
    return B.op("mul", B.op("mul", x, B.like(x, 0.5)), inner)


def linear_gelu(m: int = 7, k: int = 6, n: int = 18) -> Graph:
    x, w, b = tensor("x", m, k), tensor("w", k, n), tensor("b", n)
    y = B.contract(x, w, "mk,kn->mn")
    return Graph((x, w, b), [gelu_of(B.op("add", y, B.broadcast_to(b, y.shape)))])


def adam(*shapes: Sequence[int]) -> Graph:
    """One step for several parameters, with the learning rate as an input."""
    lr = tensor("lr")
    params, outputs = [lr], []
    for k, shape in enumerate(shapes or ((5, 7), (7,))):
        p, g, m, v = (tensor(f"{n}{k}", *shape) for n in "pgmv")
        params += [p, g, m, v]
        m2 = B.op("add", B.op("mul", m, B.like(m, 0.9)), B.op("mul", g, B.like(g, 0.1)))
        v2 = B.op("add", B.op("mul", v, B.like(v, 0.999)), B.op("mul", B.op("mul", g, g), B.like(g, 0.001)))
        step = B.op("div", m2, B.op("add", B.op("sqrt", v2), B.like(v, 1e-8)))
        outputs += [B.op("sub", p, B.op("mul", step, B.broadcast_to(lr, p.shape))), m2, v2]
    return Graph(params, outputs)


def attention(b: int = 2, t: int = 5, d: int = 8) -> Graph:
    q, k, v = (tensor(n, b, t, d) for n in "qkv")
    scores = B.contract(q, k, "bid,bjd->bij")
    weights = softmax_of(B.op("mul", scores, B.like(scores, d**-0.5)), 2)
    return Graph((q, k, v), [B.contract(weights, v, "bij,bjd->bid")])


def embedding_gradient(v: int = 11, d: int = 20, n: int = 9) -> Graph:
    index, g = tensor("index", n, dtype=int64), tensor("g", n, d)
    return Graph((index, g), [make("scatter", (B.const(0, float32, (v, d)), index, g), axis=0, combine="add")])


def accuracy(n: int = 9, c: int = 10) -> Graph:
    x, y = tensor("x", n, c), tensor("y", n, dtype=int64)
    right = B.op("eq", B.reduce(x, "argmax", (1,)), y)
    total = B.reduce(B.cast(right, dtypes.int32), "sum", (0,))
    return Graph((x, y), [total])
