"""dlc: a tensor compiler. Write ordinary tensor code, decorate the step with `@dlc.jit`, and dlc generates the
kernels.
"""

from __future__ import annotations

# isort: off
# (it would give each name a line of its own)
import math as _math

from dlc.base import gil as _gil
from dlc.frontend import methods as _methods
from dlc.frontend import random
from dlc.frontend.modes.autocast import autocast, get_autocast_dtype
from dlc.frontend.array.creation import (
    arange,
    asarray,
    can_cast,
    empty,
    empty_like,
    eye,
    finfo,
    full,
    full_like,
    iinfo,
    isdtype,
    linspace,
    meshgrid,
    one_hot,
    ones,
    ones_like,
    result_type,
    tensor,
    tril,
    triu,
    zeros,
    zeros_like,
)
from dlc.frontend.transforms.custom_kernel import custom_kernel
from dlc.frontend.modes.debug import NaNFound, debug
from dlc.frontend.core.eager import realize
from dlc.frontend.array.elementwise import (
    add,
    allclose,
    array_equal,
    astype,
    atan2,
    bitcast,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_not,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    clamp,
    clip,
    copysign,
    divide,
    equal,
    floor_divide,
    fmod,
    greater,
    greater_equal,
    hypot,
    isclose,
    lerp,
    less,
    less_equal,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    mod,
    multiply,
    nextafter,
    not_equal,
    pow,
    power,
    remainder,
    subtract,
    true_divide,
    where,
)
from dlc.frontend.array.unary import (
    abs,
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    ceil,
    cos,
    cosh,
    erf,
    exp,
    exp2,
    expm1,
    floor,
    isfinite,
    isinf,
    isnan,
    log,
    log10,
    log1p,
    log2,
    nan_to_num,
    negative,
    positive,
    reciprocal,
    round,
    rsqrt,
    sigmoid,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    tan,
    tanh,
    trunc,
)
from dlc.frontend.array.gathering import (
    gather,
    index_add,
    index_copy,
    index_fill,
    index_select,
    masked_fill,
    masked_select,
    narrow,
    scatter,
    scatter_add,
    take,
    take_along_axis,
)
from dlc.frontend.io.dlpack import from_dlpack
from dlc.frontend.jit.function import jit
from dlc.frontend.array.linalg import (
    bmm,
    diagonal,
    dot,
    einsum,
    matmul,
    matrix_norm,
    norm,
    outer,
    tensordot,
    trace,
    vecdot,
    vector_norm,
)
from dlc.frontend.array.manipulation import matrix_transpose
from dlc.frontend.array.manipulation import (
    broadcast_arrays,
    broadcast_shapes,
    broadcast_to,
    cat,
    chunk,
    concat,
    concatenate,
    expand_dims,
    flatten,
    flip,
    moveaxis,
    permute_dims,
    repeat,
    repeat_interleave,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    unflatten,
    unsqueeze,
    unstack,
)
from dlc.frontend.array.padding import pad
from dlc.frontend.array.windows import dilate, sliding_window_view, unfold, view, windows
from dlc.frontend.core.moving import synchronize
from dlc.frontend.core.places import device, get_default_device, set_default_device
from dlc.frontend.core.precision import get_float32_matmul_precision, set_float32_matmul_precision
from dlc.frontend.random import Generator, manual_seed, rand, randint, randn, randperm
from dlc.frontend.array.reductions import (
    all,
    amax,
    amin,
    any,
    count_nonzero,
    cummax,
    cummin,
    cumprod,
    cumsum,
    cumulative_prod,
    cumulative_sum,
    diff,
    logsumexp,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from dlc.frontend.array.reductions import argmax, argmin
from dlc.frontend.array.sorting import (
    argsort,
    nonzero,
    searchsorted,
    sort,
    topk,
    unique,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from dlc.frontend.array.statistics import average, bincount, corrcoef, cov, median, quantile
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.modes.grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad
from dlc.frontend.transforms.checkpoint import checkpoint
from dlc.frontend.transforms.gradients import grad, jvp, stop_gradient, value_and_grad, vjp
from dlc.frontend.transforms.scan import scan
from dlc.frontend.transforms.vmap import vmap
from dlc.frontend.core.tree import register_tree, tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten
from dlc.ir.dtypes import (
    DType, bfloat16, float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
)  # fmt: skip
from dlc.ir.dtypes import bool_ as bool
from dlc.base import forks as _forks
from dlc.base.errors import (
    DTypeError,
    DeviceError,
    DlcError,
    GradientError,
    IndexOutOfRange,
    OutOfMemory,
    ShapeError,
    TraceError,
)
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
        return getattr(importlib.import_module("dlc.frontend.io.safetensors"), name)
    raise AttributeError(f"module 'dlc' has no attribute {name!r}")


__all__ = [
    name
    for name in globals()
    if not name.startswith("_") and name not in ("annotations", "frontend", "ir", "runtime", "passes")
]
