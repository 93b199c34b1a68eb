"""Elementwise functions of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.frontend.array.elementwise import astype, divide, multiply
from dlc.frontend.array.operands import as_float, finite_of, needs, signbit_of, wide, wrap_result
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b


def _unary_float(name: str, op: str, doc: str) -> Callable:
    def f(x) -> Tensor:
        n = as_float(as_node(x))
        return wrap_result(b.op(op, n), x)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = doc
    return user_errors(f)


def _rounding(name: str, doc: str) -> Callable:
    def f(x) -> Tensor:
        n = as_node(x)
        return wrap_result(b.op(name, n) if n.dtype.is_float else n, x)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = doc
    return user_errors(f)


exp = _unary_float("exp", "exp", "e to the power of x.")
expm1 = _unary_float("expm1", "expm1", "exp(x) - 1, accurate near 0.")
log = _unary_float("log", "log", "Natural logarithm; log(0) is -inf, NaN below.")
log1p = _unary_float("log1p", "log1p", "log(1 + x), accurate near 0.")
log2 = _unary_float("log2", "log2", "Logarithm to base 2.")
sqrt = _unary_float("sqrt", "sqrt", "Square root; NaN below 0.")
rsqrt = _unary_float("rsqrt", "rsqrt", "1 / sqrt(x).")
sin = _unary_float("sin", "sin", "Sine of x in radians.")
cos = _unary_float("cos", "cos", "Cosine of x in radians.")
tan = _unary_float("tan", "tan", "Tangent of x in radians.")
asin = _unary_float("asin", "asin", "Arc sine in [-pi/2, pi/2]; NaN outside [-1, 1].")
acos = _unary_float("acos", "acos", "Arc cosine in [0, pi]; NaN outside [-1, 1].")
atan = _unary_float("atan", "atan", "Arc tangent in [-pi/2, pi/2].")
sinh = _unary_float("sinh", "sinh", "Hyperbolic sine.")
cosh = _unary_float("cosh", "cosh", "Hyperbolic cosine.")
tanh = _unary_float("tanh", "tanh", "Hyperbolic tangent.")
asinh = _unary_float("asinh", "asinh", "Inverse hyperbolic sine.")
acosh = _unary_float("acosh", "acosh", "Inverse hyperbolic cosine; NaN below 1.")
atanh = _unary_float("atanh", "atanh", "Inverse hyperbolic tangent; NaN outside [-1, 1].")
erf = _unary_float("erf", "erf", "Error function, 2/sqrt(pi) times the integral of exp(-t*t) from 0 to x.")
floor = _rounding("floor", "Largest integer not above x; integers unchanged.")
ceil = _rounding("ceil", "Smallest integer not below x; integers unchanged.")
trunc = _rounding("trunc", "x without its fraction; integers unchanged.")
_rint = _rounding("round", "Nearest integer, ties to even; integers unchanged.")


@user_errors
def round(x, decimals: int = 0) -> Tensor:
    """Nearest integer, ties to even; with `decimals`, nearest multiple of 10**-decimals. Integers stay integers."""
    n = as_node(x)
    if not decimals or decimals > 0 and not n.dtype.is_float:
        return _rint(x)
    if not n.dtype.is_float:
        return astype(round(astype(x, dtypes.float64), decimals), n.dtype)
    return divide(_rint(multiply(x, 10.0**decimals)), 10.0**decimals)


@user_errors
def abs(x) -> Tensor:
    """Absolute value. Not for bool."""
    n = as_node(x)
    needs("abs", "iuf", "a number", n)
    return wrap_result(n if n.dtype.kind == "u" else b.op("abs", n), x)


@user_errors
def negative(x) -> Tensor:
    """-x; unsigned integers wrap. Not for bool."""
    n = as_node(x)
    needs("negative", "iuf", "a number (for bool, use logical_not)", n)
    return wrap_result(b.op("neg", n), x)


@user_errors
def positive(x) -> Tensor:
    """x itself. Not for bool."""
    n = as_node(x)
    needs("positive", "iuf", "a number", n)
    return wrap_result(n, x)


@user_errors
def sign(x) -> Tensor:
    """-1, 0 or 1 by the sign of x; NaN for NaN. Not for bool."""
    n = as_node(x)
    needs("sign", "iuf", "a number", n)
    return wrap_result(b.op("sign", n), x)


@user_errors
def signbit(x) -> Tensor:
    """bool: whether the sign bit is set (-0.0 and NaNs with a sign included)."""
    return wrap(signbit_of(as_node(x)))


@user_errors
def square(x) -> Tensor:
    """x * x."""
    return multiply(x, x)


@user_errors
def reciprocal(x) -> Tensor:
    """1 / x; integers as float32."""
    n = as_float(as_node(x))
    return wrap_result(b.like(n, 1) / n, x)


@user_errors
def log10(x) -> Tensor:
    """Logarithm to base 10."""
    n = as_float(as_node(x))
    w = b.op("log2", b.cast(n, n.dtype.compute))
    return wrap_result(b.cast(w * math.log10(2), n.dtype), x)


@user_errors
def exp2(x) -> Tensor:
    """2 to the power of x."""
    n = as_float(as_node(x))
    return wrap_result(b.op("pow", b.like(n, 2), n), x)


@user_errors
def sigmoid(x) -> Tensor:
    """1 / (1 + exp(-x)), which neither overflows nor loses small values; its derivative does not either."""
    n = as_float(as_node(x))
    return wrap_result(b.cast(b.op("sigmoid", wide(n)), n.dtype), x)


@user_errors
def isnan(x) -> Tensor:
    """bool: whether x is NaN; False for integers."""
    n = as_node(x)
    return wrap(b.op("ne", n, n) if n.dtype.is_float else b.const(False, dtypes.bool_, n.shape))


@user_errors
def isinf(x) -> Tensor:
    """bool: whether x is infinite; False for integers."""
    n = as_node(x)
    if not n.dtype.is_float:
        return wrap(b.const(False, dtypes.bool_, n.shape))
    return wrap(b.op("eq", b.op("abs", n), b.like(n, math.inf)))


@user_errors
def isfinite(x) -> Tensor:
    """bool: whether x is neither NaN nor infinite; True for integers."""
    n = as_node(x)
    return wrap(finite_of(n))


@user_errors
def nan_to_num(x, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """x with NaN replaced by `nan` and infinities by `posinf` and `neginf` (the dtype's extremes if None)."""
    n = as_node(x)
    if not n.dtype.is_float:
        return wrap(n)
    low, high = dtypes.limits(n.dtype)
    for bad, value in ((math.inf, high if posinf is None else posinf), (-math.inf, low if neginf is None else neginf)):
        n = b.select(b.op("eq", n, b.like(n, bad)), b.like(n, value), n)
    return wrap(b.select(b.op("ne", n, n), b.like(n, nan), n))
