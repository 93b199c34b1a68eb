"""What the compile driver returns: a program loaded as machine code, run by one native call."""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from struct import pack
from typing import NamedTuple

import numpy as np

from dlc.codegen.llvm_program import launches
from dlc.ir.graph import Graph
from dlc.ir.program import Program
from dlc.runtime import devices
from dlc.runtime.memory import Buffer, allocate
from dlc.runtime.native import Library

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_PROFILED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class Frame(NamedTuple):
    """All that a call needs to know of a program: which parameter's buffer each output takes over (-1: none), the
    bytes of each output, and the bytes of the arena."""

    into: tuple[int, ...]
    output_bytes: tuple[int, ...]
    arena_bytes: int

    @classmethod
    def of(cls, program: Program) -> Frame:
        into = {output: param for param, output in program.donate}
        sizes = tuple(t.nbytes for t in program.output_types)
        return cls(tuple(into.get(k, -1) for k in range(len(sizes))), sizes, program.arena_bytes)


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
        self._donated = frame.into[last:]

    def run(self, buffers: list[Buffer]) -> list[Buffer]:
        """One Buffer for each parameter in, one for each output out; a donated output is its parameter's own Buffer."""
        out = [buffers[p] if p >= 0 else allocate(nbytes) for p, nbytes in self._outputs]
        slots = pack(f"{len(buffers) + len(out)}Q", *[b.address for b in buffers], *[b.address for b in out])
        if self._donated:
            out += [buffers[p] for p in self._donated]
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = allocate(self.arena_bytes)
        self._call(slots, arena.address)
        self._arenas.append(arena)
        return out


class Interpreted:
    """Runs a graph by the reference interpreter instead (`DLC_INTERPRET=1`): the oracle for everything compiled."""

    def __init__(self, graph: Graph, donate: tuple[tuple[int, int], ...] = (), device: str = "cpu"):
        self.graph, self.device = graph, device
        self.into = {output: param for param, output in donate}

    def run(self, buffers: list[Buffer]) -> list[Buffer]:
        from dlc.ir.graph_interp import evaluate

        params = [devices.read(b, p.shape, p.dtype.np).copy() for b, p in zip(buffers, self.graph.params, strict=True)]
        out = []
        for k, (value, node) in enumerate(zip(evaluate(self.graph, params), self.graph.outputs, strict=True)):
            buffer = buffers[self.into[k]] if k in self.into else devices.allocate(node.type.nbytes, self.device)
            devices.write(buffer, np.asarray(value, node.dtype.np).reshape(node.shape))
            out.append(buffer)
        return out
