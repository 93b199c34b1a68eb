"""The entry function of a program: all kernels of a step, in order, as one native call.

    define void @dlc_entry(ptr %slots, ptr %arena)               without profiling
    define void @dlc_entry(ptr %slots, ptr %arena, ptr %times)   with it

`%slots` is an array of pointers: the inputs, then the outputs. `%times` is an array of int64, one for each launch in
the order of `launches`; elapsed nanoseconds are added to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from dlc.codegen import llvm_types as lt
from dlc.codegen.llvm_expr import EmitError
from dlc.codegen.llvm_kernel import symbol
from dlc.codegen.target import CpuTarget
from dlc.ir.program import Launch, Program, Ref, Repeat, Slot

_CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1

_NOW = f"""define internal i64 @dlc_now() nounwind {{
  %t = alloca {{ i64, i64 }}, align 8
  %r = call i32 @clock_gettime(i32 {_CLOCK_MONOTONIC}, ptr %t)
  %s = load i64, ptr %t, align 8
  %p = getelementptr i64, ptr %t, i64 1
  %n = load i64, ptr %p, align 8
  %b = mul i64 %s, 1000000000
  %c = add i64 %b, %n
  ret i64 %c
}}
declare i32 @clock_gettime(i32, ptr)"""


def launches(program: Program) -> list[Launch]:
    """The launches in the order in which the text of the program has them; those in a Repeat once."""
    def visit(steps: Sequence[Launch | Repeat]) -> Iterator[Launch]:
        for step in steps:
            if isinstance(step, Repeat):
                yield from visit(step.body)
            else:
                yield step

    return list(visit(program.steps))


def emit_entry(program: Program, target: CpuTarget, profile: bool = False) -> str:
    """The text of `@dlc_entry` and what it declares, to be passed to `emit_module` with the program's kernels."""
    return _Entry(program, profile).text()


