"""The meaning of Loop IR expressions: every operation on arrays, rounded as the hardware rounds; `evaluate_expr`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np

from dlc.base.errors import InterpError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType, convert
from dlc.ir.loops.ir import PAIRS, Expr, load_parts
from dlc.ir.loops.text import print_expr
from dlc.ir.loops.traverse import inside_out
from dlc.ir.quadrants import PARTS, pio2
from dlc.ir.scalar import SCALAR_OPS


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once: through float64 for smaller types; for float64 from error-free products and sums.

    The float64 form is exact to the last rounding except in the range of denormals.
    """
    if a.dtype != np.float64:
        return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(a.dtype)
    product = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    error = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    total = product + c
    back = total - product
    rest = (product - (total - back)) + (c - back)
    lost = rest + error
    return np.where((lost == 0) | ~np.isfinite(lost), total, total + lost)  # the sum of -0 and 0 is no -0


def paired(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two bfloat16 as one uint32."""
    low, high = (np.asarray(x).view(np.uint16).astype(np.uint32) for x in (low, high))
    return low | high << np.uint32(16)


def dot2(a: np.ndarray, b: np.ndarray, c: np.ndarray, fuse: bool = True) -> np.ndarray:
    """c plus the products of the high and of the low halves of two pairs, in float32."""
    a, b = np.asarray(a, np.uint32), np.asarray(b, np.uint32)
    for x, y in ((a & np.uint32(0xFFFF0000), b & np.uint32(0xFFFF0000)), (a << np.uint32(16), b << np.uint32(16))):
        x, y = x.view(np.float32), y.view(np.float32)
        c = fused(x, y, np.asarray(c)) if fuse else x * y + c
    return c


def _split(x):
    """Upper and lower half of a float64's digits (Veltkamp)."""
    t = 134217729.0 * x
    high = t - (t - x)
    return high, x - high


def operation(e: Expr, args: Sequence[np.ndarray], fuse: bool = True) -> np.ndarray:
    """One operation (not const, axis or load) on arrays, or NumPy scalars, of the operands' dtypes."""
    if e.op == "cast":
        return convert(np.asarray(args[0]), e.dtype)
    if e.op == "bitcast":
        x = np.ascontiguousarray(args[0]).view(np.uint8 if e.dtype.is_bool else e.dtype.np)
        return (x != 0 if e.dtype.is_bool else x).reshape(np.shape(args[0]))
    if e.op == "select":
        return np.where(*args)
    if e.op == "exp2":
        return exp2(args[0])
    if e.op == "fma":
        return fused(*args) if fuse else args[0] * args[1] + args[2]
    if e.op in PARTS:
        return pio2(e.op, *args)
    if e.op in PAIRS:
        return paired(*args) if e.op == "pair" else dot2(*args, fuse)
    return SCALAR_OPS[e.op].numpy(*args)


def evaluate_expr(expr: Expr, env: Mapping[Any, Any], fuse: bool = True) -> np.ndarray:
    """An expression on arrays. `env` gives a value for axes and for any other subexpressions, and an array for each
    Buffer loaded from. With `fuse` False, fma rounds twice, as on a machine that has none.
    """
    memo: dict[Expr, np.ndarray] = {k: np.asarray(v, k.dtype.np) for k, v in env.items() if isinstance(k, Expr)}
    with np.errstate(all="ignore"):
        for e in inside_out(expr, memo):
            args = [memo[a] for a in e.args]
            if e.op == "const":
                memo[e] = np.array(e.attr, e.dtype.np)
            elif e.op == "load":
                memo[e] = _gather(e, args, env)
            elif e.op == "axis":
                raise InterpError(f"axis {e.attr[0]} has no value")
            else:
                memo[e] = np.asarray(operation(e, args, fuse))
    return memo[expr]


def _gather(e: Expr, args: list[np.ndarray], env: Mapping[Any, Any]) -> np.ndarray:
    buffer, index, predicate = load_parts(e)
    source = np.asarray(env[buffer]).reshape(buffer.shape)
    places = np.broadcast_arrays(*args[: len(index)]) if index else []
    inside = np.broadcast_to(args[-1] if predicate is not None else True, np.shape(places[0]) if places else ())
    for i, n in zip(places, buffer.shape, strict=True):
        if np.any(inside & ((i < 0) | (i >= n))):
            raise InterpError(f"index outside {buffer.name}{list(buffer.shape)} in {print_expr(e)}")
    safe = tuple(np.where(inside, i, 0) for i in places)
    return np.where(inside, source[safe], np.array(0, buffer.dtype.np))


def exp2(x: np.ndarray) -> np.ndarray:
    """2**x in float32; denormal results are 0."""
    y = np.exp2(np.asarray(x, np.float32))
    return np.where(y < np.finfo(np.float32).tiny, np.float32(0), y)[()]


def tf32(x: np.ndarray) -> np.ndarray:
    """float32 rounded to 11 bits, halves away from zero."""
    rounded = ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def to_int(x: Any, dtype: DType) -> int:
    """A float as an integer: towards zero, held to the range of the dtype, NaN as 0."""
    low, high = dtypes.limits(dtype)
    x = float(x)
    return 0 if math.isnan(x) else low if x <= low else high if x >= high else int(x)


def bits(x: Any, of: np.dtype, to: DType) -> Any:
    """The bits of a value of one type as a value of another."""
    value = np.array(x, of).view(np.uint8 if to.is_bool else to.np)[()]
    return value if to.is_float else bool(value) if to.is_bool else int(value)
