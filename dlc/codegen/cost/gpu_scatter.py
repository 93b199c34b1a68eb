"""Which scatters count into lists by bins, and how large the bins are."""

from __future__ import annotations

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node
from dlc.ir.sum_blocks import BLOCK
from dlc.passes.fuse.access import product_of

SHARED = 64 << 10  # bytes of results in a block
LEAST_UPDATES, LEAST_COLUMNS = 256, 32


def rows_and_columns(node: Node) -> tuple[int, int, int]:
    """(rows, columns, block): what a block holds, and its threads."""
    axis, shape = node.attrs["axis"], node.shape
    wide = product_of(shape[axis + 1 :])
    columns = min((256, 128, 64), key=lambda c: -(-wide // c) * c * (1 + 16 / c))
    rows = max(1, min(shape[axis], SHARED // (columns * held_dtype(node).itemsize), 1 << 15))
    ranges = -(-shape[axis] // rows)
    return -(-shape[axis] // ranges), columns, columns


def is_binned(node: Node) -> bool:
    """Does a scatter have enough updates, of enough columns, to be worth a list?"""
    axis = node.attrs["axis"]
    return node.inputs[1].type.size >= LEAST_UPDATES and product_of(node.shape[axis + 1 :]) >= LEAST_COLUMNS


def held_dtype(node: Node) -> DType:
    """The type of the results that a block holds: sums of many floats each are wider than what they become."""
    dtype = node.dtype.compute
    many = node.inputs[1].type.size >= BLOCK * node.shape[node.attrs["axis"]]
    return dtypes.float64 if many and node.attrs["combine"] == "add" and dtype.is_float else dtype
