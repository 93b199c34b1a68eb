"""Memory that shows who reads what was not written, or what is not his.

`poison(kind)` fills each block that dlc allocates, on any device: "big" with 7e7 in every float32, "nan" with ones in
all bits: NaN in every float type, -1 in the integers. With "fence", each block of host memory moreover ends (but for up
to 63 bytes) where a page begins that nobody may touch, and so does the page before it; freed, it is nobody's: whoever
reads there crashes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dlc.runtime.cpu import memory

KINDS = ("big", "nan", "fence")

_PAGE = mmap.PAGESIZE
_FENCED = 1 << 20  # bytes: larger blocks are only filled
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Fence(memory._SizeClass):
    """Where a fenced block goes when it is freed: back to the system."""

    __slots__ = ("size", "start")

    def append(self, address: int) -> None:
        _libc.munmap(self.start, self.size)


def _fenced(nbytes: int) -> memory.Buffer:
    inner = -(-max(nbytes, 1) // _PAGE) * _PAGE
    start = _libc.mmap(None, inner + 2 * _PAGE, mmap.PROT_READ | mmap.PROT_WRITE,
                       mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for page in (start, start + _PAGE + inner):
        if _libc.mprotect(page, _PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    home = _Fence()
    home.capacity, home.start, home.size = inner, start, inner + 2 * _PAGE
    address = (start + _PAGE + inner - nbytes) // memory.ALIGNMENT * memory.ALIGNMENT
    return memory.Buffer(address, nbytes, "cpu", None, home)


def _fill(address: int, nbytes: int, kind: str) -> None:
    if kind == "big":
        filled = np.frombuffer((ctypes.c_char * (nbytes // 4 * 4)).from_address(address), np.float32)
        filled[...] = 7e7
    else:
        ctypes.memset(address, 0xFF, nbytes)


@contextmanager
def poison(kind: str) -> Iterator[None]:
    """Every block that is allocated inside is filled."""
    real = memory.allocate

    def allocate(nbytes: int) -> memory.Buffer:
        buffer = _fenced(nbytes) if kind == "fence" and nbytes <= _FENCED else real(nbytes)
        _fill(buffer.address, -(-nbytes // memory.ALIGNMENT) * memory.ALIGNMENT, kind)
        return buffer

    with _replaced(real, allocate), _on_gpu(kind):
        yield


@contextmanager
def _on_gpu(kind: str) -> Iterator[None]:
    """The same for the GPU's memory, if dlc uses one."""
    cuda = sys.modules.get("dlc.runtime.cuda.memory")
    if cuda is None:
        yield
        return
    real = cuda.allocate

    def allocate(nbytes: int, index: int, label: Any = "") -> Any:
        buffer = real(nbytes, index, label)
        word = np.float32(7e7) if kind == "big" else np.uint32(0xFFFFFFFF).view(np.float32)
        cuda.upload(buffer, np.full(-(-nbytes // 4), word).view(np.uint8)[:nbytes])
        return buffer

    with _replaced(real, allocate):
        yield


@contextmanager
def _replaced(real: Callable, other: Callable) -> Iterator[None]:
    """Every module of dlc that knows the function `real` under some name finds `other` there."""
    places = [(module.__dict__, name) for path, module in list(sys.modules.items()) if path.startswith("dlc")
              for name, value in list(vars(module).items()) if value is real]
    for space, name in places:
        space[name] = other
    try:
        yield
    finally:
        for space, name in places:
            space[name] = real
