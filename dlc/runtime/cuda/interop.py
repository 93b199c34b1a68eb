"""Memory of a GPU shared with other libraries by DLPack, through CuPy.

The protocol orders the two libraries' streams: what is exported is complete on the consumer's stream, what is imported
on ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.runtime.cpu.memory import Buffer
from dlc.runtime.cuda.device import gpu
from dlc.runtime.cuda.memory import DeviceBuffer, borrowed
from dlc.runtime.devices import copied


def export(buffer: Buffer, shape: Sequence[int], dtype: DType, copy: bool, stream: Any, options: dict[str, Any]) -> Any:
    """A DLPack capsule over a Buffer, which it keeps alive, or over a copy; bfloat16 says uint16 (NumPy has none)."""
    found, index = gpu(), int(buffer.device[5:])
    cupy = found.cupy
    with found.on(index):
        memory = cupy.cuda.UnownedMemory(buffer.address, buffer.nbytes, buffer, index)
        np_dtype = np.dtype(np.uint16) if dtype is dtypes.bfloat16 else dtype.np
        array = cupy.ndarray(tuple(shape), np_dtype, cupy.cuda.MemoryPointer(memory, 0))
        array = array.copy() if copy else array  # CuPy copies for the CPU only
        return array.__dlpack__(stream=stream, **{k: v for k, v in options.items() if v is not None})


def adopt(source: Any, index: int, copy: bool) -> tuple[Buffer, tuple[int, ...], DType, bool]:
    """A Buffer over another library's array (its copy, where asked for or where it is not contiguous), shape and dtype,
    and whether it was copied. Raises DTypeError."""
    found = gpu()
    with found.on(index):
        array = found.cupy.from_dlpack(source)
        try:
            dtype = dtypes.from_numpy(array.dtype)
        except TypeError as error:
            raise DTypeError(f"from_dlpack: {error}") from None
        whole = array.flags.c_contiguous and array.data.ptr % 16 == 0  # kernels read 16 bytes at a time
        if not whole:
            array = found.cupy.array(array, order="C")
    buffer: DeviceBuffer = borrowed(array.data.ptr, array.nbytes, index, array)
    if copy and whole:
        return copied(buffer), tuple(array.shape), dtype, True
    return buffer, tuple(array.shape), dtype, not whole
