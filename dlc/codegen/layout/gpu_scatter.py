"""Scatters into small tables on a GPU: the updates are dealt out to several tables, whose sum is the result.

A table of few rows has few owners (`lower_gpu_scatter`), and all of them would wait for one block's walk.
"""

from __future__ import annotations

import math

from dlc.codegen.cost.gpu_scatter import SHARED, is_binned, rows_and_columns
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, make

LEAST = 64  # updates of a table


def deal_out(node: Node, ins: tuple[Node, ...], multiprocessors: int) -> Node | None:
    """A scatter that adds as one into several tables, or None where it should stay as it is."""
    base, index, updates = ins
    count = index.type.size
    if node.attrs["combine"] != "add" or node.attrs["axis"] != 0 or not node.dtype.is_float or not is_binned(node):
        return None
    n, suffix = node.shape[0], node.shape[1:]
    rows, columns, _ = rows_and_columns(node)
    across = -(-math.prod(suffix) // columns)
    if 2 * across * -(-n // rows) > multiprocessors:
        return None
    held = SHARED // (columns * node.dtype.compute.itemsize)  # rows of a block of the dealt-out tables
    limit = min(2 * multiprocessors // across * held // n, count // LEAST)
    tables = next((p for p in range(limit, 1, -1) if count % p == 0), 1)
    if tables < 2:
        return None
    dtype = node.dtype.compute
    at = build.cast(build.reshape(index, (tables, count // tables)), dtypes.int64)
    if index.dtype is dtypes.uint64:  # large values must not turn negative
        at = build.cast(build.op("min", build.reshape(index, at.shape), build.const(n - 1, index.dtype, at.shape)),
                        dtypes.int64)
    at = build.op("min", build.op("max", at, build.like(at, 0)), build.like(at, n - 1))
    at = build.op("add", at, build.op("mul", build.iota(at.shape, 0), build.like(at, n)))
    wide = build.cast(build.reshape(updates, (count, *suffix)), dtype)
    empty = build.const(0, dtype, (tables * n, *suffix))
    filled = make("scatter", (empty, build.reshape(at, (count,)), wide), node.loc, axis=0, combine="add")
    total = build.sum_(build.reshape(filled, (tables, n, *suffix)), [0], node.loc)
    return build.cast(build.op("add", build.cast(base, dtype), total), node.dtype)
