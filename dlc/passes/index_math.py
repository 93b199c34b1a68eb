"""Index algebra with bounds: sums of products, floor division and remainder by constants, comparisons.

Views are index maps; composing reshapes gives towers of `//` and `%` that mostly cancel. `simplify` brings an int64
expression to a linear form sum(coefficient * atom) + constant, where an atom is an axis, a load, or a division or
remainder that nothing could remove. All divisors are positive constants. Bounds come from the axes' extents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlc.ir import dtypes, loops
from dlc.ir.loops import Expr

Linear = tuple[dict[Expr, int], int]  # terms, constant
_INF = 1 << 62
_ITSELF = "itself"
_POSITION = frozenset(("axis", "const", "add", "sub", "mul", "floordiv", "mod", "min", "max"))


def bounds(e: Expr) -> tuple[int, int]:
    """Smallest and largest value `e` can take (inclusive); +-2**62 where unknown."""
    found = e.bounds
    if found is None:
        found = e.bounds = _bounds(e)
    return found


def _bounds(e: Expr) -> tuple[int, int]:
    if e.op == "const":
        return int(e.attr), int(e.attr)
    if e.op == "axis":
        return 0, max(e.attr[1] - 1, 0)
    if e.op in ("add", "sub", "mul", "floordiv", "mod", "min", "max"):
        (a, b), (c, d) = bounds(e.args[0]), bounds(e.args[1])
        if e.op == "add":
            return _clip(a + c), _clip(b + d)
        if e.op == "sub":
            return _clip(a - d), _clip(b - c)
        if e.op == "mul":
            products = (a * c, a * d, b * c, b * d)
            return _clip(min(products)), _clip(max(products))
        if e.op == "min":
            return min(a, c), min(b, d)
        if e.op == "max":
            return max(a, c), max(b, d)
        if c == d and c > 0:
            if e.op == "floordiv":
                return a // c, b // c
            return (a, b) if 0 <= a and b < c else (0, c - 1)
    if e.op == "select":
        (a, b), (c, d) = bounds(e.args[1]), bounds(e.args[2])
        return min(a, c), max(b, d)
    if e.op == "cast" and e.args[0].dtype.is_int and e.args[0].dtype.bits < 64:
        lo, hi = dtypes.limits(e.args[0].dtype)
        a, b = bounds(e.args[0])
        return max(lo, a), min(hi, b)
    if e.dtype.is_bool:
        return 0, 1
    return -_INF, _INF


def _clip(v: int) -> int:
    return max(-_INF, min(_INF, v))


def is_position(e: Expr) -> bool:
    """Is `e` made of axes and constants alone, with no step that could leave int64? Then it is a whole number in the
    mathematical sense, and may be simplified although it is a value and not an index."""
    return all(x.op in _POSITION and x.dtype is dtypes.int64 and -_INF < bounds(x)[0] and bounds(x)[1] < _INF
               for x in loops.subexpressions(e))


def linear(e: Expr) -> Linear:
    """`e` as ({atom: coefficient}, constant); atoms are simplified."""
    terms: dict[Expr, int] = {}
    constant = _add_linear(e, 1, terms)
    return {t: c for t, c in terms.items() if c}, constant


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
        elif op == "add":
            stack += (x.args[0], k), (x.args[1], k)
        elif op == "sub":
            stack += (x.args[0], k), (x.args[1], -k)
        elif op == "neg":
            stack.append((x.args[0], -k))
        elif op == "mul" and x.args[1].op == "const":
            stack.append((x.args[0], k * x.args[1].attr))
        elif op == "mul" and x.args[0].op == "const":
            stack.append((x.args[1], k * x.args[0].attr))
        elif op == "mul":
            a, b = simplify(x.args[0]), simplify(x.args[1])
            s = x if a is x.args[0] and b is x.args[1] else loops.op("mul", a, b)
            if a.op == "const" or b.op == "const":
                stack.append((s, k))
            else:  # a product of two non-constants is an atom
                terms[s] = terms.get(s, 0) + k
        else:
            s = simplify(x)
            if s is not x and s.op in ("add", "sub", "mul", "const", "neg"):
                stack.append((s, k))
            else:
                terms[s] = terms.get(s, 0) + k
    return constant


def _order(e: Expr) -> tuple:
    return (0, e.attr[2]) if e.op == "axis" else (1, min((a.attr[2] for a in e.axes), default=0), repr(e.op))


def from_linear(terms: dict[Expr, int], constant: int) -> Expr:
    """The expression of a linear form, terms in a fixed order (outer axes first)."""
    out: Expr | None = None
    for atom in sorted(terms, key=_order) if len(terms) > 1 else terms:
        k = terms[atom]
        if out is None:
            out = atom if k == 1 else loops.op("mul", atom, loops.const(k))
        elif k == 1:
            out = loops.op("add", out, atom)
        elif k == -1:
            out = loops.op("sub", out, atom)
        else:
            out = loops.op("add", out, loops.op("mul", atom, loops.const(k)))
    if out is None:
        return loops.const(constant)
    if constant > 0:
        return loops.op("add", out, loops.const(constant))
    if constant < 0:
        return loops.op("sub", out, loops.const(-constant))
    return out


def linear_bounds(terms: dict[Expr, int], constant: int) -> tuple[int, int]:
    lo = hi = constant
    for atom, k in terms.items():
        a, b = bounds(atom)
        lo, hi = lo + min(k * a, k * b), hi + max(k * a, k * b)
    return _clip(lo), _clip(hi)


def _recombine(terms: dict[Expr, int]) -> dict[Expr, int]:
    """k*(x % c) + k*c*(x // c) -> k*x."""
    for atom in list(terms):
        if atom.op != "mod" or atom not in terms:  # gone by now
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
            return _recombine({t: k for t, k in terms.items() if k})
    return terms


def _divide(x: Expr, c: int) -> tuple[Expr, Expr]:
    """(x // c, x % c) for a positive constant c."""
    terms, constant = linear(x)
    quotient = {t: k // c for t, k in terms.items() if k % c == 0}
    rest = {t: k for t, k in terms.items() if k % c}
    # coefficients of the rest are reduced into 0..c-1 when that keeps the rest non-negative for certain
    q_const, r_const = divmod(constant, c)
    lo, hi = linear_bounds(rest, r_const)
    if 0 <= lo and hi < c:
        return from_linear(quotient, q_const), from_linear(rest, r_const)
    if lo // c == hi // c:  # one multiple of c below the whole range
        shift = lo // c
        return from_linear(quotient, q_const + shift), from_linear(rest, r_const - shift * c)
    split_const, kept_q = (r_const, q_const) if lo >= 0 or constant >= 0 else (r_const, q_const)
    for g in sorted({math.gcd(c, k) for k in rest.values()} - {1}, reverse=True):
        big = {t: k // g for t, k in rest.items() if k % g == 0}
        small = {t: k for t, k in rest.items() if k % g}
        big_const, small_const = divmod(split_const, g)
        a, b = linear_bounds(small, small_const)
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
            return from_linear(q_terms, q_c + kept_q), from_linear(r_terms, r_c * g + small_const)
    inner = from_linear(rest, r_const)
    if inner.op in ("floordiv",) and inner.args[1].op == "const":  # (y // a) // b -> y // (a*b)
        q, _ = _divide(inner.args[0], inner.args[1].attr * c)
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
        e.simple = _ITSELF if found is e else found
        if found.simple is None:
            found.simple = _ITSELF
        return found
    return e if found is _ITSELF else found


def _simplify(e: Expr) -> Expr:
    if e.op in ("const", "axis") or not e.args:
        return e
    if e.dtype is dtypes.int64:
        if e.op in ("add", "sub", "mul", "neg"):
            terms, constant = linear(e)
            return from_linear(_recombine(terms), constant)
        if e.op in ("floordiv", "mod") and e.args[1].op == "const" and e.args[1].attr > 0:
            x, c = simplify(e.args[0]), e.args[1].attr
            if c == 1:
                return x if e.op == "floordiv" else loops.const(0)
            q, r = _divide(x, c)
            out = q if e.op == "floordiv" else r
            return out
        if e.op in ("min", "max"):
            a, b = simplify(e.args[0]), simplify(e.args[1])
            (al, ah), (bl, bh) = bounds(a), bounds(b)
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
            terms, constant = linear(loops.op("sub", e.args[0], e.args[1]))
            lo, hi = linear_bounds(terms, constant)
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
    """sum(index * stride), simplified."""
    terms: dict[Expr, int] = {}
    constant = 0
    for i, stride in zip(reversed(index), reversed(strides), strict=True):
        constant += _add_linear(i, stride, terms)
    out = from_linear(_recombine({t: c for t, c in terms.items() if c}), constant)
    if out.simple is None:
        out.simple = _ITSELF
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
