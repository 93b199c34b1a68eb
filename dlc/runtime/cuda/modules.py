"""From CUDA C to machine code by NVRTC, which needs neither a GPU nor a driver (packages cupy-cuda13x and
nvidia-cuda-nvrtc).

    cubin(source, "sm_90a") -> bytes         machine code: what the disk cache keeps
    ptx(source, "sm_90a") -> str             NVIDIA's portable assembly, to be read
    sass(cubin) -> str                       the machine code as text, where NVIDIA's disassembler is installed
    batches(kernels) -> list of lists        kernels by module
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dlc.base.errors import DeviceError
from dlc.base.workers import Workers
from dlc.runtime.cuda.card import INSTALL

OPTIONS = ("--std=c++17",)
KERNELS_A_MODULE = 12  # a module costs NVRTC some 40 ms before its first kernel; more than this and threads idle
MAX_THREADS = 16

T = TypeVar("T")


class CudaSourceError(DeviceError):
    """NVRTC refused a source: a bug in the emitter. The message has its first complaints and their lines."""


def cubin(source: str, arch: str) -> bytes:
    """The machine code of a CUDA C source for one architecture. Raises CudaSourceError."""
    # CuPy takes the last byte for the end of a string. It is one of an ELF program header's alignment: always zero.
    return _compiled(source, arch, "getCUBIN") + b"\0"


def ptx(source: str, arch: str) -> str:
    """The PTX of a CUDA C source. Raises CudaSourceError."""
    return _compiled(source, arch, "getPTX").decode().rstrip("\0")


def cubins(sources: Sequence[str], arch: str) -> list[bytes]:
    """The machine code of several modules (none for a program without kernels), compiled at the same time."""
    if len(sources) < 2:
        return [cubin(source, arch) for source in sources]
    workers = Workers(min(len(sources), thread_count()), "dlc-nvrtc")
    try:
        jobs = [workers.submit(cubin, source, arch) for source in sources]
        return [job.result() for job in jobs]
    finally:
        workers.close()


def thread_count() -> int:
    """How many modules are compiled at the same time."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, MAX_THREADS))


def batches(items: Sequence[T], weight: Callable[[T], float], threads: int | None = None) -> list[list[T]]:
    """Few groups of about the same weight, each in the order of `items`: one module a group."""
    if not items:
        return []
    threads = threads or thread_count()
    count = max(1, min(len(items), max(-(-len(items) // KERNELS_A_MODULE), min(threads, -(-len(items) // 3)))))
    groups: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for k in sorted(range(len(items)), key=lambda k: -weight(items[k])):
        least = loads.index(min(loads))
        groups[least].append(k)
        loads[least] += weight(items[k])
    return [[items[k] for k in sorted(group)] for group in groups if group]


def version() -> str:
    """NVRTC's version, for cache keys."""
    return ".".join(map(str, _nvrtc().getVersion()))


def sass(code: bytes) -> str:
    """Machine code as text. Raises DeviceError where NVIDIA's disassembler is not installed."""
    for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "-sass")):
        path = _tool(tool)
        if path is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "kernel.cubin"
            file.write_bytes(code)
            done = subprocess.run([path, option, str(file)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"{path} failed: {done.stderr.strip()}")
        return done.stdout
    raise DeviceError(
        "the stage sass needs NVIDIA's disassembler, nvdisasm or cuobjdump, on the PATH: it is part of the CUDA "
        "toolkit (pip install nvidia-cuda-nvdisasm has it too). The stage ptx needs none"
    )


def _tool(name: str) -> str | None:
    found = shutil.which(name)
    if found is None:
        site = Path(sysconfig.get_paths()["purelib"])
        places = sorted(site.glob(f"nvidia/*/bin/{name}")) + [Path(f"/usr/local/cuda/bin/{name}")]
        found = next((str(p) for p in places if p.is_file() and os.access(p, os.X_OK)), None)
    return found


def _nvrtc() -> Any:
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise DeviceError(f"compiling for CUDA needs NVRTC ({error}): {INSTALL}") from None
    return nvrtc


def _compiled(source: str, arch: str, get: str) -> bytes:
    nvrtc = _nvrtc()
    program = nvrtc.createProgram(source, "dlc.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={arch}", *OPTIONS))
        code = getattr(nvrtc, get)(program)
        return code.encode() if isinstance(code, str) else code
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise CudaSourceError(_shown(log or str(error), source)) from None
    finally:
        nvrtc.destroyProgram(program)


def _shown(log: str, source: str) -> str:
    """The first complaints of NVRTC, each with the line that it is about."""
    lines, out = source.splitlines(), []
    for complaint in [c for c in log.splitlines() if "error" in c][:5] or log.splitlines()[:5]:
        out.append(complaint)
        number = complaint.partition("dlc.cu(")[2].partition(")")[0]
        if number.isdigit() and 0 < int(number) <= len(lines):
            out.append(f"    {lines[int(number) - 1].strip()}")
    return "NVRTC cannot compile a generated kernel:\n" + "\n".join(out)
