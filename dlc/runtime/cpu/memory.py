"""Host memory: buffers, and an allocator that keeps freed memory for the next step.

A training step allocates the same sizes again and again. Handing fresh pages to a kernel costs more than most kernels
(one page fault per 4 KiB), so freed blocks go to a free list of their size class and come back with their pages mapped.

There is no lock. A Buffer is freed wherever the garbage collector happens to run: in any thread, inside a kernel
call's Python wrapper, inside `allocate` itself. So the shared state is only lists and dicts whose single operations
(`append`, `pop`, item assignment) are atomic in CPython; totals are summed when someone asks.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlc.base.errors import OutOfMemory, user_line

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
HUGE_PAGE = 2 << 20  # bytes: blocks from this size on are aligned to it and ask for transparent huge pages


class _SizeClass(list):
    """The addresses of the free blocks of one capacity."""

    __slots__ = ("capacity",)


_classes: dict[int, _SizeClass] = {}  # capacity -> its free blocks
_class_of: dict[int, _SizeClass] = {}  # requested bytes -> the class that serves them
_held: dict[int, int] = {}  # address -> capacity, for every block that we hold from the operating system


class Buffer:
    """`nbytes` bytes at `address` on `device`; the memory lives exactly as long as the Buffer.

    A Buffer from `allocate` owns a block of the allocator; otherwise `owner` is whatever keeps the memory alive (a
    NumPy array, a DLPack capsule). Borrowed memory belongs to somebody else, so it must not be donated to a kernel.
    """

    __slots__ = ("__weakref__", "_home", "address", "device", "nbytes", "owner")

    def __init__(self, address: int, nbytes: int, device: str = "cpu", owner: Any = None, _home: Any = None):
        self.address = address
        self.nbytes = nbytes
        self.device = device
        self.owner = owner
        self._home = _home

    def __repr__(self) -> str:
        return f"Buffer({self.nbytes} bytes at {self.address:#x} on {self.device})"

    def __del__(self) -> None:
        # Runs inside the garbage collector, perhaps inside `allocate`: nothing here may wait.
        home = self._home
        if home is not None:
            home.append(self.address)
            if _held_bytes is not None and _held_bytes > _cache_limit:  # None: the interpreter is shutting down
                _enforce_limit(home)


class MemoryStats(NamedTuple):
    """Bytes and blocks: `held` from the operating system = `live` in Buffers + `cached` for reuse."""

    held_bytes: int
    live_bytes: int
    cached_bytes: int
    live_blocks: int
    cached_blocks: int


def capacity_for(nbytes: int) -> int:
    """The size class that holds `nbytes`: a multiple of 64, with eight classes per doubling (under 12.5% waste)."""
    lines = (nbytes + 63) >> 6 or 1
    shift = lines.bit_length() - 4
    if shift <= 0:
        return lines << 6
    return -(-lines >> shift) << shift + 6


def allocate(nbytes: int) -> Buffer:
    """An uninitialised Buffer of `nbytes`, 64-byte aligned (2 MiB from 2 MiB on).

    Raises MemoryError, saying what was asked and what dlc holds, when the system has no more even after the free
    blocks were handed back.
    """
    home = _class_of.get(nbytes)
    if home is None:
        home = _find_class(nbytes)
    try:
        address = home.pop()
    except IndexError:
        address = _fresh_block(nbytes, home.capacity)
    return Buffer(address, nbytes, "cpu", None, home)


def from_array(array: np.ndarray, alignment: int | None = None) -> Buffer:
    """A Buffer over a NumPy array's own memory; the array stays alive as `owner`. Nothing is copied.

    Raises ValueError where the array is not C-contiguous, or not aligned to `alignment` bytes (its item size, if not
    given): copy it first.
    """
    if not array.flags.c_contiguous:
        raise ValueError(f"cannot wrap a non-contiguous array of shape {array.shape} and strides {array.strides}")
    address = array.__array_interface__["data"][0]
    if array.size and address % (alignment or array.dtype.alignment):  # NumPy aligns no array of nothing
        want = alignment or array.dtype.alignment
        raise ValueError(f"cannot wrap an array at {address:#x}: it is not {want}-aligned")
    return Buffer(address, array.nbytes, "cpu", array)


def as_ndarray(buffer: Buffer, shape: Sequence[int], np_dtype: Any) -> np.ndarray:
    """A writable NumPy array of `shape` and `np_dtype` over the start of the Buffer, which it keeps alive. No copy."""
    dtype = np.dtype(np_dtype)
    nbytes = dtype.itemsize
    for extent in shape:
        nbytes *= extent
    if nbytes > buffer.nbytes:
        raise ValueError(
            f"an array of shape {tuple(shape)} and dtype {dtype} needs {nbytes} bytes; {buffer!r} is smaller"
        )
    if buffer.device != "cpu":
        raise ValueError(f"{buffer!r} is not in host memory")
    # As bytes first: NumPy's array interface has no name for extension dtypes such as bfloat16.
    return np.ndarray(tuple(shape), dtype, np.asarray(_Bytes(buffer, nbytes)))


class _Bytes:
    """What NumPy needs to view a Buffer; it becomes the array's base, and so keeps the Buffer alive."""

    __slots__ = ("__array_interface__", "buffer")

    def __init__(self, buffer: Buffer, nbytes: int):
        self.buffer = buffer
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (buffer.address, False)}


