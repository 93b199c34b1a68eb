"""Buffers and the caching allocator."""

import gc
import random
import threading
import weakref

import numpy as np
import pytest

from dlc.runtime.cpu import memory


@pytest.fixture(autouse=True)
def empty_cache():
    gc.collect()
    memory.release_cached()
    yield
    gc.collect()
    memory.release_cached()


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 1000, 4096, 100_000, 1 << 20, (2 << 20) - 1, 2 << 20, 5_000_001])
def test_aligned_and_usable(nbytes):
    buffer = memory.allocate(nbytes)
    assert buffer.nbytes == nbytes and buffer.device == "cpu"
    capacity = memory.capacity_for(nbytes)
    assert buffer.address % (memory.HUGE_PAGE if capacity >= memory.HUGE_PAGE else 64) == 0
    view = memory.as_ndarray(buffer, (nbytes,), np.uint8)
    view[:] = 170
    assert (view == 170).all()


def test_size_classes_waste_little():
    for nbytes in (*range(1, 5000), *(random.Random(0).randrange(1, 1 << 40) for _ in range(2000))):
        capacity = memory.capacity_for(nbytes)
        assert capacity >= nbytes and capacity % 64 == 0
        assert capacity - nbytes < max(64, nbytes / 8)
        assert memory.capacity_for(capacity) == capacity


def test_freed_memory_comes_back():
    before = memory.stats()
    buffer = memory.allocate(3 << 20)
    address = buffer.address
    assert memory.stats().live_bytes - before.live_bytes == 3 << 20
    del buffer
    assert memory.stats().cached_bytes == 3 << 20 and memory.stats().live_bytes == before.live_bytes
    buffer = memory.allocate((3 << 20) - 5)
    assert buffer.address == address and memory.stats().cached_blocks == 0
    del buffer
    assert memory.release_cached() == 3 << 20
    assert memory.stats() == before


def test_the_cache_has_a_limit():
    limit = memory._cache_limit
    base = memory.stats().live_bytes
    memory.set_cache_limit(8 << 20)
    try:
        buffers = [memory.allocate(2 << 20) for _ in range(10)]
        small = [memory.allocate(1000) for _ in range(20_000)]
        assert memory.stats().live_bytes - base >= 20 << 20
        del buffers
        assert memory.stats().cached_bytes <= 8 << 20
        del small
        assert memory.stats().cached_bytes <= (8 << 20) + 256 * 1024
        assert memory.stats().held_bytes <= base + (9 << 20)
    finally:
        memory.set_cache_limit(limit)


def test_views_keep_the_buffer_alive():
    buffer = memory.allocate(4096)
    alive = weakref.ref(buffer)
    view = memory.as_ndarray(buffer, (32, 32), np.float32)
    assert view.__array_interface__["data"] == (buffer.address, False)
    part = view[3:, ::2].T
    del buffer, view
    gc.collect()
    assert alive() is not None
    part[:] = 1
    del part
    gc.collect()
    assert alive() is None


def test_views_of_every_shape():
    buffer = memory.allocate(100)
    assert memory.as_ndarray(buffer, (), np.float64).shape == ()
    assert memory.as_ndarray(buffer, (3, 0, 2), np.int64).shape == (3, 0, 2)
    assert memory.as_ndarray(memory.allocate(0), (0,), np.int8).size == 0
    assert memory.as_ndarray(buffer, (50,), np.dtype("V2")).dtype == np.dtype("V2")
    with pytest.raises(ValueError, match=r"shape \(26,\) and dtype float32 needs 104 bytes"):
        memory.as_ndarray(buffer, (26,), np.float32)
    with pytest.raises(ValueError, match="not in host memory"):
        memory.as_ndarray(memory.Buffer(4096, 8, "cuda"), (2,), np.float32)


def test_wrap_an_array():
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    buffer = memory.from_array(array)
    view = memory.as_ndarray(buffer, (3, 4), np.float64)
    view[1, 1] = 99
    assert array[1, 1] == 99 and buffer.owner is array
    held = memory.stats()
    del buffer, view  # borrowed: it must not come to the allocator
    assert memory.stats() == held
    with pytest.raises(ValueError, match="non-contiguous"):
        memory.from_array(array.T)
    with pytest.raises(ValueError, match="not 8-aligned"):
        memory.from_array(np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float64))
    with pytest.raises(ValueError, match="not 4096-aligned"):
        whole = np.zeros(8192, np.uint8)
        beside = 64 - whole.ctypes.data % 4096  # 64 bytes past a page, wherever the allocator put the array
        memory.from_array(whole[beside % 4096 :], 4096)


def test_memory_error_tells_the_numbers():
    buffer = memory.allocate(4 << 20)
    cached = memory.allocate(6 << 20)
    del cached
    with pytest.raises(MemoryError, match=r"could not allocate 1048576\.0 GiB .* holds .* live .* 0 bytes cached"):
        memory.allocate(1 << 50)
    assert memory.stats().cached_bytes == 0  # it tried with everything handed back
    with pytest.raises(MemoryError):
        memory.allocate(1 << 63)
    with pytest.raises(ValueError, match="-1 bytes"):
        memory.allocate(-1)
    del buffer


def test_many_threads_allocate_and_free_each_other():
    """Blocks are handed from thread to thread and freed anywhere; no block may be given out twice at a time."""
    before = memory.stats()
    shared: list = []
    failures = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for step in range(1500):
            buffer = memory.allocate(choose.choice((64, 640, 5000, 70_000)))
            view = memory.as_ndarray(buffer, (8,), np.int64)
            mark = seed << 32 | step
            view[:] = mark
            shared.append((view, mark))
            del view, buffer
            if len(shared) > 50:
                try:
                    view, mark = shared.pop(choose.randrange(20))
                except IndexError:
                    continue
                if (view != mark).any():
                    failures.append(mark)
                cycle = [view]  # freed by the collector, whenever and wherever that is
                cycle.append(cycle)
                del view, cycle

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all((view == mark).all() for view, mark in shared)
    shared.clear()
    gc.collect()
    assert memory.stats().live_bytes == before.live_bytes


def test_collector_inside_allocate():
    class Allocates:
        def __init__(self):
            self.self, self.buffer = self, memory.allocate(1000)

        def __del__(self):
            memory.allocate(1000)

    gc.collect()
    before = memory.stats().live_bytes
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            Allocates()
            memory.allocate(1000)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert memory.stats().live_bytes == before
