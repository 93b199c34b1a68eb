"""What the compile driver returns: a program loaded as machine code, run by one native call."""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from dlc.runtime.cpu.llvm import Library
from dlc.runtime.cpu.memory import Buffer, allocate

if TYPE_CHECKING:
    from dlc.ir.program.program import Program

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_PROFILED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class Frame(NamedTuple):
    """All that a call needs to know of a program: which parameter's buffer each output takes over (-1: none), the
    bytes of each output, and the bytes of the arena."""

    into: tuple[int, ...]
    output_bytes: tuple[int, ...]
    arena_bytes: int


class Executable:
    """Runs one program. Safe to call from several threads: every call has an arena of its own.

    `program` is None when the machine code came from the disk cache.
    """

    def __init__(self, frame: Frame, library: Library, program: Program | None = None, profile: bool = False):
        self.frame, self.library, self.program = frame, library, program
        self.arena_bytes = frame.arena_bytes
        self.times: array | None = None
        address = library.address("dlc_entry")
        if profile:
            from dlc.codegen.llvm.launch.program import launches  # a program from the cache needs no compiler

            assert program is not None
            self.times = array("q", bytes(8 * max(1, len(launches(program)))))
            entry, times = _PROFILED(address), self.times.buffer_info()[0]
            self._call = lambda slots, arena: entry(slots, arena, times)
        else:
            self._call = _ENTRY(address)
        self._arenas: deque[Buffer] = deque()
        # A donated output is written through its parameter's address, so the last ones need none of their own.
        last = max((k + 1 for k, p in enumerate(frame.into) if p < 0), default=0)
        self._outputs = list(zip(frame.into[:last], frame.output_bytes[:last], strict=True))
        donated = frame.into[last:]
        self._donated = itemgetter(*donated) if len(donated) > 1 else lambda buffers: [buffers[p] for p in donated]
        self._slots: Struct | None = None  # of the addresses

    def run(self, buffers: list[Buffer]) -> list[Buffer]:
        """One Buffer for each parameter in, one for each output out; a donated output is its parameter's own Buffer."""
        out = [buffers[p] if p >= 0 else allocate(nbytes) for p, nbytes in self._outputs]
        addresses = [b.address for b in buffers]
        for b in out:
            addresses.append(b.address)
        if self._slots is None:
            self._slots = Struct(f"{len(addresses)}Q")
        slots = self._slots.pack(*addresses)
        out += self._donated(buffers)
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = allocate(self.arena_bytes)
        self._call(slots, arena.address)
        self._arenas.append(arena)
        return out
