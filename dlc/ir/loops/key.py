"""When two kernels are the same code: a key that leaves out names, notes and lines.

It says what the text of `loops.canonical` says, without writing it: expressions, axes and buffers are numbered in the
order in which they are met, and every distinct one is a row.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from typing import Any

from dlc.ir.loops.ir import Buffer, Expr, Kernel, Stmt
from dlc.ir.loops.traverse import inside_out


def kernel_key(kernel: Kernel) -> Hashable:
    """Equal for kernels that compute the same in the same way, whatever they and their buffers are called."""
    walk = _Walk()
    params = tuple(map(walk.buffer, kernel.params))
    body = walk.part(kernel.body)
    writes = frozenset(map(walk.buffer, kernel.writes))
    marked = (kernel.streams, kernel.aliased, kernel.unaligned)
    marks = tuple(frozenset(map(walk.buffer, some)) for some in marked)
    return params, writes, marks, body, kernel.scheduled, tuple(walk.rows), tuple(walk.buffers.values())


class Numbering:
    """Expressions as rows that say nothing of what they are called. Subclasses know the numbers of buffers."""

    def __init__(self) -> None:
        self.rows: list[Hashable] = []  # one for each expression met
        self.numbers: dict[Expr, int] = {}
        self.axes: dict[Expr, int] = {}

    def buffer(self, b: Buffer) -> Hashable:
        raise NotImplementedError

    def expr(self, root: Expr) -> int:
        """The number of an expression, with a row for it and for everything in it."""
        numbers = self.numbers
        found = numbers.get(root)
        if found is not None:
            return found
        for e in inside_out(root, numbers):
            numbers[e] = len(self.rows)
            self.rows.append((e.op, e.dtype, self._attr(e), *[numbers[a] for a in e.args]))
        return numbers[root]

    def _attr(self, e: Expr) -> Hashable:
        if e.op == "axis":
            name, extent, _ = e.attr
            return name, extent, self.axes.setdefault(e, len(self.axes))
        if e.op == "load":
            return self.buffer(e.attr)
        return repr(e.attr) if e.op == "const" else e.attr  # 0.0 and -0.0, nan


class _Walk(Numbering):
    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[Buffer, tuple[int, Hashable]] = {}

    def part(self, value: Any) -> Hashable:
        """A field of a statement, or a statement."""
        if isinstance(value, Expr):
            return self.expr(value)
        if isinstance(value, tuple):
            return tuple(map(self.part, value))
        if isinstance(value, Stmt):
            kind = type(value)
            names = _FIELDS.get(kind)
            if names is None:
                names = _FIELDS[kind] = tuple(f.name for f in fields(value))  # type: ignore[arg-type]
            return kind, *[self.part(getattr(value, name)) for name in names]
        return self.buffer(value) if isinstance(value, Buffer) else value

    def buffer(self, b: Buffer) -> int:
        found = self.buffers.get(b)
        if found is None:
            found = self.buffers[b] = len(self.buffers), (b.dtype, b.shape, b.space, b.swizzled)
        return found[0]


_FIELDS: dict[type, tuple[str, ...]] = {}
