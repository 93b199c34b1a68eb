"""Simplification rules for sums over axes: what is equal along them is taken out, and deviations from a mean vanish
(infinities and NaNs do not).

In the derivative of a normalisation several sums differ by such factors only, and one is of deviations from the mean:
of three passes over the data two are left, the second of which gives the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Node, make
from dlc.ir.graph.table import OPS
from dlc.passes.simplify.finite import never_infinite

Rule = Callable[[Node], Node | None]

_FACTORS = 6  # of a product, looked at
_HAND_ON = frozenset(("add", "sub", "mul", "neg", "div", "sqrt", "rsqrt", "reshape", "broadcast"))


def _factors(x: Node) -> list[Node]:
    """The factors of a tree of products, from left to right."""
    out, todo = [], [x]
    while todo:
        f = todo.pop()
        if f.op == "mul" and len(out) + len(todo) < _FACTORS:
            todo += reversed(f.inputs)
        else:
            out.append(f)
    return out


def without(x: Node, axes: Sequence[int], depth: int = 4) -> Node | None:
    """`x` without `axes`, if it is the same all along them by what it is made of, in a few steps."""
    if x.inputs and depth and OPS[x.op].elementwise:
        ins = [without(i, axes, depth - 1) for i in x.inputs]
        return None if None in ins else make(x.op, ins, x.loc, **x.attrs)
    shape = [d for a, d in enumerate(x.shape) if a not in axes]
    if x.op == "const":
        return B.const(x.attrs["value"], x.dtype, shape)
    if x.op != "broadcast":
        return None
    src, placed = x.inputs[0], x.attrs["axes"]
    if any(a in axes and src.shape[k] != 1 for k, a in enumerate(placed)):
        return None
    kept = [a for a in range(x.ndim) if a not in axes]
    left = [k for k, a in enumerate(placed) if a not in axes]
    return B.broadcast(B.reshape(src, [src.shape[k] for k in left]), shape, [kept.index(placed[k]) for k in left])


def _split(x: Node, axes: Sequence[int], finite: bool = False) -> tuple[list[Node], list[Node]]:
    """The factors of `x` that vary along `axes`, and the others without these; on request only those of the others that
    cannot be infinite, the rest with the first."""
    inner, outer = [], []
    for f in _factors(x):
        c = without(f, axes)
        if c is None or finite and not never_infinite(c):
            inner.append(f)
        else:
            outer.append(c)
    return inner, outer


def _is_sum(node: Node) -> bool:
    return node.attrs["monoid"] == "sum" and node.dtype.is_float and not node.dtype.is_half and 0 not in node.shape


def common_factors(node: Node) -> Node | None:
    """sum(c x) = c sum(x), and sum(-x) = -sum(x). Not where c may be infinite: inf * 1 + inf * -2 is NaN, inf * (1 - 2)
    is not. Where c is NaN or 0 both are alike."""
    x, axes = node.inputs[0], node.attrs["axes"]
    if not _is_sum(node):
        return None
    if x.op == "neg":
        return B.op("neg", B.sum_(x.inputs[0], axes))
    if x.op != "mul":
        return None
    inner, outer = _split(x, axes, finite=True)
    if not inner or not outer:
        return None
    inner.sort(key=lambda f: f.serial)  # the same product wherever it is met
    total = B.sum_(_product(inner), axes)
    return _product([total, *outer])


def _product(factors: Sequence[Node]) -> Node:
    out = factors[0]
    for f in factors[1:]:
        out = make("mul", (out, f))
    return out


def vanishing_terms(node: Node) -> Node | None:
    """sum(x + c d) = sum(x) where d are deviations from a mean over the same axes. Infinities and NaNs do not vanish:
    those of d must reach a term in `x`, such as one with the standard deviation of the same values; factors of `c` that
    may have others are added, times 0."""
    x, axes = node.inputs[0], node.attrs["axes"]
    if not _is_sum(node) or x.op not in ("add", "sub"):
        return None
    a, b = x.inputs
    for other, term in ((a, b), (B.op("neg", b) if x.op == "sub" else b, a)):
        deviation, scales = _scaled_deviation(term, axes)
        if deviation is None:
            continue
        inner, outer = _told(other, axes)
        if any(_knows(c, deviation, axes) for c in outer):
            hidden = [c for c in scales if not _is_told(c, inner | {deviation}, outer, axes)]
            total = B.sum_(other, axes)
            return total + _product(hidden) * 0.0 if hidden else total
    return None


def _scaled_deviation(x: Node, axes: Sequence[int]) -> tuple[Node | None, list[Node]]:
    """The deviations from their mean over `axes` that `x` is, but for factors that are the same all along these, and
    these factors."""
    while x.op == "neg":
        x = x.inputs[0]
    inner, outer = _split(x, axes)
    return inner[0] if len(inner) == 1 and _is_deviation(inner[0], axes) else None, outer


def _told(x: Node, axes: Sequence[int]) -> tuple[set[Node], set[Node]]:
    """The factors of the terms of the sum `x`, those that vary along `axes` and those that do not: where one of them is
    not finite, neither is the sum. Deviations are left out: they may vanish themselves."""
    if x.op in ("add", "sub", "neg"):
        parts = [_told(i, axes) for i in x.inputs]
        return set().union(*(p[0] for p in parts)), set().union(*(p[1] for p in parts))
    if _scaled_deviation(x, axes)[0] is not None:
        return set(), set()
    inner, outer = _split(x, axes)
    return set(inner), {_bare(c) for c in outer}


def _bare(c: Node) -> Node:
    """`c` below views that only add or remove axes of one element."""
    while c.op in ("reshape", "broadcast") and _long(c) == _long(c.inputs[0]):
        c = c.inputs[0]
    return c


def _long(x: Node) -> list[int]:
    return [d for d in x.shape if d != 1]


def _knows(c: Node, deviation: Node, axes: Sequence[int], depth: int = 8) -> bool:
    """Is a sum with the factor `deviation` in `c`, below operations that hand on what is no number?"""
    if _is_sum_over(c, axes):
        return deviation in _factors(c.inputs[0])
    return depth > 0 and c.op in _HAND_ON and any(
        _long(i) == _long(c) and _knows(i, deviation, axes, depth - 1) for i in c.inputs)


def _is_told(c: Node, inner: set[Node], outer: set[Node], axes: Sequence[int], depth: int = 8) -> bool:
    """Is `c` finite, but for overflow, where those in `inner` and `outer` that belong to it are?"""
    c = _bare(c)
    if c.op == "const":
        return math.isfinite(c.attrs["value"])
    if c in outer:
        return True
    if _is_sum_over(c, axes):
        return all(f in inner or f.op == "const" and math.isfinite(f.attrs["value"]) for f in _factors(c.inputs[0]))
    *others, last = c.inputs or (c,)
    if c.op == "div" and (last.op != "const" or last.attrs["value"] == 0):
        return False
    return depth > 0 and c.op in ("add", "sub", "mul", "neg", "div") and all(
        _is_told(i, inner, outer, axes, depth - 1) for i in (*others, last))


def _is_sum_over(x: Node, axes: Sequence[int]) -> bool:
    return x.op == "reduce" and x.attrs["monoid"] == "sum" and x.attrs["axes"] == tuple(axes)


def _is_deviation(x: Node, axes: Sequence[int]) -> bool:
    """x - mean(x) over `axes`?"""
    if x.op != "sub":
        return False
    value, mean = x.inputs
    mean = without(mean, axes) if mean.op == "broadcast" else None
    while mean is not None and mean.op in ("reshape", "broadcast") and mean.type.size == mean.inputs[0].type.size:
        mean = mean.inputs[0]
    if mean is None or mean.op not in ("mul", "div") or mean.inputs[1].op != "const":
        return False
    total, share = mean.inputs[0], mean.inputs[1].attrs["value"]
    while total.op == "reshape":
        total = total.inputs[0]
    if total.op != "reduce" or total.attrs["monoid"] != "sum":
        return False
    count = math.prod(value.shape[a] for a in axes)
    whole = share * count if mean.op == "mul" else count / share if share else 0
    return total.inputs[0] is value and total.attrs["axes"] == tuple(axes) and abs(whole - 1) < 1e-6


SUM_RULES: dict[str, tuple[Rule, ...]] = {"reduce": (common_factors, vanishing_terms)}
