"""Sharing memory with other libraries through DLPack, without copies.

A Tensor is a value: what dlc exports keeps its Buffer in use, so that nothing dlc runs later writes to it, and the
other side must not write either (the array is marked read-only). An imported array is shared the same way; dlc never
takes it as its own to overwrite.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError
from dlc.frontend.core import eager, moving
from dlc.frontend.core import places as placement
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.tensor import Tensor, from_buffer
from dlc.ir import dtypes
from dlc.ir.graph.graph import TensorType
from dlc.runtime.cpu.memory import from_array
from dlc.runtime.devices import index_of

_CPU, _CUDA = 1, 2  # kDLCPU, kDLCUDA
_UINT, _BFLOAT = 1, 4  # DLDataTypeCode

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, [ctypes.py_object]

# Where the type code of the tensor lies: after data (8), device (8), ndim (4) in a DLTensor, which a
# DLManagedTensorVersioned has after version (8), manager context (8), deleter (8) and flags (8).
_CODE_AT = {b"dltensor": 20, b"dltensor_versioned": 32 + 20}


def _type_code(capsule: Any) -> ctypes.c_uint8:
    name = _name(capsule)
    return ctypes.c_uint8.from_address(_pointer(capsule, name) + _CODE_AT[name])


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
        _type_code(capsule).value = _BFLOAT
    return capsule


def _dlpack_cuda(x: Tensor, copy: bool, stream: Any, options: dict[str, Any]) -> Any:
    from dlc.runtime.cuda import interop as cuda_interop

    eager.may_leave(x, "__dlpack__")
    eager.at_hand(x, "__dlpack__")
    capsule = cuda_interop.export(x._node.data, x.shape, x.dtype, copy, stream, options)
    if x.dtype is dtypes.bfloat16:
        _type_code(capsule).value = _BFLOAT
    return capsule


def dlpack_device(x: Tensor) -> tuple[int, int]:
    """(1, 0) for the CPU, (2, N) for GPU number N."""
    device = x.device
    return (_CPU, 0) if device == "cpu" else (_CUDA, index_of(device))


class _Bits:
    """A bfloat16 exporter that says uint16, which NumPy can take."""

    def __init__(self, source: Any):
        self.source = source

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self.source.__dlpack__(**options)
        _type_code(capsule).value = _UINT
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.source.__dlpack_device__()


def _is_bfloat16(source: Any) -> bool:
    return "bfloat16" in str(getattr(source, "dtype", ""))


@user_errors
def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A Tensor over the memory of another library's array (`x.__dlpack__`), kept alive as long as the Tensor needs it.

    Non-contiguous arrays are copied, all with `copy=True`; `copy=False` raises BufferError then. Without a copy,
    writing to `x` afterwards changes the Tensor. `device` moves the result there. Raises BufferError for memory that
    is neither the CPU's nor a CUDA GPU's.
    """
    if device is not None:
        return moving.moved(from_dlpack(x, copy=copy), device)
    if isinstance(x, Tensor):
        return x
    if not hasattr(x, "__dlpack__"):
        raise DTypeError(f"from_dlpack: a {type(x).__name__} has no __dlpack__")
    where = x.__dlpack_device__()
    half = _is_bfloat16(x)
    if int(where[0]) == _CUDA:
        return _from_cuda(x, int(where[1]), half, copy)
    if int(where[0]) != _CPU:
        device = tuple(map(int, where))
        raise BufferError(f"from_dlpack: the array is on device {device}, not on the CPU or a CUDA GPU\n  at {here()}")
    array = np.from_dlpack(_Bits(x) if half else x)
    array = array.view(dtypes.bfloat16.np) if half else array
    try:
        dtype = dtypes.from_numpy(array.dtype)
    except TypeError as e:
        raise DTypeError(f"from_dlpack: {e}") from None
    shareable = array.flags.c_contiguous and array.flags.aligned
    if not shareable and copy is False:
        raise BufferError(f"from_dlpack: an array with strides {array.strides} needs a copy\n  at {here()}")
    if copy or not shareable:
        return Tensor(array)
    return from_buffer(from_array(array), TensorType(dtype, array.shape))


def _from_cuda(x: Any, index: int, half: bool, copy: bool | None) -> Tensor:
    from dlc.runtime.cuda import interop as cuda_interop

    placement.usable(f"cuda:{index}")
    buffer, shape, dtype, copied = cuda_interop.adopt(_Bits(x) if half else x, index, bool(copy))
    if copied and copy is False:
        raise BufferError(f"from_dlpack: an array that is not contiguous needs a copy\n  at {here()}")
    return from_buffer(buffer, TensorType(dtypes.bfloat16 if half else dtype, shape))


def namespace(x: Tensor, /, *, api_version: str | None = None) -> Any:
    """`__array_namespace__`: the module `dlc`, whose functions follow the array API standard."""
    import dlc

    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
        raise ValueError(f"__array_namespace__: no version {api_version!r} of the array API standard\n  at {here()}")
    return dlc
