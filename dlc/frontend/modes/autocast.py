"""`dlc.autocast`: contractions in a half type, while parameters, their gradients and sums keep float32.

The casts are ordinary nodes, made where a contraction is: what was computed under autocast is differentiated in the
dtypes it was computed in, wherever `backward()` is called, and the cast's own derivative brings the gradient of a
float32 parameter back to float32.
"""

from __future__ import annotations

import contextlib
from typing import Any

from dlc.base.errors import DTypeError
from dlc.frontend.core.location import here
from dlc.frontend.core.operands import as_dtype, promote
from dlc.frontend.core.trace import state
from dlc.ir.dtypes import DType, bfloat16, float32
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node


class autocast(contextlib.ContextDecorator):
    """Context and decorator: matrix products, convolutions and attention take and give `dtype`, a half type.

    They still accumulate in float32. Normalisations, softmax and losses compute in float32; parameters, their
    gradients and running statistics stay as they are; other operations follow their operands. `enabled=False` inside
    gives the ordinary rules back. As in PyTorch, but there is one for all devices, so no device is named.
    """

    def __init__(self, dtype: Any = bfloat16, *, enabled: bool = True):
        if isinstance(dtype, str) or not (dtype := as_dtype("autocast", dtype)).is_half:
            raise DTypeError(f"autocast: the dtype is dlc.bfloat16 or dlc.float16, not {dtype!r}\n  at {here()}")
        self.dtype, self.enabled = dtype, enabled

    def __enter__(self) -> None:
        # on the thread's stack, not on this object: one decorator serves all threads
        state.autocast = (self.dtype if self.enabled else None, *state.autocast)

    def __exit__(self, *exc) -> None:
        state.autocast = state.autocast[1:]

    def __repr__(self) -> str:
        return f"dlc.autocast(dlc.{self.dtype.name}{'' if self.enabled else ', enabled=False'})"


def get_autocast_dtype() -> DType | None:
    """The half type that contractions take here; None outside `autocast`."""
    return state.autocast[0]


def factors(*operands: Any) -> list[Node]:
    """A contraction's operands in their common dtype, which under autocast is the half type for float32 and narrower
    floats."""
    nodes = promote(*operands)
    half = state.autocast[0]
    dtype = nodes[0].dtype
    if half is None or not (dtype is float32 or dtype.is_half):
        return nodes
    return [build.cast(n, half, here()) for n in nodes]
