"""A program's meaning, executed: `run_program(program, arrays)` runs its launches by the Loop IR interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.base.errors import InterpError
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import RUNTIME, Buffer
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot


def run_program(program: Program, arrays: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """Run every step on copies of the inputs and return the outputs. The arena starts as NaN (integers: -1).

    Raises InterpError, also for a Ref that reaches outside its slot.
    """
    arena = np.full(program.arena_bytes, 0xFF, np.uint8)
    memory: dict[Slot, np.ndarray] = {}

    def place(slot: Slot) -> np.ndarray:
        if slot not in memory:
            if slot.alias is not None:
                memory[slot] = place(slot.alias)
            elif slot.private is not None:
                room = slot.private.nbytes
                if slot.offset < 0 or slot.offset + slot.nbytes > room:
                    raise InterpError(f"slot {slot.name} lies outside the workspace of {room} bytes")
                memory[slot] = place(slot.private).view(np.uint8)[slot.offset :][: slot.nbytes].view(slot.dtype.np)
            elif slot.kind == "arena":
                if slot.offset < 0 or slot.offset + slot.nbytes > program.arena_bytes:
                    raise InterpError(f"slot {slot.name} lies outside the arena of {program.arena_bytes} bytes")
                memory[slot] = arena[slot.offset : slot.offset + slot.nbytes].view(slot.dtype.np)
            elif slot.kind == "const":
                memory[slot] = np.array([slot.value], slot.dtype.np)
            elif slot.kind == "input":
                memory[slot] = np.array(arrays[program.inputs.index(slot)], slot.dtype.np).reshape(-1)
            else:
                memory[slot] = np.full(slot.nbytes, 0xFF, np.uint8).view(slot.dtype.np)
        return memory[slot]

    def window(ref: Ref, param: Buffer, iterations: tuple[int, ...]) -> np.ndarray:
        start = ref.start + sum(s * i for s, i in zip(ref.steps, iterations, strict=False))
        whole = place(ref.slot)
        if param.size == RUNTIME:
            return whole[start:]
        if not 0 <= start <= start + param.size <= whole.size:
            raise InterpError(f"{param.name} takes elements {start} to {start + param.size} of slot {ref.slot.name}, "
                              f"which has {whole.size}")
        return whole[start : start + param.size]

    def visit(steps: Sequence[Launch | Repeat], iterations: tuple[int, ...]) -> None:
        for step in steps:
            if isinstance(step, Repeat):
                for at in np.ndindex(step.ranges):
                    visit(step.body, (*iterations, *at))
            else:
                for part in step.segments:
                    windows = [window(r, p, iterations) for r, p in zip(part.args, step.kernel.params, strict=True)]
                    run(step.kernel, windows, seed)

    for slot in program.inputs:
        place(slot)
    visit(program.steps, ())
    types = program.output_types
    return [place(s).reshape(types[i].shape) if types else place(s) for i, s in enumerate(program.outputs)]
