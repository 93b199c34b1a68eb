"""The strides at which a view reads memory."""

from __future__ import annotations

import weakref
from collections.abc import Hashable

from dlc.ir.graph.graph import Node, settings
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import coefficient, simplify
from dlc.ir.loops.ir import Buffer, under_casts
from dlc.passes.views.elements import Elements, strides_in_memory
from dlc.passes.views.views import base_of, fresh_index

_strides: weakref.WeakKeyDictionary[Node, tuple[int | None, ...]] = weakref.WeakKeyDictionary()
_strides_of_view: dict[Hashable, tuple[int | None, ...]] = {}
KNOWN_VIEWS = 4096  # of a program with more, they are found anew


def strides_of(node: Node) -> tuple[int | None, ...]:
    """The memory stride of each axis of a view of memory, in elements; None where it is not one number. An element of
    pairs that lie side by side in memory is a word."""
    found = _strides.get(node)
    if found is None:
        key = view_key(node)
        found = _strides_of_view.get(key)
        if found is None:
            if len(_strides_of_view) >= KNOWN_VIEWS:
                _strides_of_view.clear()
            found = _strides_of_view[key] = tuple(_strides_of(node))
        _strides[node] = found
    return found


def view_key(node: Node) -> Hashable:
    """What the strides of a view follow from: equal for the same view of the operands of a model's equal layers."""
    base, views = base_of(node), []
    while node is not base:
        views.append((node.op, node.shape, settings(node)))
        node = node.inputs[0]
    return base.type, strides_in_memory(base), tuple(views)


def _strides_of(node: Node) -> list[int | None]:
    base = base_of(node)
    buffer = Buffer("probe", base.dtype, (base.type.size,))
    index = fresh_index(node.shape)
    value = under_casts(Elements(lambda x: buffer if x is base else None).value(node, index))
    parts = value.args if value.op == "pair" else (value,)
    if any(x.op != "load" or len(x.args) > 1 or x.attr is not buffer for x in parts):
        return [None] * node.ndim
    offset = simplify(parts[0].args[0])
    strides = [0 if i.op == "const" else coefficient(offset, i) for i in index]
    if value.op != "pair":
        return strides
    words = simplify(parts[1].args[0] - offset) is loops.const(1) and not any(s is None or s % 2 for s in strides)
    return [s // 2 for s in strides] if words else [None] * node.ndim  # type: ignore[operator]
