"""The description of a tensor in memory that a GPU's bulk copies read by (see `codegen/cuda/mbarrier.py`)."""

from __future__ import annotations

from typing import NamedTuple

from dlc.ir.loops.instructions import Arrive, TmaCopy, View
from dlc.ir.loops.ir import Buffer, Kernel
from dlc.ir.loops.traverse import walk


class TensorMap(NamedTuple):
    """What the host needs to make a tensor map: the kernel's parameter `param` seen as a tensor of `dtype`."""

    param: int
    dtype: str
    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzled: bool


def tensor_maps(kernel: Kernel) -> dict[tuple[Buffer, View, bool], TensorMap]:
    """The tensor maps of a kernel's Bulks, in the order of its parameters."""
    out: dict[tuple[Buffer, View, bool], TensorMap] = {}
    for s in walk(kernel.body):
        if isinstance(s, TmaCopy):
            v = s.view
            out[s.source, v, s.buffer.swizzled] = TensorMap(
                kernel.params.index(s.source), s.source.dtype.name, v.start, v.sizes, v.strides, v.box,
                s.buffer.swizzled)
    return out


def arrivals(kernel: Kernel) -> dict[Buffer, int]:
    """How many arrivals complete a phase of each gate."""
    return {s.gate: s.of for s in walk(kernel.body) if isinstance(s, Arrive)}
