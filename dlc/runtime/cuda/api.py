"""All that dlc asks of CUDA, in one class: memory and streams through CuPy, launches and graphs through the driver API.

`Gpu` is the only code that talks to a GPU; tests put an object with the same methods in its place
(`cuda_device.install`). Launches go through ctypes, since CuPy has no graphs whose kernel arguments can be changed.
Everything of a GPU runs on one stream, which CuPy's pool knows memory by.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlc.base import forks
from dlc.base.errors import DeviceError
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.program.tensor_map import TensorMap
from dlc.runtime.cuda import maps as cuda_maps
from dlc.runtime.cuda.card import INSTALL, Card, arch_name

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_STATIC_LIMIT = 48 << 10  # bytes of shared memory that a launch may have without asking
_PINNED_FROM = 256 << 10  # bytes: smaller copies are quicker than finding pinned memory for them


class LoadedKernel(NamedTuple):
    """A loaded function and how it is launched, except for the grid."""

    function: int
    block: int
    shared_bytes: int


class _NodeParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2"""

    _fields_ = [
        ("func", ctypes.c_void_p),
        *[(name, ctypes.c_uint) for name in ("gx", "gy", "gz", "bx", "by", "bz", "shared")],
        ("params", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kern", ctypes.c_void_p),
        ("ctx", ctypes.c_void_p),
    ]


class Mark:
    """A place in a GPU's stream: `done` once everything before it has run."""

    __slots__ = ("event",)

    def __init__(self, event: Any):
        self.event = event

    @property
    def done(self) -> bool:
        return self.event.done


class Gpu:
    """The GPUs of this machine. `index` is a GPU's number in every method; addresses and handles are ints."""

    def __init__(self, cupy: Any, count: int):
        self.cupy, self.count = cupy, count
        self.runtime = cupy.cuda.runtime
        self.pool = cupy.get_default_memory_pool()
        self.lib = _library()
        self._streams: dict[int, Any] = {}
        self._lock, self._threads = forks.lock(), threading.local()
        self._dead: deque[tuple[int, int]] = deque()  # (GPU, module) whose users are gone
        self._in_flight: deque[tuple[Any, Any]] = deque()  # (event, pinned memory that a copy before it reads)

    @classmethod
    def open(cls) -> Gpu:
        """Raises DeviceError where CuPy, the driver or a GPU is missing."""
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(f"device 'cuda' needs CuPy ({error}): {INSTALL}") from None
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(f"device 'cuda': no NVIDIA GPU can be used here ({error})") from None
        if not count:
            raise DeviceError("device 'cuda': this machine has no NVIDIA GPU")
        return cls(cupy, count)

    # -- devices

    @contextlib.contextmanager
    def on(self, index: int) -> Iterator[int]:
        """Make GPU `index` and its stream CuPy's current ones in this thread; gives the stream's handle."""
        self._ready()
        stream = self.stream(index)
        with self.cupy.cuda.Device(index), stream:
            yield stream.ptr

    def _ready(self) -> None:
        """Give this thread a context. A new thread has none, and CuPy sets no device that is the current one already:
        in a new thread GPU 0 is."""
        if not getattr(self._threads, "entered", False):
            self.runtime.setDevice(self.runtime.getDevice())
            self._threads.entered = True

    def enter(self, index: int) -> None:
        """Make the context of GPU `index` current in this thread; quick where there is only one."""
        if self.count > 1 or not getattr(self._threads, "entered", False):
            self.runtime.setDevice(index)
            self._threads.entered = True

    def stream(self, index: int) -> Any:
        """The CuPy stream that everything of a GPU runs on."""
        found = self._streams.get(index)
        if found is None:
            with self._lock, self.cupy.cuda.Device(index):
                found = self._streams.setdefault(index, self.cupy.cuda.Stream(non_blocking=True))
        return found

    def used(self) -> list[int]:
        """The GPUs that something was done on."""
        return sorted(self._streams)

    def card(self, index: int) -> Card:
        """What to show of a GPU."""
        properties = self.runtime.getDeviceProperties(index)
        with self.cupy.cuda.Device(index):
            free, total = self.runtime.memGetInfo()
        arch = arch_name(properties["major"], properties["minor"])
        return Card(index, properties["name"].decode(), arch, total, free)

    def target(self, index: int) -> GpuTarget:
        """What code may assume of a GPU."""
        p = self.runtime.getDeviceProperties(index)
        arch = arch_name(p["major"], p["minor"])
        shared = p.get("sharedMemPerBlockOptin") or p["sharedMemPerBlock"]
        return GpuTarget(arch, p["multiProcessorCount"], shared, p["l2CacheSize"])

    def synchronize(self, index: int) -> None:
        """Wait for everything on the stream. Raises DeviceError for what failed there."""
        try:
            self.stream(index).synchronize()
        except self.runtime.CUDARuntimeError as error:
            raise DeviceError(f"cuda:{index} reports {error}; a kernel that ran before failed") from None

    def mark(self, index: int) -> Mark:
        """The stream's present end."""
        with self.on(index):
            event = self.cupy.cuda.Event(disable_timing=True)
            event.record()
        return Mark(event)

    # -- memory

    def allocate(self, nbytes: int, index: int) -> Any:
        """Memory with its address in `ptr`, freed with the object; None where the GPU has none left."""
        try:
            with self.on(index):
                return self.pool.malloc(max(nbytes, 1))
        except self.cupy.cuda.memory.OutOfMemoryError:
            return None

    def copy_in(self, address: int, array: np.ndarray, index: int) -> None:
        """Host array to GPU; the array may change afterwards."""
        with self.on(index) as stream:
            source = array.__array_interface__["data"][0]
            if array.nbytes >= _PINNED_FROM:
                # From pageable memory the driver would copy in small pieces, and wait for each.
                pinned = self.cupy.cuda.alloc_pinned_memory(array.nbytes)
                ctypes.memmove(pinned.ptr, source, array.nbytes)
                source = pinned.ptr
            self.runtime.memcpyAsync(address, source, array.nbytes, self.runtime.memcpyHostToDevice, stream)
            if array.nbytes >= _PINNED_FROM:
                event = self.cupy.cuda.Event(disable_timing=True)
                event.record()
                self._in_flight.append((event, pinned))
                while len(self._in_flight) > 1 and self._in_flight[0][0].done:
                    self._in_flight.popleft()

    def copy_out(self, array: np.ndarray, address: int, index: int) -> None:
        """GPU to host array, after everything that the stream has to do before."""
        target = array.__array_interface__["data"][0]
        with self.on(index) as stream:
            if array.nbytes >= _PINNED_FROM:
                pinned = self.cupy.cuda.alloc_pinned_memory(array.nbytes)
                self.runtime.memcpyAsync(pinned.ptr, address, array.nbytes, self.runtime.memcpyDeviceToHost, stream)
                self.synchronize(index)
                ctypes.memmove(target, pinned.ptr, array.nbytes)
            else:
                self.runtime.memcpyAsync(target, address, array.nbytes, self.runtime.memcpyDeviceToHost, stream)
                self.synchronize(index)

    def copy_across(self, to: int, to_index: int, source: int, source_index: int, nbytes: int) -> None:
        """GPU to GPU."""
        if to_index == source_index:
            with self.on(to_index) as stream:
                self.runtime.memcpyAsync(to, source, nbytes, self.runtime.memcpyDeviceToDevice, stream)
            return
        self.synchronize(source_index)
        with self.on(to_index) as stream:
            self.runtime.memcpyPeerAsync(to, to_index, source, source_index, nbytes, stream)
        self.synchronize(to_index)  # the source may be freed now

    # -- code

    def load(self, cubin: bytes, index: int) -> LoadedModule:
        """Machine code for GPU `index`, loaded."""
        with self.on(index):
            while self._dead:
                where, handle = self._dead.popleft()
                with self.on(where):
                    self.synchronize(where)
                    self._check(self.lib.cuModuleUnload(ctypes.c_void_p(handle)), "unload a module")
            module = ctypes.c_void_p()
            self._check(self.lib.cuModuleLoadData(ctypes.byref(module), cubin), "load a module")
        return LoadedModule(self, index, module.value or 0)

    def launch(self, index: int, kernels: Sequence[LoadedKernel], grids: Sequence[int],
               pointers: Sequence[int]) -> None:
        """Run kernels one after the other. `pointers` has for each the address of its array of argument addresses."""
        launch = self.lib.cuLaunchKernel
        with self.on(index) as stream:
            for k, grid, at in zip(kernels, grids, pointers, strict=True):
                status = launch(k.function, grid, 1, 1, k.block, 1, 1, k.shared_bytes, stream, at, None)
                if status:
                    self._check(status, "launch a kernel")

    def tensor_map(self, spec: TensorMap, address: int) -> bytes:
        """What a kernel's bulk copies need to know of the tensor at `address`."""
        self._ready()
        return cuda_maps.encode(self.lib, spec, address)

    def graph(self, index: int, kernels: Sequence[LoadedKernel], grids: Sequence[int], pointers: Sequence[int],
              after: Sequence[Sequence[int]]) -> KernelGraph:
        """The same launches as one graph. `after[k]` are the launches that must be done before launch k begins."""
        with self.on(index):
            return KernelGraph(self, index, kernels, grids, pointers, after)

    def events(self, index: int) -> Events:
        """A stopwatch for launches."""
        return Events(self, index)

    def _check(self, status: int, what: str) -> None:
        if status:
            name, text = ctypes.c_char_p(), ctypes.c_char_p()
            self.lib.cuGetErrorName(status, ctypes.byref(name))
            self.lib.cuGetErrorString(status, ctypes.byref(text))
            reason = " ".join(part.value.decode() for part in (name, text) if part.value)
            raise DeviceError(f"CUDA could not {what}: error {status} {reason}")


class LoadedModule:
    """Loaded machine code."""

    def __init__(self, gpu: Gpu, index: int, handle: int):
        self.gpu, self.index, self.handle = gpu, index, handle

    def kernel(self, name: str, block: int, shared_bytes: int) -> LoadedKernel:
        """A function of the module, ready for launches with so much dynamic shared memory."""
        gpu, function = self.gpu, ctypes.c_void_p()
        with gpu.on(self.index):
            status = gpu.lib.cuModuleGetFunction(ctypes.byref(function), ctypes.c_void_p(self.handle), name.encode())
            gpu._check(status, f"find the kernel {name}")
            if shared_bytes > _STATIC_LIMIT:
                status = gpu.lib.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared_bytes)
                gpu._check(status, f"give the kernel {name} {shared_bytes} bytes of shared memory")
        return LoadedKernel(function.value or 0, block, shared_bytes)

    def __del__(self) -> None:
        # The collector may run this anywhere, and kernels may still be running: the next load unloads it.
        self.gpu._dead.append((self.index, self.handle))


