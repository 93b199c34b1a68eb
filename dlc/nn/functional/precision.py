"""Half-precision policy: row operations compute in float32 and return the dtype that came in; `autocast`'s rules."""

from __future__ import annotations

import dlc
from dlc import Tensor


def widen(x: Tensor, dtype=None) -> tuple[Tensor, object]:
    """(`x` in the dtype to compute in, the dtype to return): half types compute in float32.

    `dtype`, where given, is what `x` is converted to first, as in PyTorch's softmax.
    """
    out = x.dtype if dtype is None else dtype
    compute = dlc.float32 if out in (dlc.float16, dlc.bfloat16) else out
    return narrow(x, compute), out


def narrow(x: Tensor, dtype) -> Tensor:
    """`x` in `dtype`, itself where that is its dtype already."""
    return x if x.dtype == dtype else dlc.astype(x, dtype)


def exact_matmul(x1: Tensor, x2: Tensor) -> Tensor:
    """The matrix product, for what only happens to be written with one: autocast does not reach it."""
    with dlc.autocast(enabled=False):
        return dlc.matmul(x1, x2)


def single(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Each tensor; half types in float32 under autocast."""
    if dlc.get_autocast_dtype() is not None:
        tensors = tuple(narrow(x, dlc.float32) if x.dtype.is_half else x for x in tensors)
    return tensors[0] if len(tensors) == 1 else tensors


def beside(x: Tensor, other: Tensor) -> Tensor:
    """`x`, to be combined with `other`; under autocast a float32 parameter does not widen a half result."""
    if dlc.get_autocast_dtype() is None or not other.dtype.is_half or x.dtype != dlc.float32:
        return x
    return narrow(x, other.dtype)
