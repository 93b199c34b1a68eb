"""dlc: a tensor compiler. Write ordinary tensor code, decorate the step with `@dlc.jit`, and dlc generates the
kernels.
"""

from __future__ import annotations

# isort: off
# (it would give each name a line of its own)
import math as _math

from dlc.ir import gil as _gil  # the first, as it refuses what the others cannot do without
from dlc.frontend import methods as _methods
from dlc.frontend import random
from dlc.frontend.autocast import autocast, get_autocast_dtype
from dlc.frontend.creation import (
    arange, asarray, can_cast, empty, empty_like, eye, finfo, full, full_like, iinfo, isdtype, linspace, meshgrid,
    one_hot, ones, ones_like, result_type, tensor, tril, triu, zeros, zeros_like,
)  # fmt: skip
from dlc.frontend.custom import custom_kernel
from dlc.frontend.debug import NaNFound, debug
from dlc.frontend.eager import realize
from dlc.frontend.elementwise import (
    abs, acos, acosh, add, allclose, array_equal, asin, asinh, astype, atan, atan2, atanh, bitcast, bitwise_and,
    bitwise_invert, bitwise_left_shift, bitwise_not, bitwise_or, bitwise_right_shift, bitwise_xor, ceil, clamp, clip,
    copysign, cos, cosh, divide, equal, erf, exp, exp2, expm1, floor, floor_divide, fmod, greater, greater_equal, hypot,
    isclose, isfinite, isinf, isnan, lerp, less, less_equal, log, log1p, log2, log10, logaddexp, logical_and,
    logical_not, logical_or, logical_xor, maximum, minimum, mod, multiply, nan_to_num, negative, nextafter, not_equal,
    positive, pow, power, reciprocal, remainder, round, rsqrt, sigmoid, sign, signbit, sin, sinh, sqrt, square,
    subtract, tan, tanh, true_divide, trunc, where,
)  # fmt: skip
from dlc.frontend.gathering import (
    gather, index_add, index_copy, index_fill, index_select, masked_fill, masked_select, narrow, scatter, scatter_add,
    take, take_along_axis,
)  # fmt: skip
from dlc.frontend.interop import from_dlpack
from dlc.frontend.jit import jit
from dlc.frontend.linalg import (
    bmm, diagonal, dot, einsum, matmul, matrix_norm, matrix_transpose, norm, outer, tensordot, trace, vecdot,
    vector_norm,
)  # fmt: skip
from dlc.frontend.manipulation import (
    broadcast_arrays, broadcast_shapes, broadcast_to, cat, chunk, concat, concatenate, dilate, expand_dims, flatten,
    flip, moveaxis, pad, permute_dims, repeat, repeat_interleave, reshape, roll, sliding_window_view, split, squeeze,
    stack, swapaxes, tile, transpose, unflatten, unfold, unsqueeze, unstack, view, windows,
)  # fmt: skip
from dlc.frontend.placement import device, get_default_device, set_default_device, synchronize
from dlc.frontend.precision import get_float32_matmul_precision, set_float32_matmul_precision
from dlc.frontend.random import Generator, manual_seed, rand, randint, randn, randperm
from dlc.frontend.reductions import (
    all, amax, amin, any, count_nonzero, cummax, cummin, cumprod, cumsum, cumulative_prod, cumulative_sum, diff,
    logsumexp, max, mean, min, prod, std, sum, var,
)  # fmt: skip
from dlc.frontend.searching import (
    argmax, argmin, argsort, nonzero, searchsorted, sort, topk, unique, unique_all, unique_counts, unique_inverse,
    unique_values,
)  # fmt: skip
from dlc.frontend.statistics import average, bincount, corrcoef, cov, median, quantile
from dlc.frontend.tensor import Tensor
from dlc.frontend.transforms import (
    checkpoint, enable_grad, grad, inference_mode, is_grad_enabled, jvp, no_grad, scan, stop_gradient, value_and_grad,
    vjp, vmap,
)  # fmt: skip
from dlc.frontend.tree import register_tree, tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten
from dlc.ir.dtypes import (
    DType, bfloat16, float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
)  # fmt: skip
from dlc.ir.dtypes import bool_ as bool
from dlc.ir import forks as _forks
from dlc.ir.errors import (
    DeviceError, DlcError, DTypeError, GradientError, IndexOutOfRange, OutOfMemory, ShapeError, TraceError,
)  # fmt: skip
# isort: on

e, inf, nan, newaxis, pi = _math.e, _math.inf, _math.nan, None, _math.pi
__version__ = "0.1.0"

_methods.install()
_forks.wait_for_imports()  # the last to be registered, so that forks do it first, while no lock is held


def __getattr__(name: str):
    # Floors that not every program needs are imported when they are first used; so is what pulls in other libraries.
    import importlib

    if name in ("nn", "optim", "data"):
        return importlib.import_module(f"dlc.{name}")
    if name in ("save", "load", "CheckpointError"):
        return getattr(importlib.import_module("dlc.frontend.serialization"), name)
    raise AttributeError(f"module 'dlc' has no attribute {name!r}")


__all__ = [
    name
    for name in globals()
    if not name.startswith("_") and name not in ("annotations", "frontend", "ir", "runtime", "passes")
]
