"""Devices by name, and memory on any of them: what the frontend needs to know of where a value lives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlc.base.errors import DeviceError
from dlc.runtime.cpu import memory
from dlc.runtime.cpu.memory import Buffer

CPU = "cpu"
_NAME = re.compile(r"(cpu|cuda)(?::(\d{1,3}))?")


def canonical(device: Any) -> str:
    """The full name of a device: "cpu", or "cuda:N" ("cuda" is "cuda:0"). Takes names and torch.device objects.

    Raises DeviceError for what is no name of a device; whether the device exists is not looked at.
    """
    match = _NAME.fullmatch(str(device).strip().lower())
    if match is None or match[1] == CPU and match[2] not in (None, "0"):
        raise DeviceError(f"no device {device!r}; devices are 'cpu', 'cuda' and 'cuda:N'")
    return CPU if match[1] == CPU else f"cuda:{int(match[2] or 0)}"


def usable(device: Any) -> str:
    """The full name of a device that exists here. Raises DeviceError saying what to install where it does not."""
    name = canonical(device)
    if name != CPU:
        from dlc.runtime.cuda.device import gpu

        count = gpu().count
        if index_of(name) >= count:
            raise DeviceError(f"no device {name!r}: this machine has {count} GPU{'s' * (count != 1)}, counted from 0")
    return name


def index_of(device: str) -> int:
    """The number of a GPU."""
    return int(device.rpartition(":")[2])


def allocate(nbytes: int, device: str, label: Any = "") -> Buffer:
    """An uninitialised Buffer. `label` says in an out-of-memory error what holds it. Raises MemoryError."""
    if device == CPU:
        return memory.allocate(nbytes)
    from dlc.runtime.cuda import memory as cuda_memory

    return cuda_memory.allocate(nbytes, index_of(device), label)


def read(buffer: Buffer, shape: Sequence[int], np_dtype: Any) -> np.ndarray:
    """The content as a NumPy array: a view of host memory, a copy of a GPU's."""
    if buffer.device == CPU:
        return memory.as_ndarray(buffer, shape, np_dtype)
    from dlc.runtime.cuda import memory as cuda_memory

    return cuda_memory.download(buffer, shape, np_dtype)


def write(buffer: Buffer, array: np.ndarray) -> None:
    """Fill a Buffer with the content of an array of its size in bytes."""
    if buffer.device == CPU:
        memory.as_ndarray(buffer, array.shape, array.dtype.newbyteorder("="))[...] = array
    else:
        from dlc.runtime.cuda import memory as cuda_memory

        cuda_memory.upload(buffer, np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


def copied(buffer: Buffer, device: str | None = None, label: Any = "") -> Buffer:
    """A new Buffer with the same content, on `device` (the same, if not given)."""
    device = device or buffer.device
    if device == CPU and buffer.device == CPU:
        out = memory.allocate(buffer.nbytes)
        bytes_of(out)[...] = bytes_of(buffer)
        return out
    from dlc.runtime.cuda import memory as cuda_memory

    if device == CPU:
        out = memory.allocate(buffer.nbytes)
        bytes_of(out)[...] = cuda_memory.download(buffer, (buffer.nbytes,), np.uint8)
        return out
    out = cuda_memory.allocate(buffer.nbytes, index_of(device), label)
    if buffer.device == CPU:
        cuda_memory.upload(out, bytes_of(buffer))
    else:
        cuda_memory.transfer(out, buffer)
    return out


def bytes_of(buffer: Buffer) -> np.ndarray:
    """Host memory as an array of bytes."""
    return memory.as_ndarray(buffer, (buffer.nbytes,), np.uint8)


def synchronize(device: str | None) -> None:
    """Wait until everything that was started on `device` (None: on every device that was used) has run."""
    if device != CPU:
        from dlc.runtime.cuda import device as cuda_device

        used = cuda_device.used() if device is None else [index_of(device)]
        for index in used:
            cuda_device.gpu().synchronize(index)
