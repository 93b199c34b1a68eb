"""The launches of a program as tables, and the functions that walk them.

    define internal void @dlc_run(ptr %args, ptr %frame, i64 %begin, i64 %end)
    define internal void @dlc_flows(ptr %frame, i64 %first, i64 %count, i64 %lists, i64 %launches, i64 %threads)
    define internal void @dlc_flow(ptr %frame, i64 %begin, i64 %end)
    define internal void @dlc_arguments(ptr %args, ptr %frame, i64 %first, i64 %count, i64 %depth)

`dlc_run` makes the launches from number `%begin` to `%end` of the table, and `dlc_arguments` writes the addresses of
one launch's arguments. An argument is a row of another table: where it is based, its offset in bytes, and the bytes
that it advances with each counter of the enclosing Repeats, `%depth` numbers. A base from 0 on is an input or output of
the program; -1, -2, -3 are fields of the frame: the arena, the workspace, the constants.

`dlc_flows` runs a flow of `%count` pieces from the `%first` on, after clearing its counters. Every thread runs
`dlc_flow`: it goes through its own list of pieces, waits until the launches that the next one depends on are done,
claims and runs it, and counts it as done for its launch. Pieces have owners so that what a thread has written, in this
step and in the one before, is in its own cache. A thread that has waited for a while, or has no more pieces, takes one
of another thread that can start (`dlc_steal`): the other may be late, or without a processor. Pieces are numbered in an
order in which each depends on earlier ones only, so the first that is not done can always start; a thread alone runs
them so.

Tables are data and need no code generation, which for hundreds of launches would take as long as that of the kernels.
The functions lie in `tables.ll` and `task_graph.ll`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.base import texts
from dlc.codegen.llvm.expr import EmitError
from dlc.ir.program.program import Launch, Program, Slot

# The fields of a frame, words of 8 bytes: what the launches of one function find their arguments by.
SLOTS, ARENA, SPACE, CONSTANTS, TIMES, TAKEN, ARGS, PIECES, COUNT, LISTS, THREADS, DONE, CLAIMS, COUNTERS = range(14)
LINE = 8  # words of a cache line: the counter of each launch of a flow has one, and the claims of a thread have some
PATIENCE = 64  # looks at what is not done yet before a thread takes a piece of another's

_LAUNCH = "{ ptr, i64, i64, i64, i64, i64, i64 }"  # function, first word, arguments, depth, tasks, grain, number
# function, first word of the arguments, how many (0: they are in the frame's, at this place), depth, first task, end,
# number of the launch, its place in the flow, first of the waits, end
PIECE = "{ ptr, i64, i64, i64, i64, i64, i64, i64, i64, i64 }"
WAIT = "{ i64, i64 }"  # the place of a launch in the flow, its pieces


_CONSTANTS = dict(  # those that the functions' texts name
    TIMES=TIMES, ARGS=ARGS, PIECES=PIECES, COUNT=COUNT, LISTS=LISTS, THREADS=THREADS, DONE=DONE, CLAIMS=CLAIMS,
    COUNTERS=COUNTERS, LINE=LINE, PATIENCE=PATIENCE, LAUNCH=_LAUNCH, PIECE=PIECE, WAIT=WAIT,
)  # fmt: skip


def _run(parallel: bool, profile: bool) -> str:
    """The text of `dlc_run`. With `profile` the time of each launch is added to its number's."""
    last, call = ("done", _text("spread")) if parallel else ("next", _text("call"))
    return _text("run", last=last, call=_timed(call) if profile else call)


def _task_graph(profile: bool, pause: tuple[str, str], width: int) -> str:
    """The text of `dlc_flows` and what it calls; `width` is the most arguments that a thread finds for itself."""
    call = "  call void %function(ptr %arguments, i64 %from, i64 %to)"
    return texts.section(__package__, "task_graph.ll", "task_graph", declare_pause=pause[0], pause=pause[1],
                         width=max(width, 1), call=_timed(call) if profile else call, **_CONSTANTS)


def _timed(call: str) -> str:
    """The call, whose time is added to that of launch `%number`."""
    return _text("timed", call=call)


def _text(section: str, /, **values: object) -> str:
    return texts.section(__package__, "tables.ll", section, **values, **_CONSTANTS)


