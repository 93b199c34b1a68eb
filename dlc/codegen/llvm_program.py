"""The entry function of a program: all kernels of a step, in order, as one native call.

    define void @dlc_entry(ptr %slots, ptr %arena)               without profiling
    define void @dlc_entry(ptr %slots, ptr %arena, ptr %times)   with it

`%slots` is an array of pointers: the inputs, then the outputs. `%times` is an array of int64, one for each launch in
the order of `launches`; elapsed nanoseconds are added to it, in a parallel Repeat and of launches side by side those
of all threads.

The body of a parallel Repeat is a function of its own, run once by each worker: it takes iterations from a shared
counter until there are none left. Launches side by side are one parallel loop over pieces of them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence

from dlc.codegen import llvm_types as lt
from dlc.codegen.llvm_expr import EmitError
from dlc.codegen.llvm_kernel import symbol
from dlc.codegen.target import CpuTarget
from dlc.ir.program import Launch, Program, Ref, Repeat, Slot, Workers
from dlc.passes.beside import pieces

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
    return _Entry(program, target, profile).text()


class _Entry:
    def __init__(self, program: Program, target: CpuTarget, profile: bool):
        self.program = program
        self.threads = target.threads
        self.profile = profile
        self.lines: list[str] = []
        self.counters: list[str] = []  # the iteration numbers of the enclosing Repeats
        self.label = "entry"
        self.parallel = False
        self._serial = 0
        self._launch = 0
        self._bases: dict[Slot, str] = {}
        self.head: list[str] = []  # what the function being written does first
        self.space: Slot | None = None  # the workspace of the parallel Repeat being written
        self.helpers: list[str] = []  # dispatchers, constants and bodies of parallel Repeats

    def text(self) -> str:
        program = self.program
        self.begin()
        self.steps(program.steps)
        times = ", ptr %times" if self.profile else ""
        define = f"define void @dlc_entry(ptr %slots, ptr %arena{times}) nounwind {{"
        parts = [f"; program {program.name}", define, "entry:", *self.head, *self.lines, "  ret void", "}"]
        parts += self.helpers
        if self.parallel:
            parts.append("declare void @dlc_parallel(ptr, ptr, i64, i64)")
        if self.profile:
            parts.append(_NOW)
        return "\n".join(parts)

    def begin(self) -> None:
        """The head of a function: where inputs and outputs are, and room for the arguments of a launch."""
        program = self.program
        for n, slot in enumerate((*program.inputs, *program.outputs)):
            if slot.alias is None and slot not in self._bases:
                self.head += [f"  %q{n} = getelementptr ptr, ptr %slots, i64 {n}",
                              f"  %s{n} = load ptr, ptr %q{n}, align 8"]
                self._bases[slot] = f"%s{n}"
        rows = itertools.groupby(launches(program), lambda step: step.beside or id(step))
        width = max((sum(len(step.all_args) for step in row) for _, row in rows), default=0)
        self.head.append(f"  %args = alloca [{width + 1} x ptr], align 64")  # and %times, for launches side by side

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
        if slot.kind != "arena" or slot.offset < 0 or slot.private not in (None, self.space):
            raise EmitError(f"{self.program.name}: slot {slot.name} ({slot.kind}) has no memory")
        area = "%arena" if slot.private is None else "%space"
        return area if slot.offset == 0 else self.emit(f"getelementptr i8, ptr {area}, i64 {slot.offset}")

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
        for number, row in itertools.groupby(steps, lambda step: step.beside if isinstance(step, Launch) else 0):
            if number:
                self.side_by_side(list(row))
                continue
            for step in row:
                if isinstance(step, Launch):
                    self.launch(step)
                elif step.workers is not None:
                    self.shared(step, step.workers)
                else:
                    self.repeat(step)

    def arguments(self, launch: Launch, first: int = 0) -> str:
        """Write a launch's arguments to `%args`, from number `first` on; the function to be called with them."""
        self.lines.append(f"  ; {launch.kernel.name}: {', '.join(ref.slot.name for ref in launch.all_args)}")
        for n, ref in enumerate(launch.all_args, first):
            p = self.address(ref)
            to = self.emit(f"getelementptr ptr, ptr %args, i64 {n}")
            self.lines.append(f"  store ptr {p}, ptr {to}, align 8")
        name = symbol(launch.kernel.name)
        return self.dispatcher(launch, name) if launch.more else name

    def launch(self, launch: Launch) -> None:
        name = self.arguments(launch)
        before = self.emit("call i64 @dlc_now()") if self.profile else ""
        tasks = launch.all_tasks
        if launch.grain >= tasks:
            self.lines.append(f"  call void @{name}(ptr %args, i64 0, i64 {tasks})")
        else:
            self.parallel = True
            self.lines.append(f"  call void @dlc_parallel(ptr @{name}, ptr %args, i64 {tasks}, i64 {launch.grain})")
        if self.profile:
            after = self.emit("call i64 @dlc_now()")
            spent = self.emit(f"sub i64 {after}, {before}")
            p = self.emit(f"getelementptr i64, ptr %times, i64 {self._launch}")
            if self.space is not None:
                self.emit(f"atomicrmw add ptr {p}, i64 {spent} monotonic, align 8")
            else:
                total = self.emit(f"add i64 {self.emit(f'load i64, ptr {p}, align 8')}, {spent}")
                self.lines.append(f"  store i64 {total}, ptr {p}, align 8")
        self._launch += 1

    def side_by_side(self, row: Sequence[Launch]) -> None:
        """One parallel loop over pieces of several launches."""
        self._serial += 1
        name, first = f"dlc_beside{self._serial}", self._launch
        functions, starts = [], [0]
        for launch in row:
            functions.append(self.arguments(launch, starts[-1]))
            starts.append(starts[-1] + len(launch.all_args))
            self._launch += 1
        if self.profile:
            to = self.emit(f"getelementptr ptr, ptr %args, i64 {starts[-1]}")
            self.lines.append(f"  store ptr %times, ptr {to}, align 8")
        table = pieces(row, self.threads)
        rows = ", ".join(f"%dlc_piece_t {{ ptr @{functions[k]}, i64 {starts[k]}, i64 {begin}, i64 {end}, "
                         f"i64 {first + k} }}" for k, begin, end in table)
        if not any("%dlc_piece_t = " in helper for helper in self.helpers):
            self.helpers.append("%dlc_piece_t = type { ptr, i64, i64, i64, i64 }")
        timed = before = ""
        if self.profile:
            before = "  %before = call i64 @dlc_now()\n"
            timed = f"""
  %after = call i64 @dlc_now()
  %spent = sub i64 %after, %before
  %timesp = getelementptr ptr, ptr %args, i64 {starts[-1]}
  %times = load ptr, ptr %timesp, align 8
  %placep = getelementptr %dlc_piece_t, ptr %piece, i64 0, i32 4
  %place = load i64, ptr %placep, align 8
  %time = getelementptr i64, ptr %times, i64 %place
  %ignored = atomicrmw add ptr %time, i64 %spent monotonic, align 8"""
        self.helpers.append(f"""@{name}_pieces = internal constant [{len(table)} x %dlc_piece_t] [{rows}]
define internal void @{name}(ptr %args, i64 %begin, i64 %end) nounwind {{
entry:
  br label %next
next:
  %k = phi i64 [ %begin, %entry ], [ %more, %next ]
  %piece = getelementptr %dlc_piece_t, ptr @{name}_pieces, i64 %k
  %firstp = getelementptr %dlc_piece_t, ptr %piece, i64 0, i32 1
  %fromp = getelementptr %dlc_piece_t, ptr %piece, i64 0, i32 2
  %top = getelementptr %dlc_piece_t, ptr %piece, i64 0, i32 3
  %function = load ptr, ptr %piece, align 8
  %first = load i64, ptr %firstp, align 8
  %from = load i64, ptr %fromp, align 8
  %to = load i64, ptr %top, align 8
  %own = getelementptr ptr, ptr %args, i64 %first
{before}  call void %function(ptr %own, i64 %from, i64 %to){timed}
  %more = add nuw nsw i64 %k, 1
  %again = icmp slt i64 %more, %end
  br i1 %again, label %next, label %leave
leave:
  ret void
}}""")
        self.parallel = True
        self.lines.append(f"  call void @dlc_parallel(ptr @{name}, ptr %args, i64 {len(table)}, i64 1)")

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

    def shared(self, repeat: Repeat, workers: Workers) -> None:
        """The iterations of a parallel Repeat, by its workers."""
        if self.space is not None:
            raise EmitError(f"{self.program.name}: a parallel Repeat inside another one")
        if repeat.count <= 0:
            self._launch += sum(1 for _ in launches(Program("", (), (), repeat.body)))
            return
        self._serial += 1
        name = f"dlc_each{self._serial}"
        context, taken = f"%context{self._serial}", f"%taken{self._serial}"
        self.head += [f"  {context} = alloca [{4 + len(self.counters)} x i64], align 64",
                      f"  {taken} = alloca i64, align 64"]
        self.lines.append(f"  store i64 0, ptr {taken}, align 8")
        values = ["%slots", "%arena", "%times" if self.profile else "null", taken]
        for n, (kind, value) in enumerate([*(("ptr", v) for v in values), *(("i64", c) for c in self.counters)]):
            to = self.emit(f"getelementptr i64, ptr {context}, i64 {n}")
            self.lines.append(f"  store {kind} {value}, ptr {to}, align 8")
        outer = self.lines, self.head, self._bases, self.label, self.counters
        self.helpers.append(self.worker(name, repeat, workers))
        self.lines, self.head, self._bases, self.label, self.counters = outer
        self.space = None
        self.parallel = True
        self.lines.append(f"  call void @dlc_parallel(ptr @{name}, ptr {context}, i64 {workers.count}, i64 1)")

    def worker(self, name: str, repeat: Repeat, workers: Workers) -> str:
        """The function of one worker; `%worker` is its number."""
        outer = len(self.counters)
        self.lines, self.head, self.label = [], [], "entry"
        self._bases = {s: base for s, base in self._bases.items() if s.kind == "const"}
        self.counters, self.space = [], workers.space
        named = ["%slots", "%arena", "%times", "%taken"]
        for n in range(4 + outer):
            place = self.name()
            value = named[n] if n < 4 else self.name()
            self.head += [f"  {place} = getelementptr i64, ptr %context, i64 {n}",
                          f"  {value} = load {'ptr' if n < 4 else 'i64'}, ptr {place}, align 8"]
            if n >= 4:
                self.counters.append(value)
        share = workers.space.nbytes // workers.count
        self.head += [f"  %start = getelementptr i8, ptr %arena, i64 {workers.space.offset}",
                      f"  %skip = mul i64 %worker, {share}", "  %space = getelementptr i8, ptr %start, i64 %skip"]
        self.begin()
        self.lines += ["  br label %take", "take:", "  %turn = atomicrmw add ptr %taken, i64 1 monotonic, align 8",
                       f"  %some = icmp slt i64 %turn, {repeat.count}", "  br i1 %some, label %work, label %leave",
                       "work:"]
        self.label, rest, places = "work", "%turn", []
        for extent in reversed(repeat.ranges):
            places.append(self.emit(f"urem i64 {rest}, {extent}"))
            rest = self.emit(f"udiv i64 {rest}, {extent}")
        self.counters += reversed(places)
        self.steps(repeat.body)
        return "\n".join([f"define internal void @{name}(ptr %context, i64 %worker, i64 %end) nounwind {{", "entry:",
                          *self.head, *self.lines, "  br label %take", "leave:", "  ret void", "}"])
