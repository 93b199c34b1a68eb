"""Elementwise shorthands, index arithmetic and stacks of casts that derivatives, batching and others are made of."""

from __future__ import annotations

import math

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Node, make
from dlc.ir.loc import Loc


def add(a: Node, b: Node) -> Node:
    return make("add", (a, b))


def sub(a: Node, b: Node) -> Node:
    return make("sub", (a, b))


def mul(a: Node, b: Node) -> Node:
    return make("mul", (a, b))


def div(a: Node, b: Node) -> Node:
    return make("div", (a, b))


def neg(a: Node) -> Node:
    return make("neg", (a,))


def scale(a: Node, factor: float) -> Node:
    return make("mul", (a, B.like(a, factor)))


def plus(a: Node, term: float) -> Node:
    return make("add", (a, B.like(a, term)))


def one_minus_square(a: Node) -> Node:
    """1 - a*a, near |a| = 1 as (1 - a)(1 + a), which keeps its digits there. The derivative keeps its own: -2a near 0
    is no difference of ones, and at 1 nothing infinite meets the factor that is 0."""
    size = make("abs", (a,))
    plain = make("or", (make("lt", (size, B.like(a, 0.5))), make("eq", (size, B.like(a, 1)))))
    return B.select(plain, sub(B.like(a, 1), mul(a, a)), mul(sub(B.like(a, 1), a), plus(a, 1)))


def square_minus_one(a: Node) -> Node:
    """a*a - 1 for a from 1 on, as (a - 1)(a + 1); at 1 for the sake of the derivative as it stands."""
    return B.select(make("eq", (a, B.like(a, 1))), plus(mul(a, a), -1), mul(plus(a, -1), plus(a, 1)))


def zeros(a: Node) -> Node:
    return B.like(a, 0)


def where(cond: Node, a: Node) -> Node:
    """`a` where `cond` holds, else 0."""
    return B.select(cond, a, zeros(a))


def unless(cond: Node, a: Node) -> Node:
    """0 where `cond` holds, else `a`."""
    return B.select(cond, zeros(a), a)


def along(x: Node, shape: tuple[int, ...], axis: int) -> Node:
    """`x` (any number of axes) placed at `axis...` of `shape` and repeated along the others."""
    return B.broadcast(x, shape, range(axis, axis + x.ndim))


def gather(src: Node, index: Node, axis: int) -> Node:
    return make("gather", (src, index), axis=axis)


def scatter(base: Node, index: Node, updates: Node, axis: int, combine: str) -> Node:
    return make("scatter", (base, index, updates), axis=axis, combine=combine)


def cumulative(x: Node, monoid: str, axis: int, reverse: bool = False) -> Node:
    return make("cumulative", (x,), monoid=monoid, axis=axis, reverse=reverse)


def flat_positions(position: Node, axis: int) -> Node:
    """Row-major offsets, in a tensor of this shape, of the elements `position` names along `axis` (as `sort` does)."""
    shape = position.shape
    stride = [math.prod(shape[a + 1 :]) for a in range(len(shape))]
    total = scale(position, stride[axis])
    for a, extent in enumerate(shape):
        if a != axis and extent > 1:
            total = add(total, scale(B.iota(shape, a), stride[a]))
    return total


def take_along(x: Node, position: Node, axis: int) -> Node:
    """out[..., i, ...] = x[..., position[..., i, ...], ...]: every line along `axis` has its own positions."""
    return gather(B.reshape(x, (x.type.size,)), flat_positions(position, axis), 0)


def put_along(updates: Node, position: Node, axis: int) -> Node:
    """The adjoint of `take_along`: zeros of this shape, plus each update at its position on its own line."""
    shape = updates.shape
    base = B.const(0, updates.dtype, (updates.type.size,))
    return B.reshape(scatter(base, flat_positions(position, axis), updates, 0, "add"), shape)


def shift(x: Node, axis: int, by: int, fill: float) -> Node:
    """`x` moved by `by` places along `axis`, what falls off lost and the gap filled with `fill`."""
    low = [by if a == axis else 0 for a in range(x.ndim)]
    return B.pad(x, low, [-v for v in low], value=fill)


def base_of_casts(x: Node) -> Node:
    """The node under a stack of casts."""
    while x.op == "cast":
        x = x.inputs[0]
    return x


def with_base(x: Node, base: Node, loc: Loc | None = None) -> Node:
    """`base` under the casts that stand over the base of `x`."""
    return B.cast(with_base(x.inputs[0], base, loc), x.dtype, loc) if x.op == "cast" else base
