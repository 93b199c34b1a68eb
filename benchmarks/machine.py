"""What machine this is, and what it could do at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Machine:
    """Host, software, load, and measured limits: float32 FLOP/s of NumPy's matmul, bytes/s (both ways) of a copy.

    `bf16` is how many times as many products of bfloat16 the processor's instructions do in a cycle.
    """

    host: str
    cpu: str
    threads: int
    versions: dict[str, str]
    load: float
    flops: float
    bandwidth: float
    bf16: int = 1


def describe(threads: int) -> Machine:
    """Look at this machine, and measure its limits with `threads` threads (about a second)."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "jax", "numpy", "llvmlite"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    cpu, flags = _cpuinfo("model name") or platform.processor(), _cpuinfo("flags").split()
    # vdpbf16ps: two products a lane; tdpbf16ps: 16 x 16 x 32 in 16 cycles, where two FMA units do 32
    bf16 = 16 if "amx_bf16" in flags else 2 if "avx512_bf16" in flags else 1
    return Machine(platform.node(), cpu, threads, versions, load, _peak_flops(), _peak_bandwidth(threads), bf16)


def _cpuinfo(key: str) -> str:
    """What Linux says of the first processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.partition("\t")[0].strip() == key), "")


def _best(call: Callable[[], object], times: int = 7) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _peak_flops(n: int = 1536) -> float:
    a, out = np.ones((n, n), np.float32), np.empty((n, n), np.float32)
    return 2 * n**3 / _best(lambda: np.matmul(a, a, out=out))


def _peak_bandwidth(threads: int, megabytes: int = 256) -> float:
    source = np.ones(megabytes << 18, np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return 2 * source.nbytes / seconds
