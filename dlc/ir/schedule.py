"""Schedules: how a kernel's loops are tiled, vectorised and shared out. Data only; chosen in `codegen/schedule.py`.

`lanes` is the vector width in elements; 0 asks for the plain serial loops that the `loops` dump shows and the
interpreter takes as the meaning of the scheduled kernel.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Map:
    """Element by element: `chunk` elements (or rows of the inner axis) a task. `tile` transposes through a
    register tile of tile x tile elements when reads and writes run along different axes."""

    lanes: int = 0
    chunk: int = 0
    tile: int = 0


@dataclass(frozen=True)
class Rows:
    """One row after another: `rows` rows a task, vectors along the inner axis, `unroll` accumulators."""

    lanes: int = 0
    unroll: int = 1
    rows: int = 0


@dataclass(frozen=True)
class Columns:
    """Vectors across rows (the group's row axis number `axis`): lanes * unroll rows a task, inner axes in order."""

    lanes: int
    unroll: int
    axis: int


@dataclass(frozen=True)
class Contract:
    """A register tile of mr x nr results; a task is mb x nb tiles. Packed operands are read from panels."""

    lanes: int = 0
    mr: int = 1
    nr: int = 1
    mb: int = 1
    nb: int = 1
    swap: bool = False  # the second operand gives the rows, the first the vectors
    pack_a: bool = False
    pack_b: bool = False


@dataclass(frozen=True)
class Plain:
    """Serial loops, vectors along the last axis where that is independent."""

    lanes: int = 0


Schedule = Map | Rows | Columns | Contract | Plain
