"""The GPUs of this machine: `gpu()` gives what talks to them, `gpu_target` what code may assume of one.

CuPy is imported at the first call that needs a GPU and never before. Without it, or without a GPU, that call raises a
DeviceError that says what to do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dlc.base import forks
from dlc.base.errors import DeviceError
from dlc.codegen.target.gpu import GpuTarget
from dlc.runtime.cuda.card import Card

if TYPE_CHECKING:
    from dlc.runtime.cuda.api import Gpu


_lock = forks.lock()
_gpu: Gpu | None = None
_owner_pid = -1


def gpu() -> Gpu:
    """What talks to the GPUs. Raises DeviceError where there are none."""
    global _gpu, _owner_pid
    if _gpu is None:
        with _lock:
            if _gpu is None:
                from dlc.runtime.cuda.api import Gpu

                _gpu, _owner_pid = Gpu.open(), os.getpid()
    elif _owner_pid != os.getpid():
        raise DeviceError(
            "the GPU was in use when this process was forked, and CUDA does not survive a fork: start workers with "
            "multiprocessing's 'spawn' method, or fork before the first use of the GPU"
        )
    return _gpu


def used() -> list[int]:
    """The numbers of the GPUs that this process has used so far."""
    return _gpu.used() if _gpu is not None and _owner_pid == os.getpid() else []


def install(driver: Gpu | None) -> None:
    """Use `driver` from now on (None: look for real GPUs again). Tests bring one that needs no GPU."""
    global _gpu, _owner_pid
    _gpu, _owner_pid = driver, os.getpid()


def cards() -> list[Card]:
    """The GPUs, in order of their number; none where CuPy or the driver is missing."""
    try:
        found = gpu()
    except DeviceError:
        return []
    return [found.card(k) for k in range(found.count)]


def why_none() -> str:
    """Why `gpu()` fails, or "" where it does not."""
    try:
        gpu()
    except DeviceError as error:
        return str(error)
    return ""


def gpu_target(index: int) -> GpuTarget:
    """GPU number `index` as the code generator sees it."""
    return gpu().target(index)


