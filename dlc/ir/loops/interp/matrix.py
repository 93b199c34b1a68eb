"""Mma, TileMma and StoreTile on the interpreter's memory: lists of NumPy scalars, None where nothing was
written.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dlc.base.errors import InterpError
from dlc.ir import dtypes
from dlc.ir.loops.instructions import Mma, StoreTile, TileMma
from dlc.ir.loops.interp.values import dot2, tf32
from dlc.ir.loops.ir import Expr


def multiply(stmt: Mma, parts: list[tuple]) -> None:
    """An Mma by one group: each thread gave (sums, their place, a, its place, b, its place)."""
    _, _, a, a_at, b, b_at = parts[0]
    if any(part[3] != a_at or part[5] != b_at for part in parts):
        raise InterpError("the threads of a group multiply different tiles")
    if stmt.a_order == "sums":
        rows = _held(stmt.a, parts, stmt.m, stmt.k)
    else:
        rows = _tile(stmt.a, a, a_at, stmt.m, stmt.k, stmt.a_order)
    columns = _tile(stmt.b, b, b_at, stmt.n, stmt.k, stmt.b_order)
    product = rows @ columns.T
    for thread, (sums, at, *_) in enumerate(parts):
        i = thread % 32
        for p, j, r in itertools.product(range(stmt.m * 2 // stmt.lanes), range(stmt.n // 8), range(4)):
            row, column = 16 * (p + thread // 32) + i // 4 + 8 * (r // 2), 8 * j + 2 * (i % 4) + r % 2
            place = at + (p * (stmt.n // 8) + j) * 4 + r
            before = 0 if stmt.fresh else sums[place]
            sums[place] = product.dtype.type(before + product[row, column])


def multiply_tiles(stmt: TileMma, sums: list, at: int, a: Sequence, a_at: int, b: Sequence, b_at: int) -> None:
    """A TileMma: two bfloat16 of a pair at a time, the high halves first."""
    m, n = stmt.buffer.shape[-2:]
    rows, columns = _words(stmt.a, a, a_at, m, stmt.k, stmt.a_stride), _words(stmt.b, b, b_at, stmt.k, n, stmt.b_stride)
    for i in range(m):
        row = np.array(sums[at + i * n : at + (i + 1) * n], np.float32)
        for p in range(stmt.k):
            row = dot2(rows[i, p], columns[p], row)
        sums[at + i * n : at + (i + 1) * n] = list(row)


def drain(stmt: StoreTile, memory: list, start: int, sums: list, at: int) -> None:
    """A StoreTile: a tile of sums to rows of memory."""
    (m, n), stride = stmt.source.shape[-2:], stmt.buffer.shape[-1]
    for i in range(m):
        memory[start + i * stride : start + i * stride + n] = sums[at + i * n : at + (i + 1) * n]


def _held(e: Expr, parts: list[tuple], m: int, k: int) -> np.ndarray:
    """A tile that the registers of a group hold as they hold sums, as [row, inner position]."""
    out = np.empty((m, k), np.float32)
    for thread, (_, _, memory, start, *_) in enumerate(parts):
        i = thread % 32
        for j in range(k // 8):
            for r in range(4):
                value = memory[start + 4 * j + r]
                if value is None:
                    raise InterpError(f"an Mma reads {e.attr.name}[{j}, {r}] of a thread where nothing was written")
                out[16 * (thread // 32) + i // 4 + 8 * (r // 2), 8 * j + 2 * (i % 4) + r % 2] = value
    return tf32(out) if e.dtype is dtypes.float32 else out


def _tile(e: Expr, memory: list, start: int, count: int, k: int, order: str) -> np.ndarray:
    """A tile of shared memory as [row or column, inner position]."""
    shape = e.attr.shape
    out = np.empty((count, k), np.float32)
    for x in range(count):
        for y in range(k):
            if order[1] == "k":
                at = start + x * shape[-1] + y
            elif e.dtype is dtypes.float32 and not e.attr.swizzled:
                at = start + y * shape[-1] + x
            else:
                width = shape[-1]
                at = start + (x // width) * shape[-2] * width + y * width + x % width
            value = memory[at]
            if value is None:
                raise InterpError(f"an Mma reads element {at} of {e.attr.name} where nothing was written")
            out[x, y] = value
    return tf32(out) if e.dtype is dtypes.float32 else out


def _words(e: Expr, memory: Sequence, start: int, rows: int, columns: int, stride: int) -> np.ndarray:
    """A tile of pairs."""
    halves = 1 if e.dtype is dtypes.uint32 else 2
    out = np.empty((rows, columns), np.uint32)
    for i in range(rows):
        row = memory[start + i * stride : start + i * stride + columns * halves]
        if len(row) < columns * halves or any(x is None for x in row):
            raise InterpError(f"a TileMma reads outside {e.attr.name}, or where nothing was written")
        out[i] = np.array(row, e.dtype.np).view(np.uint32)
    return out
