"""From a program in a memory plan to the plan that a GPU runs (`runtime/cuda/plan.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlc.codegen.cuda.kernel import symbol
from dlc.codegen.cuda.launch import launch_shape
from dlc.ir.loops import ir as loops
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot
from dlc.runtime.cuda.plan import ARENA, CONST_BYTES, CONSTS, Argument, Function, Loop, Plan, Step


def translate(program: Program, modules: Sequence[Sequence[loops.Kernel]]) -> Plan:
    """The plan of a program in a memory plan, whose kernels are compiled as `modules`."""
    return _Translator(program, modules).plan()


class _Translator:
    def __init__(self, program: Program, modules: Sequence[Sequence[loops.Kernel]]):
        self.program = program
        self.functions: list[Function] = []
        self.number: dict[int, int] = {}  # id of a kernel -> its function
        for m, kernels in enumerate(modules):
            for k in kernels:
                shape = launch_shape(k)
                self.number[id(k)] = len(self.functions)
                self.functions.append(Function(m, symbol(k), shape.block, shape.shared_bytes, shape.maps))
        self.consts: dict[int, int] = {}
        self.place = 0

    def plan(self) -> Plan:
        program = self.program
        into = {output: param for param, output in program.donate}
        types = program.output_types
        steps = tuple(self.steps(program.steps))
        return Plan(
            program.name,
            len(program.inputs),
            tuple(self.functions),
            steps,
            tuple(into.get(k, -1) for k in range(len(types))),
            tuple(t.nbytes for t in types),
            tuple(f"{t.dtype.name}{list(t.shape)}" for t in types),
            program.arena_bytes,
            tuple(self.consts),
        )

    def steps(self, steps: Sequence[Launch | Repeat]) -> Iterator[Step | Loop]:
        for step in steps:
            if isinstance(step, Repeat):
                body = tuple(self.steps(step.body))
                if step.count > 0:
                    yield Loop(step.count, body)
            else:
                yield from self.launch(step)
                self.place += 1

    def launch(self, launch: Launch) -> Iterator[Step]:
        kernel, shape = launch.kernel, launch_shape(launch.kernel)
        for segment in launch.segments:
            pairs = list(zip(kernel.params, segment.args, strict=True))
            sizes = {p: r.slot.value for p, r in pairs if r.slot.kind == "const"}
            grid = shape.grid(sizes)
            if grid > 0:
                arguments = tuple(self.argument(p, r, p in kernel.writes) for p, r in pairs)
                yield Step(self.number[id(kernel)], grid, arguments, self.place)

    def argument(self, param: loops.Buffer, ref: Ref, written: bool) -> Argument:
        base, offset = self.base(ref.slot)
        item = ref.slot.dtype.itemsize
        size = ref.slot.size - ref.start if param.size == loops.RUNTIME else param.size
        steps = tuple(s * item for s in ref.steps)
        if any(steps) and param.size == loops.RUNTIME:
            size = ref.slot.size  # rows of unknown length: any part of the tensor
        return Argument(base, offset + ref.start * item, steps, max(int(size), 1) * item, written)

    def base(self, slot: Slot) -> tuple[int, int]:
        slot = slot.memory
        if slot.kind == "const":
            return CONSTS, CONST_BYTES * self.consts.setdefault(slot.value, len(self.consts))
        if slot.kind == "arena":
            assert slot.offset >= 0, f"slot {slot.name} has no memory"
            return ARENA, slot.offset
        first = 0 if slot.kind == "input" else len(self.program.inputs)
        return first + slot.index, 0
