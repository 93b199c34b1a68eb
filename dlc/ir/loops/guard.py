"""Kernels that somebody else wrote, made safe: `guard(kernel)` gives a kernel that touches no memory but its own.

The verifier trusts guarded accesses, as those of our own passes are right by construction. Here nothing is trusted:

- an index that follows from loops and conditions to be inside its dimension stays as it is;
- one that depends on loops alone, and can be outside, is an error;
- any other (it depends on data, or on a condition that proves nothing) is clamped into its dimension;
- an extent that may exceed its axis' own is cut to that.

What a kernel may consist of is narrower too: fixed sizes, no matrix instructions, bounded scratch, threads that all
come to the same barriers. So a kernel may be wrong, but it ends and breaks nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.loops.index import linear_interval, whole_linear
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import (
    RUNTIME,
    Alloc,
    AllReduce,
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Seq,
    Stmt,
    Store,
    Sync,
    const,
    load,
    op,
)
from dlc.ir.loops.text import print_expr, print_stmt
from dlc.ir.loops.traverse import exprs, map_expr, subexpressions, walk
from dlc.ir.loops.verify import verify

SCRATCH_BYTES = 128 << 10  # of all shared buffers together
REGISTERS = 1024  # elements of all reg buffers together
COPIES = 4096  # statements after unrolling
LANES = 64
THREADS = 1024  # of a block

_ALLOWED = (Seq, For, If, Alloc, Store, Sync, AllReduce)

Form = dict[Expr | None, int]  # a sum of coefficient * expression, the constant under None


def guard(kernel: Kernel) -> Kernel:
    """The kernel with every access inside its buffer. Raises VerifyError for one that is wrong or not allowed."""
    try:
        verify(kernel)
        _shape(kernel)
        return _Guard(kernel).kernel_()
    except RecursionError:
        raise VerifyError(f"kernel {kernel.name}: an expression is nested too deeply") from None


def for_gpu(kernel: Kernel) -> bool:
    """Does the kernel say how blocks and threads share its work?"""
    return any(isinstance(s, For) and s.kind in ("grid", "lane") for s in walk(kernel.body))


def _fail(kernel: Kernel, stmt: Stmt | None, message: str) -> VerifyError:
    line = kernel.lines.get(stmt)
    text = "" if stmt is None else "\n    " + print_stmt(stmt).split("\n", 1)[0].strip()
    return VerifyError(f"kernel {kernel.name}: {message}{text}" + (f"  # line {line}" if line else ""))


# ---------------------------------------------------------------------------------------------- what it may consist of


def _shape(kernel: Kernel) -> None:
    gpu = for_gpu(kernel)
    shared = registers = 0
    threads: set[int] = set()

    def visit(s: Stmt, copies: int, around: tuple[For | If, ...]) -> int:
        nonlocal shared, registers
        lane = next((k for k, f in enumerate(around) if isinstance(f, For) and f.kind == "lane"), None)
        gate = isinstance(s, Alloc) and s.buffer.space not in ("shared", "reg")
        if type(s) not in _ALLOWED or gate or (isinstance(s, Sync) and s.threads):
            raise _fail(kernel, s, "matrix instructions and asynchronous copies are not for custom kernels")
        if isinstance(s, Alloc):
            shared += s.buffer.nbytes if s.buffer.space == "shared" else 0
            registers += s.buffer.size if s.buffer.space == "reg" else 0
            if RUNTIME in s.buffer.shape:
                raise _fail(kernel, s, f"the size of {s.buffer.name} must be a number")
        if isinstance(s, (Sync, AllReduce)) and lane is not None:
            for f in around[lane + 1 :]:
                if isinstance(f, If) or f.extent.op != "const":
                    raise _fail(kernel, s, "all threads of a block must come here: not inside an `if`, or a loop "
                                           "whose extent is computed")
        if isinstance(s, Store) and gpu and lane is None:
            raise _fail(kernel, s, "a store outside the lane loop: every thread of the block would do it")
        for e in exprs(s):
            _no_half_arithmetic(kernel, s, e)
        total = copies
        if isinstance(s, For):
            constant = s.extent.op == "const"
            if s.kind in ("warp", "pipeline"):
                raise _fail(kernel, s, f"{s.kind} loops are not for custom kernels")
            if s.kind in ("parallel", "grid", "lane") and not constant:
                raise _fail(kernel, s, f"the extent of a {s.kind} loop must be a number")
            if s.kind == "parallel" and gpu:
                raise _fail(kernel, s, "a parallel loop beside grid or lane loops")
            if s.kind == "grid" and s is not _only(kernel.body):
                raise _fail(kernel, s, "the grid loop must be the outermost statement, and the only one")
            if s.kind == "vector" and (s.lanes & (s.lanes - 1) or not 1 <= s.lanes <= LANES):
                raise _fail(kernel, s, f"{s.lanes} lanes: a power of two up to {LANES} is needed")
            if s.kind == "lane":
                threads.add(s.extent.attr)
            if s.kind == "unroll":
                copies *= max(1, s.extent.attr)
                if copies > COPIES:
                    raise _fail(kernel, s, f"more than {COPIES} statements when unrolled")
            total = visit(s.body, copies, (*around, s))
        elif isinstance(s, If):
            total = sum(visit(x, copies, (*around, s)) for x in (s.then, s.other) if x is not None)
        elif isinstance(s, Seq):
            total = sum(visit(x, copies, around) for x in s.body)
        if total > COPIES:
            raise _fail(kernel, s, f"more than {COPIES} statements when unrolled")
        return total

    for b in kernel.params:
        if RUNTIME in b.shape:
            raise _fail(kernel, None, f"the size of {b.name} must be a number")
    visit(kernel.body, 1, ())
    if shared > SCRATCH_BYTES:
        raise _fail(kernel, None, f"{shared} bytes of shared buffers; at most {SCRATCH_BYTES}")
    if registers > REGISTERS:
        raise _fail(kernel, None, f"{registers} elements in registers; at most {REGISTERS}")
    if len(threads) > 1 or max(threads, default=1) > THREADS:
        raise _fail(kernel, None, f"blocks of {' and '.join(map(str, sorted(threads)))} threads: lane loops have one "
                                  f"extent, of at most {THREADS}")


def _only(stmt: Stmt) -> Stmt:
    while isinstance(stmt, Seq) and len(stmt.body) == 1:
        stmt = stmt.body[0]
    return stmt


def _no_half_arithmetic(kernel: Kernel, s: Stmt, e: Expr) -> None:
    if isinstance(s, Store) and s.combine is not None and s.buffer.dtype.is_half:
        raise _fail(kernel, s, f"arithmetic in {s.buffer.dtype.short}: combine in f32 and store a cast")
    for x in subexpressions(e):
        plain = x.op in ("load", "cast", "bitcast", "select", "const")
        if not plain and (x.dtype.is_half or any(a.dtype.is_half for a in x.args)):
            half = x.dtype if x.dtype.is_half else next(a.dtype for a in x.args if a.dtype.is_half)
            raise _fail(kernel, s, f"{x.op} in {half.short}: cast to f32, and the result back")


# ---------------------------------------------------------------------------------------------------- what is provable


class _Facts:
    """What is known inside some loops and conditions: sums that are at most 0."""

    def __init__(self, known: tuple[Form, ...] = (), conditional: bool = False):
        self.known, self.conditional = known, conditional

    def and_(self, more: Iterable[Form], conditional: bool) -> _Facts:
        return _Facts((*self.known, *more), self.conditional or conditional)


class _Guard:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.fixed = set(kernel.params) - kernel.writes  # what is loaded from these does not change while it runs
        self.forms: dict[Expr, Form] = {}
        self.at: Stmt | None = None
        self.vector: tuple[Expr, _Facts] | None = None  # the axis of the vector loop around, what was known before it
        self.lines: dict[Stmt, int] = {}

    def kernel_(self) -> Kernel:
        body = self.stmt(self.kernel.body, _Facts())
        return replace(self.kernel, body=body, lines=self.lines)

    # statements

    def stmt(self, s: Stmt, facts: _Facts) -> Stmt:
        new = self.rebuilt(s, facts)
        line = self.kernel.lines.get(s)
        if line:
            self.lines[new] = line
        return new

    def rebuilt(self, s: Stmt, facts: _Facts) -> Stmt:
        self.at = s
        if isinstance(s, Seq):
            return Seq(tuple(self.stmt(x, facts) for x in s.body))
        if isinstance(s, If):
            cond = self.expr(s.cond, facts)
            then = self.stmt(s.then, facts.and_(self.facts_of(s.cond, True), True))
            other = None
            if s.other is not None:
                other = self.stmt(s.other, facts.and_(self.facts_of(s.cond, False), True))
            return If(cond, then, other)
        if isinstance(s, For):
            own = s.axis.attr[1]
            extent = self.expr(s.extent, facts)
            if s.extent.op != "const" and self.highest(self.form(s.extent), facts) > own:
                extent = op("min", extent, const(own))
            inside = self.below(s.axis, s.extent)
            if s.kind != "vector":
                return replace(s, extent=extent, body=self.stmt(s.body, facts.and_(inside, False)))
            self.vector = s.axis, facts
            body = self.stmt(s.body, facts.and_(inside, False))
            self.vector = None
            return replace(s, extent=extent, body=body)
        if isinstance(s, Store):
            predicate = None if s.predicate is None else self.expr(s.predicate, facts)
            inner = facts
            if s.predicate is not None:
                inner = facts.and_(self.facts_of(s.predicate, True), True)
            index = tuple(
                self.inside(s.buffer, i, self.expr(i, facts), n, inner)
                for i, n in zip(s.index, s.buffer.shape, strict=True)
            )
            # what is stored may be computed where the predicate is false
            return replace(s, index=index, value=self.expr(s.value, _Facts(facts.known, inner.conditional)),
                           predicate=predicate)
        if isinstance(s, AllReduce):
            index = tuple(
                self.inside(s.buffer, i, self.expr(i, facts), n, facts)
                for i, n in zip(s.index, s.buffer.shape, strict=True)
            )
            return replace(s, index=index, value=self.expr(s.value, facts))
        return s

    def expr(self, e: Expr, facts: _Facts) -> Expr:
        def rule(old: Expr, args: tuple[Expr, ...]) -> Expr | None:
            if old.op != "load":
                return None
            b, rank = old.attr, len(old.attr.shape)
            inner = facts
            if len(args) > rank:
                inner = facts.and_(self.facts_of(old.args[rank], True), True)
            at = [self.inside(b, i, new, n, inner)
                  for i, new, n in zip(old.args[:rank], args[:rank], b.shape, strict=True)]
            return load(b, *at, predicate=args[rank] if len(args) > rank else None)

        return map_expr(e, rule, {})

    def inside(self, b: Buffer, index: Expr, new: Expr, size: int, facts: _Facts) -> Expr:
        """An index (`new`: the same with its own loads guarded) as one that is inside 0..size-1."""
        form = self.form(index)
        if self.vector is not None and self.vector[0] not in index.axes:
            # one access for all lanes: it may happen before or after the loop, whatever the conditions of single lanes
            facts = _Facts(self.vector[1].known, facts.conditional)
        high = self.highest(form, facts)
        low = -self.highest({k: -c for k, c in form.items()}, facts)
        if 0 <= low and high < size:
            return new
        free = all(a is None or a.op == "axis" for a in form)
        if any(isinstance(a, Expr) and a.op == "axis" and a.attr[1] == 0 for a in index.axes):
            return new  # never runs
        if size == 0 or b.space == "reg" or (free and not facts.conditional):
            raise _fail(self.kernel, self.at, f"index {print_expr(index)} of {b.name} runs from {low} to {high}, "
                                              f"outside 0..{size - 1}")
        return op("max", op("min", new, const(size - 1)), const(0))

    # arithmetic

    def form(self, e: Expr) -> Form:
        """`e` as a sum. Anything that is none, or might wrap, stands for itself."""
        found = self.forms.get(e)
        if found is None:
            found = self.forms[e] = self._form(e)
        return found

    def _form(self, e: Expr) -> Form:
        terms, constant = whole_linear(e)
        form: Form = {None: constant}
        for atom, c in terms.items():
            form = _plus(form, self.form(atom.args[0]) if _keeps_value(atom) else {atom: 1}, c)
        return form

    def bound(self, form: Form) -> int:
        return linear_interval({atom: c for atom, c in form.items() if atom is not None}, form.get(None, 0))[1]

    def highest(self, form: Form, facts: _Facts) -> int:
        """An upper bound of the sum: facts, which are at most 0, are taken away from it as long as that helps."""
        best = self.bound(form)
        for _ in range(4):
            step = None
            for fact in facts.known:
                for factor in _factors(form, fact):
                    new = _plus(form, fact, -factor)
                    reached = self.bound(new)
                    if reached < best:
                        best, step = reached, new
            if step is None:
                return best
            form = step
        return best

    # conditions

    def facts_of(self, cond: Expr, holds: bool) -> list[Form]:
        """What follows from a condition that holds, or does not."""
        if cond.op == "not":
            return self.facts_of(cond.args[0], not holds)
        if cond.op == ("and" if holds else "or") and cond.dtype.is_bool:
            return [f for a in cond.args for f in self.facts_of(a, holds)]
        if cond.op not in ("lt", "le", "eq", "ne") or not cond.args[0].dtype.is_int or not self.stable(cond):
            return []
        a, b = (self.form(x) for x in cond.args)
        less, more = _plus(a, b, -1), _plus(b, a, -1)
        if cond.op in ("eq", "ne"):
            return [less, more] if (cond.op == "eq") == holds else []
        strict = (cond.op == "lt") == holds
        return [_plus(less if holds else more, {None: 1}, int(strict))]

    def below(self, axis: Expr, extent: Expr) -> list[Form]:
        """axis < extent."""
        if extent.op == "min":
            return [f for a in extent.args for f in self.below(axis, a)]
        if not self.stable(extent):
            return []
        return [_plus(_plus({axis: 1, None: 1}, self.form(extent), -1), {}, 1)]

    def stable(self, e: Expr) -> bool:
        """Is its value the same wherever it stands?"""
        return all(x.op != "load" or x.attr in self.fixed for x in subexpressions(e))


def _keeps_value(e: Expr) -> bool:
    """Is `e` a cast between integer types that changes no value of its operand?"""
    if e.op != "cast" or not e.args[0].dtype.is_int or not e.dtype.is_int:
        return False
    (low, high), (least, most) = interval(e.args[0]), dtypes.limits(e.dtype)
    return least <= low and high <= most


def _plus(a: Form, b: Form, factor: int) -> Form:
    out = {k: a.get(k, 0) + factor * b.get(k, 0) for k in {**a, **b}}
    return {k: c for k, c in out.items() if c or k is None}


def _factors(form: Form, fact: Form) -> set[int]:
    """Multiples of `fact` that take one of the expressions out of `form`."""
    return {form[k] // c for k, c in fact.items()
            if k is not None and form.get(k, 0) and form[k] % c == 0 and form[k] // c > 0}
