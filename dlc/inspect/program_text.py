"""A program as text: where every tensor lives, and the launches in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlc.inspect.launches import each
from dlc.inspect.units import nbytes, plural
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Segment, Slot


def print_program(program: Program) -> str:
    """Inputs, outputs, arena and launches; those of a Repeat are indented, and `+ 4*i` is an argument that moves."""
    return "\n".join(_lines(program))


def _lines(program: Program) -> Iterator[str]:
    total = sum(times for _, times in each(program.steps))
    kernels = plural(len(program.kernels()), "kernel")
    yield f"program {program.name}: {kernels}, {plural(total, 'launch')}, arena of {nbytes(program.arena_bytes)}"
    yield "inputs"
    for slot in program.inputs:
        yield f"  {_slot(slot)}"
    yield "outputs"
    for slot in program.outputs:
        yield f"  {_slot(slot)}" + (f", in place of {slot.alias.name}" if slot.alias is not None else "")
    yield "arena"
    placed = sorted((s for s in program.slots if s.kind == "arena" and s.offset >= 0), key=lambda s: s.offset)
    for slot in placed:
        if slot.private is None:
            yield f"  {_slot(slot)} at {slot.offset}"
            for own in placed:
                if own.private is slot:
                    yield f"    {_slot(own)} at {own.offset} of each worker's"
    yield "launches"
    yield from _steps(program.steps, "  ")


def _slot(slot: Slot) -> str:
    return f"{slot.name}: {slot.dtype.short}[{slot.size}], {nbytes(slot.nbytes)}"


def _steps(steps: Sequence[Launch | Repeat], pad: str) -> Iterator[str]:
    for step in steps:
        if isinstance(step, Repeat):
            shared = f", {plural(step.workers.count, 'worker')}" if step.workers is not None else ""
            yield f"{pad}repeat {' x '.join(map(str, step.ranges))}{shared}:"
            yield from _steps(step.body, pad + "  ")
            continue
        threads = "one thread" if step.grain >= step.all_tasks else f"{step.grain} a turn"
        if step.flow:
            threads += f", flow {step.flow}"
        yield f"{pad}{step.kernel.name}({_arguments(step.segments[0])})  # {plural(step.all_tasks, 'task')}, {threads}"
        for segment in step.segments[1:]:
            yield f"{pad}  and ({_arguments(segment)})"


def _arguments(segment: Segment) -> str:
    return ", ".join(map(_reference, segment.args))


def _reference(ref: Ref) -> str:
    if ref.slot.kind == "const":
        return str(ref.slot.value)
    moves = [f"{step}*{'ijklmn'[depth % 6]}" for depth, step in enumerate(ref.steps) if step]
    start = [str(ref.start)] if ref.start else []
    return " + ".join([ref.slot.name, *start, *moves])