class _Entry:
    def __init__(self, program: Program, profile: bool):
        self.program = program
        self.profile = profile
        self.lines: list[str] = []
        self.counters: list[str] = []  # the iteration numbers of the enclosing Repeats
        self.label = "entry"
        self.parallel = False
        self._serial = 0
        self._launch = 0
        self._bases: dict[Slot, str] = {}
        self.helpers: list[str] = []  # dispatchers and constants

    def text(self) -> str:
        program = self.program
        head = []
        for n, slot in enumerate((*program.inputs, *program.outputs)):
            if slot.alias is None and slot not in self._bases:
                head += [f"  %q{n} = getelementptr ptr, ptr %slots, i64 {n}", f"  %s{n} = load ptr, ptr %q{n}, align 8"]
                self._bases[slot] = f"%s{n}"
        width = max((len(step.all_args) for step in launches(program)), default=0)
        head.append(f"  %args = alloca [{max(width, 1)} x ptr], align 64")
        self.steps(program.steps)
        times = ", ptr %times" if self.profile else ""
        define = f"define void @dlc_entry(ptr %slots, ptr %arena{times}) nounwind {{"
        parts = [f"; program {program.name}", define, "entry:", *head, *self.lines, "  ret void", "}"]
        parts += self.helpers
        if self.parallel:
            parts.append("declare void @dlc_parallel(ptr, ptr, i64, i64)")
        if self.profile:
            parts.append(_NOW)
        return "\n".join(parts)

    def name(self) -> str:
        self._serial += 1
        return f"%t{self._serial}"

    def emit(self, text: str) -> str:
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def base(self, slot: Slot) -> str:
        while slot.alias is not None:
            slot = slot.alias
        found = self._bases.get(slot)
        if found is not None:
            return found
        if slot.kind == "const":
            name = self._bases[slot] = f"@dlc_const{len(self.helpers)}"
            self.helpers.append(f"{name} = internal constant i64 {slot.value}")
            return name
        if slot.kind != "arena" or slot.offset < 0:
            raise EmitError(f"{self.program.name}: slot {slot.name} ({slot.kind}) has no memory")
        return "%arena" if slot.offset == 0 else self.emit(f"getelementptr i8, ptr %arena, i64 {slot.offset}")

    def address(self, ref: Ref) -> str:
        element, p = lt.memory_type(ref.slot.dtype), self.base(ref.slot)
        if ref.start:
            p = self.emit(f"getelementptr {element}, ptr {p}, i64 {ref.start}")
        for counter, step in zip(self.counters, ref.steps, strict=False):
            if step:
                offset = self.emit(f"mul i64 {counter}, {step}")
                p = self.emit(f"getelementptr {element}, ptr {p}, i64 {offset}")
        return p

    def steps(self, steps: Sequence[Launch | Repeat]) -> None:
        for step in steps:
            if isinstance(step, Repeat):
                self.repeat(step)
            else:
                self.launch(step)

    def launch(self, launch: Launch) -> None:
        name = symbol(launch.kernel.name)
        self.lines.append(f"  ; {launch.kernel.name}: {', '.join(ref.slot.name for ref in launch.all_args)}")
        for n, ref in enumerate(launch.all_args):
            p = self.address(ref)
            to = self.emit(f"getelementptr ptr, ptr %args, i64 {n}")
            self.lines.append(f"  store ptr {p}, ptr {to}, align 8")
        before = self.emit("call i64 @dlc_now()") if self.profile else ""
        tasks = launch.all_tasks
        if launch.more:
            name = self.dispatcher(launch, name)
        if launch.grain >= tasks:
            self.lines.append(f"  call void @{name}(ptr %args, i64 0, i64 {tasks})")
        else:
            self.parallel = True
            self.lines.append(f"  call void @dlc_parallel(ptr @{name}, ptr %args, i64 {tasks}, i64 {launch.grain})")
        if self.profile:
            after = self.emit("call i64 @dlc_now()")
            spent = self.emit(f"sub i64 {after}, {before}")
            p = self.emit(f"getelementptr i64, ptr %times, i64 {self._launch}")
            total = self.emit(f"add i64 {self.emit(f'load i64, ptr {p}, align 8')}, {spent}")
            self.lines.append(f"  store i64 {total}, ptr {p}, align 8")
        self._launch += 1

    def dispatcher(self, launch: Launch, kernel: str) -> str:
        """A function over the tasks of all segments, which calls the kernel for the part of each that it is given."""
        starts = [0]
        for part in launch.segments:
            starts.append(starts[-1] + part.tasks)
        n, width, name = len(starts) - 1, len(launch.args), f"dlc_segments{self._launch}"
        table = ", ".join(f"i64 {s}" for s in starts)
        self.helpers.append(f"""@{name}_starts = internal constant [{n + 1} x i64] [{table}]
define internal void @{name}(ptr %args, i64 %begin, i64 %end) nounwind {{
entry:
  br label %segment
segment:
  %s = phi i64 [ 0, %entry ], [ %next, %done ]
  %next = add nuw nsw i64 %s, 1
  %lowp = getelementptr i64, ptr @{name}_starts, i64 %s
  %highp = getelementptr i64, ptr @{name}_starts, i64 %next
  %low = load i64, ptr %lowp, align 8
  %high = load i64, ptr %highp, align 8
  %after = icmp sgt i64 %begin, %low
  %from = select i1 %after, i64 %begin, i64 %low
  %before = icmp slt i64 %end, %high
  %to = select i1 %before, i64 %end, i64 %high
  %some = icmp slt i64 %from, %to
  br i1 %some, label %run, label %done
run:
  %b = sub i64 %from, %low
  %e = sub i64 %to, %low
  %at = mul i64 %s, {width}
  %own = getelementptr ptr, ptr %args, i64 %at
  call void @{kernel}(ptr %own, i64 %b, i64 %e)
  br label %done
done:
  %more = icmp slt i64 %next, {n}
  br i1 %more, label %segment, label %leave
leave:
  ret void
}}""")
        return name

    def repeat(self, repeat: Repeat) -> None:
        if repeat.count <= 0:
            self._launch += sum(1 for _ in launches(Program("", (), (), repeat.body)))
            return
        self._serial += 1
        label, leave, counter, after = f"repeat{self._serial}", f"done{self._serial}", self.name(), self.name()
        self.lines.append(f"  br label %{label}")
        at, enter = len(self.lines), self.label
        self.label = label
        self.counters.append(counter)
        self.steps(repeat.body)
        self.counters.pop()
        again = self.name()
        self.lines[at:at] = [f"{label}:", f"  {counter} = phi i64 [ 0, %{enter} ], [ {after}, %{self.label} ]"]
        self.lines += [f"  {after} = add nuw nsw i64 {counter}, 1", f"  {again} = icmp slt i64 {after}, {repeat.count}",
                       f"  br i1 {again}, label %{label}, label %{leave}", f"{leave}:"]
        self.label = leave
