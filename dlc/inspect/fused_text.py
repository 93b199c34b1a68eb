"""What fusion made of a graph: a paragraph for each kernel."""

from __future__ import annotations

from collections.abc import Iterator

from dlc.codegen.program.kernels import Origin
from dlc.inspect.launches import Work, lines, work
from dlc.inspect.units import count, nbytes, plural
from dlc.ir import dtypes
from dlc.ir.graph.graph import Node
from dlc.ir.graph.text import type_text
from dlc.ir.loops import ir as loops
from dlc.ir.loops.ir import Expr
from dlc.ir.program.program import Program
from dlc.ir.scalar import SCALAR_OPS
from dlc.passes.fuse.fuse import Group
from dlc.passes.fuse.unit import Realization


def print_fused(program: Program) -> str:
    """The kernels, what each computes and touches, and how many launches a run of the program makes."""
    found = work(program)
    paragraphs = ["\n".join(_paragraph(k, w, program.origins.get(w.kernel))) for k, w in enumerate(found)]
    total = sum(w.launches for w in found)
    return "\n\n".join([*paragraphs, f"{plural(len(found), 'kernel')}, {plural(total, 'launch')}"])


def _paragraph(number: int, w: Work, origin: Origin | None) -> Iterator[str]:
    kernel = w.kernel
    times = plural(w.launches, "launch") + (f" on {w.tensors} sets of tensors" if w.tensors > w.launches else "")
    yield f"kernel {number} {kernel.name}: {times}, {nbytes(w.bytes)}, {count(w.flops)} flop"
    if kernel.custom:
        yield "  computes  what its author wrote: a custom kernel"
        for label, wanted in (("reads", False), ("writes", True)):
            for k, b in enumerate(b for b in kernel.params if (b in kernel.writes) == wanted):
                yield f"  {'' if k else label:9} {b.name}: {b.dtype.short}[{b.size}]"
    elif origin is None:
        yield "  computes  a copy of a result to where it belongs"
    else:
        one = origin.lowered
        pairs = zip(one.kernel.params, one.nodes, strict=True)
        tensors = [(b in one.kernel.writes, _tensor(b, node)) for b, node in pairs]
        for label, entries in (
            ("computes", _members(origin.group)),
            ("reads", [text for written, text in tensors if not written]),
            ("writes", [text for written, text in tensors if written]),
        ):
            for k, entry in enumerate(entries):
                yield f"  {'' if k else label:9} {entry}"
    if kernel.schedule is not None:
        yield f"  {'schedule':9} {kernel.scheduled}"
    if kernel.locs:
        yield f"  {'from':9} {lines(kernel)}"


def _tensor(b: loops.Buffer, node: Node | int) -> str:
    if isinstance(node, int):
        return f"{b.name}: the number of elements"
    if node.op == "param":
        return f"%{node.attrs.get('name') or b.name}: {node.type}"
    return f"{b.name}: {type_text(node.type)}, {node.op}"


def _members(group: Group) -> list[str]:
    out = []
    for u in group.units:
        inlined = _inlined(u)
        with_ = f"  of {', '.join(inlined)}" if inlined else ""
        out.append(f"{_operation(u)} {type_text(u.node.type)}{with_}")
    return out


def _operation(u: Realization) -> str:
    if u.node.op == "reduce":
        return f"{u.node.attrs['monoid']} over {list(u.node.attrs['axes'])}"
    return f"contract {u.node.attrs['spec']}" if u.node.op == "contract" else u.node.op


def _inlined(u: Realization) -> list[str]:
    """The scalar operations computed on the spot for this member, inputs first, its own left out."""
    names: dict[str, None] = {}
    seen: set[Expr] = set()
    stack = [(v, False) for v in reversed(u.values)]
    while stack:
        e, done = stack.pop()
        if done:
            if e.op in SCALAR_OPS and e.dtype is not dtypes.int64:
                names.setdefault(e.op)
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            if e.op != "load":  # an address is not a computation
                stack.extend((a, False) for a in reversed(e.args))
    if u.kind == "map":
        names.pop(u.node.op, None)
    return list(names)
