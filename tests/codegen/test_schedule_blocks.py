"""Blocks of register tiles: threads finish together, and panels stay in the cache."""

from __future__ import annotations

import pytest

from dlc.codegen.cost.cpu_blocking import FORK_NS, blocks, turn

CACHE = 1 << 20


def finish(m: int, n: int, outer: int, mb: int, nb: int, threads: int) -> float:
    """When the last of the threads is done, in units of its even share, with tasks taken in order."""
    done = [0] * threads
    for _ in range(outer):
        for column in range(0, n, nb):
            for row in range(0, m, mb):
                done[done.index(min(done))] += min(mb, m - row) * min(nb, n - column)
    return max(done) * threads / (m * n * outer)


@pytest.mark.parametrize("threads", [2, 4, 8])
@pytest.mark.parametrize("m, n, outer", [(38, 96, 1), (38, 24, 1), (23, 625, 1), (358, 41, 1), (25, 41, 5), (64, 24, 1),
                                         (1, 163, 1), (2, 90, 1)])
def test_threads_finish_together(m, n, outer, threads):
    mb, nb = blocks(m, n, outer, 40_000, 25_000, 5000.0, threads, CACHE)
    assert finish(m, n, outer, mb, nb, threads) < 1.08
    assert mb * 40_000 <= CACHE // 2


def test_one_thread_has_no_more_blocks_than_the_cache_asks_for():
    assert blocks(38, 96, 1, 10_000, 10_000, 5000.0, 1, CACHE) == (38, 96)
    assert blocks(100, 96, 1, 20_000, 10_000, 5000.0, 1, CACHE) == (25, 96)


def test_row_panels_larger_than_the_cache_are_taken_one_by_one():
    assert blocks(10, 7, 1, 3 * CACHE, 10_000, 5000.0, 2, CACHE)[0] == 1


def test_turns():
    assert turn(100, FORK_NS - 1, 2) == 100
    assert turn(100, 1e6, 1) == 100
    assert turn(100, 1e6, 2) == 7
    assert turn(100, 1e6, 2, cut=True) == 1
