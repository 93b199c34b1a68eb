"""A fake GPU whose kernels are the generated CUDA C, compiled as C++ and run by `machine.cpp`."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dlc.codegen.cuda.kernel import emit_module, symbol
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.program.program import Program
from dlc.ir.program.tensor_map import TensorMap
from tests import fake_gpu
from tests.cuda_on_cpu.source import translated
from tests.fake_gpu import OFFSET, FakeGpu

HERE = Path(__file__).parent
OPTIONS = ("-std=c++17", "-O1", "-fPIC", "-w", "-fno-strict-aliasing", "-ffp-contract=off",
           "-ftrivial-auto-var-init=pattern", "-fsanitize=bounds,alignment", "-shared",
           "-nodefaultlibs")  # the checks' functions are the machine's
TELL = ("-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0")
MAP_BYTES = 128


class MachineError(Exception):
    """A kernel that cannot go on, or that touches what is not its own."""


def why_not() -> str:
    """Why this machine cannot run CUDA C, or ""."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "the emulated GPU switches stacks in x86-64 assembly"
    return "" if shutil.which("g++") else "the emulated GPU needs g++"


@functools.cache
def folder() -> Path:
    """Where this process keeps compiled code; it goes when the process ends."""
    _folders.append(tempfile.TemporaryDirectory(prefix="dlc-cuda-on-cpu-"))
    return Path(_folders[0].name)


_folders: list[tempfile.TemporaryDirectory] = []


def _compiler(*arguments: Any) -> None:
    done = subprocess.run(["g++", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"g++ failed:\n{done.stderr[:4000]}")


@functools.cache
def machine() -> ctypes.CDLL:
    """The library that runs kernels."""
    path = folder() / "machine.so"
    _compiler("-std=c++17", "-O2", "-fPIC", "-shared", HERE / "machine.cpp", "-o", path)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.gpu_launch.restype = ctypes.c_char_p
    return library


@functools.cache
def compiled(text: str, races: bool = False) -> bytes:
    """A shared library with the kernels of a CUDA C source; with `races` they tell of every access of memory. Raises
    NotEmulated or MachineError."""
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}{'-races' * races}"
    source, made = folder() / f"{name}.cpp", folder() / f"{name}.so"
    source.write_text(translated(text))
    _compiler(*OPTIONS, *(TELL if races else ()), "-I", HERE, source, "-o", made)
    return str(made).encode()


def library(code: bytes) -> ctypes.CDLL:
    """What `compiled` made, loaded."""
    machine()  # first: the others use its functions
    return ctypes.CDLL(code.decode())


class Arguments(NamedTuple):
    addresses: list[int]
    maps: bytes


class Loaded(NamedTuple):
    """A kernel in a library."""

    kernel: loops.Kernel
    run: Any


class Module:
    def __init__(self, gpu: EmulatedGpu, code: bytes):
        self.gpu, self.library = gpu, library(code)

    def kernel(self, name: str, block: int, shared_bytes: int) -> Loaded:
        return Loaded(self.gpu.kernels[name], getattr(self.library, f"run_{name}"))


