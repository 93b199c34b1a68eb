"""What reverse-mode differentiation makes of each operation; of those with graphs inside see `vjp.py`.

A rule is `rule(node, ct, need)`: `ct` is the cotangent of the node's result (a list with None for unused results where
the operation has several), `need[k]` says whether input k leads to anything differentiated. It gives one cotangent an
input, or None for "no dependence": zero cotangents are never built.

Conventions where a derivative is a choice: elementwise max and min give half to each side on ties, reductions spread
evenly over ties, a running max or min gives to the latest element that attains it (all as PyTorch does); sign,
rounding, comparisons and integers have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import (
    add,
    along,
    cumulative,
    div,
    gather,
    mul,
    neg,
    one_minus_square,
    plus,
    put_along,
    scale,
    scatter,
    shift,
    square_minus_one,
    sub,
    unless,
    where,
    zeros,
)
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.ir.graph.ops import split_spec

Ct = Node | None
Rule = Callable[[Node, Any, tuple[bool, ...]], Sequence[Ct]]

# ------------------------------------------------------------------------------------------------- elementwise rules


def _each(*parts: Callable[[Node, Node], Node] | None) -> Rule:
    """A rule from one function `(node, ct) -> cotangent` an input, None where an input has no gradient."""

    def rule(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
        return [f(node, ct) if f is not None and wanted else None for f, wanted in zip(parts, need, strict=True)]

    return rule


def _unary(derivative: Callable[[Node, Node], Node]) -> Rule:
    """ct * derivative(x, y)."""
    return _each(lambda n, ct: mul(ct, derivative(n.inputs[0], n)))


def _op(name: str, x: Node) -> Node:
    return make(name, (x,))


def _pow_base(node: Node, ct: Node) -> Ct:
    """b * a^(b-1); 0 for b = 0, where the plain formula has 0 * inf at a = 0."""
    a, b = node.inputs
    if b.op == "const":
        p = b.attrs["value"]
        if p == 0:
            return None
        if p == 1:
            return ct
        return mul(ct, scale(a, 2.0) if p == 2 else scale(make("pow", (a, B.like(b, p - 1))), p))
    flat = make("eq", (b, zeros(b)))
    return unless(flat, mul(ct, mul(b, make("pow", (a, plus(B.select(flat, B.like(b, 1), b), -1.0))))))


def _pow_exponent(node: Node, ct: Node) -> Node:
    """a^b * log(a); 0 for a = 0 and b >= 0, where the plain formula has 0 * -inf."""
    a, b = node.inputs
    flat = make("and", (make("eq", (a, zeros(a))), make("le", (zeros(b), b))))
    return mul(ct, mul(node, _op("log", B.select(flat, B.like(a, 1), a))))


def _atan2(own: int) -> Callable[[Node, Node], Node]:
    """b / (a^2 + b^2) for a, -a / (a^2 + b^2) for b, without squares, which overflow and vanish; 0 at the origin."""

    def part(node: Node, ct: Node) -> Node:
        a, b = node.inputs
        steep = make("lt", (_op("abs", b), _op("abs", a)))
        small, big = B.select(steep, b, a), B.select(steep, a, b)
        origin = make("eq", (big, zeros(big)))
        big = B.select(origin, B.like(big, 1), big)
        ratio = div(small, big)
        share = B.select(steep if own == 0 else make("not", (steep,)), mul(ct, ratio), ct)
        slope = unless(origin, div(div(share, big), plus(mul(ratio, ratio), 1)))  # of ct small or ct big by a^2 + b^2
        return slope if own == 0 else neg(slope)

    return part


def _extremum(name: str) -> Rule:
    def side(own: int) -> Callable[[Node, Node], Node]:
        def part(node: Node, ct: Node) -> Node:
            a, b = node.inputs[own], node.inputs[1 - own]
            loses = make("lt", (a, b) if name == "max" else (b, a))
            return unless(loses, B.select(make("eq", (a, b)), scale(ct, 0.5), ct))

        return part

    return _each(side(0), side(1))


def _select(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    cond = node.inputs[0]
    return [None, where(cond, ct) if need[1] else None, unless(cond, ct) if need[2] else None]


_SAME = _each(lambda n, ct: ct)

_ELEMENTWISE: dict[str, Rule | None] = {
    "neg": _each(lambda n, ct: neg(ct)),
    "abs": _unary(lambda x, y: _op("sign", x)),
    "sqrt": _each(lambda n, ct: div(scale(ct, 0.5), n)),
    "rsqrt": _unary(lambda x, y: scale(mul(y, mul(y, y)), -0.5)),
    "exp": _unary(lambda x, y: y),
    "expm1": _unary(lambda x, y: _op("exp", x)),
    "log": _each(lambda n, ct: div(ct, n.inputs[0])),
    "log2": _each(lambda n, ct: div(ct, scale(n.inputs[0], math.log(2)))),
    "log1p": _each(lambda n, ct: div(ct, plus(n.inputs[0], 1))),
    "sin": _unary(lambda x, y: _op("cos", x)),
    "cos": _unary(lambda x, y: neg(_op("sin", x))),
    "tan": _unary(lambda x, y: plus(mul(y, y), 1)),
    "asin": _unary(lambda x, y: _op("rsqrt", one_minus_square(x))),
    "acos": _unary(lambda x, y: neg(_op("rsqrt", one_minus_square(x)))),
    "atan": _each(lambda n, ct: div(ct, plus(mul(n.inputs[0], n.inputs[0]), 1))),
    "sinh": _unary(lambda x, y: _op("cosh", x)),
    "cosh": _unary(lambda x, y: _op("sinh", x)),
    "tanh": _unary(lambda x, y: sub(B.like(y, 1), mul(y, y))),
    "sigmoid": _unary(lambda x, y: mul(y, _op("sigmoid", neg(x)))),  # not y (1 - y), which has no digits for large x
    "asinh": _unary(lambda x, y: _op("rsqrt", plus(mul(x, x), 1))),
    "acosh": _unary(lambda x, y: _op("rsqrt", square_minus_one(x))),
    "atanh": _each(lambda n, ct: div(ct, one_minus_square(n.inputs[0]))),
    "erf": _unary(lambda x, y: scale(_op("exp", neg(mul(x, x))), 2 / math.sqrt(math.pi))),
    "add": _each(lambda n, ct: ct, lambda n, ct: ct),
    "sub": _each(lambda n, ct: ct, lambda n, ct: neg(ct)),
    "mul": _each(lambda n, ct: mul(ct, n.inputs[1]), lambda n, ct: mul(ct, n.inputs[0])),
    "div": _each(lambda n, ct: div(ct, n.inputs[1]), lambda n, ct: neg(mul(div(ct, n.inputs[1]), n))),
    "mod": _each(lambda n, ct: ct, lambda n, ct: neg(mul(ct, make("floordiv", n.inputs)))),
    "pow": _each(_pow_base, _pow_exponent),
    "atan2": _each(_atan2(0), _atan2(1)),
    "max": _extremum("max"),
    "min": _extremum("min"),
    "cast": _each(lambda n, ct: B.cast(ct, n.inputs[0].dtype)),
    "select": _select,
    **dict.fromkeys(("sign", "floor", "ceil", "trunc", "round", "floordiv", "not", "and", "or", "xor")),
    **dict.fromkeys(("eq", "ne", "lt", "le", "shl", "shr", "threefry", "bitcast", "pair")),
}

# ------------------------------------------------------------------------------------------------------- view rules


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `axes`."""
    return tuple(sorted(range(len(axes)), key=lambda k: axes[k]))