def stats() -> MemoryStats:
    """What the allocator holds now. Blocks that change hands in other threads meanwhile may be counted either way."""
    global _held_bytes
    held = list(_held.values())
    _held_bytes = sum(held)
    cached = [(len(blocks), capacity) for capacity, blocks in list(_classes.items())]
    cached_bytes = sum(count * capacity for count, capacity in cached)
    cached_blocks = sum(count for count, _ in cached)
    return MemoryStats(_held_bytes, _held_bytes - cached_bytes, cached_bytes, len(held) - cached_blocks, cached_blocks)


def release_cached(keep_bytes: int = 0) -> int:
    """Hand free blocks back to the system, largest first, until at most `keep_bytes` stay cached; bytes released."""
    excess, released = _cached_bytes() - keep_bytes, 0
    for capacity in sorted(_classes, reverse=True):
        blocks = _classes[capacity]
        while released < excess:
            try:
                address = blocks.pop()
            except IndexError:
                break
            _free_block(address, capacity)
            released += capacity
    return released


def set_cache_limit(nbytes: int) -> None:
    """Cache at most about `nbytes` of free memory (default: a quarter of the machine's)."""
    global _cache_limit
    _cache_limit = nbytes
    release_cached(nbytes)


def _cached_bytes() -> int:
    return sum(len(blocks) * capacity for capacity, blocks in list(_classes.items()))


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 8 << 30


_cache_limit = _physical_bytes() // 4

_held_bytes = 0  # the sum of _held: cached bytes cannot exceed it

# Only once dlc holds more than may be cached does a free look at how much is cached. Summing takes some 10 us, so it is
# done for large blocks, and for every _SWEEPth block of a small class.
_SUMMED_FROM = 1 << 20
_SWEEP = 256


def _enforce_limit(home: _SizeClass) -> None:
    if (home.capacity >= _SUMMED_FROM or len(home) % _SWEEP == 0) and _cached_bytes() > _cache_limit:
        release_cached(_cache_limit)


def _find_class(nbytes: int) -> _SizeClass:
    if nbytes < 0:
        raise ValueError(f"cannot allocate {nbytes} bytes")
    capacity = capacity_for(nbytes)
    home = _classes.get(capacity)
    if home is None:
        home = _SizeClass()
        home.capacity = capacity
        home = _classes.setdefault(capacity, home)
    if len(_class_of) > 4096:  # a program with ever new sizes
        _class_of.clear()
    _class_of[nbytes] = home
    return home


def _fresh_block(nbytes: int, capacity: int) -> int:
    """The address of a new block; where memory is short, after handing back what is cached."""
    address = _system_allocate(capacity)
    if not address and release_cached():
        address = _system_allocate(capacity)
    if not address:
        now = stats()
        raise OutOfMemory(
            f"dlc could not allocate {readable(nbytes)} of host memory; it holds {readable(now.held_bytes)}: "
            f"{readable(now.live_bytes)} in {now.live_blocks} live buffers and {readable(now.cached_bytes)} cached"
            f"\n  at {user_line()}"
        )
    _held[address] = capacity
    _count_held(capacity)
    return address


def _free_block(address: int, capacity: int) -> None:
    del _held[address]
    _count_held(-capacity)
    if capacity >= HUGE_PAGE:
        _libc.munmap(address, _mapped_bytes(capacity))
    else:
        _libc.free(address)


def _count_held(change: int) -> None:
    global _held_bytes
    _held_bytes += change  # CPython changes threads only at calls and jumps, and `stats` counts anew


def readable(nbytes: int) -> str:
    """A number of bytes for people: 1.5 GiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.1f} {name}"
    return f"{nbytes} bytes"


_libc = ctypes.CDLL(None)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]
_libc.free.restype = None
_MAP_FAILED = ctypes.c_void_p(-1).value


def _system_allocate(capacity: int) -> int:
    """A block from the system, or 0."""
    if capacity >= HUGE_PAGE:
        return _map_huge(_mapped_bytes(capacity))
    pointer = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(pointer), ALIGNMENT, capacity):
        return 0
    return pointer.value or 0


def _mapped_bytes(capacity: int) -> int:
    return -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE


def _map_huge(size: int) -> int:
    """`size` bytes (whole pages) of anonymous memory at a multiple of 2 MiB, or 0: map more, and unmap both ends."""
    if size >= 1 << 62:
        return 0
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _libc.mmap(None, size + HUGE_PAGE, protection, flags, -1, 0)
    if start in (None, _MAP_FAILED):
        return 0
    address = -(-start // HUGE_PAGE) * HUGE_PAGE
    end, mapped_end = address + size, start + size + HUGE_PAGE
    if address > start:
        _libc.munmap(start, address - start)
    if mapped_end > end:
        _libc.munmap(end, mapped_end - end)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        _libc.madvise(address, size, mmap.MADV_HUGEPAGE)
    return address
