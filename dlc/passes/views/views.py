"""The memory below a view."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlc.ir.graph.graph import Node
from dlc.ir.loops import ir as loops
from dlc.passes.views.elements import Index

VIEWS = frozenset({"reshape", "permute", "broadcast", "slice", "window", "flip", "pair", "stop_gradient", "tag"})


def base_of(node: Node) -> Node:
    """The node under a stack of views."""
    while node.op in VIEWS:
        node = node.inputs[0]
    return node


def memory_of(node: Node) -> Node:
    """The node whose memory holds `node` as it stands: reshapes of flat memory are free."""
    while node.op in ("reshape", "stop_gradient", "tag"):
        node = node.inputs[0]
    return node


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of elements that lie one after the other."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def fresh_index(shape: Sequence[int], names: Sequence[str] | None = None) -> Index:
    """One axis a dimension, the constant 0 where the extent is 1."""
    names = names or ("i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t")
    return tuple(
        loops.axis(names[k % len(names)], d) if d != 1 else loops.const(0) for k, d in enumerate(shape)
    )
