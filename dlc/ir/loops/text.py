"""Loop IR as text: `print_kernel`, `print_stmt`, `print_expr`. The syntax is in `ir/loops/syntax.py`, the reader in
`ir/loops/parse.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loops.instructions import Arrive, Async, Await, Mma, SetMaxNReg, StoreTile, TileMma, TmaCopy, Wait
from dlc.ir.loops.ir import (
    ALIKE,
    RUNTIME,
    Alloc,
    AllReduce,
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    load_parts,
)
from dlc.ir.loops.syntax import COMBINE_SIGN, COMPARE, PRECEDENCE, RESERVED, operand_types
from dlc.ir.loops.traverse import exprs
from dlc.ir.scalar import SCALAR_OPS

_LET_ABOVE = 40  # statements with fewer nodes are written out in full
_LET_SIZE = 4  # smaller subexpressions are repeated rather than named


def print_kernel(kernel: Kernel) -> str:
    """The kernel as a page of text."""
    names = _Names({}, set(RESERVED))
    params = ", ".join(
        f"{names.add(b, b.name)}: {_type(b)}{_marks(b, kernel)}" for b in kernel.params
    )
    facts = []
    if kernel.schedule is not None:
        facts.append(f"schedule: {kernel.scheduled}")
    if kernel.flops:
        facts.append(f"flops: {kernel.flops}")
    if kernel.bytes:
        facts.append(f"bytes: {kernel.bytes}")
    if kernel.locs:
        facts.append("at " + ", ".join(map(str, kernel.locs)))
    lines = [f"kernel {kernel.name}({params})" + (f"  # {'; '.join(facts)}" if facts else "")]
    lines += [f"  # {names.of[b]}: {b.note}" for b in kernel.params if b.note]
    lines += _block(kernel.body, names, "  ")
    return "\n".join(lines) + "\n"


def _marks(b: Buffer, kernel: Kernel) -> str:
    written = " streams" if b in kernel.streams else " writes" if b in kernel.writes else ""
    return written + " aliased" * (b in kernel.aliased)


def print_stmt(stmt: Stmt) -> str:
    """A statement for an error message; free axes and buffers go by their own names."""
    return "\n".join(_statement(stmt, _Names({}, set(RESERVED)), ""))


def print_expr(expr: Expr) -> str:
    """An expression on one line: `let t0 = ...; x*t0 + t0` where it is large and shares parts."""
    lines, names = _lets((expr,), _Names({}, set(RESERVED)), "")
    return "; ".join([*lines, _Printer(names).text(expr, None, 0)])


class _Names:
    """Printed names of the buffers, axes and let-expressions in scope."""

    def __init__(self, of: dict[Buffer | Expr, str], taken: set[str]):
        self.of = of
        self.taken = taken

    def child(self) -> _Names:
        return _Names(dict(self.of), set(self.taken))

    def add(self, thing: Buffer | Expr, wanted: str) -> str:
        base = name = re.sub(r"\W", "_", wanted) if wanted and not wanted[0].isdigit() else f"_{wanted}"
        count = 0
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        self.of[thing] = name
        return name


def _type(buffer: Buffer) -> str:
    return f"{buffer.dtype.short}[{','.join('n' if d == RUNTIME else str(d) for d in buffer.shape)}]"


def _block(stmt: Stmt, names: _Names, pad: str) -> list[str]:
    """The lines of a body: a Seq that is the whole body needs no `scope:`."""
    body = list(_flat(stmt))
    while len(body) == 1 and isinstance(body[0], Seq):
        body = list(_flat(body[0]))
    names = names.child()
    lines = [line for s in body for line in _statement(s, names, pad)]
    return lines or [pad + "pass"]


def _flat(stmt: Stmt) -> Iterator[Stmt]:
    for s in stmt.body if isinstance(stmt, Seq) else (stmt,):
        if isinstance(s, Seq) and not any(isinstance(x, Alloc) for x in s.body):
            yield from _flat(s)
        else:
            yield s


def _statement(stmt: Stmt, names: _Names, pad: str) -> list[str]:
    if isinstance(stmt, Seq):
        return [pad + "scope:", *_block(stmt, names, pad + "  ")]
    if isinstance(stmt, Alloc):
        b = stmt.buffer
        layout = " swizzled" if b.swizzled else ""
        note = f"  # {b.note}" if b.note else ""
        return [f"{pad}alloc {names.add(b, b.name)}: {b.space} {_type(b)}{layout}{note}"]
    if isinstance(stmt, Sync):
        return [f"{pad}sync {stmt.threads}" if stmt.threads else pad + "sync"]
    if isinstance(stmt, Wait):
        return [f"{pad}wait {stmt.what} {stmt.pending}"]
    if isinstance(stmt, SetMaxNReg):
        return [f"{pad}setmaxnreg {stmt.count}"]
    if isinstance(stmt, Async):
        return [f"{pad}async:", *_block(stmt.body, names, pad + "  ")]
    lets, scope = _lets(exprs(stmt), names, pad)
    printer = _Printer(scope)
    if isinstance(stmt, For):
        inner = names.child()
        whole = stmt.extent.op == "const" and stmt.extent.attr == stmt.axis.attr[1]
        head = f"{inner.add(stmt.axis, stmt.axis.attr[0])} in "
        head += f"{stmt.axis.attr[1]}" if whole else f"{printer.index(stmt.extent)} of {stmt.axis.attr[1]}"
        kind = "" if stmt.kind == "serial" and not stmt.lanes else f" {stmt.kind}"
        lanes = f"({stmt.lanes})" if stmt.lanes else ""
        return [*lets, f"{pad}for {head}{kind}{lanes}:", *_block(stmt.body, inner, pad + "  ")]
    if isinstance(stmt, If):
        lines = [*lets, f"{pad}if {printer.text(stmt.cond, dtypes.bool_, 0)}:", *_block(stmt.then, names, pad + "  ")]
        return lines if stmt.other is None else [*lines, f"{pad}else:", *_block(stmt.other, names, pad + "  ")]
    if isinstance(stmt, Prefetch):
        return [*lets, f"{pad}prefetch {printer.place(stmt.buffer, stmt.index)}"]
    if isinstance(stmt, AllReduce):
        place = printer.place(stmt.buffer, stmt.index)
        sign = COMBINE_SIGN[stmt.combine]
        return [*lets, f"{pad}fold({stmt.lanes}) {place} {sign} {printer.text(stmt.value, stmt.buffer.dtype, 0)}"]
    if isinstance(stmt, Mma):
        shape = f"{stmt.m}x{stmt.n}x{stmt.k} of {stmt.lanes}, {stmt.a_order}, {stmt.b_order}"
        place = printer.place(stmt.buffer, stmt.index)
        operands = " * ".join(printer.text(e, None, 0) for e in (stmt.a, stmt.b))
        return [*lets, f"{pad}mma({shape}) {place} {'=' if stmt.fresh else '+='} {operands}"]
    if isinstance(stmt, TileMma):
        place = printer.place(stmt.buffer, stmt.index)
        operands = " * ".join(printer.text(e, None, 0) for e in (stmt.a, stmt.b))
        return [*lets, f"{pad}tilemma({stmt.k}, {stmt.a_stride}, {stmt.b_stride}) {place} += {operands}"]
    if isinstance(stmt, StoreTile):
        to, source = printer.place(stmt.buffer, stmt.index), printer.place(stmt.source, stmt.at)
        return [*lets, f"{pad}store_tile {to} = {source}"]
    if isinstance(stmt, (Arrive, Await)):
        gate = printer.place(stmt.gate, (stmt.slot,))
        text = f"arrive({stmt.of}) {gate}" if isinstance(stmt, Arrive) else f"await {gate} {printer.index(stmt.phases)}"
        return [*lets, pad + text]
    if isinstance(stmt, TmaCopy):
        view = stmt.view
        axes = ", ".join(f"{b} of {n}:{k}" for b, n, k in zip(view.box, view.sizes, view.strides, strict=False))
        gate = printer.place(stmt.gate, (stmt.slot,))
        place = printer.place(stmt.buffer, stmt.index)
        at = ", ".join(map(printer.index, stmt.at))
        return [*lets, f"{pad}tma_copy {gate} {place} = {printer.name(stmt.source)}({view.start}; {axes}) at {at}"]
    assert isinstance(stmt, Store), stmt
    sign = "=" if stmt.combine is None else COMBINE_SIGN.get(stmt.combine, f"{stmt.combine}=")
    value = printer.text(stmt.value, stmt.buffer.dtype, 0)
    place = printer.place(stmt.buffer, stmt.index)
    tail = "" if stmt.predicate is None else f" if {printer.text(stmt.predicate, dtypes.bool_, 0)}"
    return [*lets, f"{pad}{place} {sign} {value}{tail}"]


def _lets(roots: tuple[Expr, ...], names: _Names, pad: str) -> tuple[list[str], _Names]:
    """`let` lines for what a large statement shares, and the names with those added."""
    order: list[Expr] = []
    size: dict[Expr, int] = {}
    uses: Counter[Expr] = Counter()
    stack = [(r, False) for r in reversed(roots)]
    while stack:
        e, entered = stack.pop()
        if entered:
            if e not in size:
                size[e] = 1 + sum(size[a] for a in e.args)
                order.append(e)
                uses.update(e.args)
        elif e not in size:
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))
    uses.update(roots)
    if sum(size[r] for r in roots) <= _LET_ABOVE:
        return [], names
    inner, lines = names.child(), []
    for e in order:
        if uses[e] > 1 and size[e] >= _LET_SIZE:
            text = _Printer(inner).text(e, None, 0)
            lines.append(f"{pad}let {inner.add(e, f't{len(lines)}')} = {text}")
    return lines, inner


def _told(e: Expr) -> bool:
    """Whether the text of `e` tells its type without help."""
    while True:
        if e.op == "const":
            return e.dtype.is_bool
        row = SCALAR_OPS.get(e.op)
        if e.op != "select" and e.op not in ALIKE and (row is None or row.result != "same"):
            return True
        args = e.args[1:] if e.op == "select" else e.args
        if any(_told(a) for a in args[1:]):
            return True
        e = args[0]


class _Printer:
    def __init__(self, names: _Names):
        self.names = names

    def name(self, thing: Buffer | Expr) -> str:
        known = self.names.of.get(thing)
        return known or (thing.name if isinstance(thing, Buffer) else thing.attr[0])

    def index(self, e: Expr) -> str:
        return self.text(e, dtypes.int64, 0)

    def place(self, buffer: Buffer, index: tuple[Expr, ...]) -> str:
        return f"{self.name(buffer)}[{', '.join(map(self.index, index))}]"

    def text(self, e: Expr, expected: DType | None, level: int) -> str:
        """`e` where the reader expects type `expected` (None: unknown) and binding at least `level`."""
        if e in self.names.of or e.op == "axis":
            return self.name(e)
        if e.op == "const":
            return _literal(e, expected)
        if e.op == "load":
            buffer, index, predicate = load_parts(e)
            tail = "" if predicate is None else f" if {self.text(predicate, dtypes.bool_, 0)}"
            return f"{self.name(buffer)}[{', '.join(map(self.index, index))}{tail}]"
        if e.op == "cast":
            return f"{e.dtype.short}({self.text(e.args[0], None, 0)})"
        if e.op == "bitcast":
            return f"bitcast({self.text(e.args[0], None, 0)}, {e.dtype.short})"
        types = operand_types(e.op, expected, [a.dtype if a in self.names.of or _told(a) else None for a in e.args])
        row = SCALAR_OPS.get(e.op)
        if row is None or not row.symbol:
            return f"{e.op}({', '.join(self.text(a, t, 0) for a, t in zip(e.args, types, strict=True))})"
        own = PRECEDENCE[row.symbol]
        left = self.text(e.args[0], types[0], own + (own == COMPARE))
        right = self.text(e.args[1], types[1], own + 1)
        tight = row.symbol in ("*", "%", "//") and re.fullmatch(r"\w+", left) and re.fullmatch(r"\w+", right)
        text = f"{left}{row.symbol}{right}" if tight else f"{left} {row.symbol} {right}"
        return f"({text})" if own < level else text


def _literal(e: Expr, expected: DType | None) -> str:
    if e.dtype.is_bool:
        return "true" if e.attr else "false"
    natural = dtypes.int64 if e.dtype.is_int else dtypes.float32
    return repr(e.attr) if e.dtype is (expected or natural) else f"{e.attr!r}:{e.dtype.short}"


Expr.__repr__ = print_expr  # type: ignore[method-assign, assignment]