def _broadcast(node: Node, ct: Node) -> Node:
    src, axes = node.inputs[0].shape, node.attrs["axes"]
    kept = {a for extent, a in zip(src, axes, strict=True) if extent == node.shape[a]}
    return B.reshape(B.sum_(ct, [a for a in range(ct.ndim) if a not in kept]), src)


def _slice(node: Node, ct: Node) -> Ct:
    if ct.type.size == 0:
        return None
    start, step = node.attrs["start"], node.attrs["step"]
    high = [
        extent - lo - (n - 1) * st - 1
        for extent, lo, n, st in zip(node.inputs[0].shape, start, ct.shape, step, strict=True)
    ]
    return B.pad(ct, start, high, [st - 1 for st in step])


def _pad(node: Node, ct: Node) -> Ct:
    a, src = node.attrs, node.inputs[0].shape
    if 0 in src:
        return None
    uncropped = B.pad(ct, [max(-lo, 0) for lo in a["low"]], [max(-hi, 0) for hi in a["high"]])
    start = [max(lo, 0) for lo in a["low"]]
    step = [gap + 1 for gap in a["interior"]]
    stop = [lo + (n - 1) * st + 1 for lo, n, st in zip(start, src, step, strict=True)]
    return B.slice_(uncropped, start, stop, step)


