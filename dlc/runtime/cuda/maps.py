"""Tensor maps: what a kernel's bulk copies need to know of a tensor in memory, made by the driver for its address."""

from __future__ import annotations

import ctypes
from typing import Any

from dlc.base.errors import DeviceError
from dlc.ir import dtypes
from dlc.ir.program.tensor_map import TensorMap

BYTES, ALIGNED = 128, 64
# the driver's numbers (cuda.h, CUtensorMapDataType and others)
_TYPES = {"uint8": 0, "uint16": 1, "uint32": 2, "int32": 3, "uint64": 4, "int64": 5, "float16": 6, "float32": 7,
          "float64": 8, "bfloat16": 9}
_NO_INTERLEAVE, _NO_SWIZZLE, _SWIZZLE_128, _PROMOTE_256, _FILL_ZEROS = 0, 0, 3, 3, 0


def declare(lib: Any) -> None:
    """The types of the driver's function, where it has one (drivers for CUDA 12 and on)."""
    pointer, uint = ctypes.c_void_p, ctypes.c_uint
    if hasattr(lib, "cuTensorMapEncodeTiled"):
        lib.cuTensorMapEncodeTiled.argtypes = [pointer, uint, uint, *[pointer] * 5, *[uint] * 4]


def encode(lib: Any, spec: TensorMap, address: int) -> bytes:
    """The tensor map for a parameter at `address`. Raises DeviceError."""
    item = dtypes.by_name(spec.dtype).itemsize
    rank = len(spec.sizes)
    sizes = (ctypes.c_uint64 * rank)(*reversed(spec.sizes))
    strides = (ctypes.c_uint64 * rank)(*(s * item for s in reversed(spec.strides[:-1])))
    box = (ctypes.c_uint32 * rank)(*reversed(spec.box))
    steps = (ctypes.c_uint32 * rank)(*[1] * rank)
    memory = ctypes.create_string_buffer(BYTES + ALIGNED)
    at = -(-ctypes.addressof(memory) // ALIGNED) * ALIGNED
    swizzle = _SWIZZLE_128 if spec.swizzled else _NO_SWIZZLE
    status = lib.cuTensorMapEncodeTiled(at, _TYPES[spec.dtype], rank, address + spec.start * item, sizes, strides, box,
                                        steps, _NO_INTERLEAVE, swizzle, _PROMOTE_256, _FILL_ZEROS)
    if status:
        raise DeviceError(f"CUDA made no tensor map (error {status}) of {spec} at address {address:#x}")
    return ctypes.string_at(at, BYTES)
