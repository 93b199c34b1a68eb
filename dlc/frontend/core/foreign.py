"""Arrays of other libraries, by way of DLPack."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError
from dlc.frontend.core import eager, places
from dlc.frontend.core.location import here
from dlc.ir import dtypes
from dlc.ir.graph.graph import Node, TensorType
from dlc.runtime.cpu.memory import from_array

_CPU, _CUDA = 1, 2  # kDLCPU, kDLCUDA
_UINT = 1  # DLDataTypeCode

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, [ctypes.py_object]

# Where the type code of the tensor lies: after data (8), device (8), ndim (4) in a DLTensor, which a
# DLManagedTensorVersioned has after version (8), manager context (8), deleter (8) and flags (8).
_CODE_AT = {b"dltensor": 20, b"dltensor_versioned": 32 + 20}


def type_code(capsule: Any) -> ctypes.c_uint8:
    name = _name(capsule)
    return ctypes.c_uint8.from_address(_pointer(capsule, name) + _CODE_AT[name])


class _Bits:
    """A bfloat16 exporter that says uint16, which NumPy can take."""

    def __init__(self, source: Any):
        self.source = source

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self.source.__dlpack__(**options)
        type_code(capsule).value = _UINT
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.source.__dlpack_device__()


def _is_bfloat16(source: Any) -> bool:
    return "bfloat16" in str(getattr(source, "dtype", ""))


def adopt(x: Any, copy: bool | None) -> Node | np.ndarray:
    """The value of another library's array: a leaf over its memory, or an array that is to be copied."""
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
        return array
    return eager.leaf(from_array(array), TensorType(dtype, array.shape))


def _from_cuda(x: Any, index: int, half: bool, copy: bool | None) -> Node:
    from dlc.runtime.cuda import interop as cuda_interop

    places.usable(f"cuda:{index}")
    buffer, shape, dtype, copied = cuda_interop.adopt(_Bits(x) if half else x, index, bool(copy))
    if copied and copy is False:
        raise BufferError(f"from_dlpack: an array that is not contiguous needs a copy\n  at {here()}")
    return eager.leaf(buffer, TensorType(dtypes.bfloat16 if half else dtype, shape))