_TAPS = ("axes", "sizes", "strides", "dilations")


def _window(node: Node, ct: Node) -> Node:
    return make("unwindow", (ct,), shape=node.inputs[0].shape, **{k: node.attrs[k] for k in _TAPS})


def _unwindow(node: Node, ct: Node) -> Node:
    return make("window", (ct,), **{k: node.attrs[k] for k in _TAPS})


_VIEWS: dict[str, Rule] = {
    "reshape": _each(lambda n, ct: B.reshape(ct, n.inputs[0].shape)),
    "permute": _each(lambda n, ct: B.permute(ct, inverse(n.attrs["axes"]))),
    "broadcast": _each(_broadcast),
    "slice": _each(_slice),
    "flip": _each(lambda n, ct: B.flip(ct, n.attrs["axes"])),
    "pad": _each(_pad),
    "window": _each(_window),
    "unwindow": _each(_unwindow),
}

# ------------------------------------------------------------------------------------- reductions and running values


def excluded_product(x: Node, axis: int) -> Node:
    """At each place the product of all other elements along `axis`: no division, so zeros are harmless."""
    before = shift(cumulative(x, "prod", axis), axis, 1, 1)
    after = shift(cumulative(x, "prod", axis, reverse=True), axis, -1, 1)
    return mul(before, after)


def reduced_last(x: Node, axes: Sequence[int]) -> tuple[Node, Callable[[Node], Node]]:
    """`x` with `axes` flattened into one last axis, and the way back."""
    kept = [a for a in range(x.ndim) if a not in axes]
    order = (*kept, *axes)
    flat_shape = (*(x.shape[a] for a in kept), math.prod(x.shape[a] for a in axes))

    def back(y: Node) -> Node:
        return B.permute(B.reshape(y, [x.shape[a] for a in order]), inverse(order))

    return B.reshape(B.permute(x, order), flat_shape), back


