"""A GPU that is none: its memory is host memory, its kernels run in the Loop IR interpreter.

It has the methods of `dlc.runtime.cuda.api.Gpu` and records the calls. Memory of a fake GPU lies at addresses that
nothing else uses (real address + OFFSET), so that code which mistakes it for host memory crashes instead of working.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import numpy as np

from dlc.codegen.cuda.kernel import symbol
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.loops import ir as loops
from dlc.ir.loops.interp import interp as loops_interp
from dlc.ir.program.tensor_map import TensorMap
from dlc.runtime.cuda.card import Card

OFFSET = 1 << 56


class Memory:
    """A block; poisoned when it is let go of."""

    def __init__(self, gpu: FakeGpu, index: int, nbytes: int):
        self.gpu, self.index, self.nbytes = gpu, index, nbytes
        self.block = np.full(nbytes + 256, 0xFF, np.uint8)
        start = self.block.ctypes.data
        self.ptr = OFFSET + start + -start % 256
        gpu.held[index] += nbytes

    def __del__(self) -> None:
        self.gpu.held[self.index] -= self.nbytes


class Function(NamedTuple):
    kernel: loops.Kernel
    grid: int


class Module:
    def __init__(self, gpu: FakeGpu, index: int):
        self.gpu, self.index = gpu, index

    def kernel(self, name: str, block: int, shared_bytes: int) -> Any:
        return self.gpu.kernels[name]


class Graph:
    def __init__(self, gpu: FakeGpu, index: int, kernels, grids, pointers, after):
        self.gpu, self.index = gpu, index
        self.kernels, self.grids, self.pointers, self.after = kernels, grids, pointers, after
        self.arguments = [gpu.arguments(k, at) for k, at in zip(kernels, pointers, strict=True)]
        for k, before in enumerate(after):
            assert all(b < k for b in before)

    def update(self, launches) -> None:
        self.gpu.calls["updated kernels"] += len(launches)
        for n in launches:
            self.arguments[n] = self.gpu.arguments(self.kernels[n], self.pointers[n])

    def launch(self) -> None:
        """Run in an order that `after` allows, and as far from the program's as it allows."""
        self.gpu.calls["graph launches"] += 1
        waiting = {k: set(before) for k, before in enumerate(self.after)}
        while waiting:
            ready = max(k for k, before in waiting.items() if not before)
            self.gpu.execute(self.kernels[ready], self.grids[ready], self.arguments[ready])
            del waiting[ready]
            for before in waiting.values():
                before.discard(ready)


class Events:
    def __init__(self, gpu: FakeGpu, index: int):
        self.gpu, self.index = gpu, index

    def time(self, kernels, grids, pointers) -> list[float]:
        self.gpu.launch(self.index, kernels, grids, pointers)
        return [1e-6 * (k + 1) for k in range(len(kernels))]


class Mark:
    done = True


