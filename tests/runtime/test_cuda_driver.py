"""What reaches the CUDA driver, seen by C functions that stand in for it."""

import contextlib
import ctypes
import threading
from collections import deque

import numpy as np
import pytest

from dlc.base.errors import DeviceError
from dlc.runtime.cuda import api as cuda_api
from dlc.runtime.cuda.api import Gpu, KernelGraph, LoadedKernel, LoadedModule

P, U = ctypes.c_void_p, ctypes.c_uint
STREAM = 77


class Driver:
    """The functions of libcuda that are used; each call is noted with its arguments as C sees them."""

    def __init__(self):
        self.calls, self.status, self.kept = [], 0, []
        self.context: threading.local | None = None  # `current` where a thread has one
        self.define("cuLaunchKernel", P, *[U] * 7, P, P, P)
        self.define("cuGraphCreate", P, U, gives=1000)
        self.define("cuGraphAddKernelNode_v2", P, P, P, ctypes.c_size_t, P, gives=2000)
        self.define("cuGraphInstantiateWithFlags", P, P, ctypes.c_ulonglong, gives=3000)
        self.define("cuGraphExecKernelNodeSetParams_v2", P, P, P)
        for name in ("cuGraphExecDestroy", "cuGraphDestroy", "cuModuleUnload"):
            self.define(name, P)
        self.define("cuGraphLaunch", P, P)
        self.define("cuModuleLoadData", P, P, gives=4000)
        self.define("cuModuleGetFunction", P, P, ctypes.c_char_p, gives=5000)
        self.define("cuFuncSetAttribute", P, ctypes.c_int, ctypes.c_int)
        self.define("cuGetErrorName", ctypes.c_int, P)
        self.define("cuGetErrorString", ctypes.c_int, P)

    def define(self, name, *types, gives=None):
        def call(*args):
            self.calls.append((name, *args))
            if name == "cuGraphAddKernelNode_v2":
                self.calls[-1] += (node_params(args[4]), edges(args[2], args[3]))
            if name == "cuGraphExecKernelNodeSetParams_v2":
                self.calls[-1] += (node_params(args[2]),)
            if self.context is not None and not getattr(self.context, "current", False):
                return 201 if not name.startswith("cuGetError") else 0
            if gives is not None:
                P.from_address(args[0]).value = gives + len(self.named(name))
            return 0 if name.startswith("cuGetError") else self.status

        function = ctypes.CFUNCTYPE(ctypes.c_int, *types)(call)
        self.kept.append(function)
        setattr(self, name, function)

    def named(self, name):
        return [c for c in self.calls if c[0] == name]


def node_params(address):
    """The fields of a CUDA_KERNEL_NODE_PARAMS, read byte by byte as cuda.h lays them out."""
    raw = ctypes.string_at(address, 72)
    words = np.frombuffer(raw, np.uint64)
    assert words[6] == words[7] == words[8] == 0  # extra, kern, ctx
    numbers = np.frombuffer(raw, np.uint32)[2:9]
    values = ctypes.c_uint64.from_address(ctypes.c_uint64.from_address(int(words[5])).value).value
    return int(words[0]), tuple(numbers.tolist()), values


def edges(address, count):
    return [P.from_address(address + 8 * k).value for k in range(count)]


@pytest.fixture
def gpu():
    found = Gpu.__new__(Gpu)
    found.lib, found.count, found._dead = Driver(), 1, deque()
    found._threads, found._lock = threading.local(), threading.Lock()
    found._threads.entered = True
    found.on = lambda index: contextlib.nullcontext(STREAM)
    found.stream = lambda index: type("Stream", (), {"ptr": STREAM})
    found.synchronize = lambda index: None
    return found


class Arguments:
    """Two launches of one argument each, in the layout of cuda_executable._Series."""

    def __init__(self, *values):
        self.values = np.array(values, np.uint64)
        self.table = self.values.ctypes.data + 8 * np.arange(len(values), dtype=np.uint64)
        self.pointers = (self.table.ctypes.data + 8 * np.arange(len(values))).tolist()


