"""Checks of derivatives against central differences in float64, through the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add, mul
from dlc.ir.graph.graph import Graph, Node, TensorType, param
from dlc.ir.graph.interp import evaluate
from dlc.passes.autodiff.vjp import expand, vjp

Function = Callable[..., Node | Sequence[Node]]


def params_for(args: Sequence[np.ndarray]) -> list[Node]:
    return [param(TensorType(dtypes.from_numpy(a.dtype), a.shape), f"x{k}") for k, a in enumerate(args)]


def build(f: Function, args: Sequence[np.ndarray]) -> Graph:
    """The graph of `f` on parameters like `args`."""
    params = params_for(args)
    outs = f(*params)
    return Graph(params, list(outs) if isinstance(outs, (list, tuple)) else [outs])


def run(f: Function, *args: np.ndarray) -> list[np.ndarray]:
    return evaluate(expand(build(f, args)), args)


def total(outs: Node | Sequence[Node], seed: int = 0) -> Node:
    """A scalar from all float outputs: their sum, each element with a weight of its own."""
    outs = list(outs) if isinstance(outs, (list, tuple)) else [outs]
    sums = []
    for k, o in enumerate(outs):
        if o.dtype.is_float:
            n = o.type.size
            weight = B.op("sin", B.op("add", B.iota((n,), 0, o.dtype), B.const(1.7 * k + 0.3 + seed, o.dtype, (n,))))
            sums.append(B.sum_(mul(B.reshape(o, (n,)), weight), (0,)))
    out = sums[0]
    for s in sums[1:]:
        out = add(out, s)
    return out


def numeric(graph: Graph, args: Sequence[np.ndarray], which: int, step: float = 1e-6) -> np.ndarray:
    """Central differences of the scalar `graph` in its parameter `which`."""
    out = np.zeros(args[which].shape)
    for at in np.ndindex(out.shape):
        values = []
        for sign in (1, -1):
            moved = [a.copy() for a in args]
            moved[which][at] += sign * step
            values.append(float(evaluate(graph, moved)[0]))
        out[at] = (values[0] - values[1]) / (2 * step)
    return out


def check(f: Function, *args: np.ndarray, order: int = 2, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    """The gradient of the weighted sum of `f`'s outputs in every float argument, to `order`, against differences."""
    args = [np.asarray(a) for a in args]
    floats = [k for k, a in enumerate(args) if a.dtype.kind == "f"]

    def derivative(g: Function, seed: int) -> Function:
        return lambda *ps: vjp([s := total(g(*ps), seed)], [B.like(s, 1)], [ps[k] for k in floats])

    g = f
    for level in range(order):
        scalar = build(lambda *ps, g=g, level=level: total(g(*ps), level), args)
        grads = expand(build(derivative(g, level), args))
        got = evaluate(grads, args)
        for k, value in zip(floats, got, strict=True):
            want = numeric(scalar, args, k)
            np.testing.assert_allclose(value, want, rtol=rtol, atol=atol, err_msg=f"order {level + 1}, argument {k}")
        g = derivative(g, level)
