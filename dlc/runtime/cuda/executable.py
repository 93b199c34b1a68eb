"""A program on a GPU: launched kernel by kernel at its first call, and from the second call on as one CUDA graph.

Kernels take addresses. A graph remembers those that it was made with, so a call compares its addresses with the last
call's and changes the arguments of the kernels that use the moved ones; nothing is copied. State that is donated stays
where it is: in a steady training loop only the batch and the results move, and often not even these.

Inputs in host memory (numbers, NumPy arrays) are copied to fixed places on the GPU first, the small ones together, and
not at all if they are as in the last call.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlc.base import forks
from dlc.base.errors import DeviceError
from dlc.ir.program.program import Program
from dlc.ir.program.tensor_map import TensorMap
from dlc.runtime.cpu.memory import Buffer
from dlc.runtime.cuda import maps as cuda_maps
from dlc.runtime.cuda import memory as cuda_memory
from dlc.runtime.cuda import order as cuda_order
from dlc.runtime.cuda.device import gpu
from dlc.runtime.cuda.plan import CONST_BYTES, Flat, Loop, Plan, flatten
from dlc.runtime.devices import bytes_of, copied

GRAPH_LIMIT = 20_000  # launches of a graph: each takes some kilobytes, and microseconds when the graph is made
CONCURRENT = True  # kernels of a graph that touch different memory may run at the same time
_SMALL = 4096  # bytes: host inputs up to this size are copied together


class Part(NamedTuple):
    """Launches that run `count` times, the arguments moving by `step` bytes each time."""

    count: int
    flat: Flat
    step: np.ndarray


class CudaExecutable:
    """Runs one program on GPU `index`. Safe to call from several threads: calls follow each other.

    `program` is None when the machine code came from the disk cache. With `profile`, `times` adds up the nanoseconds
    of each launch, in the order of `llvm_program.launches`, and kernels run one at a time.
    """

    def __init__(self, plan: Plan, cubins: Sequence[bytes], index: int, program: Program | None = None,
                 profile: bool = False):
        self.plan, self.index, self.program = plan, index, program
        self.device = f"cuda:{index}"
        self.arena_bytes = plan.arena_bytes
        modules = [gpu().load(code, index) for code in cubins]
        self.kernels = [modules[f.module].kernel(f.name, f.block, f.shared_bytes) for f in plan.functions]
        self._modules = modules  # keeps the kernels loaded
        self._lock = forks.lock()
        self._donated = frozenset(p for p in plan.into if p >= 0)
        # Most outputs of a training step are state that stays where it is: only the fresh ones cost anything here.
        self._into = [max(p, 0) for p in plan.into]
        self._fresh = [(k, nbytes, f"a result of {plan.name}, {text}") for k, (p, nbytes, text) in
                       enumerate(zip(plan.into, plan.output_bytes, plan.output_names, strict=True)) if p < 0]
        self._devices: list[str] = []  # of the last call's inputs
        self._elsewhere: list[int] = []  # those of them that are not on this GPU
        self._bases = plan.inputs + len(plan.into) + 2
        self.parts = _parts(plan, self._bases)
        maps = [f.maps for f in plan.functions]
        self._series = [_Series(part, self.kernels, maps) for part in self.parts]
        self._consts = self._upload_consts()
        self._host = _HostInputs(index, plan.name)
        self._graph: Any = None
        self._calls = 0
        self._last: np.ndarray | None = None
        self.times: array | None = None
        if profile:
            places = [int(s.flat.place.max(initial=-1)) for s in self._series]
            self.times = array("q", bytes(8 * max(1, max(places, default=0) + 1)))
            self._events = gpu().events(index)

    def run(self, buffers: list[Buffer]) -> list[Buffer]:
        """One Buffer for each parameter in, one for each output out; a donated output is its parameter's own Buffer.

        Returns when everything is under way. Raises OutOfMemory, before anything ran.
        """
        with self._lock:
            devices = [b.device for b in buffers]
            if devices != self._devices:
                self._look_at(devices)
            bases = np.zeros(self._bases, np.uint64)
            bases[: len(buffers)] = array("Q", [b.address for b in buffers])
            out: list[Any] = [buffers[p] for p in self._into] if buffers else [None] * len(self._into)
            for k, nbytes, label in self._fresh:
                out[k] = fresh = cuda_memory.allocate(nbytes, self.index, label)
                bases[len(buffers) + k] = fresh.address
            kept = self._bring(buffers, bases) if self._elsewhere else None
            if self.arena_bytes:
                arena = cuda_memory.arena(self.arena_bytes, self.index)
                bases[-2] = arena.address
            if self._consts is not None:
                bases[-1] = self._consts.address
            self._start(bases)
            self._calls += 1
            del kept  # until here: what the launches read
            return out

    def _look_at(self, devices: list[str]) -> None:
        self._elsewhere = [k for k, device in enumerate(devices) if device != self.device]
        for k in self._elsewhere:
            if k in self._donated:
                raise DeviceError(f"{self.plan.name}: state {k} is on {devices[k]}, the program runs on {self.device}")
        self._devices = devices

    def _bring(self, buffers: list[Buffer], bases: np.ndarray) -> list[Buffer]:
        """Put copies of what is elsewhere into `bases`; the Buffers that must live until the launches are made."""
        host = {k: buffers[k] for k in self._elsewhere if buffers[k].device == "cpu"}
        for k, address in self._host.upload(host).items():
            bases[k] = address
        others = {k: copied(buffers[k], self.device) for k in self._elsewhere if k not in host}
        for k, buffer in others.items():
            bases[k] = buffer.address
        return list(others.values())

    def _start(self, bases: np.ndarray) -> None:
        if self.times is not None:
            self._timed(bases)
            return
        one = len(self._series) == 1 and self._series[0].count == 1
        if not one or not self._calls or len(self._series[0].kernels) > GRAPH_LIMIT:
            for series in self._series:
                for turn in range(series.count):
                    series.place(bases, turn)
                    gpu().launch(self.index, series.kernels, series.grids, series.pointers)
            return
        series = self._series[0]
        if self._graph is None:
            series.place(bases, 0)
            after = (cuda_order.by_memory if CONCURRENT else _in_order)(series.flat)
            self._graph = gpu().graph(self.index, series.kernels, series.grids, series.pointers, after)
        else:
            moved = np.flatnonzero(bases != self._last)
            if len(moved):
                series.place(bases, 0)
                self._graph.update(series.users(moved))
        self._last = bases
        self._graph.launch()

    def _timed(self, bases: np.ndarray) -> None:
        assert self.times is not None
        for series in self._series:
            for turn in range(series.count):
                series.place(bases, turn)
                seconds = self._events.time(series.kernels, series.grids, series.pointers)
                for place, spent in zip(series.flat.place.tolist(), seconds, strict=True):
                    self.times[place] += round(spent * 1e9)

    def _upload_consts(self) -> Buffer | None:
        if not self.plan.consts:
            return None
        values = np.zeros((len(self.plan.consts), CONST_BYTES // 8), np.int64)
        values[:, 0] = self.plan.consts
        buffer = cuda_memory.allocate(values.nbytes, self.index, f"sizes for {self.plan.name}")
        cuda_memory.upload(buffer, values)
        return buffer


class _Series:
    """The launches of a part in memory that CUDA reads: argument values, and for each launch pointers to them."""

    def __init__(self, part: Part, kernels: Sequence[Any], maps: Sequence[tuple[TensorMap, ...]]):
        self.count, self.flat, self.step = part
        flat = part.flat
        self.kernels = [kernels[k] for k in flat.function.tolist()]
        self.grids = flat.grid.tolist()
        self.values = np.zeros(max(len(flat.base), 1), np.uint64)
        self.table = self.values.ctypes.data + 8 * np.arange(len(self.values), dtype=np.uint64)
        first = flat.first[:-1]
        self._maps = _Maps([maps[k] for k in flat.function.tolist()], first.tolist())
        if self._maps.of:
            counts = [len(maps[k]) for k in flat.function.tolist()]
            before = np.cumsum([0, *counts])[:-1]
            self.table = np.insert(self.table, np.repeat(flat.first[1:], counts), self._maps.places())
            first = first + before
        self.pointers = (self.table.ctypes.data + 8 * first).tolist()
        self._offset = flat.offset.astype(np.uint64)
        self._users: list[np.ndarray] | None = None

    def place(self, bases: np.ndarray, turn: int) -> None:
        """Write the argument values of one turn."""
        if len(self.flat.base):
            moved = self.step * turn if turn else 0
            self.values[:] = bases[self.flat.base] + self._offset + np.asarray(moved).astype(np.uint64)
        if self._maps.of:
            self._maps.make(self.values)

    def users(self, moved: np.ndarray) -> list[int]:
        """The launches that use any of these bases."""
        if self._users is None:
            launch = np.repeat(np.arange(len(self.kernels)), np.diff(self.flat.first))
            order = np.argsort(self.flat.base, kind="stable")
            ends = np.searchsorted(self.flat.base[order], np.arange(int(self.flat.base.max(initial=0)) + 2))
            self._users = [launch[order[a:b]] for a, b in zip(ends[:-1], ends[1:], strict=True)]
        found = [self._users[k] for k in moved.tolist() if k < len(self._users)]
        return np.unique(np.concatenate(found)).tolist() if found else []


class _Maps:
    """The tensor maps of launches, in memory that CUDA reads; each is made again when its address changes."""

    def __init__(self, maps: Sequence[tuple[TensorMap, ...]], first: Sequence[int]):
        self.of = [(at + m.param, m) for at, launch in zip(first, maps, strict=True) for m in launch]
        self._memory = np.zeros((len(self.of) + 1) * cuda_maps.BYTES, np.uint8)
        self._start = -self._memory.ctypes.data % cuda_maps.BYTES
        self._last = [0] * len(self.of)

    def places(self) -> np.ndarray:
        """The address of each."""
        begin = self._memory.ctypes.data + self._start
        return (begin + cuda_maps.BYTES * np.arange(len(self.of))).astype(np.uint64)

    def make(self, values: np.ndarray) -> None:
        """Make those whose argument among `values` has changed."""
        for k, (argument, spec) in enumerate(self.of):
            address = int(values[argument])
            if address != self._last[k]:
                at = self._start + k * cuda_maps.BYTES
                made = gpu().tensor_map(spec, address)
                self._memory[at : at + cuda_maps.BYTES] = np.frombuffer(made, np.uint8)
                self._last[k] = address


class _HostInputs:
    """Fixed places on the GPU for a program's inputs from host memory."""

    def __init__(self, index: int, name: str):
        self.index, self.label = index, f"inputs of {name} from host memory"
        self.sizes: dict[int, int] = {}
        self.large: dict[int, Buffer] = {}
        self.small: dict[int, int] = {}  # input -> its offset in the shared block
        self.block: Buffer | None = None
        self.last = b""

    def upload(self, host: dict[int, Buffer]) -> dict[int, int]:
        """Copy these inputs; their addresses."""
        sizes = {k: b.nbytes for k, b in host.items()}
        if sizes != self.sizes:
            self._arrange(sizes)
        if self.block is not None:
            now = b"".join([ctypes.string_at(host[k].address, sizes[k]).ljust(_padded(sizes[k])) for k in self.small])
            if now != self.last:
                cuda_memory.upload(self.block, np.frombuffer(now, np.uint8))
                self.last = now
        for k, buffer in self.large.items():
            cuda_memory.upload(buffer, bytes_of(host[k]))
        start = self.block.address if self.block is not None else 0
        return {k: start + o for k, o in self.small.items()} | {k: b.address for k, b in self.large.items()}

    def _arrange(self, sizes: dict[int, int]) -> None:
        self.small, at = {}, 0
        for k, nbytes in sizes.items():
            if nbytes <= _SMALL:
                self.small[k] = at
                at += _padded(nbytes)
        self.large = {k: cuda_memory.allocate(n, self.index, self.label) for k, n in sizes.items() if n > _SMALL}
        self.block = cuda_memory.allocate(at, self.index, self.label) if at else None
        self.last, self.sizes = b"", sizes


