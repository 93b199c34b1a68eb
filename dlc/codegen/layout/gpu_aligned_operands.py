"""Operands of a GPU's contractions as 16-byte vectors can read them.

A kernel moves vectors of an operand into shared memory where one of its labels is contiguous in memory and starts on
16-byte boundaries everywhere. An operand without such a label is copied: its axes are turned so that one that no
window slides over comes last, padded with zeros to whole vectors. Padding with zeros widens
the label for both operands; what it adds to the result is sliced off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, rewrite, substitute, unique
from dlc.ir.graph.ops import split_spec
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import linear, simplify
from dlc.ir.loops.ir import Buffer, under_casts
from dlc.passes.views.contraction import label_sizes, parts_of
from dlc.passes.views.elements import Elements
from dlc.passes.views.strides import strides_of
from dlc.passes.views.views import base_of, fresh_index

VECTOR = 16  # bytes
WORTH = 1 << 27  # multiplications and additions of a contraction from which an operand is copied for it
PRODUCTS = 16  # of each element that is copied, at least

Copies = dict[tuple[Node, tuple[int, ...]], Node]


def vector_operands(graph: Graph) -> Graph:
    """Rewrite every contraction of floats whose operands cannot be read as vectors."""
    copies: Copies = {}

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "contract":
            return None
        node = make("contract", ins, node.loc, **node.attrs)
        a = node.inputs[0].dtype
        if not a.is_float or a.itemsize > 4 or not node.type.size or not all(label_sizes(node).values()):
            return node
        return _contract(node, copies)

    return rewrite(map_bodies(graph, vector_operands), rule)


def _contract(node: Node, copies: Copies) -> Node:
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, False)
    if not (parts.rows and parts.columns and parts.inner):
        return node
    work = 2 * math.prod(sizes.values())
    *specs, out = split_spec(node.attrs["spec"])
    operands = [_cast_inside(x) for x in node.inputs]
    lanes = VECTOR // operands[0].dtype.itemsize
    if work >= WORTH:
        wide = dict(sizes)
        slid = {c for x, own in zip(operands, specs, strict=True) for c in _slid(x, own)}  # are not to be widened
        choice: dict[int, str] = {}
        fixed = ""  # the inner label that the larger operand is contiguous along: both take steps in the same order
        for k in sorted((0, 1), key=lambda k: -_inside(operands[k]).type.size):
            x, own = operands[k], specs[k]
            axis = _vectors(x, lanes)
            label = None if axis is None else own[axis]
            if label is None or (fixed and label in parts.inner and label != fixed):
                if work < PRODUCTS * _inside(x).type.size or _repeats(_inside(x)):
                    continue
                against = [c for c in parts.inner if c != fixed] if fixed else []
                against += [c for c in slid if sizes[c] % lanes]
                label = _best_label(x, own, against)
                if label is None:
                    continue
                choice[k] = label
                wide[label] = -(-sizes[label] // lanes) * lanes
            fixed = label if label in parts.inner else ""
        for k in (0, 1):
            for label in specs[k]:
                if wide[label] != sizes[label]:
                    operands[k] = _widened(operands[k], specs[k].index(label), wide[label])
            if k in choice:
                operands[k] = _copied(operands[k], specs[k].index(choice[k]), copies)
    made = B.contract(*operands, node.attrs["spec"], node.dtype, node.loc)
    return B.slice_(made, [0] * node.ndim, node.shape, None, node.loc)


def _vectors(x: Node, lanes: int) -> int | None:
    """The axis along which whole vectors lie together in memory, on vector boundaries wherever the others stand. It
    need not be contiguous: heads and their features, seen as one axis, are in runs."""
    base = base_of(x)
    buffer = Buffer("probe", base.dtype, (base.type.size,))
    elements = Elements(lambda n: buffer if n is base else None)
    for axis in reversed(range(x.ndim)):
        if x.shape[axis] % lanes:
            continue
        lane = loops.axis("lane", lanes)
        index = list(fresh_index(x.shape))
        index[axis] = loops.axis("vector", x.shape[axis] // lanes) * lanes + lane
        value = under_casts(elements.value(x, tuple(index)))
        if value.op != "load" or len(value.args) > 1 or value.attr is not buffer:
            return None
        terms, constant = linear(simplify(value.args[0]))
        if terms.pop(lane, 0) == 1 and constant % lanes == 0:
            if all(k % lanes == 0 and lane not in atom.axes for atom, k in terms.items()):
                return axis
    return None


def _slid(x: Node, own: str) -> set[str]:
    """The labels of an operand that have to do with a window: places and taps."""
    found: set[str] = set()
    while x.op in ("window", "flip"):
        if x.op == "window":
            found |= {own[a] for a in x.attrs["axes"]} | set(own[x.inputs[0].ndim : x.ndim])
        x = x.inputs[0]
    return found


def _best_label(x: Node, own: str, against: Sequence[str]) -> str | None:
    """The label to lie contiguously: one that no window slides over, and the nearest to that already, so that what is
    read together stays together."""
    inner, axes = x, list(range(x.ndim))
    while inner.op in ("window", "flip"):
        if inner.op == "window":
            axes = [a for a in axes if a < inner.inputs[0].ndim and a not in inner.attrs["axes"]]
        inner = inner.inputs[0]
    found = [own[a] for a in axes if x.shape[a] > 1 and own[a] not in against]
    strides = dict(zip(own, strides_of(x), strict=True))
    return min(found, key=lambda c: (abs(strides[c] or 1 << 62), -own.index(c)), default=None)


def _inside(x: Node) -> Node:
    """What is under the windows and flips of `x`."""
    while x.op in ("window", "flip"):
        x = x.inputs[0]
    return x


def _repeats(x: Node) -> bool:
    return base_of(x).type.size < x.type.size


def _cast_inside(x: Node) -> Node:
    """A conversion of a view that repeats elements (a window) as the view of the conversion."""
    if x.op == "cast":
        base = base_of(x.inputs[0])
        if base.type.size < x.type.size:
            return substitute([x.inputs[0]], {base: B.cast(base, x.dtype, x.loc)})[0]
    return x


def _under_views(x: Node, change: Callable[[Node], Node]) -> Node:
    """`change` applied below the windows and flips of `x`, whose axes keep their numbers there."""
    if x.op in ("window", "flip"):
        return make(x.op, (_under_views(x.inputs[0], change),), x.loc, **x.attrs)
    return change(x)


def _widened(x: Node, axis: int, size: int) -> Node:
    high = [size - x.shape[axis] if a == axis else 0 for a in range(x.ndim)]
    if x.op in ("window", "flip") and axis < x.inputs[0].ndim and axis not in x.attrs["axes"]:
        return make(x.op, (_widened(x.inputs[0], axis, size),), x.loc, **x.attrs)
    return B.pad(x, [0] * x.ndim, high, None, 0, x.loc)


def _copied(x: Node, axis: int, copies: Copies) -> Node:
    """The operand in new memory with `axis` last."""

    def change(base: Node) -> Node:
        order = (*(a for a in range(base.ndim) if a != axis), axis)
        key = (base, order)
        if key not in copies:
            copies[key] = make("barrier", (B.permute(base, order, base.loc),), base.loc, uid=unique())
        back = [order.index(a) for a in range(base.ndim)]
        return B.permute(copies[key], back, base.loc)

    return _under_views(x, change)