class EmulatedGpu(FakeGpu):
    """`order` of threads and blocks: 0 as they are numbered, 1 the other way round, more: shuffled by this seed.
    `late`: asynchronous copies and products happen when they are waited for, else at once. Schedules are chosen for
    `sm_count` multiprocessors (0: as many as the card has): few make small problems look large. `races`: an access of
    what another thread wrote, or a write over what it read, with no barrier between is an error, and so is any access
    outside of parameters and shared arrays; the operands of wgmma and bulk copies are not looked at."""

    def __init__(self, count: int = 2, nbytes: int = 1 << 28, arch: str = "sm_90a", order: int = 0, late: bool = True,
                 sm_count: int = 0, races: bool = False):
        super().__init__(count, nbytes, arch)
        self.order, self.late, self.sm_count, self.races = order, late, sm_count, races

    def target(self, index: int) -> GpuTarget:
        target = super().target(index)
        return replace(target, sm_count=self.sm_count) if self.sm_count else target

    def load(self, cubin: bytes, index: int) -> Module:
        return Module(self, cubin)

    def tensor_map(self, spec: TensorMap, address: int) -> bytes:
        self.calls["maps"] += 1
        item, rank = dtypes.by_name(spec.dtype).itemsize, len(spec.sizes)
        rest = (0,) * (5 - rank)
        assert all(s * item % 16 == 0 for s in spec.strides[:-1]) and (address + spec.start * item) % 16 == 0
        return struct.pack("<QqBBBB4x5II5q5H", address, spec.start, rank, item, spec.swizzled, spec.param, *spec.sizes,
                           *rest, 0, *spec.strides, *rest, *spec.box, *rest).ljust(MAP_BYTES, b"\0")

    def arguments(self, loaded: Loaded, at: int) -> Arguments:  # type: ignore[override]
        kernel = loaded.kernel
        addresses = super().arguments(kernel, at)
        count, maps = len(kernel.params), len(launch_shape(kernel).maps)
        places = (ctypes.c_uint64 * (count + maps)).from_address(at)
        return Arguments(addresses, b"".join(ctypes.string_at(p, MAP_BYTES) for p in places[count:]))

    def execute(self, loaded: Loaded, grid: int, arguments: Arguments) -> None:  # type: ignore[override]
        kernel, run = loaded
        shape, count = launch_shape(kernel), len(kernel.params)
        extents = self.extents(kernel, arguments.addresses)
        pointers = (ctypes.c_uint64 * max(count, 1))(*(a - OFFSET for a in arguments.addresses))
        sizes = (ctypes.c_size_t * max(count, 1))(
            *(max(n, 0) * p.dtype.itemsize for p, n in zip(kernel.params, extents, strict=True)))
        written = bytes(p in kernel.writes for p in kernel.params)
        error = machine().gpu_launch(
            symbol(kernel).encode(), run, grid, shape.block, shape.shared_bytes, self.order, int(self.late), count,
            pointers, sizes, written, len(shape.maps), arguments.maps,
            int(self.races))
        if error:
            raise MachineError(error.decode())


def use(monkeypatch: Any, gpu: EmulatedGpu | None = None) -> EmulatedGpu:
    """Put an emulated GPU in place for one test."""
    from dlc.runtime.cuda import compile as cuda_compile
    from dlc.runtime.cuda import modules as cuda_modules

    gpu = gpu or EmulatedGpu()
    fake_gpu.use(monkeypatch, gpu)

    def sources(modules: list[list[loops.Kernel]], target: GpuTarget) -> list[str]:
        for kernels in modules:
            gpu.learn(kernels)
        return [emit_module(kernels, target) for kernels in modules]

    monkeypatch.setattr(cuda_compile, "sources", sources)
    monkeypatch.setattr(cuda_modules, "cubin", lambda text, arch: compiled(text, gpu.races))
    return gpu


def run_program(program: Program, arrays: Sequence[np.ndarray], seed: int = 0, races: bool = False) -> list[np.ndarray]:
    """`program_interp.run_program` of a program for a GPU, by its CUDA C: the seed is the order of threads."""
    from dlc.runtime import devices
    from dlc.runtime.cuda import compile as cuda_compile
    from dlc.runtime.cuda import memory as cuda_memory

    with pytest.MonkeyPatch.context() as patch:
        use(patch, EmulatedGpu(1, 1 << 32, order=seed, late=seed % 2 == 1, races=races))
        executable = cuda_compile.load(program, GpuTarget.of("sm_90a"), 0, "", False, lambda stage, result: None)
        buffers = []
        for array in map(np.ascontiguousarray, arrays):
            buffers.append(cuda_memory.allocate(array.nbytes, 0))
            cuda_memory.upload(buffers[-1], array)
        out = executable.run(buffers)
        return [np.asarray(devices.read(b, t.shape, t.dtype.np)) for b, t in
                zip(out, program.output_types, strict=True)]
