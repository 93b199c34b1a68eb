"""Which accesses of a vector loop one thread can make at once.

A vector loop of the GPU is `lanes` iterations written out in one thread. Loads and stores of neighbouring elements
become one access of up to 16 bytes where the address is a multiple of the access for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import linear, simplify
from dlc.ir.loops.ir import Buffer, Expr, Store, load_parts
from dlc.ir.loops.traverse import exprs

WIDE = 16  # bytes of one access


def aligned(index: Expr, axis: Expr, lanes: int) -> bool:
    """Is `index` = axis + a multiple of `lanes`?"""
    terms, constant = linear(index)
    if terms.pop(axis, 0) != 1 or constant % lanes:
        return False
    return all(k % lanes == 0 and axis not in atom.axes for atom, k in terms.items())


def uniform(predicate: Expr, axis: Expr, lanes: int) -> Expr | None:
    """`predicate` without the axis, if it is the same for all its values; None if it may differ."""
    if axis not in predicate.axes:
        return predicate
    if predicate.op in ("and", "or"):
        a, b = (uniform(x, axis, lanes) for x in predicate.args)
        return None if a is None or b is None else loops.op(predicate.op, a, b)
    if predicate.op in ("lt", "le"):
        low, high = predicate.args
        if predicate.op == "lt" and axis not in high.axes and aligned(low, axis, lanes):  # i < n
            terms, constant = linear(high)
            if constant % lanes == 0 and all(k % lanes == 0 for k in terms.values()):
                return loops.op("lt", first(low, axis), high)
        if predicate.op == "le" and axis not in low.axes and aligned(high, axis, lanes):  # n <= i
            terms, constant = linear(low)
            if constant % lanes == 0 and all(k % lanes == 0 for k in terms.values()):
                return loops.op("le", low, first(high, axis))
    return None


def first(e: Expr, axis: Expr) -> Expr:
    """`e` at the first lane."""
    return simplify(traverse.map_expr(e, lambda *_: None, {axis: loops.const(0)}))


def at_once(dtype_bytes: int, lanes: int) -> bool:
    """Does a machine access of these many elements exist?"""
    size = dtype_bytes * lanes
    return size in (2, 4, 8) or size % WIDE == 0


def wide_loads(stmts: Sequence[Store], axis: Expr, lanes: int, bound: frozenset[Expr],
               unaligned: frozenset[Buffer]) -> dict[Expr, tuple[Expr, Expr | None]]:
    """Loads of neighbouring elements: load -> (index of the first, predicate)."""
    stored = {s.buffer for s in stmts}
    out: dict[Expr, tuple[Expr, Expr | None]] = {}
    for e in loads(stmts):
        buffer, index, predicate = load_parts(e)
        if buffer.space == "reg" or buffer in stored or buffer in unaligned or axis not in e.axes:
            continue
        if not e.axes - {axis} <= bound or not at_once(buffer.dtype.itemsize, lanes):
            continue
        if any(axis in i.axes for i in index[:-1]) or not aligned(index[-1], axis, lanes):
            continue
        if buffer.space == "shared" and buffer.shape[-1] % lanes:
            continue
        inner = [x.attr for i in index for x in subexpressions(i) if x.op == "load"]
        if any(b in stored or b.space == "reg" for b in inner):
            continue
        guard = None
        if predicate is not None:
            guard = uniform(predicate, axis, lanes)
            if guard is None:
                continue
        out[e] = (first(index[-1], axis), guard)
    return out


def wide_stores(stmts: Sequence[Store], axis: Expr, lanes: int, unaligned: frozenset[Buffer]) -> list[Store]:
    """Stores that fill neighbouring elements."""
    read = {e.attr for e in loads(stmts)}
    out = []
    for s in stmts:
        b = s.buffer
        if b.space == "reg" or s.combine is not None or b in unaligned or b in read:
            continue
        if sum(x.buffer is b for x in stmts) > 1 or not at_once(b.dtype.itemsize, lanes):
            continue
        if any(axis in i.axes for i in s.index[:-1]) or not aligned(s.index[-1], axis, lanes):
            continue
        if b.space == "shared" and b.shape[-1] % lanes:
            continue
        out.append(s)
    return out


def loads(stmts: Sequence[Store]) -> Iterator[Expr]:
    """Every distinct load of some statements, innermost first."""
    seen: set[Expr] = set()
    for s in stmts:
        for root in exprs(s):
            for e in subexpressions(root, seen):
                if e.op == "load":
                    yield e


def subexpressions(root: Expr, seen: set[Expr] | None = None) -> Iterator[Expr]:
    """Every distinct expression in `root` that is not in `seen`, operands first."""
    seen = set() if seen is None else seen
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        e, entered = stack.pop()
        if entered:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))
