"""Rewrites the transcendental operations of a kernel into primitive arithmetic, which vectorises as all else does.

`expand(kernel, target)` leaves add sub mul div fma max min floor round select comparisons bitcast cast and or xor not
shl shr sqrt abs neg, and the parts of `ir.quadrants`; the formulas are in `math_functions`. Half floats are computed in
float32.

Largest error in units of the last place that the tests allow (they read this table), with fused multiply-add and on
machines without, beside the operations of the float32 form. NaN, infinities, signed zeros and denormals are as C has
them. sin, cos and tan are right for every argument (in float32 with fma above 2^102 to 2^-28 absolutely).

    op       f32   no fma     f64   no fma    operations
    exp      1.6      2.0     1.6      1.8            16
    expm1    1.6      1.8     1.8      2.0            19
    log      1.0      1.0     1.0      1.0            31
    log2     1.1      1.4     1.1      2.0            28
    log1p    1.5      1.5     1.4      1.4            33
    sin      1.6      1.6     0.9      1.0            38
    cos      1.6      1.6     0.9      1.0            37
    tan      0.7      0.7     2.3      2.3            39
    asin     1.3      1.3     1.3      1.3            23
    acos     1.3      1.3     1.3      1.3            25
    atan     1.5      1.6     1.6      1.7            20
    sinh     1.7      1.7     1.6      1.6            27
    cosh     1.6      1.6     1.6      1.6            18
    tanh     2.4      2.4     2.4      2.4            20
    sigmoid  2.4      3.5     2.6      3.0            21
    asinh    0.7      0.7     1.8      1.8            49
    acosh    0.7      0.7     2.0      2.0            47
    atanh    0.7      0.7     1.9      1.9            43
    erf      1.3      1.4     1.1      1.1            30
    pow      0.6      0.6     1.6      1.8            64
    atan2    1.6      1.6     1.6      1.8            30
    rsqrt    1.5      1.5     1.5      1.5             2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dlc.codegen.math import functions
from dlc.codegen.math.functions import Math
from dlc.codegen.math.values import F32, F64, Value
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir import dtypes
from dlc.ir.loops.ir import Expr, Kernel, cast
from dlc.ir.loops.traverse import map_expr, map_stmt

# operation -> builder(math, operands...)
BUILDERS: dict[str, Callable[..., Value]] = {
    name: getattr(functions, name)
    for name in ("exp", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
                 "tanh", "sigmoid", "asinh", "acosh", "atanh", "erf", "pow", "atan2", "rsqrt")
}  # fmt: skip
_FORMATS = {dtypes.float32: F32, dtypes.float64: F64}


def expand(kernel: Kernel, target: CpuTarget) -> Kernel:
    """The kernel with every transcendental operation (and `threefry`) written out."""
    memo: dict[Expr, Expr] = {}
    return replace(kernel, body=map_stmt(kernel.body, lambda e: expand_expr(e, target.has_fma, memo)))


def expand_expr(expr: Expr, has_fma: bool = True, memo: dict[Expr, Expr] | None = None) -> Expr:
    """The same for one expression; `memo` carries what is done already from one expression to the next."""

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if e.op == "threefry":
            return functions.threefry(*map(Value, args)).e
        if e.op not in BUILDERS:
            return None
        wide = e.dtype.compute
        values = [Value(cast(a, wide)) for a in args]
        return cast(BUILDERS[e.op](Math(_FORMATS[wide], has_fma), *values).e, e.dtype)

    return map_expr(expr, rule, {} if memo is None else memo)
