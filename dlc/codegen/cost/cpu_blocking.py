"""How the register tiles of a contraction are cut into tasks, and how many tasks of a kernel a thread takes at a time.

A task is a block of tiles: its row panels stay in the second-level cache while the column panels stream by. So few
large blocks fetch little; but only blocks that can be dealt out evenly let all threads finish at the same time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

FORK_NS = 4000  # kernels estimated to take less run on the calling thread
TURN_NS = 200  # taking a task
ROWS_NS = 0.15  # fetching a byte of a row panel, before anything can be computed
COLUMNS_NS = 0.04  # of a column panel, for the most part while others are multiplied
UNEVEN = 0.1  # by how much a task may take longer than another one, for reasons that are not ours
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64)


def turn(tasks: int, work_ns: float, threads: int, cut: bool = False) -> int:
    """Tasks that a thread takes at a time. Small kernels stay on one thread; others are dealt out in a few pieces a
    thread, the more the longer they take: a piece costs a contended atomic, too few leave threads waiting for each
    other. `cut`: the tasks are such pieces."""
    if work_ns < FORK_NS or threads == 1:
        return tasks
    if cut:
        return 1
    pieces = 1 if work_ns < 30_000 else 2 if work_ns < 100_000 else 8
    return max(1, -(-tasks // (threads * pieces)))


@functools.lru_cache(4096)
def blocks(m_tiles: int, n_tiles: int, outer: int, row_bytes: int, column_bytes: int, tile_ns: float, threads: int,
           cache: int) -> tuple[int, int]:
    """Tiles of a task along the rows and along the columns, for panels of so many bytes and tiles that take `tile_ns`;
    `outer` independent products are alike. Row panels may fill half of `cache`."""
    tallest = max(1, min(m_tiles, cache // 2 // (row_bytes + 1)))
    least = -(-m_tiles // tallest)
    if threads == 1:
        return -(-m_tiles // least), n_tiles
    most = max(16 * threads, 2 * least * outer)
    heights = {*_sizes(m_tiles, least), *range(max(1, tallest - 4), tallest + 1)}
    best, best_cost = (1, 1), math.inf
    for mb in sorted(heights, reverse=True):
        for nb in _sizes(n_tiles, 1):
            m_blocks, n_blocks = -(-m_tiles // mb), -(-n_tiles // nb)
            if outer * m_blocks * n_blocks > most:
                continue
            fetched = n_blocks * m_tiles * row_bytes * ROWS_NS + m_blocks * n_tiles * column_bytes * COLUMNS_NS
            cost = _slowest(m_tiles, n_tiles, mb, nb, outer, tile_ns, threads) + outer * fetched / threads
            if cost < best_cost:
                best, best_cost = (mb, nb), cost
    return best


def _sizes(tiles: int, least: int) -> Sequence[int]:
    """Sizes of `least` or more blocks."""
    counts = {min(tiles, max(least, c)) for c in (*COUNTS, tiles)}
    return sorted({-(-tiles // c) for c in counts}, reverse=True)


def _slowest(m_tiles: int, n_tiles: int, mb: int, nb: int, outer: int, tile_ns: float, threads: int) -> float:
    """When the last thread is done, if each takes the next task as soon as it can."""
    m_blocks, n_blocks = -(-m_tiles // mb), -(-n_tiles // nb)
    heights = [mb] * (m_blocks - 1) + [m_tiles - mb * (m_blocks - 1)]
    widths = [nb] * (n_blocks - 1) + [n_tiles - nb * (n_blocks - 1)]
    work = [h * w * tile_ns for w in widths for h in heights] * outer
    done = [0.0] * threads
    for took in work:
        done[done.index(min(done))] += took + TURN_NS
    return max(done) + UNEVEN * max(work)