class KernelGraph:
    """Launches instantiated as one CUDA graph."""

    def __init__(self, gpu: Gpu, index: int, kernels: Sequence[LoadedKernel], grids: Sequence[int],
                 pointers: Sequence[int], after: Sequence[Sequence[int]]):
        self.gpu, self.index = gpu, index
        self.graph, self.exec = ctypes.c_void_p(), ctypes.c_void_p()
        lib = gpu.lib
        gpu._check(lib.cuGraphCreate(ctypes.byref(self.graph), 0), "make a graph")
        self.nodes = (ctypes.c_void_p * len(kernels))()
        self.params = (_NodeParams * len(kernels))()
        for n, (k, grid, at) in enumerate(zip(kernels, grids, pointers, strict=True)):
            self.params[n] = _NodeParams(k.function, grid, 1, 1, k.block, 1, 1, k.shared_bytes, at, None, None, None)
            before = after[n]
            edges = (ctypes.c_void_p * len(before))(*[self.nodes[m] for m in before])
            node = ctypes.c_void_p()
            params = ctypes.byref(self.params[n])
            status = lib.cuGraphAddKernelNode_v2(ctypes.byref(node), self.graph, edges, len(before), params)
            gpu._check(status, "add a kernel to a graph")
            self.nodes[n] = node.value
        gpu._check(lib.cuGraphInstantiateWithFlags(ctypes.byref(self.exec), self.graph, 0), "instantiate a graph")

    def update(self, launches: Sequence[int]) -> None:
        """Read the arguments of these launches again; launches of the graph that were made before are not affected."""
        update, at, size = self.gpu.lib.cuGraphExecKernelNodeSetParams_v2, ctypes.addressof(self.params), _PARAMS_BYTES
        for n in launches:
            status = update(self.exec, self.nodes[n], at + n * size)
            if status:
                self.gpu._check(status, "change a graph")

    def launch(self) -> None:
        """Run it on the GPU's stream."""
        self.gpu.enter(self.index)
        status = self.gpu.lib.cuGraphLaunch(self.exec, self.gpu.stream(self.index).ptr)
        if status:
            self.gpu._check(status, "launch a graph")

    def __del__(self) -> None:
        if self.exec:
            self.gpu.lib.cuGraphExecDestroy(self.exec)  # a launch that still runs finishes first
        if self.graph:
            self.gpu.lib.cuGraphDestroy(self.graph)