def _reduce(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    return [_REDUCE[node.attrs["monoid"]](node, ct)]


def _reduce_sum(node: Node, ct: Node) -> Node:
    return B.expand(ct, node.inputs[0].shape, node.attrs["axes"])


def _reduce_prod(node: Node, ct: Node) -> Ct:
    x = node.inputs[0]
    if x.type.size == 0:
        return None
    flat, back = reduced_last(x, node.attrs["axes"])
    spread = B.broadcast(ct, flat.shape, range(ct.ndim))
    return back(mul(spread, excluded_product(flat, flat.ndim - 1)) if flat.shape[-1] > 1 else spread)


def shared_ties(x: Node, y: Node, axes: Sequence[int]) -> tuple[Node, Node]:
    """Where `x` equals its reduction `y`, and how often it does (in the compute type, so that half types count)."""
    ties = make("eq", (x, B.expand(y, x.shape, axes)))
    return ties, B.sum_(B.cast(ties, x.dtype.compute), axes)


def _reduce_extremum(node: Node, ct: Node) -> Node:
    x, axes = node.inputs[0], node.attrs["axes"]
    ties, count = shared_ties(x, node, axes)
    share = B.cast(div(B.cast(ct, count.dtype), count), ct.dtype)
    return where(ties, B.expand(share, x.shape, axes))


_REDUCE: dict[str, Callable[[Node, Node], Ct]] = {
    "sum": _reduce_sum,
    "prod": _reduce_prod,
    "max": _reduce_extremum,
    "min": _reduce_extremum,
}


def _cumulative(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    return [_CUMULATIVE[node.attrs["monoid"]](node, ct)]


def _cumulative_prod(node: Node, ct: Node) -> Node:
    """With y_k = x_0 ... x_k: dx_i = (x_0 ... x_{i-1}) S_i, where S_i = ct_i + x_{i+1} S_{i+1}."""
    x, axis, reverse = node.inputs[0], node.attrs["axis"], node.attrs["reverse"]
    by = -1 if reverse else 1
    order = (axis, *(a for a in range(x.ndim) if a != axis))
    following, steps = (B.permute(v, order) for v in (shift(x, axis, -by, 0), ct))
    row = TensorType(x.dtype, following.shape[1:])
    total, factor, term = (param(row) for _ in range(3))
    new = add(term, mul(factor, total))
    body = Graph((total, factor, term), (new, new), "suffix_sums")
    start = B.const(0, row.dtype, row.shape)
    scan = make(
        "scan", (start, following, steps), body=body, length=x.shape[axis], consts=0, carry=1, reverse=not reverse
    )
    return mul(B.permute(B.item(scan, 1), inverse(order)), shift(node, axis, by, 1))


def running_positions(node: Node) -> Node:
    """For a running max or min: along its axis, where the element stands that each result is."""
    axis, reverse = node.attrs["axis"], node.attrs["reverse"]
    place = B.iota(node.shape, axis)
    never = B.like(place, node.shape[axis] if reverse else 0)
    hits = B.select(make("eq", (node.inputs[0], node)), place, never)
    latest = cumulative(hits, "min" if reverse else "max", axis, reverse)
    return make("min", (latest, B.like(latest, max(node.shape[axis] - 1, 0)))) if reverse else latest


def _cumulative_extremum(node: Node, ct: Node) -> Node:
    return put_along(ct, running_positions(node), node.attrs["axis"])


_CUMULATIVE: dict[str, Callable[[Node, Node], Node]] = {
    "sum": lambda n, ct: cumulative(ct, "sum", n.attrs["axis"], not n.attrs["reverse"]),
    "prod": _cumulative_prod,
    "max": _cumulative_extremum,
    "min": _cumulative_extremum,
}


def _sort(node: Node, cts: list[Ct], need: tuple[bool, ...]) -> list[Ct]:
    return [None if cts[0] is None else put_along(cts[0], B.item(node, 1), node.attrs["axis"])]


# ---------------------------------------------------------------------------------- contract, gather, scatter, concat


def _contract(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    """The cotangent takes the operands' dtype first, so that a half-precision product has half-precision gradients."""
    a, b = node.inputs
    left, right, out = split_spec(node.attrs["spec"])
    ct = B.cast(ct, a.dtype)
    return [
        B.contract(ct, b, f"{out},{right}->{left}") if need[0] else None,
        B.contract(a, ct, f"{left},{out}->{right}") if need[1] else None,
    ]


def _gather(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    src, index = node.inputs
    return [scatter(zeros(src), index, ct, node.attrs["axis"], "add"), None]


def _scatter(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    base, updates = _SCATTER[node.attrs["combine"]](node, ct, need)
    return [base, None, updates]


def _scatter_set(node: Node, ct: Node, need: tuple[bool, ...]) -> tuple[Ct, Ct]:
    """Only the update that stayed has a gradient: a second scatter finds which one that is for each row."""
    base, index, updates = node.inputs
    axis = node.attrs["axis"]
    d_base = scatter(ct, index, zeros(updates), axis, "set") if need[0] else None
    if not need[2]:
        return d_base, None
    d_updates = gather(ct, index, axis)
    if index.type.size > 1:
        number = B.reshape(B.iota((index.type.size,), 0), index.shape)
        winner = scatter(B.const(-1, number.dtype, (base.shape[axis],)), index, number, 0, "set")
        stays = make("eq", (gather(winner, index, 0), number))
        d_updates = where(along(stays, updates.shape, axis), d_updates)
    return d_base, d_updates


def _scatter_add(node: Node, ct: Node, need: tuple[bool, ...]) -> tuple[Ct, Ct]:
    return ct, gather(ct, node.inputs[1], node.attrs["axis"]) if need[2] else None


def other_factors(node: Node) -> Node:
    """For scatter-mul: for each update, the product of the base and all other updates at its row, also with zeros."""
    base, index, updates = node.inputs
    axis = node.attrs["axis"]
    zero = make("eq", (updates, zeros(updates)))
    one = where(zero, B.like(updates, 1))
    safe = B.select(zero, B.like(updates, 1), updates)
    product = gather(scatter(base, index, safe, axis, "mul"), index, axis)
    count = gather(scatter(zeros(base), index, one, axis, "add"), index, axis)
    return where(make("eq", (count, one)), div(product, safe))  # no zero among the others


def _scatter_mul(node: Node, ct: Node, need: tuple[bool, ...]) -> tuple[Ct, Ct]:
    _, index, updates = node.inputs
    axis = node.attrs["axis"]
    return (
        scatter(ct, index, updates, axis, "mul") if need[0] else None,
        mul(gather(ct, index, axis), other_factors(node)) if need[2] else None,
    )


def scatter_ties(node: Node) -> tuple[Node, Node, Node]:
    """For scatter-max and -min: where the base is the result, where an update is, and how many share each row."""
    base, index, updates = node.inputs
    axis, wide = node.attrs["axis"], node.dtype.compute
    own = make("eq", (base, node))
    hit = make("eq", (updates, gather(node, index, axis)))
    return own, hit, scatter(B.cast(own, wide), index, B.cast(hit, wide), axis, "add")


def _scatter_extremum(node: Node, ct: Node, need: tuple[bool, ...]) -> tuple[Ct, Ct]:
    own, hit, count = scatter_ties(node)
    share = B.cast(div(B.cast(ct, count.dtype), count), ct.dtype)
    spread = gather(share, node.inputs[1], node.attrs["axis"])
    return where(own, share) if need[0] else None, where(hit, spread) if need[2] else None


_SCATTER = {
    "set": _scatter_set,
    "add": _scatter_add,
    "mul": _scatter_mul,
    "max": _scatter_extremum,
    "min": _scatter_extremum,
}


def _concat(node: Node, ct: Node, need: tuple[bool, ...]) -> list[Ct]:
    axis, at, out = node.attrs["axis"], 0, []
    for x, wanted in zip(node.inputs, need, strict=True):
        start = [at if a == axis else 0 for a in range(ct.ndim)]
        at += x.shape[axis]
        stop = [at if a == axis else extent for a, extent in enumerate(ct.shape)]
        out.append(B.slice_(ct, start, stop) if wanted else None)
    return out

RULES: dict[str, Rule | None] = {
    **_ELEMENTWISE,
    **_VIEWS,
    "param": None,
    "const": None,
    "iota": None,
    "reduce": _reduce,
    "cumulative": _cumulative,
    "sort": _sort,
    "contract": _contract,
    "gather": _gather,
    "scatter": _scatter,
    "concat": _concat,
    "item": _SAME,
    "tag": _SAME,
    "barrier": _SAME,
    "stop_gradient": None,
}