def test_graphs(gpu):
    arguments = Arguments(11, 22, 33)
    kernels = [LoadedKernel(501, 128, 0), LoadedKernel(502, 256, 70_000), LoadedKernel(501, 128, 0)]
    graph = KernelGraph(gpu, 0, kernels, [4, 5, 6], arguments.pointers, [[], [], [0, 1]])
    nodes = gpu.lib.named("cuGraphAddKernelNode_v2")
    assert [n[6] for n in nodes] == [
        (501, (4, 1, 1, 128, 1, 1, 0), 11), (502, (5, 1, 1, 256, 1, 1, 70_000), 22), (501, (6, 1, 1, 128, 1, 1, 0), 33),
    ]  # fmt: skip
    made = [2001, 2002, 2003]
    assert [n[7] for n in nodes] == [[], [], made[:2]] and {n[2] for n in nodes} == {1001}
    assert gpu.lib.named("cuGraphInstantiateWithFlags")[0][2:] == (1001, 0)
    arguments.values[:] = (44, 55, 66)
    graph.update([2, 1])
    updates = gpu.lib.named("cuGraphExecKernelNodeSetParams_v2")
    assert [(u[1], u[2], u[4]) for u in updates] == [
        (3001, made[2], (501, (6, 1, 1, 128, 1, 1, 0), 66)), (3001, made[1], (502, (5, 1, 1, 256, 1, 1, 70_000), 55)),
    ]  # fmt: skip
    graph.launch()
    assert gpu.lib.calls[-1] == ("cuGraphLaunch", 3001, STREAM)
    del graph
    assert gpu.lib.calls[-2:] == [("cuGraphExecDestroy", 3001), ("cuGraphDestroy", 1001)]


def test_launches(gpu):
    arguments = Arguments(11, 22)
    gpu.launch(0, [LoadedKernel(501, 128, 0), LoadedKernel(502, 32, 9)], [4, 70_000], arguments.pointers)
    assert gpu.lib.calls == [
        ("cuLaunchKernel", 501, 4, 1, 1, 128, 1, 1, 0, STREAM, arguments.pointers[0], None),
        ("cuLaunchKernel", 502, 70_000, 1, 1, 32, 1, 1, 9, STREAM, arguments.pointers[1], None),
    ]


class Cupy:
    """CuPy's devices: a new thread is on GPU 0 without a context; only setDevice makes one current."""

    def __init__(self, context):
        self.cuda = self.runtime = self
        self.thread = context

    def getDevice(self):  # noqa: N802
        return getattr(self.thread, "device", 0)

    def setDevice(self, index):  # noqa: N802
        self.thread.device, self.thread.current = index, True

    @contextlib.contextmanager
    def Device(self, index):  # noqa: N802
        before = self.getDevice()
        if before != index:
            self.setDevice(index)
        yield
        if before != index:
            self.setDevice(before)

    @contextlib.contextmanager
    def Stream(self, non_blocking):  # noqa: N802
        yield


class Stream(contextlib.nullcontext):
    ptr = STREAM


@pytest.mark.parametrize("index", [0, 1])
def test_every_thread_gets_a_context(gpu, index):
    """Whatever a thread does first with the driver works."""
    context = gpu.lib.context = threading.local()
    del gpu.on, gpu._threads.entered
    gpu.cupy = gpu.runtime = Cupy(context)
    gpu.count, gpu.stream = 2, lambda index: Stream()
    arguments = Arguments(11)
    made = gpu.load(b"", index)
    uses = [
        lambda: gpu.launch(index, [LoadedKernel(501, 128, 0)], [4], arguments.pointers),
        lambda: gpu.load(b"", index),
        lambda: made.kernel("add_0", 64, 100),
        lambda: gpu.graph(index, [LoadedKernel(501, 128, 0)], [4], arguments.pointers, [[]]).launch(),
    ]
    for use in uses:
        failed = []

        def run(use=use, failed=failed):
            try:
                assert gpu.lib.cuGraphCreate(ctypes.byref(P()), 0) == 201  # no context yet
                use()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert not failed, failed


def test_modules(gpu):
    module = gpu.load(b"\x7fELF\0rest", 0)
    assert module.handle == 4001
    assert ctypes.string_at(gpu.lib.calls[0][2], 9) == b"\x7fELF\0rest"
    assert module.kernel("add_0", 64, 100) == LoadedKernel(5001, 64, 100)
    assert gpu.lib.calls[-1][2:] == (4001, b"add_0")
    module.kernel("gemm_0", 128, 100_000)
    assert gpu.lib.calls[-1] == ("cuFuncSetAttribute", 5002, 8, 100_000)
    del module
    assert not gpu.lib.named("cuModuleUnload")  # its kernels may still run
    other = gpu.load(b"", 0)
    assert gpu.lib.named("cuModuleUnload") == [("cuModuleUnload", 4001)] and isinstance(other, LoadedModule)


def test_failures_are_named(gpu):
    gpu.lib.status = 700
    with pytest.raises(DeviceError, match="CUDA could not launch a kernel: error 700"):
        gpu.launch(0, [LoadedKernel(501, 128, 0)], [1], Arguments(1).pointers)


def test_layout_of_the_structure():
    assert ctypes.sizeof(cuda_api._NodeParams) == 72
    assert cuda_api._NodeParams.params.offset == 40 and cuda_api._NodeParams.shared.offset == 32
