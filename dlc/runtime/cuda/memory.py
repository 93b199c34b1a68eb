"""Memory of the GPUs: Buffers from CuPy's pool, copies, and the scratch memory that all programs of a GPU share.

Everything runs on one stream for each GPU, and so in order: memory that Python lets go of while a kernel still uses it
can be handed out again at once, as its next user comes later in the stream. For the same reason one arena serves all
programs of a GPU; it is as large as the largest of them asked for.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlc.base import forks
from dlc.base.errors import DeviceError, OutOfMemory
from dlc.runtime.cpu.memory import Buffer, readable
from dlc.runtime.cuda.device import gpu

LARGEST = 5  # holders that an out-of-memory error lists


class DeviceBuffer(Buffer):
    """A Buffer of a GPU. `memory` keeps it allocated; `label` says what it is for."""

    __slots__ = ("label", "memory")

    def __init__(self, address: int, nbytes: int, index: int, memory: Any = None, owner: Any = None, label: Any = ""):
        name = _names.get(index) or _names.setdefault(index, f"cuda:{index}")  # one string: quick to compare
        super().__init__(address, nbytes, name, owner)
        self.memory, self.label = memory, label
        _live.add(self)

    def __del__(self) -> None:
        # Somebody else's memory may be reused by its owner on another stream: wait until ours is done with it.
        if self.owner is not None and _lent is not None:
            with contextlib.suppress(DeviceError):  # the child of a fork: nothing of ours runs there
                _lent.append((gpu().mark(int(self.device[5:])), self.owner))


class Use(NamedTuple):
    """What dlc holds on one GPU: bytes and number of Buffers."""

    bytes: int
    buffers: int


_names: dict[int, str] = {}
_live: weakref.WeakSet[DeviceBuffer] = weakref.WeakSet()
_lent: deque[tuple[Any, Any]] = deque()
_arenas: dict[int, DeviceBuffer] = {}
_lock = forks.lock()


def allocate(nbytes: int, index: int, label: Any = "") -> DeviceBuffer:
    """An uninitialised Buffer on GPU `index`. Raises OutOfMemory, after the shared arena was given back in vain."""
    if nbytes < 0:
        raise ValueError(f"cannot allocate {nbytes} bytes")
    _return_lent()
    memory = gpu().allocate(nbytes, index)
    if memory is None and _arenas.pop(index, None) is not None:
        memory = gpu().allocate(nbytes, index)
    if memory is None:
        raise OutOfMemory(_complaint(nbytes, index, label))
    return DeviceBuffer(memory.ptr, nbytes, index, memory, label=label)


def borrowed(address: int, nbytes: int, index: int, owner: Any) -> DeviceBuffer:
    """A Buffer over memory of another library, which `owner` keeps alive."""
    return DeviceBuffer(address, nbytes, index, owner=owner, label="memory of another library")


def arena(nbytes: int, index: int) -> DeviceBuffer:
    """Scratch memory of at least `nbytes`, for launches that are made before anybody asks for it again."""
    with _lock:
        held = _arenas.get(index)
        if held is None or held.nbytes < nbytes:
            _arenas.pop(index, None)
            del held  # so that the new one can take its place
            held = _arenas[index] = allocate(nbytes, index, "scratch memory of compiled programs")
        return held


def release_arenas() -> None:
    """Give the scratch memory back to the pool; the next run of a program takes it again."""
    _arenas.clear()


def use(index: int) -> Use:
    """What dlc's Buffers hold on a GPU."""
    sizes = [b.nbytes for b in _buffers(index)]
    return Use(sum(sizes), len(sizes))


def upload(buffer: Buffer, array: np.ndarray) -> None:
    """Copy a contiguous host array into a Buffer of a GPU; the array may change as soon as this returns."""
    if array.nbytes:
        gpu().copy_in(buffer.address, array, int(buffer.device[5:]))


def download(buffer: Buffer, shape: Sequence[int], np_dtype: Any) -> np.ndarray:
    """The content of a Buffer of a GPU as a new array. Waits for what computes it."""
    out = np.empty(tuple(shape), np_dtype)
    if out.nbytes:
        gpu().copy_out(out, buffer.address, int(buffer.device[5:]))
    return out


def transfer(to: Buffer, source: Buffer) -> None:
    """Copy from one Buffer of a GPU to another, of the same or another GPU."""
    if source.nbytes:
        gpu().copy_across(to.address, int(to.device[5:]), source.address, int(source.device[5:]), source.nbytes)


def _return_lent() -> None:
    """Let go of other libraries' memory that our stream is done with."""
    while _lent and _lent[0][0].done:
        try:
            _lent.popleft()
        except IndexError:  # another thread did
            return


def _buffers(index: int) -> list[DeviceBuffer]:
    device = f"cuda:{index}"
    while True:
        try:
            return [b for b in _live if b.device == device and b.owner is None]
        except RuntimeError:  # another thread allocated meanwhile
            continue


def _complaint(nbytes: int, index: int, label: Any) -> str:
    found = gpu().card(index)
    buffers = _buffers(index)
    groups: dict[str, list[int]] = {}
    for b in buffers:
        groups.setdefault(str(b.label) or "tensors", []).append(b.nbytes)
    lines = [
        f"cuda:{index} is out of memory: {readable(nbytes)} were asked for" + (f" ({label})" if label else "") + ";",
        f"  dlc holds {readable(sum(b.nbytes for b in buffers))} in {len(buffers)} buffers; the GPU has "
        f"{readable(found.total_bytes)}, {readable(found.free_bytes)} of them free",
    ]
    for name, sizes in sorted(groups.items(), key=lambda g: -sum(g[1]))[:LARGEST]:
        count = f" in {len(sizes)} buffers, the largest {readable(max(sizes))}" if len(sizes) > 1 else ""
        lines.append(f"  {readable(sum(sizes)):>10}  {name}{count}")
    return "\n".join(lines)
