"""How long a contraction of half floats takes with which tile: what schedules and the cutting of inner ranges go by.

Blocks run in waves of one a multiprocessor; a tile takes its steps and, once, the time to start and to write results:

    microseconds = waves * (steps * step_us + tile_us)

On an H100 (bulk copies) this is within 4% for 128 x 256 in seven products and convolutions with 16 to 72 steps and 1 to
8 waves, and for 128 x 128 in five; other tiles were fitted to two or three measurements, (256, 64) and (64, 64) guessed
from their neighbours. Long products lose 5% more to the clock. Elsewhere only the proportions count. The tiles of
float32 (as TF32) are estimated: a scheduler's clock for each instruction, 6.5 of its matrix unit for a product. Scalar
code (SIMT) is within 5% for 64 x 128 in six convolutions; smaller tiles are fitted to one or two, or guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from dlc.ir.dtypes import DType, float32

STAGED = 16 << 10  # bytes of results in shared memory, without what their rows are longer


INNER = 64  # of a step of halves; float32 has half of it
ROW = 128  # bytes of the inner range of a step
LONGER = 16  # bytes that tiles of float32 need more for a step's inner position
MOST_STAGES = 6
ABOUT = 1.05  # times that do not differ


class MmaTile(NamedTuple):
    """Rows and columns, groups of threads along both, microseconds of a step and of a tile besides."""

    bm: int
    bn: int
    gm: int
    gn: int
    step_us: float
    tile_us: float


WGMMA = (MmaTile(128, 256, 2, 1, 0.647, 3.9), MmaTile(128, 192, 2, 1, 0.473, 3.5), MmaTile(128, 128, 2, 1, 0.36, 3.0),
         MmaTile(256, 64, 2, 1, 0.36, 3.0), MmaTile(128, 64, 2, 1, 0.31, 1.6), MmaTile(64, 64, 1, 1, 0.25, 1.5))
# mma.sync, not measured: an A100's multiprocessor has half the multipliers
MMA = (MmaTile(128, 128, 2, 4, 0.95, 4.0), MmaTile(64, 128, 2, 4, 0.6, 3.0), MmaTile(64, 64, 2, 2, 0.36, 2.0),
       MmaTile(32, 64, 2, 2, 0.25, 1.5))
HIGH = MmaTile(256, 128, 4, 2, 2.2, 4.0)
TF32 = (MmaTile(128, 256, 2, 4, 2.2, 4.0), HIGH, MmaTile(128, 128, 2, 4, 1.2, 3.0),
        MmaTile(256, 64, 4, 2, 1.2, 3.0), MmaTile(64, 128, 2, 4, 0.75, 2.5), MmaTile(128, 64, 4, 2, 0.75, 2.5),
        MmaTile(64, 64, 2, 2, 0.55, 2.0))


class Simt(NamedTuple):
    """Rows, columns and inner range of a step, results of a thread along both, blocks that registers are to suffice
    for; GFLOP/s of a multiprocessor that is full, microseconds of a step of a block alone."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    blocks: int
    gflops: float
    lone_us: float


# the largest first: of several about as fast it reads least
SIMT = (Simt(64, 128, 16, 8, 8, 2, 320, 1.4), Simt(128, 64, 16, 8, 8, 2, 320, 1.4),
        Simt(64, 64, 16, 8, 8, 4, 300, 1.4), Simt(64, 64, 16, 8, 4, 4, 270, 1.0),
        Simt(64, 32, 16, 8, 4, 6, 250, 0.95), Simt(32, 32, 16, 4, 2, 1, 150, 0.7))


class MatrixUnit(Protocol):
    """What the choice of tiles needs to know of a target (codegen's GpuTarget)."""

    arch: str
    sm_count: int
    shared_bytes: int
    tf32: bool


def tiles_for(dtype: DType, target: MatrixUnit) -> Sequence[MmaTile]:
    """The tiles by which matrix instructions multiply `dtype`; none where there are no such instructions."""
    if dtype.is_half:
        return WGMMA if target.arch == "sm_90a" else MMA
    return [t for t in TF32 if stages_for(t, dtype, target) >= 3] if dtype is float32 and target.tf32 else ()


def stages_for(tile: MmaTile, dtype: DType, target: MatrixUnit) -> int:
    """How many stages of a tile's ring fit beside its results."""
    stage = (tile.bm + tile.bn) * ROW + (0 if dtype.is_half else 2 * INNER * LONGER)
    return min(MOST_STAGES, (target.shared_bytes - 1024 - STAGED - 32 * tile.bm) // stage)


def tile_times(m: int, n: int, k: int, batch: int, sm_count: int,
               tiles: Sequence[MmaTile]) -> Iterator[tuple[float, MmaTile]]:
    """(microseconds, tile) of every tile."""
    for tile in tiles:
        if tile is HIGH and m % tile.bm:  # a condition for each of many pieces of rows: too many registers
            continue
        waves = -(-batch * -(-m // tile.bm) * -(-n // tile.bn) // sm_count)
        yield waves * (math.ceil(k / INNER) * tile.step_us + tile.tile_us), tile


def best_tile(m: int, n: int, k: int, batch: int, sm_count: int, tiles: Sequence[MmaTile]) -> tuple[float, MmaTile]:
    """The fastest tile; of several about as fast the largest, which reads least."""
    found = list(tile_times(m, n, k, batch, sm_count, tiles))
    limit = ABOUT * min(us for us, _ in found)
    return next((us, tile) for us, tile in found if us <= limit)


def best_simt(m: int, n: int, k: int, batch: int, sm_count: int) -> tuple[float, Simt]:
    """The fastest tile of scalar code, which has as many blocks on a multiprocessor as there are: these together take
    what their multiplications take, or what one takes that waits for its memory."""
    found = []
    for tile in SIMT:
        blocks = -(-batch * -(-m // tile.bm) * -(-n // tile.bn) // sm_count)
        step = blocks * tile.bm * tile.bn * tile.bk * 2 / tile.gflops / 1e3
        found.append((-(-k // tile.bk) * max(tile.lone_us, step), tile))
    limit = ABOUT * min(us for us, _ in found)
    return next((us, tile) for us, tile in found if us <= limit)
