"""Which scatters on a CPU are cut into pieces or hold their results in float64."""

from __future__ import annotations

from dlc.ir import dtypes
from dlc.ir.graph.graph import Node
from dlc.ir.sum_blocks import BLOCK, limit

TASKS = 16  # pieces that a scatter is cut into when it is large enough


def is_long_scatter(node: Node) -> bool:
    """Does a scatter add so many floats, or round so often, that its results are to be held in float64 meanwhile?"""
    combine, many = node.attrs["combine"], node.inputs[1].type.size > limit(BLOCK)
    if node.dtype.is_half:
        return combine in ("add", "mul")
    return node.dtype is dtypes.float32 and combine == "add" and many
