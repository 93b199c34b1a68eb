"""The description of a tensor in memory that a GPU's bulk copies read by (see `codegen/cuda_gates.py`)."""

from __future__ import annotations

from typing import NamedTuple


class TensorMap(NamedTuple):
    """What the host needs to make a tensor map: the kernel's parameter `param` seen as a tensor of `dtype`."""

    param: int
    dtype: str
    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzled: bool