_PARAMS_BYTES = ctypes.sizeof(_NodeParams)


class Events:
    """Times of launches, by events recorded on the stream before and after each."""

    AHEAD = 200  # launches that the GPU is kept waiting for, so that it never waits for Python within them
    _WAIT = """extern "C" __global__ void dlc_wait(const long long* ns) {
        unsigned long long start, now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
        do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now - start < (unsigned long long)*ns);
    }"""

    def __init__(self, gpu: Gpu, index: int):
        from dlc.runtime.cuda.modules import cubin

        self.gpu, self.index = gpu, index
        self.module = gpu.load(cubin(self._WAIT, gpu.target(index).arch), index)
        self.wait = self.module.kernel("dlc_wait", 1, 0)
        with gpu.on(index):
            self.duration = gpu.cupy.array([self.AHEAD * 20_000], np.int64)
            self.events = [gpu.cupy.cuda.Event() for _ in range(2 * self.AHEAD)]
        self.argument = np.array([self.duration.data.ptr], np.uint64)
        self.pointer = np.array([self.argument.ctypes.data], np.uint64)

    def time(self, kernels: Sequence[LoadedKernel], grids: Sequence[int], pointers: Sequence[int]) -> list[float]:
        """Run the launches in order; the seconds of each."""
        gpu, out = self.gpu, []
        with gpu.on(self.index):
            for first in range(0, len(kernels), self.AHEAD):
                part = range(first, min(first + self.AHEAD, len(kernels)))
                gpu.launch(self.index, [self.wait], [1], [int(self.pointer.ctypes.data)])
                for n, k in enumerate(part):
                    self.events[2 * n].record()
                    gpu.launch(self.index, [kernels[k]], [grids[k]], [pointers[k]])
                    self.events[2 * n + 1].record()
                gpu.synchronize(self.index)
                elapsed = gpu.cupy.cuda.get_elapsed_time
                pairs = zip(self.events[0::2], self.events[1::2], strict=True)
                out += [elapsed(a, b) / 1e3 for _, (a, b) in zip(part, pairs, strict=False)]
        return out


