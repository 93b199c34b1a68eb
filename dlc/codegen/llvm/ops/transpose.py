"""Transposing a square tile of register rows by a network of shuffles.

Every shuffle is one instruction on x86: first the 128-bit pieces are transposed in place (unpack low and high), then
the pieces change rows (vshuff32x4, vperm2f128). A 16x16 tile of f32 takes 4 x 16 shuffles.
"""

from __future__ import annotations

from dlc.codegen.llvm.builder import Builder, Value
from dlc.ir.dtypes import DType


def transpose(b: Builder, rows: list[Value], dtype: DType) -> list[Value]:
    """The columns of a tile, as vectors of len(rows) lanes."""
    lanes = rows[0].lanes
    if len(rows) != lanes or lanes & (lanes - 1):
        return _by_elements(b, rows, dtype)
    piece = max(1, min(lanes, 128 // max(dtype.bits, 8)))
    columns: list[Value | None] = [None] * lanes
    # after the first part: for each column of a piece, one vector for each group of `piece` rows
    groups = [_interleave(b, rows[g : g + piece], piece, dtype) for g in range(0, lanes, piece)]
    for c in range(piece):
        for p, vector in _gather_pieces(b, [g[c] for g in groups], piece, dtype):
            columns[p * piece + c] = vector
    return columns


def _interleave(b: Builder, rows: list[Value], piece: int, dtype: DType) -> list[Value]:
    """`piece` rows -> `piece` vectors; number c holds in each 128-bit piece that piece's column c."""
    if len(rows) == 1:
        return rows
    lanes, half = rows[0].lanes, len(rows) // 2
    low, high = [], []
    for i in range(half):
        for out, start in ((low, 0), (high, piece // 2)):
            order = []
            for p in range(0, lanes, piece):
                for j in range(p + start, p + start + piece // 2):
                    order += [j, lanes + j]
            out.append(b.shuffle(rows[i], rows[i + half], tuple(order), dtype))
    return _interleave(b, low, piece, dtype) + _interleave(b, high, piece, dtype)


def _gather_pieces(b: Builder, vectors: list[Value], piece: int, dtype: DType) -> list[tuple[int, Value]]:
    """(p, piece number p of every vector side by side) for all p."""
    if len(vectors) == 1:
        return [(0, vectors[0])]
    lanes = vectors[0].lanes
    found = []
    for odd in (0, 1):
        order: list[int] = []
        for side in (0, lanes):
            for p in range(odd * piece, lanes, 2 * piece):
                order += range(side + p, side + p + piece)
        halves = [b.shuffle(x, y, tuple(order), dtype) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
        found += [(2 * p + odd, v) for p, v in _gather_pieces(b, halves, piece, dtype)]
    return found


def _by_elements(b: Builder, rows: list[Value], dtype: DType) -> list[Value]:
    columns = []
    for c in range(rows[0].lanes):
        column = b.zero(dtype, len(rows))
        for r, row in enumerate(rows):
            column = b.insert(column, b.extract(row, c, dtype), r, dtype)
        columns.append(column)
    return columns
