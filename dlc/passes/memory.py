"""The memory plan: one arena for everything that lives only inside a step.

A slot is alive from the first to the last step that touches it; a Repeat is one step. Slots are placed largest first
at the lowest offset that is free of all slots alive at the same time.
"""

from __future__ import annotations

from dlc.ir.program import Launch, Program, Repeat, Slot

ALIGN = 64


def slots_of(step: Launch | Repeat) -> list[Slot]:
    if isinstance(step, Launch):
        return [r.slot for r in step.all_args]
    return [s for inner in step.body for s in slots_of(inner)]


def plan_memory(program: Program) -> Program:
    """Give every arena slot its offset and the program its arena size (in place)."""
    first: dict[Slot, int] = {}
    last: dict[Slot, int] = {}
    for time, step in enumerate(program.steps):
        for slot in slots_of(step):
            if slot.kind == "arena":
                first.setdefault(slot, time)
                last[slot] = time
    placed: list[Slot] = []
    top = 0
    for slot in sorted(first, key=lambda s: (-s.nbytes, first[s])):
        size = _aligned(slot.nbytes)
        offset = 0
        for other in sorted(placed, key=lambda s: s.offset):
            if last[other] < first[slot] or last[slot] < first[other]:
                continue
            if offset + size <= other.offset:
                break
            offset = max(offset, other.offset + _aligned(other.nbytes))
        slot.offset = offset
        placed.append(slot)
        top = max(top, offset + size)
    program.arena_bytes = top
    return program


def _aligned(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGN) * ALIGN
