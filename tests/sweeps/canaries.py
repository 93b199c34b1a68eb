"""Host memory between canaries: what is read beside a buffer is a value that no buffer holds, and what is written there
is found out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import dlc.runtime.cpu.executable  # noqa: F401  so that it is among the modules that are changed
from dlc.runtime.cpu import memory

CANARY = 0xCB  # in every byte: -2.7e7 as float32, -52 as int8, 203 as uint8
ZONE = 4096  # bytes before and after each buffer


class _Cage(memory._SizeClass):
    """The memory of one buffer with its zones; where the buffer goes when it is freed."""

    __slots__ = ("block", "nbytes", "start", "watch")

    def __init__(self, watch: Canaries, nbytes: int):
        super().__init__()
        self.capacity, self.nbytes, self.watch = nbytes, nbytes, watch
        self.block = np.full(nbytes + 2 * ZONE + memory.ALIGNMENT, CANARY, np.uint8)
        self.start = ZONE + -(self.block.ctypes.data + ZONE) % memory.ALIGNMENT

    @property
    def address(self) -> int:
        return self.block.ctypes.data + self.start

    def append(self, address: int) -> None:
        self.check()
        del self.watch.cages[address]

    def check(self) -> None:
        for name, zone in (("before", self.block[: self.start]), ("after", self.block[self.start + self.nbytes :])):
            changed = np.flatnonzero(zone != CANARY)
            if changed.size:
                self.watch.dead.append(f"{changed.size} bytes written {name} a buffer of {self.nbytes} bytes")
                zone[:] = CANARY


class Canaries:
    """The cages of all buffers that live, and what was found written outside buffers."""

    def __init__(self) -> None:
        self.cages: dict[int, _Cage] = {}
        self.dead: list[str] = []

    def allocate(self, nbytes: int) -> memory.Buffer:
        cage = _Cage(self, nbytes)
        self.cages[cage.address] = cage
        return memory.Buffer(cage.address, nbytes, "cpu", None, cage)

    def check(self) -> list[str]:
        """What was written outside buffers since the last time."""
        for cage in list(self.cages.values()):
            cage.check()
        found, self.dead = self.dead, []
        return found


@contextmanager
def canaries() -> Iterator[Canaries]:
    """Every buffer that dlc allocates in host memory has canaries on both sides, and holds canaries at first."""
    real, watch = memory.allocate, Canaries()
    places = [(vars(module), name) for path, module in list(sys.modules.items()) if path.partition(".")[0] == "dlc"
              for name, value in list(vars(module).items()) if value is real]
    for space, name in places:
        space[name] = watch.allocate
    try:
        yield watch
    finally:
        for space, name in places:
            space[name] = real
