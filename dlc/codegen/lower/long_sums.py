"""Long running sums in blocks, so that rounding errors don't grow with their length.

A register to which a loop adds n terms, one after another, is wrong by up to n roundings of the whole sum: 10^7 equal
numbers lose all digits. Here every loop of a scheduled kernel whose registers collect more than a block of terms is cut
into blocks. After each the register is added to a partial sum, in scratch memory, and the next starts at 0; the partial
sums of `FOLDS` blocks are added to the total with compensation for what each addition rounds away (Kahan's method). So
of any number of terms the error is at most (block + FOLDS + 2) roundings of the sum of their magnitudes, and a fold's
few instructions come once in a block.

One rewrite of the Loop IR serves reductions along rows and columns and contractions, on every target. The plain loops
(the stage `loops`) add in order.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

from dlc.ir.dtypes import float64
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import simplify
from dlc.ir.loops.ir import Alloc, Buffer, Expr, For, If, Seq, Stmt, Store
from dlc.ir.sum_blocks import BLOCK, FOLDS, GPU_PRODUCTS, GPU_WHOLE, PRODUCTS, limit

_COMPARISONS = frozenset(("lt", "le", "eq", "ne"))
_NONE: frozenset[Expr] = frozenset()


def in_blocks(stmt: Stmt, contraction: bool) -> Stmt:
    """`stmt` with its long sums of floats in registers cut into blocks. `contraction`: its sums fill the registers."""
    most = _most_terms(stmt)
    if most <= limit(BLOCK):
        return stmt
    # one block has no grid
    on_gpu = any(isinstance(s, For) and s.kind in ("grid", "lane") for s in traverse.walk(stmt))
    block = (GPU_PRODUCTS if on_gpu else PRODUCTS) if contraction else BLOCK
    whole = GPU_WHOLE if on_gpu and contraction else limit(block)
    if most <= whole:
        return stmt
    space = "reg" if on_gpu else "shared"  # a GPU's shared memory is all threads'

    def long(b: Buffer) -> bool:
        """Float64 needs no blocks on a GPU, where they would take more registers than a thread has."""
        return b.space == "reg" and b.dtype.is_float and not (on_gpu and contraction and b.dtype is float64)

    sums = Sums()
    made = _Cut(block, whole, long, PlainFold, space, sums)
    stmt = made(stmt)
    partial = made.totals
    return _Cut(FOLDS, limit(FOLDS), partial.__contains__, Compensated, space, sums)(stmt) if partial else stmt


def _most_terms(stmt: Stmt) -> int:
    """The iterations of the deepest nest of loops in order: no sum has more terms."""
    if isinstance(stmt, Store):
        return 1
    inner = max([_most_terms(s) for s in traverse.children(stmt)], default=1)
    return inner * stmt.axis.attr[1] if isinstance(stmt, For) and stmt.kind in ("serial", "unroll") else inner


# ------------------------------------------------------------------------------------------------- what is a sum


class _Adds(NamedTuple):
    """What a statement does to a buffer, if it writes nothing to it but sums."""

    terms: int  # added to one element, at most
    axes: frozenset[Expr]  # in the index
    lanes: int = 0  # of the vectors along the last axis


_Done = dict[Buffer, _Adds | None]  # None: it is also overwritten


class Sums:
    """What statements do to the buffers that live longer than they; global ones hold no running sums and are left out.
    `added` is remembered, since loops are asked at each depth, and does not look into expressions: there are many of
    these, and few loops whose registers collect many terms."""

    def __init__(self) -> None:
        self._done: dict[Stmt, _Done] = {}

    def __call__(self, stmt: Stmt) -> dict[Buffer, _Adds]:
        """The buffers to which `stmt` does nothing but add."""
        added = {b: adds for b, adds in self.added(stmt).items() if adds is not None}
        read = _read(stmt, added)
        return {b: adds for b, adds in added.items() if b not in read}

    def added(self, stmt: Stmt) -> _Done:
        """The same for all buffers that it writes, no matter what it reads."""
        found = self._done.get(stmt)
        if found is None:
            found = self._done[stmt] = self._of(stmt)
        return found

    def _of(self, stmt: Stmt) -> _Done:
        if isinstance(stmt, Store):
            if stmt.buffer.space == "global":
                return {}
            axes = _NONE.union(*[i.axes for i in stmt.index])
            return {stmt.buffer: None if _terms(stmt) is None else _Adds(1, axes)}
        if isinstance(stmt, For):
            return {b: None if adds is None else _over(stmt, b, adds) for b, adds in self.added(stmt.body).items()}
        out: _Done = {b: None for b in traverse.buffers(stmt) if b.space != "global"}
        both, inside = isinstance(stmt, Seq), traverse.children(stmt)
        for child in inside:
            for b, adds in self.added(child).items():
                known = out.get(b, adds)
                if b not in out or known is None or adds is None:
                    out[b] = known if adds is not None else None
                else:
                    terms = known.terms + adds.terms if both else max(known.terms, adds.terms)
                    out[b] = _Adds(terms, known.axes | adds.axes, known.lanes or adds.lanes)
        for child in inside:
            if isinstance(child, Alloc):
                out.pop(child.buffer, None)
        return out


def _read(stmt: Stmt, among: Container[Buffer]) -> set[Buffer]:
    """The buffers of `among` that `stmt` reads other than to add to them."""
    found, seen = set(), set()
    for s in traverse.walk(stmt):
        stack = list(traverse.exprs(s))
        if isinstance(s, Store) and s.combine is None and (terms := _terms(s)) is not None:
            stack = [*s.index, *terms, *(() if s.predicate is None else (s.predicate,))]
        while stack:
            e = stack.pop()
            if e not in seen:
                seen.add(e)
                stack += e.args
                if e.op == "load" and e.attr in among:
                    found.add(e.attr)
    return found


def _terms(s: Store) -> tuple[Expr, ...] | None:
    """What the value that `s` adds is computed from, if all it does is add one."""
    if s.combine is not None:
        return (s.value,) if s.combine == "add" else None
    old = loops.load(s.buffer, *s.index)
    if s.value.op in ("fma", "dot2") and s.value.args[2] is old:
        return s.value.args[:2]
    return None


def _over(loop: For, b: Buffer, adds: _Adds) -> _Adds | None:
    """What a loop does to a buffer, given what an iteration does."""
    n = loop.axis.attr[1]
    if loop.axis not in adds.axes:
        times = -(-n // loop.lanes) if loop.kind == "vector" else n
        return adds._replace(terms=adds.terms * times)
    if loop.kind == "vector" and n == loop.lanes == b.shape[-1]:
        return adds._replace(lanes=n)
    return adds if loop.kind in ("unroll", "vector") else None


# ------------------------------------------------------------------------------------------------- how it is cut


class _Cut:
    """Cuts loops that add more than `whole` terms to some of the buffers in `among`; a block's are folded after it."""

    def __init__(self, block: int, whole: int, among: Callable[[Buffer], bool], fold: type[BlockFold], space: str,
                 sums: Sums):
        self.block, self.whole, self.among, self.fold, self.space, self.sums = block, whole, among, fold, space, sums
        self.totals: set[Buffer] = set()

    def __call__(self, stmt: Stmt) -> Stmt:
        if isinstance(stmt, Store):
            return stmt
        if isinstance(stmt, For) and stmt.kind == "serial":
            long = {b: adds for b, adds in self.sums.added(stmt).items()
                    if adds is not None and adds.terms > self.whole and self.among(b)}
            for b in _read(stmt, long) if long else ():
                del long[b]
            if long:
                folds = [self.fold(b, adds.lanes, self.space, not self.inside(stmt.body, long))
                         for b, adds in long.items()]
                self.totals |= {f.total for f in folds}
                before = (a for f in folds for a in f.before())
                return Seq((*before, self.cut(stmt, long, folds), *(f.after() for f in folds)))
        return _with_children(stmt, self)

    def inside(self, stmt: Stmt, long: Container[Buffer]) -> bool:
        """Is there a loop in `stmt` that is longer than a block?"""
        return self.terms(stmt, long) > self.block and any(
            isinstance(s, For) and s.kind == "serial" and self.terms(s, long) > self.block for s in traverse.walk(stmt))

    def cut(self, stmt: Stmt, long: Container[Buffer], folds: Sequence[BlockFold]) -> Stmt:
        """The loops of more terms than a block in blocks; where one has another inside, that one."""
        if isinstance(stmt, For) and stmt.kind == "serial" and self.terms(stmt, long) > self.block:
            if not self.inside(stmt.body, long):
                return _split(stmt, max(1, self.block // self.terms(stmt.body, long)), folds)
        return _with_children(stmt, lambda s: self.cut(s, long, folds))

    def terms(self, stmt: Stmt, long: Container[Buffer]) -> int:
        return max((adds.terms for b, adds in self.sums.added(stmt).items() if b in long and adds), default=0)


def _with_children(stmt: Stmt, change: Callable[[Stmt], Stmt]) -> Stmt:
    """A Seq, For or If with the statements in it changed; itself if they stay as they are."""
    if isinstance(stmt, Seq):
        body = tuple(map(change, stmt.body))
        return stmt if all(a is b for a, b in zip(body, stmt.body, strict=True)) else Seq(body)
    if isinstance(stmt, For):
        inner = change(stmt.body)
        return stmt if inner is stmt.body else replace(stmt, body=inner)
    if isinstance(stmt, If):
        then, other = change(stmt.then), stmt.other and change(stmt.other)
        return stmt if then is stmt.then and other is stmt.other else If(stmt.cond, then, other)
    return stmt


def _split(loop: For, most: int, folds: Sequence[BlockFold]) -> Stmt:
    """The loop in blocks of at most so many iterations, folded after each."""
    first, last = ([s for f in folds for s in part(f)] for part in (type(folds[0]).first, type(folds[0]).after_block))
    if most == 1:
        return replace(loop, body=loops.seq(*first, loop.body, *last))
    word = folds[0].word
    return blocks_of(loop.axis, most, word, lambda at: _moved(loop.body, loop.axis, at), last, loop.extent, first)


def blocks_of(axis: Expr, most: int, word: str, body: Callable[[Expr], Stmt], last: Sequence[Stmt],
              extent: Expr | None = None, first: Sequence[Stmt] = ()) -> Stmt:
    """`body(position)` along an axis (or `extent` of it) in blocks of at most so many positions, of equal length if
    there is such a length, with `first` before and `last` after each block."""
    name, n = axis.attr[:2]
    end = loops.const(n) if extent is None else extent
    count = -(-n // most)
    per = next((p for p in range(most, most // 2, -1) if n % p == 0), -(-n // count))
    block, step = loops.axis(f"{name}_{word}", -(-n // per)), loops.axis(name, per)
    inside: Expr = loops.const(per)
    if end is not loops.const(n) or n % per:
        inside = loops.op("min", inside, simplify(end - block * per))
    inner = loops.loop(step, body(simplify(block * per + step)), extent=inside)
    return loops.loop(block, loops.seq(*first, inner, *last), extent=simplify((end + (per - 1)) // per))


def _moved(stmt: Stmt, axis: Expr, to: Expr) -> Stmt:
    """`stmt` with an axis replaced, and the indices and conditions that follow from it simplified."""
    memo = {axis: to}

    def tidy(e: Expr) -> Expr:
        return simplify(e) if e.dtype is axis.dtype else e

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if args == e.args:
            return None
        if e.op == "load":
            rank = len(e.attr.shape)
            return loops.load(e.attr, *map(tidy, args[:rank]), predicate=args[rank] if len(args) > rank else None)
        if e.op in _COMPARISONS and args[0].dtype is axis.dtype:
            return simplify(loops.op(e.op, *args))
        return None

    return traverse.map_stmt(stmt, lambda e: tidy(traverse.map_expr(e, rule, memo)) if axis in e.axes else e)


# ------------------------------------------------------------------------------------------------- how blocks are added


class BlockFold:
    """Where the sums of blocks in `source` go, and how. `fresh`: nothing is added to it but in blocks, so that each
    block can start at 0, and what follows finds the total alone; else the rest of what was added is in it."""

    word: ClassVar[str]  # in the names of loops and buffers

    def __init__(self, source: Buffer, lanes: int, space: str, fresh: bool = False):
        self.source, self.lanes, self.fresh = source, lanes, fresh
        self.total = Buffer(f"{source.name}_{self.word}", source.dtype, source.shape, space)
        self.zero = loops.const(0, source.dtype)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.total,)

    def each(self, make: Callable[[tuple[Expr, ...]], Sequence[Stmt]]) -> Stmt:
        """Statements for every element of the buffers; one vector loop holds all rows, which is the least to emit."""
        at = tuple(loops.axis("i", n) if n > 1 else loops.const(0) for n in self.source.shape)
        out, rows = loops.seq(*make(at)), at[:-1] if self.lanes > 1 else at
        for i in reversed(rows):
            out = loops.loop(i, out, "unroll") if i.op == "axis" else out
        return out if rows is at else loops.loop(at[-1], out, "vector", None, self.lanes)

    def before(self) -> list[Stmt]:
        def clear(at: tuple[Expr, ...]) -> list[Stmt]:
            return [loops.store(b, at, loops.load(self.source, *at) if self.fresh and b is self.total else self.zero)
                    for b in self.buffers]

        return [*map(Alloc, self.buffers), self.each(clear)]

    def first(self) -> list[Stmt]:
        """Before each block."""
        return [self.each(self._cleared)] if self.fresh else []

    def after_block(self) -> list[Stmt]:
        return [self.each(lambda at: [*self.added(at), *(() if self.fresh else self._cleared(at))])]

    def _cleared(self, at: tuple[Expr, ...]) -> list[Stmt]:
        return [loops.store(self.source, at, self.zero)]

    def added(self, at: tuple[Expr, ...]) -> list[Stmt]:
        """What is in the source, added to the total."""
        raise NotImplementedError

    def after(self) -> Stmt:
        raise NotImplementedError


class PlainFold(BlockFold):
    """Added one to another."""

    word = "block"

    def added(self, at: tuple[Expr, ...]) -> list[Stmt]:
        return [loops.store(self.total, at, loops.load(self.source, *at), "add")]

    def after(self) -> Stmt:
        how = None if self.fresh else "add"
        return self.each(lambda at: [loops.store(self.source, at, loops.load(self.total, *at), how)])


class Compensated(BlockFold):
    """Added with compensation: `rest` is what the additions so far have rounded away. It is dropped where it is no
    number: then neither is the total, or it has overflowed."""

    word = "total"

    def __init__(self, source: Buffer, lanes: int, space: str, fresh: bool = False):
        super().__init__(source, lanes, space, fresh)
        self.rest = Buffer(f"{source.name}_rest", source.dtype, source.shape, space)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return self.total, self.rest

    def added(self, at: tuple[Expr, ...]) -> list[Stmt]:
        term, old = loops.load(self.source, *at), loops.load(self.total, *at)
        rest = loops.op("sub", term, loops.op("sub", loops.op("add", old, term), old))
        known = loops.op("lt", loops.op("abs", rest), loops.const(float("inf"), rest.dtype))
        return [
            loops.store(self.source, at, loops.load(self.rest, *at), "add"),
            loops.store(self.rest, at, loops.op("select", known, rest, self.zero)),
            loops.store(self.total, at, term, "add"),
        ]

    def after(self) -> Stmt:
        def add(at: tuple[Expr, ...]) -> list[Stmt]:
            left = loops.load(self.rest, *at)
            if not self.fresh:
                left = loops.op("add", loops.load(self.source, *at), left)
            return [loops.store(self.source, at, loops.op("add", loops.load(self.total, *at), left))]

        return self.each(add)
