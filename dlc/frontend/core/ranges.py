"""Integers that must lie in a range: positions along an axis, class numbers. Those that only a run knows are marked
for `dlc.debug()`, to which they are what the user gave.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, IndexOutOfRange, TraceError
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.core.trace import state
from dlc.ir.graph.graph import Node, make
from dlc.runtime.devices import CPU


def class_numbers(name: str, x: Any, classes: int, but: int | None = None) -> Tensor:
    """`x`, of which every element must be in [0, classes), or `but`.

    Raises IndexOutOfRange where the values are at hand in host memory: nothing is computed, and no GPU waited for, to
    look at them. Other values are marked for `dlc.debug()`.
    """
    node = as_node(x)
    if not node.dtype.is_int:
        raise DTypeError(f"{name}: class numbers are integers, not {node.dtype.name} {node.shape}")
    values = _at_hand(x, node)
    if values is not None:
        check_classes(values, classes, but, f"{name}: ")
    else:
        allowed = {"below": classes} if but is None else {"below": classes, "but": but}
        node = make("stop_gradient", (node,), **allowed)
    return wrap(node)


def _at_hand(x: Any, node: Node) -> np.ndarray | None:
    if not isinstance(x, Tensor):
        return np.asarray(x)
    if state.trace is not None:
        try:
            return x.numpy()  # what depends on no input
        except TraceError:
            return None
    return x.numpy() if node.data is not None and node.data.device == CPU else None


def check_classes(values: np.ndarray, classes: int, but: int | None, before: str = "", after: str = "") -> None:
    """Raise IndexOutOfRange, in a message between two texts, for the first value outside [0, classes) but `but`."""
    bad = (values < 0) | (values >= classes)
    bad = bad if but is None else bad & (values != but)
    if bad.any():
        raise IndexOutOfRange(f"{before}class {values[bad][0]} is outside the {classes} classes{after}")


def marked_positions(index: Node, extent: int, axis: int, shape: tuple[int, ...], least: int | None = None) -> Node:
    """`index`, whose elements are to be in [least, extent) (by default [-extent, extent)) on an axis of `shape`."""
    least = -extent if least is None else least
    return make("stop_gradient", (index,), least=least, below=extent, axis=axis, of=shape)


def check_positions(values: np.ndarray, least: int, extent: int, axis: int, shape: tuple[int, ...],
                    after: str = "") -> None:
    """Raise IndexOutOfRange, in a message with `after` at its end, for a position outside [least, extent)."""
    if not values.size:
        return
    for worst in (int(values.min()), int(values.max())):
        if not least <= worst < extent:
            raise IndexOutOfRange(f"index: {worst} is outside axis {axis} of extent {extent} (shape {shape}){after}")
