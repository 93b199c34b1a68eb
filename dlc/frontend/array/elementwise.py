"""Elementwise functions: arithmetic, comparison, logic, bits, exponentials, trigonometry.

Operands broadcast by NumPy's rule and promote by the array API's, with Python numbers weakly typed. Functions that are
defined on floats only take integers and bools as float32. Unless a docstring says otherwise, the result has the common
shape and dtype of the operands; ShapeError and DTypeError name the function and the operands.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable

from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import broadcast_nodes, spread
from dlc.frontend.array.operands import BITS, as_float, finite_of, needs, operands, signbit_of, wide, wrap_result
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_dtype, as_node, promote
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node

# -- building blocks ------------------------------------------------------------------------------------------------


# -- one operand ----------------------------------------------------------------------------------------------------


# -- arithmetic on two ----------------------------------------------------------------------------------------------


def _arithmetic(name: str, op: str, on_bool: str | None, doc: str) -> Callable:
    def f(x1, x2) -> Tensor:
        a, c = operands(name, x1, x2)
        if a.dtype.is_bool:
            if on_bool is None:
                needs(name, "iuf", "numbers", a, c)
            return wrap(b.op(on_bool, a, c))
        return wrap_result(b.op(op, a, c), x1, x2)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = doc
    return user_errors(f)


add = _arithmetic("add", "add", "or", "x1 + x2; integers wrap; bools: logical or.")
subtract = _arithmetic("subtract", "sub", None, "x1 - x2; integers wrap. Not for two bools.")
multiply = _arithmetic("multiply", "mul", "and", "x1 * x2; integers wrap; bools: logical and.")
floor_divide = _arithmetic(
    "floor_divide", "floordiv", None, "The largest integer not above x1 / x2; integer division by 0 gives 0."
)
remainder = _arithmetic(
    "remainder", "mod", None, "x1 - x2 * floor(x1 / x2): the sign of x2; integer remainder by 0 is 0."
)
maximum = _arithmetic("maximum", "max", "or", "The larger of the two; NaN if either is.")
minimum = _arithmetic("minimum", "min", "and", "The smaller of the two; NaN if either is.")
mod = remainder


@user_errors
def divide(x1, x2) -> Tensor:
    """x1 / x2 in floating point: two integers divide as float32."""
    a, c = (as_float(n) for n in operands("divide", x1, x2))
    return wrap_result(a / c, x1, x2)


true_divide = divide


@user_errors
def fmod(x1, x2) -> Tensor:
    """The remainder of x1 / x2 rounded towards zero: the sign of x1; integer remainder by 0 is 0."""
    a, c = operands("fmod", x1, x2)
    needs("fmod", "iuf", "numbers", a, c)
    if a.dtype.is_int:
        m = b.op("mod", a, c)  # the sign of x2; not by magnitudes, since the lowest integer has none
        if a.dtype.kind == "i":
            zero = b.like(m, 0)
            other = b.op("ne", b.op("lt", a, zero), b.op("lt", m, zero))
            other = b.op("and", b.op("ne", m, zero), other)
            m = b.select(other, m - c, m)
        return wrap_result(m, x1, x2)
    negative_a = signbit_of(a)  # not abs(a), which has no derivative at 0
    m = b.op("mod", b.select(negative_a, b.op("neg", a), a), b.op("abs", c))
    return wrap_result(b.select(negative_a, b.op("neg", m), m), x1, x2)


@user_errors
def pow(x1, x2) -> Tensor:
    """x1 to the power of x2.

    A small constant exponent becomes multiplications, 0.5 a square root. Integers wrap; a negative integer exponent of
    an integer gives 0 (1 or -1 for bases of 1 and -1), and is an error where it is a Python number.
    """
    if isinstance(x2, (int, float)) and not isinstance(x2, bool):
        base = as_node(x1)
        if base.dtype.is_bool:
            base = promote(x1, x2)[0]
        if base.dtype.is_int and isinstance(x2, int):
            if x2 < 0:
                raise DTypeError(f"pow: {base.dtype.name} to the negative power {x2}; cast to a float first")
            return wrap_result(_power(base, x2), x1, x2)
        small = float(x2)
        base = promote(x1, x2)[0]
        if base.dtype.is_float and (small.is_integer() and builtins.abs(small) <= 8 or builtins.abs(small) == 0.5):
            w = b.cast(base, base.dtype.compute)
            if builtins.abs(small) == 0.5:
                w = _root(w, small)
            else:  # the reciprocal first: a power of it is 0 or infinite only where the result is
                w = _power(b.like(w, 1) / w if small < 0 else w, int(builtins.abs(small)))
            return wrap_result(b.cast(w, base.dtype), x1, x2)
    a, c = operands("pow", x1, x2)
    needs("pow", "iuf", "numbers", a, c)
    return wrap_result(b.op("pow", a, c) if a.dtype.is_float else _integer_power(a, c), x1, x2)


power = pow


def _root(x: Node, exponent: float) -> Node:
    """x to the power 0.5 or -0.5: the square root or its inverse, but for -inf and -0, which count as inf and 0."""
    edge = b.op("eq", x, b.like(x, -math.inf))
    root = b.op("sqrt" if exponent > 0 else "rsqrt", b.select(edge, b.like(x, 1), x) + 0)
    return b.select(edge, b.like(x, math.inf if exponent > 0 else 0), root)


def _power(x: Node, n: int) -> Node:
    """x multiplied with itself, by repeated squaring; exact for integers of any size of n."""
    if n == 0:
        return b.like(x, 1)
    out = None
    while True:
        if n & 1:
            out = x if out is None else out * x
        n >>= 1
        if not n:
            return out
        x = x * x


def _integer_power(x: Node, e: Node) -> Node:
    one, zero = b.like(x, 1), b.like(x, 0)
    out, base, left = one, x, e
    for _ in range(x.dtype.bits):
        odd = b.op("ne", b.op("and", left, one), zero)
        out = out * b.select(odd, base, one)
        base, left = base * base, b.op("shr", left, one)
    if x.dtype.kind == "u":
        return out
    minus = b.like(x, -1)
    odd = b.op("ne", b.op("and", e, one), zero)
    inverse = b.select(b.op("eq", x, one), one, zero)
    inverse = b.select(b.op("eq", x, minus), b.select(odd, minus, one), inverse)
    return b.select(b.op("lt", e, zero), inverse, out)


@user_errors
def atan2(x1, x2) -> Tensor:
    """The angle of the point (x2, x1) in [-pi, pi]."""
    a, c = (as_float(n) for n in operands("atan2", x1, x2))
    return wrap_result(b.op("atan2", a, c), x1, x2)


@user_errors
def hypot(x1, x2) -> Tensor:
    """sqrt(x1**2 + x2**2) without overflow on the way; inf if either is infinite."""
    a, c = operands("hypot", x1, x2)
    result = as_float(a).dtype
    a, c = wide(a), wide(c)
    size_a, size_c, inf = b.op("abs", a), b.op("abs", c), b.like(a, math.inf)
    infinite = b.op("or", b.op("eq", size_a, inf), b.op("eq", size_c, inf))
    # One choice for both: at equal sizes max and min alone have no derivatives, what is made of them here has. The
    # small one keeps its sign, because the size has no derivative at 0.
    less = b.op("lt", size_a, size_c)
    big, small = b.select(less, size_c, size_a), b.select(less, a, c)
    origin = b.op("and", b.op("eq", a, b.like(a, 0)), b.op("eq", c, b.like(c, 0)))
    edge = b.op("or", infinite, origin)
    safe = b.select(edge, b.like(a, 1), big)
    t = b.select(edge, b.like(a, 0), small) / safe
    out = b.select(edge, big, safe * b.op("sqrt", t * t + 1))
    return wrap_result(b.cast(b.select(infinite, inf, out), result), x1, x2)


@user_errors
def logaddexp(x1, x2) -> Tensor:
    """log(exp(x1) + exp(x2)) without overflow on the way."""
    a, c = operands("logaddexp", x1, x2)
    result = as_float(a).dtype
    a, c = wide(a), wide(c)
    less = b.op("lt", a, c)  # one choice for both, as in hypot
    big, small = b.select(less, c, a), b.select(less, a, c)
    # equal infinities have no difference
    infinite = b.op("and", b.op("eq", a, c), b.op("eq", b.op("abs", a), b.like(a, math.inf)))
    apart = b.select(infinite, b.like(a, 0), small - big)
    out = big + b.op("log1p", b.op("exp", apart))
    return wrap_result(b.cast(out, result), x1, x2)


@user_errors
def copysign(x1, x2) -> Tensor:
    """The magnitude of x1 with the sign bit of x2."""
    a, c = (as_float(n) for n in operands("copysign", x1, x2))
    size = b.op("abs", a)
    return wrap_result(b.select(signbit_of(c), b.op("neg", size), size), x1, x2)


@user_errors
def nextafter(x1, x2) -> Tensor:
    """The float next to x1 in the direction of x2."""
    a, c = (as_float(n) for n in operands("nextafter", x1, x2))
    bits = BITS[a.dtype.bits]
    i = b.make("bitcast", (a,), dtype=bits)
    # as sign-magnitude integers, a step away from zero adds one and a step towards it takes one
    zero = b.like(a, 0)
    away = b.op("eq", b.op("lt", a, c), b.op("lt", zero, a))
    stepped = i + b.select(away, b.like(i, 1), b.like(i, -1))
    out = b.make("bitcast", (stepped,), dtype=a.dtype)
    lowest = 1 - (1 << (bits.bits - 1))  # the smallest negative number: the sign bit and one
    first = b.select(b.op("lt", zero, c), b.like(i, 1), b.like(i, lowest))
    out = b.select(b.op("eq", a, zero), b.make("bitcast", (first,), dtype=a.dtype), out)
    out = b.select(b.op("eq", a, c), c, out)
    nan = b.op("or", b.op("ne", a, a), b.op("ne", c, c))
    return wrap_result(b.select(nan, b.like(a, math.nan), out), x1, x2)


# -- comparison -----------------------------------------------------------------------------------------------------


def _comparison(name: str, op: str, swap: bool, doc: str) -> Callable:
    def f(x1, x2) -> Tensor:
        a, c = operands(name, x1, x2)
        return wrap(b.op(op, *((c, a) if swap else (a, c))))

    f.__name__ = f.__qualname__ = name
    f.__doc__ = doc
    return user_errors(f)


equal = _comparison("equal", "eq", False, "bool: x1 == x2; NaN equals nothing.")
not_equal = _comparison("not_equal", "ne", False, "bool: x1 != x2.")
less = _comparison("less", "lt", False, "bool: x1 < x2.")
less_equal = _comparison("less_equal", "le", False, "bool: x1 <= x2.")
greater = _comparison("greater", "lt", True, "bool: x1 > x2.")
greater_equal = _comparison("greater_equal", "le", True, "bool: x1 >= x2.")


@user_errors
def isclose(x1, x2, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """bool: |x1 - x2| <= atol + rtol * |x2|, or equal; NaNs are close to each other only with `equal_nan`."""
    a, c = (wide(n) for n in operands("isclose", x1, x2))
    apart = b.op("abs", a - c)
    near = b.op("le", apart, b.op("abs", c) * rtol + atol)
    near = b.op("and", near, finite_of(c))
    near = b.op("or", near, b.op("eq", a, c))
    if equal_nan:
        both = b.op("and", b.op("ne", a, a), b.op("ne", c, c))
        near = b.op("or", near, both)
    return wrap(near)


@user_errors
def allclose(x1, x2, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close. Looks at the values, so not on traced tensors."""
    n = isclose(x1, x2, rtol, atol, equal_nan).node
    return bool(wrap(b.reduce(n, "all", range(n.ndim))))


