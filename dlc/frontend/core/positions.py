"""Positions along an axis that only a run knows: marked for `dlc.debug()`, to which they are what the user gave."""

from __future__ import annotations

import numpy as np

from dlc.base.errors import IndexOutOfRange
from dlc.ir.graph.graph import Node, make


def marked(index: Node, extent: int, axis: int, shape: tuple[int, ...], low: int | None = None) -> Node:
    """`index`, whose elements are to be in [low, extent) (by default [-extent, extent)) on an axis of `shape`."""
    return make("stop_gradient", (index,), low=-extent if low is None else low, below=extent, axis=axis, of=shape)


def check(values: np.ndarray, low: int, extent: int, axis: int, shape: tuple[int, ...], after: str = "") -> None:
    """Raise IndexOutOfRange, in a message with `after` at its end, for a position outside [low, extent)."""
    if not values.size:
        return
    for worst in (int(values.min()), int(values.max())):
        if not low <= worst < extent:
            raise IndexOutOfRange(f"index: {worst} is outside axis {axis} of extent {extent} (shape {shape}){after}")
