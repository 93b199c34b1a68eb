"""The entry function of a program: all kernels of a step, in order, as one native call.

    define void @dlc_entry(ptr %slots, ptr %arena)               without profiling
    define void @dlc_entry(ptr %slots, ptr %arena, ptr %times)   with it

`%slots` is an array of pointers: the inputs, then the outputs. `%times` is an array of int64, one for each launch in
the order of `launches`; elapsed nanoseconds are added to it, in a parallel Repeat and in a flow those of all threads.

The body of a parallel Repeat is a function of its own, run once by each worker: it takes iterations from a shared
counter until there are none left. A flow is one call of a function that every thread runs once. Launches and their
arguments are tables (`tables.py`).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence

from dlc.base import texts
from dlc.codegen.llvm.expr import EmitError
from dlc.codegen.llvm.launch import tables as frame
from dlc.codegen.llvm.launch.tables import Tables
from dlc.codegen.llvm.types import symbol
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.program.program import Launch, Program, Repeat, Slot, Workers, pieces, rows

SHARED = 64  # arguments of a launch of a flow from which on they are found once, not by each thread

_CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1


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
        self.target = target
        self.profile = profile
        found = launches(program)
        flows = [row for row in rows(found) if row[0].flow]
        self.width = max((len(step.all_args) for step in found if not step.flow), default=0)
        self.width = max(self.width, *(sum(map(_shared, row)) for row in flows), 0)
        # a counter for each launch, and a claim for each piece, in whole cache lines for each thread
        self.counts = max((frame.LINE * (len(row) + target.threads) + sum(len(list(pieces(step))) for step in row)
                           for row in flows), default=0)
        self.depth = 1 + max((len(r.steps) for step in found for r in step.all_args), default=0)
        self.lines: list[str] = []
        self.counters: list[str] = []  # the iteration numbers of the enclosing Repeats
        self.label = "entry"
        self.parallel = False
        self._serial = 0
        self._launch = 0
        self.tables = Tables(program)
        self.head: list[str] = []  # what the function being written does first
        self.space: Slot | None = None  # the workspace of the parallel Repeat being written
        self.helpers: list[str] = []  # dispatchers, constants and bodies of parallel Repeats

    def text(self) -> str:
        program = self.program
        fields = {frame.SLOTS: "%slots", frame.ARENA: "%arena", frame.CONSTANTS: "@dlc_constants"}
        if self.profile:
            fields[frame.TIMES] = "%times"
        self.begin(fields)
        self.steps(program.steps)
        times = ", ptr %times" if self.profile else ""
        define = f"define void @dlc_entry(ptr %slots, ptr %arena{times}) nounwind {{"
        parts = [f"; program {program.name}", define, "entry:", *self.head, *self.lines, "  ret void", "}"]
        parts += [*self.helpers, self.tables.text(self.parallel, self.profile, pause_of(self.target))]
        if self.parallel:
            parts.append("declare void @dlc_parallel(ptr, ptr, i64, i64)")
        if self.profile:
            parts.append(_text("now", clock=_CLOCK_MONOTONIC))
        return "\n".join(parts)

    def begin(self, fields: dict[int, str], counters: Sequence[str] = ()) -> None:
        """The head of a function: its frame, with the fields known so far, and room for the arguments of a launch."""
        self.head += [f"  %args = alloca [{max(self.width, 1)} x ptr], align 64",
                      f"  %frame = alloca [{frame.COUNTERS + self.depth} x i64], align 64"]
        if self.counts and self.space is None:
            self.head.append(f"  %done = alloca [{self.counts} x i64], align 128")
            fields = fields | {frame.DONE: "%done"}
        for field, value in (fields | {frame.ARGS: "%args"}).items():
            self.field(field, f"ptr {value}", self.head)
        for n, counter in enumerate(counters):
            self.field(frame.COUNTERS + n, f"i64 {counter}", self.head)

    def field(self, number: int, value: str, lines: list[str]) -> None:
        """Set a field of the frame."""
        to = self.name()
        lines += [f"  {to} = getelementptr i64, ptr %frame, i64 {number}", f"  store {value}, ptr {to}, align 8"]

    def enter(self, counter: str) -> None:
        """A loop's counter, from here on."""
        self.field(frame.COUNTERS + len(self.counters), f"i64 {counter}", self.lines)
        self.counters.append(counter)

    def name(self) -> str:
        self._serial += 1
        return f"%t{self._serial}"

    def emit(self, text: str) -> str:
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def steps(self, steps: Sequence[Launch | Repeat]) -> None:
        for plain, group in itertools.groupby(rows(steps), _plain):
            found = list(group)
            if plain:
                self.launch([step for row in found for step in row if isinstance(step, Launch)])
                continue
            for row in found:
                first = row[0]
                if isinstance(first, Launch):
                    self.flow([step for step in row if isinstance(step, Launch)])
                elif first.workers is not None:
                    self.shared(first, first.workers)
                else:
                    self.repeat(first)

    def arguments(self, launch: Launch, first: int = 0) -> str:
        """Write a launch's arguments to `%args`, from number `first` on; the function to be called with them."""
        to = self.emit(f"getelementptr ptr, ptr %args, i64 {first}") if first else "%args"
        self.lines.append(f"  {self.tables.call(launch, to, self.space)}")
        return self.function(launch)

    def function(self, launch: Launch) -> str:
        """What is to be called for a launch."""
        name = symbol(launch.kernel.name)
        return self.dispatcher(launch, name) if launch.more else name

    def launch(self, row: Sequence[Launch]) -> None:
        """Launches one after the other."""
        first = len(self.tables.launches)
        for launch in row:
            self.tables.launch(self.function(launch), launch, self._launch, self.space)
            self.parallel = self.parallel or launch.grain < launch.all_tasks
            self._launch += 1
        self.lines.append(f"  ; {', '.join(_one_line(launch.kernel.name) for launch in row)}")
        self.lines.append(f"  call void @dlc_run(ptr %args, ptr %frame, i64 {first}, i64 {first + len(row)})")

    def flow(self, row: Sequence[Launch]) -> None:
        """Launches that all threads take as soon as they can start."""
        tables, shared, at = self.tables, 0, len(self.tables.pieces)
        lists: list[list[int]] = [[] for _ in range(self.target.threads)]
        for k, launch in enumerate(row):
            first_wait = len(tables.waits)
            for other in launch.after:
                tables.wait(other * frame.LINE, sum(1 for _ in pieces(row[other])))
            if many := _shared(launch):
                function, words, count, depth = self.arguments(launch, shared), shared, 0, 0
                shared += many
            else:
                function, count = self.function(launch), len(launch.all_args)
                words, depth = tables.rows(launch, self.space)
                tables.width = max(tables.width, count)
            for p, (begin, end) in enumerate(pieces(launch)):
                owner = launch.owners[p] if launch.owners else p
                lists[owner % len(lists)].append(len(tables.pieces) - at)
                tables.piece(function, (words, count, depth, begin, end, self._launch, k * frame.LINE,
                                        first_wait, len(tables.waits)))
            self._launch += 1
        numbers = at, len(tables.pieces) - at, tables.thread_lists(lists), len(row), self.target.threads
        self.lines.append(f"  ; {', '.join(_one_line(launch.kernel.name) for launch in row)}")
        self.lines.append(f"  call void @dlc_flows(ptr %frame, {', '.join(f'i64 {n}' for n in numbers)})")
        self.parallel = True

    def dispatcher(self, launch: Launch, kernel: str) -> str:
        """A function over the tasks of all segments, which calls the kernel for the part of each that it is given."""
        starts = [0]
        for part in launch.segments:
            starts.append(starts[-1] + part.tasks)
        name = f"dlc_segments{self._launch}"
        self.helpers.append(_text("segments", name=name, kernel=kernel, width=len(launch.args), bounds=len(starts),
                                  starts=", ".join(f"i64 {s}" for s in starts), count=len(launch.segments)))
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
        self.enter(counter)
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
        taken = f"%taken{self._serial}"
        self.head.append(f"  {taken} = alloca i64, align 64")
        self.lines.append(f"  store i64 0, ptr {taken}, align 8")
        self.field(frame.TAKEN, f"ptr {taken}", self.lines)
        outer = self.lines, self.head, self.label, self.counters
        self.helpers.append(self.worker(name, repeat, workers))
        self.lines, self.head, self.label, self.counters = outer
        self.space = None
        self.parallel = True
        self.lines.append(f"  call void @dlc_parallel(ptr @{name}, ptr %frame, i64 {workers.count}, i64 1)")

    def load(self, field: int, kind: str, value: str) -> None:
        """A field of the caller's frame."""
        place = self.name()
        self.head += [f"  {place} = getelementptr i64, ptr %caller, i64 {field}",
                      f"  {value} = load {kind}, ptr {place}, align 8"]

    def worker(self, name: str, repeat: Repeat, workers: Workers) -> str:
        """The function of one worker; `%worker` is its number. It begins with the frame of its caller."""
        outer = self.counters
        self.lines, self.head, self.label = [], [], "entry"
        self.counters, self.space = [], workers.space
        kept = {frame.SLOTS: "%slots", frame.ARENA: "%arena", frame.TIMES: "%times", frame.TAKEN: "%taken"}
        if not self.profile:
            del kept[frame.TIMES]
        for field, value in kept.items():
            self.load(field, "ptr", value)
        for n in range(len(outer)):
            self.counters.append(self.name())
            self.load(frame.COUNTERS + n, "i64", self.counters[-1])
        share = workers.space.nbytes // workers.count
        self.head += [f"  %start = getelementptr i8, ptr %arena, i64 {workers.space.offset}",
                      f"  %skip = mul i64 %worker, {share}", "  %space = getelementptr i8, ptr %start, i64 %skip"]
        self.begin(kept | {frame.SPACE: "%space", frame.CONSTANTS: "@dlc_constants"}, self.counters)
        self.lines += ["  br label %take", "take:", "  %turn = atomicrmw add ptr %taken, i64 1 monotonic, align 8",
                       f"  %some = icmp slt i64 %turn, {repeat.count}", "  br i1 %some, label %work, label %leave",
                       "work:"]
        self.label, rest, places = "work", "%turn", []
        for extent in reversed(repeat.ranges):
            places.append(self.emit(f"urem i64 {rest}, {extent}"))
            rest = self.emit(f"udiv i64 {rest}, {extent}")
        for place in reversed(places):
            self.enter(place)
        self.steps(repeat.body)
        return "\n".join([f"define internal void @{name}(ptr %caller, i64 %worker, i64 %end) nounwind {{", "entry:",
                          *self.head, *self.lines, "  br label %take", "leave:", "  ret void", "}"])


def pause_of(target: CpuTarget) -> tuple[str, str]:
    """The declaration and the call of the instruction that tells the processor that a thread waits."""
    names = {"x86_64": "llvm.x86.sse2.pause()", "aarch64": "llvm.aarch64.hint(i32 1)"}
    name = names.get(target.triple.partition("-")[0])
    return ("", "") if name is None else (f"declare void @{name.replace('i32 1', 'i32')}", f"call void @{name}")


def _text(section: str, /, **values: object) -> str:
    return texts.section(__package__, "program.ll", section, **values)


def _plain(row: Sequence[Launch | Repeat]) -> bool:
    """Is this a launch by itself? Neighbours of these are written together."""
    return isinstance(row[0], Launch) and not row[0].flow


def _shared(launch: Launch) -> int:
    """How many arguments the threads of a flow do not find for themselves."""
    count = len(launch.all_args)
    return count if count == 0 or count > SHARED else 0


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