def _library() -> ctypes.CDLL:
    """The CUDA driver. Its functions work on the thread's current context: see `Gpu._ready`."""
    try:
        lib = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"device 'cuda': the NVIDIA driver's library cannot be loaded ({error})") from None
    pointer, uint = ctypes.c_void_p, ctypes.c_uint
    lib.cuLaunchKernel.argtypes = [pointer, *[uint] * 7, pointer, pointer, pointer]
    lib.cuGraphLaunch.argtypes = [pointer, pointer]
    lib.cuGraphCreate.argtypes = [pointer, uint]
    lib.cuGraphAddKernelNode_v2.argtypes = [pointer, pointer, pointer, ctypes.c_size_t, pointer]
    lib.cuGraphInstantiateWithFlags.argtypes = [pointer, pointer, ctypes.c_ulonglong]
    lib.cuGraphExecKernelNodeSetParams_v2.argtypes = [pointer, pointer, pointer]
    lib.cuGraphExecDestroy.argtypes = lib.cuGraphDestroy.argtypes = [pointer]
    lib.cuModuleLoadData.argtypes = [pointer, ctypes.c_char_p]
    lib.cuModuleUnload.argtypes = [pointer]
    lib.cuModuleGetFunction.argtypes = [pointer, pointer, ctypes.c_char_p]
    lib.cuFuncSetAttribute.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
    cuda_maps.declare(lib)
    return lib