def _padded(nbytes: int) -> int:
    """To where the next input starts: a vector of it can be read."""
    return -(-nbytes // 16) * 16


def _parts(plan: Plan, bases: int) -> list[Part]:
    """The whole plan as one part, unless it has a loop too long to write out: then each such loop is a part."""
    if plan.launches() <= GRAPH_LIMIT:
        return [_part(1, plan, plan.steps, bases)] if plan.launches() else []
    parts: list[Part] = []
    short: list[Any] = []
    for step in plan.steps:
        if isinstance(step, Loop) and plan._replace(steps=(step,)).launches() > GRAPH_LIMIT // 4:
            if short:
                parts.append(_part(1, plan, tuple(short), bases))
                short = []
            parts.append(_part(step.count, plan, step.body, bases))
        else:
            short.append(step)
    return [*parts, _part(1, plan, tuple(short), bases)] if short else parts


def _part(count: int, plan: Plan, steps: tuple, bases: int) -> Part:
    if count == 1:
        flat = flatten(plan._replace(steps=steps), bases)
        return Part(1, flat, np.zeros(len(flat.base), np.int64))
    first, second = (flatten(plan._replace(steps=steps), bases, (turn,)) for turn in (0, 1))
    return Part(count, first, second.offset - first.offset)


def _in_order(flat: Flat) -> list[list[int]]:
    return cuda_order.in_order(len(flat.grid))
