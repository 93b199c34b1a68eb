"""Rewrites the transcendental operations of a kernel into primitive arithmetic, which vectorises as all else does.

`expand(kernel, target)` leaves add sub mul div fma max min floor round select comparisons bitcast cast and or xor not
shl shr sqrt abs neg; the formulas are in `math_functions`. Half floats are computed in float32.

Accuracy is measured by tests/codegen/test_expand_math.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dlc.codegen import math_functions as functions
from dlc.codegen.math_functions import Math
from dlc.codegen.math_values import F32, F64, Value
from dlc.codegen.target import CpuTarget
from dlc.ir import dtypes
from dlc.ir.loops import Expr, Kernel, cast, map_expr, map_stmt

# operation -> builder(math, operands...)
BUILDERS: dict[str, Callable[..., Value]] = {
    name: getattr(functions, name)
    for name in ("exp", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
                 "tanh", "asinh", "acosh", "atanh", "erf", "pow", "atan2", "rsqrt")
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
