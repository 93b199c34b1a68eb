"""Sharing memory with other libraries through DLPack, without copies.

A Tensor is a value: what dlc exports keeps its Buffer in use, so that nothing dlc runs later writes to it, and the
other side must not write either (the array is marked read-only). An imported array is shared the same way; dlc never
takes it as its own to overwrite.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dlc.frontend.core import eager, foreign
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.tensor import Tensor, bare, moved
from dlc.frontend.core.trace import state
from dlc.ir import dtypes
from dlc.runtime.devices import index_of

_CPU, _CUDA = 1, 2  # kDLCPU, kDLCUDA
_UINT, _BFLOAT = 1, 4  # DLDataTypeCode

def dlpack(x: Tensor, *, stream=None, max_version=None, dl_device=None, copy=None) -> Any:
    """A DLPack capsule of the value, for `from_dlpack` of another library. Not on traced tensors.

    Memory of a GPU cannot be marked read-only: the other side must not write to it.
    """
    here_, there = dlpack_device(x), None if dl_device is None else tuple(map(int, dl_device))
    if there not in (None, here_):
        if there != (_CPU, 0) or copy is False:
            raise BufferError(f"__dlpack__: a tensor on {x.device} cannot be exported to device {there}")
        x = x.to("cpu")
    elif here_[0] == _CUDA:
        return _dlpack_cuda(x, bool(copy), stream, {"max_version": max_version})
    if stream is not None:
        raise BufferError("__dlpack__: there are no streams on the CPU")
    array = x.numpy()
    array = array.copy() if copy else array
    if max_version is None or max_version[0] < 1:
        # The old protocol cannot say "read-only", and NumPy does not export read-only arrays with it.
        array = array.view()
        array.flags.writeable = True
    half = x.dtype is dtypes.bfloat16
    array = array.view(np.uint16) if half else array
    capsule = array.__dlpack__(**({} if max_version is None else {"max_version": max_version}))
    if half:  # NumPy has no bfloat16, so it exports the bits; put the type right
        foreign.type_code(capsule).value = _BFLOAT
    return capsule


def _dlpack_cuda(x: Tensor, copy: bool, stream: Any, options: dict[str, Any]) -> Any:
    from dlc.runtime.cuda import interop as cuda_interop

    eager.may_leave(x, "__dlpack__")
    eager.at_hand(x, "__dlpack__")
    capsule = cuda_interop.export(x._node.data, x.shape, x.dtype, copy, stream, options)
    if x.dtype is dtypes.bfloat16:
        foreign.type_code(capsule).value = _BFLOAT
    return capsule


def dlpack_device(x: Tensor) -> tuple[int, int]:
    """(1, 0) for the CPU, (2, N) for GPU number N."""
    device = x.device
    return (_CPU, 0) if device == "cpu" else (_CUDA, index_of(device))


@user_errors
def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A Tensor over the memory of another library's array (`x.__dlpack__`), kept alive as long as the Tensor needs it.

    Non-contiguous arrays are copied, all with `copy=True`; `copy=False` raises BufferError then. Without a copy,
    writing to `x` afterwards changes the Tensor. `device` moves the result there. Raises BufferError for memory that
    is neither the CPU's nor a CUDA GPU's.
    """
    if device is not None:
        return moved(from_dlpack(x, copy=copy), device)
    if isinstance(x, Tensor):
        return x
    found = foreign.adopt(x, copy)
    return Tensor(found) if isinstance(found, np.ndarray) else bare(found, state.trace)


def namespace(x: Tensor, /, *, api_version: str | None = None) -> Any:
    """`__array_namespace__`: the module `dlc`, whose functions follow the array API standard."""
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
        raise ValueError(f"__array_namespace__: no version {api_version!r} of the array API standard\n  at {here()}")
    return sys.modules["dlc"]
