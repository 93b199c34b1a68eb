"""What can be known of integer expressions: intervals, linear forms, quotients and remainders, normal forms.

This is the one place that reasons about integers: the simplification of indices, the verifier, the guard of custom
kernels, the interpreter and both emitters ask here. Every integer type wraps, and everything here knows it:

- `interval` is that of the values an expression takes. An operation whose exact result could leave its type takes any
  value of the type; so does a cast to a type that does not hold all of its operand's values.
- A linear form, sum(coefficient * atom) + constant, is equal to its expression modulo 2**64, which is all that a value
  or an address needs. Where its interval fits into int64, both are the same whole number, and only then it says
  something of quotients, remainders and comparisons. An atom is an axis, a load, or a division or remainder that
  nothing could remove.

Views are index maps; composing reshapes gives towers of `//` and `%` that mostly cancel. `simplify` brings an int64
expression to the normal form of its linear form. All divisors there are positive constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.interval import (
    HIGHEST,
    ITSELF,
    POSITION,
    Interval,
    fits,
    interval,
    wraps,
)
from dlc.ir.loops.ir import Expr

Linear = tuple[dict[Expr, int], int]  # terms, constant


# ---------------------------------------------------------------------------------------------------------- intervals


# ------------------------------------------------------------------------------------------------------- linear forms


def addends(e: Expr) -> tuple[tuple[Expr, int], ...] | None:
    """(expression, factor) of what an integer operation is the sum of, but for wrapping; None where it is none."""
    op, args = e.op, e.args
    if op == "add":
        return (args[0], 1), (args[1], 1)
    if op == "sub":
        return (args[0], 1), (args[1], -1)
    if op == "neg":
        return ((args[0], -1),)
    if op == "mul" and args[1].op == "const":
        return ((args[0], args[1].attr),)
    if op == "mul" and args[0].op == "const":
        return ((args[1], args[0].attr),)
    if op == "shl" and args[1].op == "const" and 0 <= args[1].attr < e.dtype.bits:
        return ((args[0], 1 << args[1].attr),)
    return None


def is_position(e: Expr) -> bool:
    """Is `e` made of axes and constants alone, with no step that could leave int64? Then it is a whole number in the
    mathematical sense, and may be simplified although it is a value and not an index."""
    return all(x.op in POSITION and x.dtype is dtypes.int64 and not wraps(x) for x in traverse.subexpressions(e))


def linear(e: Expr) -> Linear:
    """`e` as ({atom: coefficient}, constant), modulo 2**64; atoms are simplified."""
    terms: dict[Expr, int] = {}
    constant = _add_linear(e, 1, terms)
    return _reduced(terms), constant


def whole_linear(e: Expr) -> Linear:
    """`linear(e)` where it is `e` as a whole number, and `e` as its own atom where something might wrap."""
    terms, constant = linear(e)
    return (terms, constant) if fits(e.dtype, linear_interval(terms, constant)) else ({simplify(e): 1}, 0)


def _add_linear(e: Expr, factor: int, terms: dict[Expr, int]) -> int:
    """Add the terms of factor * e; its constant."""
    constant = 0
    stack = [(e, factor)]
    while stack:
        x, k = stack.pop()
        op = x.op
        if op == "axis":
            terms[x] = terms.get(x, 0) + k
        elif op == "const":
            constant += k * x.attr
        elif op == "add":  # as `addends` has it, and most often
            stack.append((x.args[0], k))
            stack.append((x.args[1], k))
        elif (parts := addends(x)) is not None:
            for part, by in parts:
                stack.append((part, k * by))
        else:
            s = _atom(x)
            if s is x:
                terms[s] = terms.get(s, 0) + k
            else:  # it may be a sum now
                stack.append((s, k))
    return constant


def _reduced(terms: dict[Expr, int]) -> dict[Expr, int]:
    """The terms that are not 0 modulo 2**64; `terms` itself if that is all of them."""
    for c in terms.values():
        if not c or not -HIGHEST <= c <= HIGHEST:
            break
    else:
        return terms
    return {t: r for t, c in terms.items() if (r := c if -HIGHEST <= c <= HIGHEST else _wrapped(c))}


def _wrapped(k: int) -> int:
    """The int64 that is equal to `k` modulo 2**64."""
    if -HIGHEST <= k <= HIGHEST:
        return k
    return (k + HIGHEST + 1) % (2 * HIGHEST + 2) - HIGHEST - 1


def _atom(x: Expr) -> Expr:
    """What is no sum as it stands, simplified."""
    if x.op not in ("mul", "shl"):
        return simplify(x)
    a, b = map(simplify, x.args)
    return x if a is x.args[0] and b is x.args[1] else loops.op(x.op, a, b)


def _order(e: Expr) -> tuple:
    return (0, e.attr[2]) if e.op == "axis" else (1, min((a.attr[2] for a in e.axes), default=0), repr(e.op))


def from_linear(terms: dict[Expr, int], constant: int) -> Expr:
    """The expression of a linear form, terms in a fixed order (outer axes first)."""
    out: Expr | None = None
    for atom in sorted(terms, key=_order) if len(terms) > 1 else terms:
        k = _wrapped(terms[atom])
        if out is None:
            out = atom if k == 1 else loops.op("mul", atom, loops.const(k))
        elif k == 1:
            out = loops.op("add", out, atom)
        elif k == -1:
            out = loops.op("sub", out, atom)
        else:
            out = loops.op("add", out, loops.op("mul", atom, loops.const(k)))
    constant = _wrapped(constant)
    if out is None:
        return loops.const(constant)
    if constant == 0:
        return out
    if -HIGHEST <= constant < 0:
        return loops.op("sub", out, loops.const(-constant))
    return loops.op("add", out, loops.const(constant))


def linear_interval(terms: dict[Expr, int], constant: int) -> Interval:
    """The interval of a linear form, as a whole number: nothing wraps here."""
    lo = hi = constant
    for atom, k in terms.items():
        a, b = atom.bounds or interval(atom)
        if k < 0:
            a, b = b, a
        lo, hi = lo + k * a, hi + k * b
    return lo, hi


def _recombine(terms: dict[Expr, int]) -> dict[Expr, int]:
    """k*(x % c) + k*c*(x // c) -> k*x."""
    for atom in list(terms):
        if atom.op != "mod" or atom.args[1].op != "const" or atom.args[1].attr <= 0 or atom not in terms:  # gone by now
            continue
        x, c = atom.args
        quotient = simplify(loops.op("floordiv", x, c))
        k = terms[atom]
        if quotient.op == "floordiv" and terms.get(quotient) == k * c.attr:
            del terms[atom], terms[quotient]
            inner, constant = linear(x)
            if constant:
                terms[x] = terms.get(x, 0) + k
            else:
                for t, kt in inner.items():
                    terms[t] = terms.get(t, 0) + k * kt
            return _recombine(_reduced(terms))
    return terms


def _divide(x: Expr, c: int) -> tuple[Expr, Expr]:
    """(x // c, x % c) for a positive constant c."""
    terms, constant = whole_linear(x)
    quotient = {t: k // c for t, k in terms.items() if k % c == 0}
    rest = {t: k for t, k in terms.items() if k % c}
    # coefficients of the rest are reduced into 0..c-1 when that keeps the rest non-negative for certain
    q_const, r_const = divmod(constant, c)
    lo, hi = linear_interval(rest, r_const)
    if not fits(dtypes.int64, (lo, hi)):  # what is left might wrap
        return loops.op("floordiv", x, loops.const(c)), loops.op("mod", x, loops.const(c))
    if 0 <= lo and hi < c:
        return from_linear(quotient, q_const), from_linear(rest, r_const)
    if lo // c == hi // c:  # one multiple of c below the whole range
        shift = lo // c
        return from_linear(quotient, q_const + shift), from_linear(rest, r_const - shift * c)
    for g in sorted({math.gcd(c, k) for k in rest.values()} - {1}, reverse=True):
        big = {t: k // g for t, k in rest.items() if k % g == 0}
        small = {t: k for t, k in rest.items() if k % g}
        big_const, small_const = divmod(r_const, g)
        a, b = linear_interval(small, small_const)
        if 0 <= a and b < g:
            inner = from_linear(big, big_const)
            if c // g == 1:
                q, r = inner, loops.const(0)
            else:
                q, r = _divide(inner, c // g)
            q_terms, q_c = linear(q)
            for t, k in quotient.items():
                q_terms[t] = q_terms.get(t, 0) + k
            r_terms, r_c = linear(r)
            r_terms = {t: k * g for t, k in r_terms.items()}
            for t, k in small.items():
                r_terms[t] = r_terms.get(t, 0) + k
            return from_linear(q_terms, q_c + q_const), from_linear(r_terms, r_c * g + small_const)
    inner = from_linear(rest, r_const)
    by = inner.args[1].attr * c if inner.op == "floordiv" and inner.args[1].op == "const" else 0
    if 0 < by <= HIGHEST:  # (y // a) // b -> y // (a*b)
        q, _ = _divide(inner.args[0], by)
    else:
        q = loops.op("floordiv", inner, loops.const(c))
    q_terms, q_c = linear(q) if q.op != "floordiv" else ({q: 1}, 0)
    for t, k in quotient.items():
        q_terms[t] = q_terms.get(t, 0) + k
    return from_linear(q_terms, q_c + q_const), loops.op("mod", inner, loops.const(c))


def simplify(e: Expr) -> Expr:
    """An equal expression in normal form. Only int64 and bool expressions change."""
    found = e.simple
    if found is None:
        found = _simplify(e)
        # "itself" rather than a reference to itself, which only the cycle collector would end
        e.simple = ITSELF if found is e else found
        if found.simple is None:
            found.simple = ITSELF
        return found
    return e if found is ITSELF else found


def _simplify(e: Expr) -> Expr:
    if e.op in ("const", "axis") or not e.args:
        return e
    if e.dtype is dtypes.int64:
        if e.op in ("add", "sub", "mul", "neg", "shl"):
            terms, constant = linear(e)
            return from_linear(_recombine(terms), constant)
        if e.op in ("floordiv", "mod") and e.args[1].op == "const" and e.args[1].attr > 0:
            x, c = simplify(e.args[0]), e.args[1].attr
            if c == 1:
                return x if e.op == "floordiv" else loops.const(0)
            return _divide(x, c)[e.op == "mod"]
        if e.op in ("min", "max"):
            a, b = simplify(e.args[0]), simplify(e.args[1])
            (al, ah), (bl, bh) = interval(a), interval(b)
            if e.op == "min":
                if ah <= bl:
                    return a
                if bh <= al:
                    return b
            else:
                if al >= bh:
                    return a
                if bl >= ah:
                    return b
            return loops.op(e.op, a, b)
        if e.op == "select":
            c, a, b = (simplify(x) for x in e.args)
            if c.op == "const":
                return a if c.attr else b
            return a if a is b else loops.op("select", c, a, b)
    if e.dtype.is_bool:
        if e.op in ("lt", "le", "eq", "ne") and e.args[0].dtype is dtypes.int64:
            (terms, constant), (others, other) = map(whole_linear, e.args)
            difference = {t: terms.get(t, 0) - others.get(t, 0) for t in {**terms, **others}}
            lo, hi = linear_interval(difference, constant - other)  # which need not fit into int64
            if e.op == "lt" and (hi < 0 or lo >= 0):
                return loops.const(hi < 0, dtypes.bool_)
            if e.op == "le" and (hi <= 0 or lo > 0):
                return loops.const(hi <= 0, dtypes.bool_)
            if e.op in ("eq", "ne"):
                if lo > 0 or hi < 0:
                    return loops.const(e.op == "ne", dtypes.bool_)
                if lo == hi == 0:
                    return loops.const(e.op == "eq", dtypes.bool_)
            return loops.op(e.op, simplify(e.args[0]), simplify(e.args[1]))
        if e.op in ("and", "or"):
            a, b = simplify(e.args[0]), simplify(e.args[1])
            stop = e.op == "or"  # True absorbs `or`, False absorbs `and`
            for x, y in ((a, b), (b, a)):
                if x.op == "const":
                    return x if bool(x.attr) is stop else y
            return a if a is b else loops.op(e.op, a, b)
        if e.op == "not":
            a = simplify(e.args[0])
            if a.op == "const":
                return loops.const(not a.attr, dtypes.bool_)
            return loops.op("not", a)
    return e


def both(a: Expr | None, b: Expr | None) -> Expr | None:
    """The conjunction of two predicates, where None means true."""
    if a is None or b is None:
        return b if a is None else a
    return simplify(loops.op("and", a, b))


def flatten(index: tuple[Expr, ...], shape: tuple[int, ...]) -> Expr:
    """The row-major position of `index` in `shape`."""
    strides = [1] * len(shape)
    for k in range(len(shape) - 1, 0, -1):
        strides[k - 1] = strides[k] * shape[k]
    return weighted(index, strides)


def weighted(index: Sequence[Expr], strides: Sequence[int]) -> Expr:
    """sum(index * stride), simplified; modulo 2**64, as addresses are."""
    terms: dict[Expr, int] = {}
    constant = 0
    for i, stride in zip(reversed(index), reversed(strides), strict=True):
        constant += _add_linear(i, stride, terms)
    out = from_linear(_recombine(_reduced(terms)), constant)
    if out.simple is None:
        out.simple = ITSELF
    return out


def unflatten(position: Expr, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    """The index in `shape` of a row-major position (which must lie inside)."""
    out: list[Expr] = []
    rest = simplify(position)
    for k in range(len(shape) - 1, 0, -1):
        if shape[k] == 1:
            out.append(loops.const(0))
            continue
        q, r = _divide(rest, shape[k]) if shape[k] > 1 else (rest, loops.const(0))
        out.append(simplify(r))
        rest = simplify(q)
    out.append(rest if shape and shape[0] != 1 else loops.const(0))
    return tuple(reversed(out)) if shape else ()


def coefficient(e: Expr, axis: Expr) -> int | None:
    """The constant k with e = k*axis + (something free of axis), or None if there is none."""
    if axis not in e.axes:
        return 0
    terms, _ = linear(e)
    k = 0
    for atom, c in terms.items():
        if atom is axis:
            k = c
        elif axis in atom.axes:
            return None
    return k