@user_errors
def array_equal(x1, x2) -> bool:
    """Whether shapes and all elements are equal. Looks at the values, so not on traced tensors."""
    if as_node(x1).shape != as_node(x2).shape:
        return False
    n = equal(x1, x2).node
    return bool(wrap(b.reduce(n, "all", range(n.ndim))))


# -- logic and bits -------------------------------------------------------------------------------------------------


def truth(x: Node) -> Node:
    """bool: x != 0."""
    return b.cast(x, dtypes.bool_)


def _logical(name: str, op: str, doc: str) -> Callable:
    def f(x1, x2) -> Tensor:
        nodes = broadcast_nodes(name, as_node(x1), as_node(x2))
        return wrap(b.op(op, *(truth(n) for n in nodes)))

    f.__name__ = f.__qualname__ = name
    f.__doc__ = doc
    return user_errors(f)


logical_and = _logical("logical_and", "and", "bool: both are non-zero.")
logical_or = _logical("logical_or", "or", "bool: at least one is non-zero.")
logical_xor = _logical("logical_xor", "xor", "bool: exactly one is non-zero.")


@user_errors
def logical_not(x) -> Tensor:
    """bool: x is zero."""
    return wrap(b.op("not", truth(as_node(x))))


def _bitwise(name: str, op: str, kinds: str, doc: str) -> Callable:
    what = "integers or bools" if "b" in kinds else "integers"

    def f(x1, x2) -> Tensor:
        a, c = operands(name, x1, x2)
        needs(name, kinds, what, a, c)
        return wrap_result(b.op(op, a, c), x1, x2)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = doc
    return user_errors(f)


