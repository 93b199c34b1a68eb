"""Walking and rewriting the Loop IR: children, expressions, buffers, substitution."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import fields, replace
from typing import Any

from dlc.ir.loops import instructions  # noqa: F401  all statements are to be known here
from dlc.ir.loops.ir import Alloc, Buffer, Expr, For, Kernel, Stmt, kind_of, make

_FIELDS = {cls: tuple((f.name, *kind_of(f.type)) for f in fields(cls)) for cls in Stmt.__subclasses__()}
_STMTS, _EXPRS, _BUFFERS = (
    {cls: tuple((name, several) for name, kind, several in row if kind == wanted) for cls, row in _FIELDS.items()}
    for wanted in ("Stmt", "Expr", "Buffer")
)


def _held(stmt: Stmt, where: tuple[tuple[str, bool], ...]) -> tuple:
    out: list = []
    for name, several in where:
        value = getattr(stmt, name)
        if several:
            out += value
        elif value is not None:
            out.append(value)
    return tuple(out)


def children(stmt: Stmt) -> tuple[Stmt, ...]:
    """The statements that stand directly in one."""
    where = _STMTS[type(stmt)]
    return _held(stmt, where) if where else ()


def walk(stmt: Stmt) -> Iterator[Stmt]:
    """All statements, outermost first."""
    stack = [stmt]
    while stack:
        top = stack.pop()
        yield top
        stack += reversed(children(top))


def exprs(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that stand directly in one statement; the axis of a loop is none of them."""
    return (stmt.extent,) if isinstance(stmt, For) else _held(stmt, _EXPRS[type(stmt)])


def buffers(stmt: Stmt) -> tuple[Buffer, ...]:
    """The buffers that one statement names directly, not in an expression."""
    return _held(stmt, _BUFFERS[type(stmt)])


def inside_out(expr: Expr, done: Container[Expr]) -> Iterator[Expr]:
    """The parts of an expression that are not in `done`, operands before what uses them, itself last. Whoever iterates
    adds each to `done` before asking for the next."""
    stack = [expr]
    while stack:
        e = stack.pop()
        if e in done:
            continue
        missing = [a for a in e.args if a not in done] if e.args else None
        if missing:
            stack.append(e)
            stack += missing
        else:
            yield e


def subexpressions(*roots: Expr) -> Iterator[Expr]:
    """Every distinct expression in some expressions, themselves included."""
    seen = dict.fromkeys(roots)
    stack = list(seen)
    while stack:
        top = stack.pop()
        yield top
        for a in top.args:
            if a not in seen:
                seen[a] = None
                stack.append(a)


def loads_of(*values: Expr) -> list[Expr]:
    """The loads in some expressions, each once."""
    return [e for e in subexpressions(*values) if e.op == "load"]


def map_expr(expr: Expr, rule: Callable[[Expr, tuple[Expr, ...]], Expr | None], memo: dict[Expr, Expr]) -> Expr:
    """Rebuild an expression inside out: `rule(old, new_args)` gives a replacement or None to keep the operation."""
    found = memo.get(expr)
    if found is not None:
        return found
    for e in inside_out(expr, memo):
        args = tuple([memo[a] for a in e.args])
        new = rule(e, args)
        if new is None:
            new = e if args == e.args else make(e.op, args, e.attr, e.dtype)
        memo[e] = new
    return memo[expr]


def _rebuilt(stmt: Stmt, by_kind: dict[str, Callable[[Any], Any]]) -> Stmt:
    """The statement with the functions of what its fields hold."""
    values = []
    same = True
    for name, kind, several in _FIELDS[type(stmt)]:
        value = getattr(stmt, name)
        if kind in by_kind and value is not None:
            value = tuple(map(by_kind[kind], value)) if several else by_kind[kind](value)
            same = False
        values.append(value)
    return stmt if same else type(stmt)(*values)


def map_stmt(stmt: Stmt, expr: Callable[[Expr], Expr], rule: Callable[[Stmt], Stmt | None] | None = None) -> Stmt:
    """Rebuild a statement with every expression mapped; `rule(rebuilt)` may replace a statement on the way up."""
    new = _rebuilt(stmt, {"Expr": expr, "Stmt": lambda s: map_stmt(s, expr, rule)})
    if rule is not None:
        replaced = rule(new)
        if replaced is not None:
            return replaced
    return new


def substitute(stmt: Stmt, mapping: dict[Expr, Expr]) -> Stmt:
    """Replace axes (or any expressions) throughout a statement."""
    memo = dict(mapping)
    return map_stmt(stmt, lambda e: map_expr(e, lambda old, args: None, memo))


def canonical(kernel: Kernel) -> Kernel:
    """The kernel with buffers named by position and without notes and lines: equal kernels then print equally."""
    names: dict[Buffer, Buffer] = {
        b: replace(b, name=f"p{k}", note="") for k, b in enumerate(kernel.params)
    }
    for stmt in walk(kernel.body):
        if isinstance(stmt, Alloc):
            b = stmt.buffer
            names[b] = replace(b, name=f"a{len(names)}", note="")
    return replace_buffers(kernel, names, name="kernel", locs=(), flops=0, bytes=0)


def replace_buffers(kernel: Kernel, names: dict[Buffer, Buffer], **changes: Any) -> Kernel:
    """The kernel with buffers exchanged for others of the same type."""
    memo: dict[Expr, Expr] = {}

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        return make("load", args, names.get(e.attr, e.attr), e.dtype) if e.op == "load" else None

    def statement(s: Stmt) -> Stmt:
        return _rebuilt(s, {"Buffer": lambda b: names.get(b, b)})

    body = map_stmt(kernel.body, lambda e: map_expr(e, rule, memo), statement)
    params = tuple(names.get(b, b) for b in kernel.params)
    writes, streams, aliased, unaligned = (frozenset(names.get(b, b) for b in some)
                                for some in (kernel.writes, kernel.streams, kernel.aliased, kernel.unaligned))
    return replace(kernel, params=params, writes=writes, streams=streams, aliased=aliased,
                   unaligned=unaligned, body=body, **changes)
