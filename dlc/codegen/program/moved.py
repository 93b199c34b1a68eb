"""Kernels that differ only in where in their tensors they begin: the steps of an unrolled loop over one tensor.

Each reads another slice, at another constant offset. As a kernel whose parameters begin at the slice, all are one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import from_linear, linear
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Buffer, Expr, Kernel

_PLAIN = (loops.Seq, loops.For, loops.If, loops.Alloc, loops.Store)  # a load in one of these is of one element


class Moved(NamedTuple):
    """A kernel, and for each parameter the element that it begins with."""

    kernel: Kernel
    starts: tuple[int, ...]


def at_slices(kernel: Kernel, fixed: Collection[Buffer]) -> Moved | None:
    """The kernel with parameters that begin at the first element that it reads of each; None where that is no other.
    Those it writes, and `fixed` ones, stay."""
    found: dict[Buffer, list[Expr]] = {}
    stay = {*fixed, *kernel.writes}
    for s in traverse.walk(kernel.body):
        loads = traverse.loads_of(*traverse.exprs(s))
        if isinstance(s, _PLAIN):
            for e in loads:
                found.setdefault(e.attr, []).append(e.args[0])
        else:
            stay.update(e.attr for e in loads)
            stay.update(traverse.buffers(s))
    parts: dict[Buffer, tuple[int, Buffer]] = {}
    for b in kernel.params:
        if b not in found or b in stay or b.size == loops.RUNTIME:
            continue
        ranges = [interval(i) for i in found[b]]
        low, high = min(lo for lo, _ in ranges), max(hi for _, hi in ranges)
        if 0 < low and high < b.size:
            parts[b] = low, Buffer(b.name, b.dtype, (high + 1 - low,), note=b.note)
    if not parts:
        return None

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if e.op != "load" or e.attr not in parts:
            return None
        low, part = parts[e.attr]
        terms, constant = linear(args[0])
        return loops.make("load", (from_linear(terms, constant - low), *args[1:]), part, e.dtype)

    memo: dict[Expr, Expr] = {}
    body = traverse.map_stmt(kernel.body, lambda e: traverse.map_expr(e, rule, memo))
    moved = traverse.replace_buffers(kernel, {b: part for b, (_, part) in parts.items()})
    return Moved(replace(moved, body=body), tuple(parts[b][0] if b in parts else 0 for b in kernel.params))