bitwise_and = _bitwise("bitwise_and", "and", "biu", "x1 & x2, bit by bit.")
bitwise_or = _bitwise("bitwise_or", "or", "biu", "x1 | x2, bit by bit.")
bitwise_xor = _bitwise("bitwise_xor", "xor", "biu", "x1 ^ x2, bit by bit.")
bitwise_left_shift = _bitwise("bitwise_left_shift", "shl", "iu", "x1 << x2; 0 from the width of the type on.")
bitwise_right_shift = _bitwise("bitwise_right_shift", "shr", "iu", "x1 >> x2; the sign is shifted in.")


@user_errors
def bitwise_invert(x) -> Tensor:
    """~x: every bit (of a bool: the truth value) inverted."""
    n = as_node(x)
    needs("bitwise_invert", "biu", "an integer or bool", n)
    return wrap_result(b.op("not", n), x)


bitwise_not = bitwise_invert


# -- choice ---------------------------------------------------------------------------------------------------------


@user_errors
def where(condition, x1, x2) -> Tensor:
    """x1 where `condition` is non-zero, x2 elsewhere; all three broadcast."""
    cond = truth(as_node(condition))
    cond, a, c = broadcast_nodes("where", cond, *promote(x1, x2))
    return wrap_result(b.select(cond, a, c), x1, x2)


