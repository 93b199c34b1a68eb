"""The machine that we run on, as a `CpuTarget`."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path

import llvmlite.binding as llvm

from dlc.base import settings
from dlc.base.settings import SettingError
from dlc.codegen.target.cpu import LEVELS, CpuTarget

# Where the machine does not say: sizes that every desktop processor of the last ten years has.
_FALLBACK_BYTES = {(1, "Data"): 32 << 10, (2, "Unified"): 512 << 10, (3, "Unified"): 8 << 20}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SYSFS_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_MACOS_CACHES = {(1, "Data"): b"hw.l1dcachesize", (2, "Unified"): b"hw.l2cachesize", (3, "Unified"): b"hw.l3cachesize"}

# Linux, x86-64: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


@functools.cache
def detect() -> CpuTarget:
    """The host, found once a process.

    Environment: `DLC_CPU=sse2|avx2|avx512` lowers the instruction level; `DLC_NUM_THREADS` limits the threads.
    Raises SettingError where either asks for something that does not exist or that the host cannot run.
    """
    features = dict(llvm.get_host_cpu_features())
    if features.get("amx-bf16") and not _allow_amx():
        features = {name: on and not name.startswith("amx") for name, on in features.items()}
    caches = cache_bytes()
    target = CpuTarget.from_features(
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        features,
        l1d_bytes=caches[1, "Data"],
        l2_bytes=caches[2, "Unified"],
        l3_bytes=caches[3, "Unified"],
        threads=thread_count(),
    )
    level = settings.text("DLC_CPU").lower()
    if not level:
        return target
    if level not in LEVELS:
        raise SettingError(f"DLC_CPU={settings.shown(level)} is not a CPU level; expected one of {', '.join(LEVELS)}")
    lowered = target.with_features(level)
    if LEVELS.index(level) > LEVELS.index(target.level):
        raise SettingError(f"DLC_CPU={level} asks for more than this host has ({target.level})")
    return lowered


def thread_count() -> int:
    """How many threads the process may use: its affinity mask, limited by `DLC_NUM_THREADS`."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = settings.whole_number("DLC_NUM_THREADS", 1, "a positive whole number")
    return available if wanted is None else min(available, wanted)


def cache_bytes() -> dict[tuple[int, str], int]:
    """Cache sizes in bytes by (level, type): (1, "Data"), (2, "Unified") and (3, "Unified").

    An absent level 3 is reported as the size of level 2: a schedule that blocks for it then blocks for level 2.
    """
    found = _sysfs_cache_bytes() if _SYSFS_CACHES.is_dir() else {}
    if sys.platform == "darwin":
        found = {cache: size for cache, name in _MACOS_CACHES.items() if (size := _sysctl(name))}
    if (2, "Unified") in found:
        found.setdefault((3, "Unified"), found[2, "Unified"])
    return {cache: found.get(cache, size) for cache, size in _FALLBACK_BYTES.items()}


def _sysfs_cache_bytes() -> dict[tuple[int, str], int]:
    found = {}
    for folder in _SYSFS_CACHES.glob("index*"):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            number, unit = (size[:-1], _UNITS[size[-1]]) if size[-1:] in _UNITS else (size, 1)
            if int(number) > 0:
                found[int(level), kind] = int(number) * unit
        except (OSError, ValueError):
            continue  # containers hide some of these files, or leave them empty
    return found


def _sysctl(name: bytes) -> int:
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else value.value


def _allow_amx() -> bool:
    """Ask the kernel for AMX tile data. Linux grants it per process, to threads that start later as well."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    syscall = ctypes.CDLL(None).syscall
    syscall.argtypes, syscall.restype = [ctypes.c_long] * 3, ctypes.c_long
    return syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0