class FakeGpu:
    """`count` GPUs of `nbytes` bytes each."""

    def __init__(self, count: int = 2, nbytes: int = 1 << 28, arch: str = "sm_90a"):
        self.count, self.nbytes, self.arch = count, nbytes, arch
        self.calls: Counter[str] = Counter()
        self.held: Counter[int] = Counter()
        self.kernels: dict[str, loops.Kernel] = {}

    def card(self, index: int) -> Card:
        return Card(index, "Fake GPU", self.arch, self.nbytes, self.nbytes - self.held[index])

    def target(self, index: int) -> GpuTarget:
        return GpuTarget.of(self.arch)

    def used(self) -> list[int]:
        return sorted(self.held)

    def synchronize(self, index: int) -> None:
        self.calls["synchronize"] += 1
        self.calls[f"synchronize {index}"] += 1

    def mark(self, index: int) -> Mark:
        return Mark()

    def allocate(self, nbytes: int, index: int) -> Memory | None:
        if self.held[index] + nbytes > self.nbytes:
            return None
        return Memory(self, index, nbytes)

    def copy_in(self, address: int, array: np.ndarray, index: int) -> None:
        self.calls["copies in"] += 1
        self.calls["bytes in"] += array.nbytes
        ctypes.memmove(address - OFFSET, array.ctypes.data, array.nbytes)

    def copy_out(self, array: np.ndarray, address: int, index: int) -> None:
        self.calls["copies out"] += 1
        ctypes.memmove(array.ctypes.data, address - OFFSET, array.nbytes)

    def copy_across(self, to: int, to_index: int, source: int, source_index: int, nbytes: int) -> None:
        self.calls["copies across"] += 1
        ctypes.memmove(to - OFFSET, source - OFFSET, nbytes)

    def load(self, cubin: bytes, index: int) -> Module:
        return Module(self, index)

    def launch(self, index: int, kernels, grids, pointers) -> None:
        self.calls["kernel launches"] += len(kernels)
        for k, grid, at in zip(kernels, grids, pointers, strict=True):
            self.execute(k, grid, self.arguments(k, at))

    def graph(self, index: int, kernels, grids, pointers, after) -> Graph:
        self.calls["graphs"] += 1
        return Graph(self, index, kernels, grids, pointers, after)

    def events(self, index: int) -> Events:
        return Events(self, index)

    def tensor_map(self, spec: TensorMap, address: int) -> bytes:
        """The address stands in it, so that a launch shows whether it was made again for a new one."""
        self.calls["maps"] += 1
        return address.to_bytes(8, "little") + bytes(120)

    def arguments(self, kernel: loops.Kernel, at: int) -> list[int]:
        """The addresses that a launch passes, read as CUDA reads them: through an array of pointers to values."""
        maps = launch_shape(kernel).maps
        places = (ctypes.c_uint64 * (len(kernel.params) + len(maps))).from_address(at)
        values = [ctypes.c_uint64.from_address(p).value for p in places]
        for m, place, value in zip(maps, places[len(kernel.params) :], values[len(kernel.params) :], strict=True):
            assert value == values[m.param] and place % 64 == 0, "a tensor map of another address"
        return values[: len(kernel.params)]

    def extents(self, kernel: loops.Kernel, addresses: list[int]) -> list[int]:
        """How many elements of each parameter there are."""
        sizes = {}
        for p, address in zip(kernel.params, addresses, strict=True):
            if p.size == 1 and p.dtype.name == "int64" and p not in kernel.writes:
                sizes[p] = ctypes.c_int64.from_address(address - OFFSET).value
        return [p.size if p.size != loops.RUNTIME else max(sizes.values(), default=0) for p in kernel.params]

    def execute(self, kernel: loops.Kernel, grid: int, addresses: list[int]) -> None:
        """Run one launch, by the Loop IR interpreter."""
        arrays = []
        for p, address, extent in zip(kernel.params, addresses, self.extents(kernel, addresses), strict=True):
            data = (ctypes.c_uint8 * (max(extent, 1) * p.dtype.itemsize)).from_address(address - OFFSET)
            arrays.append(np.frombuffer(data, np.uint8).view(p.dtype.np)[: max(extent, 0)])
        # A kernel that overwrites what it reads reads each element first (see cuda_kernel); statement by statement, as
        # the interpreter goes, it would not.
        written = [a for p, a in zip(kernel.params, arrays, strict=True) if p in kernel.writes]
        for n, p in enumerate(kernel.params):
            if p not in kernel.writes and any(np.may_share_memory(arrays[n], w) for w in written):
                arrays[n] = arrays[n].copy()
        loops_interp.run(kernel, arrays)

    def learn(self, kernels: list[loops.Kernel]) -> None:
        """What the next modules contain."""
        self.kernels.update({symbol(k): k for k in kernels})


def use(monkeypatch: Any, gpu: FakeGpu | None = None) -> FakeGpu:
    """Put a fake GPU in place for one test, with a compiler that hands its kernels over as they are."""
    from dlc.frontend.core import eager
    from dlc.frontend.core import places as placement
    from dlc.frontend.core import trace as tracing
    from dlc.runtime.cuda import (
        compile as cuda_compile,
    )
    from dlc.runtime.cuda import (
        device as cuda_device,
    )
    from dlc.runtime.cuda import (
        memory as cuda_memory,
    )
    from dlc.runtime.cuda import (
        modules as cuda_modules,
    )

    gpu = gpu or FakeGpu()

    def sources(modules: list[list[loops.Kernel]], target: GpuTarget) -> list[str]:
        for kernels in modules:
            gpu.learn(kernels)
        return ["" for _ in modules]

    monkeypatch.setenv("DLC_CACHE", "0")
    monkeypatch.setattr(cuda_device, "_gpu", gpu)
    monkeypatch.setattr(cuda_device, "_owner_pid", os.getpid())
    monkeypatch.setattr(cuda_compile, "sources", sources)
    monkeypatch.setattr(cuda_modules, "cubin", lambda text, arch: b"")
    monkeypatch.setattr(cuda_modules, "version", lambda: "0.0")
    monkeypatch.setattr(cuda_memory, "_arenas", {})
    monkeypatch.setattr(placement, "several", False)
    monkeypatch.setattr(placement, "_default", "cpu")
    monkeypatch.setattr(tracing, "lifted", None)
    monkeypatch.setattr(eager, "_executables", OrderedDict())
    monkeypatch.setattr(eager, "_pending", {})
    return gpu
