"""How many tiles of a matrix unit a contraction of pairs computes at once.

A product of two tiles takes a cycle a row; a sum is ready for the next one after `LATENCY` cycles. Eight registers hold
the sums and the operands: `stack` tiles above one another and `wide` beside one another share each operand that is
loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dlc.ir.loops.ir import TILE

SHORT_RUN = 4  # rows at one stride that are worth a tile


SUMS = 6  # registers that may hold sums, where fewer would wait for each other
REGISTERS = 8
LATENCY = 52
LEAST = 8  # rows and columns below which tiles do not pay
SHORT = 16  # pairs of the inner range
NS_PER_FLOP = 1 / 1500  # with what memory and the epilogue take


class AmxTiles(NamedTuple):
    """`stack` x `wide` tiles of sums."""

    stack: int
    wide: int


def suits(m: int, n: int, k: int) -> bool:
    """Is a product of these sizes (k counts pairs) better computed in tiles than in vectors?"""
    return min(m, n) >= LEAST and k >= SHORT


def best(m: int, n: int, k: int, run: int) -> AmxTiles:
    """The tiles with the least estimated time for m rows, in runs of `run` rows at one stride."""
    return min(costs(m, n, k, run), key=lambda found: found[1])[0]


def costs(m: int, n: int, k: int, run: int) -> Iterator[tuple[AmxTiles, float]]:
    """All tiles worth a thought with the estimated cycles of the whole contraction."""
    rows = height_of(run)
    down = -(-run // rows) * (m // run)
    most = REGISTERS // 2 if REGISTERS // 2 * rows >= LATENCY else SUMS
    for stack in range(1, most + 1):
        for wide in range(1, most // stack + 1):
            if (stack > down and stack > 1) or (wide > 1 and (wide - 1) * TILE >= n):
                continue
            sums = stack * wide
            again = 1 if REGISTERS - sums > stack else wide  # how often the rows' operand is loaded
            loads = stack * rows * again + wide * TILE  # two lines a cycle
            busy = max(sums * rows, loads / 2, LATENCY) + loads / 8 + (stack * rows + wide * TILE) / 2
            count = -(-down // stack) * -(-n // (wide * TILE))
            yield AmxTiles(stack, wide), count * (-(-k // TILE) * busy + 4 * sums * rows + 100)


def height_of(run: int) -> int:
    """Rows of a tile where `run` rows are cut in tiles of even heights."""
    return -(-run // -(-run // TILE))


def step_of(extent: int) -> int:
    """The largest number of pairs up to a tile's that divides the extent."""
    return max(d for d in range(1, min(extent, TILE) + 1) if extent % d == 0)
