"""dlc: a tensor compiler. Write ordinary tensor code, decorate the step with `@dlc.jit`, and dlc generates the kernels."""

from __future__ import annotations

from dlc.frontend.eager import realize
from dlc.frontend.tensor import Tensor
from dlc.ir.dtypes import (
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from dlc.ir.dtypes import bool_ as bool
from dlc.ir.errors import DlcError, DTypeError, IndexOutOfRange, ShapeError, TraceError

__version__ = "0.1.0"