@user_errors
def clip(x, min=None, max=None) -> Tensor:
    """x limited to [min, max]; either may be None or a tensor that broadcasts to x. NaN stays NaN.

    The derivative at a limit is 1: a value that is not changed counts as x.
    """
    given = [v for v in (min, max) if v is not None]
    if not given:
        return wrap(as_node(x))
    nodes = operands("clip", x, *given)
    needs("clip", "iuf", "numbers", *nodes)
    out = nodes.pop(0)
    if min is not None:
        out = _limited("max", out, nodes.pop(0), min)
    if max is not None:
        out = _limited("min", out, nodes.pop(0), max)
    return wrap_result(out, x, *given)


def _limited(name: str, x: Node, limit: Node, given) -> Node:
    """The max or min of x and a limit, which counts only where it differs. Integers keep operations of known range."""
    if not x.dtype.is_float:
        return b.op(name, x, limit)
    beyond = b.op("lt", x, limit) if name == "max" else b.op("lt", limit, x)
    if not isinstance(given, (int, float)) or math.isnan(given):
        beyond = b.op("or", beyond, b.op("ne", limit, limit))
    return b.select(beyond, limit, x)


clamp = clip


@user_errors
def lerp(start, end, weight) -> Tensor:
    """start + weight * (end - start)."""
    return add(start, multiply(weight, subtract(end, start)))


@user_errors
def astype(x, dtype: DType, *, copy: bool = True) -> Tensor:
    """x converted: float to integer truncates and saturates (NaN gives 0), anything to bool is x != 0.

    `copy` is accepted and has no effect: tensors are values.
    """
    return wrap(b.cast(as_node(x), as_dtype("astype", dtype)))


@user_errors
def bitcast(x, dtype: DType) -> Tensor:
    """The same bits read as another dtype of the same width."""
    n, dtype = as_node(x), as_dtype("bitcast", dtype)
    if n.dtype.itemsize != dtype.itemsize or n.dtype.is_bool or dtype.is_bool:
        raise DTypeError(f"bitcast: {n.dtype.name} cannot be read as {dtype.name}")
    return wrap(n if n.dtype is dtype else b.make("bitcast", (n,), dtype=dtype))


def full_like_node(x: Node, value) -> Node:
    """A Python number or a scalar tensor in the shape and dtype of `x`."""
    n = b.cast(as_node(value), x.dtype)
    if n.ndim:
        raise ShapeError(f"expected a scalar, got shape {n.shape}")
    return spread(n, x.shape)
