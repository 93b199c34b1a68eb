"""Prefetches of panels, far rows, and the lines that an epilogue reads and writes."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.target.cpu import LINE, PAGE
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import coefficient, simplify
from dlc.ir.loops.ir import Buffer, Expr, Stmt


def streamed(value: Expr, k: Expr, ahead: int, lines: Sequence[dict[Expr, Expr]]) -> list[Stmt]:
    """Prefetches of what a vector operand reads `ahead` positions of axis k later; `lines` are the vectors' axes at the
    start of each line of a cache."""
    found: dict[tuple[Buffer, Expr], None] = {}
    for e in traverse.loads_of(value):
        if coefficient(e.args[0], k):
            for line in lines:
                later = {**line, k: simplify(k + ahead)}
                found[e.attr, simplify(traverse.map_expr(e.args[0], lambda *_: None, later))] = None
    return [loops.Prefetch(b, (at,)) for b, at in found]


def far_rows(value: Expr, k: Expr, i: Expr, mr: int, ahead: int) -> list[Stmt]:
    """Prefetches of rows that run along axis k and lie pages apart (axis i, of extent mr): no processor follows so many
    by itself. The rows take turns, so that each comes by once a line."""
    found: list[Stmt] = []
    for e in traverse.loads_of(value):
        line = LINE // e.dtype.itemsize
        apart = coefficient(e.args[0], i)
        if coefficient(e.args[0], k) == 1 and apart and apart * e.dtype.itemsize >= PAGE:
            turns = -(-mr // line)
            for c in range(turns):
                later = {i: simplify((k * turns + c) % mr), k: simplify(k + ahead)}
                found.append(loops.Prefetch(e.attr, (simplify(traverse.map_expr(e.args[0], lambda *_: None, later)),)))
    return found


def in_parts(ks: Sequence[Expr], inner: dict[Expr, Expr],
              rows: int) -> tuple[Expr | None, Expr | None, dict[Expr, Expr]]:
    """The outermost inner loop cut in as many equal parts as there are, up to `rows`: an axis of parts, one inside a
    part, and the inner labels in terms of these. None where it has no parts."""
    extent = ks[0].attr[1] if ks else 1
    parts = max(p for p in range(1, rows + 1) if extent % p == 0)
    if parts == 1:
        return None, None, inner
    part, first = loops.axis("part", parts), loops.axis(ks[0].attr[0], extent // parts)
    where = {ks[0]: simplify(part * (extent // parts) + first)}
    return part, first, {a: simplify(traverse.map_expr(e, lambda *_: None, dict(where))) for a, e in inner.items()}


def prefetches(stmt: Stmt, axis: Expr) -> Stmt:
    """Prefetches of all global memory that `stmt` touches at places that depend on `axis`."""
    return loops.seq(*(loops.Prefetch(b, (at,)) for b, at in _places(stmt) if axis in at.axes))


def prefetches_of_line(stmt: Stmt, row: Expr, column: Expr) -> Stmt:
    """The same for all values of the axis `column`: once for each line of a cache, counted from the last column."""
    columns = column.attr[1]
    places: dict[tuple[Buffer, Expr], None] = {}
    for b, at in _places(stmt):
        if row in at.axes:
            for c in range(columns - 1, -1, -LINE // b.dtype.itemsize):
                places[b, simplify(traverse.map_expr(at, lambda *_: None, {column: loops.const(c)}))] = None
    return loops.seq(*(loops.Prefetch(b, (at,)) for b, at in places))


def _places(stmt: Stmt) -> dict[tuple[Buffer, Expr], None]:
    """Where a statement reads and writes global memory."""
    places: dict[tuple[Buffer, Expr], None] = {}
    for s in traverse.walk(stmt):
        if isinstance(s, loops.Store):
            places[s.buffer, s.index[0]] = None
        places.update({(e.attr, e.args[0]): None for e in traverse.loads_of(*traverse.exprs(s))})
    return {(b, at): None for b, at in places if b.space == "global"}
