"""What fusion made of a graph: a paragraph for each kernel."""

from __future__ import annotations

from collections.abc import Iterator

from dlc.cli.launches import Work, lines, work
from dlc.cli.naive import launched
from dlc.cli.units import count, nbytes, plural
from dlc.codegen import schedule as schedules
from dlc.codegen.build import LOWER
from dlc.codegen.target import CpuTarget
from dlc.ir import dtypes, loops
from dlc.ir.graph import Node
from dlc.ir.graph_text import type_text
from dlc.ir.loops import Expr, Kernel
from dlc.ir.loops_text import print_kernel
from dlc.ir.program import Program
from dlc.ir.scalar import SCALAR_OPS
from dlc.passes.fuse import Group
from dlc.passes.lower import Lowered
from dlc.passes.units import Unit


def print_fused(program: Program, cpu: CpuTarget) -> str:
    """The kernels, what each computes and touches, and how many launches a run of the program makes."""
    groups = _groups_by_kernel(program, cpu)
    found = work(program)
    paragraphs = ["\n".join(_paragraph(w, groups.get(_key(w.kernel)))) for w in found]
    total = sum(w.launches for w in found)
    return "\n\n".join([*paragraphs, f"{plural(len(found), 'kernel')}, {plural(total, 'launch')}"])


def _key(kernel: Kernel) -> str:
    return print_kernel(loops.canonical(kernel))


def _groups_by_kernel(program: Program, cpu: CpuTarget) -> dict[str, tuple[Group, Lowered]]:
    """The first group that each kernel computes: groups are lowered once more, and known by the kernel's text."""
    out: dict[str, tuple[Group, Lowered]] = {}
    for fused in program.fused:  # type: ignore[attr-defined]
        for group in fused.groups:
            if group.kind != "scan" and launched(group):
                lowered = LOWER[group.kind](fused, group, schedules.choose(fused, group, cpu))
                out.setdefault(_key(lowered.kernel), (group, lowered))
    return out


def _paragraph(w: Work, found: tuple[Group, Lowered] | None) -> Iterator[str]:
    kernel = w.kernel
    times = plural(w.launches, "launch") + (f" on {w.tensors} sets of tensors" if w.tensors > w.launches else "")
    yield f"{kernel.name}: {times}, {nbytes(w.bytes)}, {count(w.flops)} flop"
    if found is None:
        yield "  computes  a copy of a result to where it belongs"
    else:
        group, lowered = found
        tensors = [
            (b in lowered.kernel.writes, _tensor(b, node))
            for b, node in zip(lowered.kernel.params, lowered.nodes, strict=True)
        ]
        for label, entries in (
            ("computes", _members(group)),
            ("reads", [text for written, text in tensors if not written]),
            ("writes", [text for written, text in tensors if written]),
        ):
            for k, entry in enumerate(entries):
                yield f"  {'' if k else label:9} {entry}"
    yield f"  {'schedule':9} {kernel.schedule!r}"
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


def _operation(u: Unit) -> str:
    if u.node.op == "reduce":
        return f"{u.node.attrs['monoid']} over {list(u.node.attrs['axes'])}"
    return f"contract {u.node.attrs['spec']}" if u.node.op == "contract" else u.node.op


def _inlined(u: Unit) -> list[str]:
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
