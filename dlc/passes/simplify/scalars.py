"""Simplification rules for elementwise operations. See `simplify` for what a rule is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.table import OPS

Rule = Callable[[Node], Node | None]


def value_of(node: Node) -> float | int | bool | None:
    """The number that fills `node`, or None if it is not a constant."""
    return node.attrs["value"] if node.op == "const" else None


def is_value(node: Node, value: float) -> bool:
    """Whether `node` is a constant of just this value; 0.0 and -0.0 differ for floats."""
    v = value_of(node)
    return v is not None and v == value and (not node.dtype.is_float or math.copysign(1, v) == math.copysign(1, value))


def fold(node: Node) -> Node | None:
    """An operation on constants is a constant: evaluated once, by the reference interpreter."""
    if not all(i.op == "const" for i in node.inputs):
        return None
    scalars = [B.const(value_of(i), i.dtype) for i in node.inputs]
    (value,) = evaluate(Graph([], [make(node.op, scalars, **node.attrs)]), [])
    return B.const(value.item() if value.dtype.kind in "biuf" else float(value), node.dtype, node.shape)


def constant_right(node: Node) -> Node | None:
    """Commutative operations take their constant second, so that other rules look in one place."""
    a, b = node.inputs
    return make(node.op, (b, a)) if a.op == "const" and b.op != "const" else None


def _reassociate(node: Node) -> Node | None:
    """(x + c) + d = x + (c + d) for integers, which wrap; floats would round differently."""
    a, d = node.inputs
    if not node.dtype.is_float and d.op == "const" and a.op == node.op and a.inputs[1].op == "const":
        return make(node.op, (a.inputs[0], make(node.op, (a.inputs[1], d))))
    return None


def _add(node: Node) -> Node | None:
    a, b = node.inputs
    if is_value(b, -0.0 if node.dtype.is_float else 0):
        return a
    if b.op == "neg":
        return make("sub", (a, b.inputs[0]))
    if a.op == "neg":
        return make("sub", (b, a.inputs[0]))
    return None


def _sub(node: Node) -> Node | None:
    a, b = node.inputs
    if is_value(b, 0.0 if node.dtype.is_float else 0):
        return a
    if is_value(a, -0.0 if node.dtype.is_float else 0):
        return make("neg", (b,))
    if b.op == "neg":
        return make("add", (a, b.inputs[0]))
    if a is b and node.dtype.is_int:
        return B.like(node, 0)
    return None


def _mul(node: Node) -> Node | None:
    a, b = node.inputs
    if is_value(b, 1):
        return a
    if node.dtype.is_int and is_value(b, 0):
        return b
    if node.dtype.kind != "u" and is_value(b, -1):
        return make("neg", (a,))
    if a.op == "neg" and b.op == "neg":
        return make("mul", (a.inputs[0], b.inputs[0]))
    if a.op == "neg" and b.op == "const":
        return make("mul", (a.inputs[0], make("neg", (b,))))
    return None


def _exact_reciprocal(c: float, dtype: DType) -> float | None:
    """1/c if c is a power of two and 1/c a normal number of `dtype`: then x/c and x*(1/c) are the same number."""
    if not math.isfinite(c) or c == 0 or abs(math.frexp(c)[0]) != 0.5:
        return None
    reciprocal = 1 / c
    with np.errstate(all="ignore"):
        stored = float(np.array(reciprocal, dtype.np))
    tiny = {16: 2.0**-14 if dtype.name == "float16" else 2.0**-126, 32: 2.0**-126, 64: 2.0**-1022}[dtype.bits]
    return reciprocal if stored == reciprocal and abs(reciprocal) >= tiny else None


def _div(node: Node) -> Node | None:
    a, b = node.inputs
    if b.op != "const":
        return None
    reciprocal = _exact_reciprocal(b.attrs["value"], node.dtype)
    return None if reciprocal is None else make("mul", (a, B.like(b, reciprocal)))


_POWERS: dict[float, Callable[[Node], Node]] = {
    0.0: lambda x: B.like(x, 1),  # also of NaN, by IEEE's pow
    1.0: lambda x: x,
    2.0: lambda x: make("mul", (x, x)),
    -1.0: lambda x: make("div", (B.like(x, 1), x)),
}


def _pow(node: Node) -> Node | None:
    power = _POWERS.get(value_of(node.inputs[1]))
    return power(node.inputs[0]) if power else None


def _undo(node: Node) -> Node | None:
    """f(f(x)) = x"""
    (x,) = node.inputs
    return x.inputs[0] if x.op == node.op else None


def _neg(node: Node) -> Node | None:
    (x,) = node.inputs
    if x.op == "mul" and x.inputs[1].op == "const":
        return make("mul", (x.inputs[0], make("neg", (x.inputs[1],))))
    return None


def _abs(node: Node) -> Node | None:
    (x,) = node.inputs
    if x.op == "abs":
        return x
    return make("abs", x.inputs) if x.op == "neg" and node.dtype.kind != "u" else None


def _same_operands(node: Node) -> Node | None:
    """max(x, x) = x, and the like."""
    a, b = node.inputs
    return a if a is b else None


def _at_a_limit(node: Node) -> Node | None:
    """max and min of an integer and the least or greatest one of its type."""
    a, b = node.inputs
    if not node.dtype.is_int or b.op != "const":
        return None
    low, high = dtypes.limits(node.dtype)
    if value_of(b) == (low if node.op == "max" else high):
        return a
    return b if value_of(b) == (high if node.op == "max" else low) else None


def _not(node: Node) -> Node | None:
    (x,) = node.inputs
    if x.op in ("eq", "ne") and x.dtype.is_bool:
        return make("ne" if x.op == "eq" else "eq", x.inputs)
    if x.op in ("lt", "le") and not x.inputs[0].dtype.is_float:  # a float may be NaN
        return make("le" if x.op == "lt" else "lt", (x.inputs[1], x.inputs[0]))
    return None


def _ones(dtype: DType) -> int | bool:
    """All bits set."""
    return True if dtype.is_bool else -1 if dtype.kind == "i" else dtypes.limits(dtype)[1]


def _and(node: Node) -> Node | None:
    a, b = node.inputs
    if is_value(b, 0):
        return b
    return a if is_value(b, _ones(node.dtype)) else None


def _or(node: Node) -> Node | None:
    a, b = node.inputs
    if is_value(b, _ones(node.dtype)):
        return b
    return a if is_value(b, 0) else None


def _xor(node: Node) -> Node | None:
    a, b = node.inputs
    if a is b:
        return B.like(node, 0)
    if is_value(b, 0):
        return a
    return make("not", (a,)) if is_value(b, _ones(node.dtype)) else None


def _compare_same(node: Node) -> Node | None:
    a, b = node.inputs
    if a is not b or (a.dtype.is_float and node.op != "lt"):  # NaN == NaN is false
        return None
    return B.like(node, node.op in ("eq", "le"))


def _select(node: Node) -> Node | None:
    cond, a, b = node.inputs
    if cond.op == "const":
        return a if cond.attrs["value"] else b
    if a is b:
        return a
    if cond.op == "not":
        return B.select(cond.inputs[0], b, a)
    if a.op == "select" and a.inputs[0] is cond:
        return B.select(cond, a.inputs[1], b)
    if b.op == "select" and b.inputs[0] is cond:
        return B.select(cond, a, b.inputs[2])
    if node.dtype.is_bool and is_value(a, True) and is_value(b, False):
        return cond
    return None


def lossless(a: DType, b: DType) -> bool:
    """Whether every value of `a` is one of `b`."""
    if a is b or a.is_bool:
        return True
    if b.is_bool:
        return False
    if a.is_float:
        return b.is_float and b.bits > a.bits
    low, high = dtypes.limits(a)
    if b.is_float:
        digits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[b.name]
        return max(-low, high + 1) <= 2**digits and high <= dtypes.limits(b)[1]
    return dtypes.limits(b)[0] <= low and high <= dtypes.limits(b)[1]


def _cast(node: Node) -> Node | None:
    """A lossless cast on the way changes nothing, except int -> float -> narrower int, which saturates, not wraps."""
    (x,) = node.inputs
    if x.dtype is node.dtype:
        return x
    if x.op != "cast":
        return None
    first, middle, last = x.inputs[0].dtype, x.dtype, node.dtype
    if not lossless(first, middle):
        return None
    if first.is_int and middle.is_float and last.is_int and not lossless(first, last):
        return None
    return B.cast(x.inputs[0], last)


def _bitcast(node: Node) -> Node | None:
    (x,) = node.inputs
    x = x.inputs[0] if x.op == "bitcast" else x
    if x.dtype is node.dtype:
        return x
    return make("bitcast", (x,), dtype=node.attrs["dtype"]) if x is not node.inputs[0] else None


_COMMUTATIVE = ("add", "mul", "max", "min", "and", "or", "xor", "eq", "ne")

_SPECIFIC: dict[str, tuple[Rule, ...]] = {
    "add": (_add, _reassociate),
    "sub": (_sub,),
    "mul": (_mul, _reassociate),
    "div": (_div,),
    "pow": (_pow,),
    "neg": (_undo, _neg),
    "abs": (_abs,),
    "not": (_undo, _not),
    "max": (_same_operands, _at_a_limit, _reassociate),
    "min": (_same_operands, _at_a_limit, _reassociate),
    "and": (_same_operands, _and),
    "or": (_same_operands, _or),
    "xor": (_xor,),
    "eq": (_compare_same,),
    "ne": (_compare_same,),
    "lt": (_compare_same,),
    "le": (_compare_same,),
    "select": (_select,),
    "cast": (_cast,),
    "bitcast": (_bitcast,),
}

SCALAR_RULES: dict[str, tuple[Rule, ...]] = {
    op: (fold, *((constant_right,) if op in _COMMUTATIVE else ()), *_SPECIFIC.get(op, ()))
    for op, row in OPS.items()
    if row.elementwise
}