class Tables:
    """The tables of one program."""

    def __init__(self, program: Program):
        self.program = program
        self.numbers: dict[Slot, int] = {}
        for n, slot in enumerate((*program.inputs, *program.outputs)):
            if slot.alias is None:
                self.numbers.setdefault(slot, n)
        self.words = 0
        self.arguments: list[str] = []  # a line for each launch
        self.launches: list[str] = []
        self.pieces: list[str] = []
        self.waits: list[str] = []
        self.lists: list[int] = []
        self.width = 0  # the most arguments of a launch of a flow that are not shared
        self.constants: list[int] = []

    def launch(self, function: str, launch: Launch, number: int, space: Slot | None) -> None:
        """One more launch, of the function `@function`; `number` is the one of its time, `space` the workspace."""
        first, depth = self.rows(launch, space)
        numbers = first, len(launch.all_args), depth, launch.all_tasks, launch.grain, number
        self.launches.append(f"  {_LAUNCH} {{ ptr @{function}, {', '.join(f'i64 {n}' for n in numbers)} }}")

    def piece(self, function: str, numbers: Sequence[int]) -> None:
        """One more piece; the numbers are those of `PIECE`."""
        self.pieces.append(f"  {PIECE} {{ ptr @{function}, {', '.join(f'i64 {n}' for n in numbers)} }}")

    def wait(self, place: int, pieces: int) -> None:
        """One more launch to wait for."""
        self.waits.append(f"  {WAIT} {{ i64 {place}, i64 {pieces} }}")

    def thread_lists(self, lists: Sequence[Sequence[int]]) -> int:
        """The lists of a flow's threads; their place in the table."""
        starts, numbers = [0], []
        for pieces in lists:
            numbers += [*pieces, *(-1,) * (-len(pieces) % LINE)]
            starts.append(len(numbers))
        at = len(self.lists)
        self.lists += [*starts, *numbers]
        return at

    def call(self, launch: Launch, args: str, space: Slot | None) -> str:
        """The call that writes the launch's arguments to `args`."""
        first, depth = self.rows(launch, space)
        count = len(launch.all_args)
        return f"call void @dlc_arguments(ptr {args}, ptr %frame, i64 {first}, i64 {count}, i64 {depth})"

    def rows(self, launch: Launch, space: Slot | None) -> tuple[int, int]:
        """Rows for the launch's arguments: the first one's place in the table, and their depth."""
        refs, first = launch.all_args, self.words
        depth = max((d + 1 for ref in refs for d, step in enumerate(ref.steps) if step), default=0)
        words: list[int] = []
        for ref in refs:
            size = ref.slot.dtype.itemsize
            base, offset = self.base(ref.slot, space)
            words += (base, offset + ref.start * size, *(s * size for s in (*ref.steps, *(0,) * depth)[:depth]))
        self.words += len(words)
        note = f"{launch.kernel.name}: {', '.join(ref.slot.name for ref in refs)}"
        self.arguments.append(f"  ; {_one_line(note)}\n  {', '.join(f'i64 {w}' for w in words)}")
        return first, depth

    def base(self, slot: Slot, space: Slot | None) -> tuple[int, int]:
        """A row's base, and the slot's offset from there."""
        slot = slot.memory
        if slot in self.numbers:
            return self.numbers[slot], 0
        if slot.kind == "const":
            if slot.value not in self.constants:
                self.constants.append(slot.value)
            return -CONSTANTS, 8 * self.constants.index(slot.value)
        if slot.kind != "arena" or slot.offset < 0 or slot.private not in (None, space):
            raise EmitError(f"{self.program.name}: slot {slot.name} ({slot.kind}) has no memory")
        return -ARENA if slot.private is None else -SPACE, slot.offset

    def text(self, parallel: bool, profile: bool, pause: tuple[str, str]) -> str:
        """The tables and their functions; `pause` is the instruction of a thread that waits, declared and called."""
        parts = []
        for name, kind, count, rows in (
            ("constants", "i64", len(self.constants), [f"  i64 {c}" for c in self.constants]),
            ("rows", "i64", self.words, self.arguments),
            ("launches", _LAUNCH, len(self.launches), self.launches),
            ("pieces", PIECE, len(self.pieces), self.pieces),
            ("waits", WAIT, len(self.waits), self.waits),
            ("lists", "i64", len(self.lists), [f"  i64 {n}" for n in self.lists]),
        ):
            parts += [f"@dlc_{name} = internal constant [{count} x {kind}] [", ",\n".join(rows), "]"]
        functions = [_text("arguments"), _run(parallel, profile)]
        if self.pieces:
            functions.append(_task_graph(profile, pause, self.width))
        return "\n".join([*parts, *functions])


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
