"""Simplification of what has no elements: an empty result is a constant, and what is made of nothing is its neutral
element. So no later pass meets an empty tensor other than an argument, or a constant that is a result.
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Node, TensorType, make

Rule = Callable[[Node], Node | None]

_LEAVES = frozenset(("param", "const", "tag"))


def empty(node: Node) -> Node | None:
    """Looked at before the rules of its operation."""
    if not isinstance(node.type, TensorType):
        return None
    if node.type.size == 0:
        return None if node.op in _LEAVES else B.const(0, node.dtype, node.shape)
    rule = _RULES.get(node.op)
    return rule(node) if rule else None


def _nothing(node: Node, k: int = 0) -> bool:
    t = node.inputs[k].type
    return isinstance(t, TensorType) and t.size == 0


_NEUTRAL = {"sum": 0, "any": 0, "prod": 1, "all": 1}  # the other reductions are never over nothing


def _reduce(node: Node) -> Node | None:
    return B.const(_NEUTRAL[node.attrs["monoid"]], node.dtype, node.shape) if _nothing(node) else None


def _sum_of_nothing(node: Node) -> Node | None:
    return B.const(0, node.dtype, node.shape) if _nothing(node) else None


def _pad(node: Node) -> Node | None:
    return B.const(node.attrs["value"], node.dtype, node.shape) if _nothing(node) else None


def _scatter(node: Node) -> Node | None:
    return node.inputs[0] if _nothing(node, 2) else None


def _concat(node: Node) -> Node | None:
    some = [x for x in node.inputs if x.type.size]
    return None if len(some) == len(node.inputs) else make("concat", some, axis=node.attrs["axis"])


def _item(node: Node) -> Node | None:
    """What a loop without iterations carries is what it began with."""
    loop, k = node.inputs[0], node.attrs["index"]
    if loop.op != "scan" or loop.attrs["length"]:
        return None
    return loop.inputs[loop.attrs["consts"] + k]


_RULES: dict[str, Rule] = {
    "reduce": _reduce,
    "contract": _sum_of_nothing,
    "unwindow": _sum_of_nothing,
    "gather": _sum_of_nothing,  # clamped into an axis without elements
    "pad": _pad,
    "scatter": _scatter,
    "concat": _concat,
    "item": _item,
}
