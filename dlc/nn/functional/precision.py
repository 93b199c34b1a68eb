"""Half-precision policy of the row operations: compute in float32, return the dtype that came in."""

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
