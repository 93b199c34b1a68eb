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
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.llvm.expr import EmitError
from dlc.ir.program.program import Launch, Program, Slot

# The fields of a frame, words of 8 bytes: what the launches of one function find their arguments by.
SLOTS, ARENA, SPACE, CONSTANTS, TIMES, TAKEN, ARGS, PIECES, COUNT, LISTS, THREADS, DONE, CLAIMS, COUNTERS = range(14)
LINE = 8  # words of a cache line: the counter of each launch of a flow has one, and the claims of a thread have some
PATIENCE = 64  # looks at what is not done yet before a thread takes a piece of another's

_ARGUMENTS = f"""define internal void @dlc_arguments(
    ptr %args, ptr %frame, i64 %first, i64 %count, i64 %depth) nounwind {{
entry:
  %slots = load ptr, ptr %frame, align 8
  %counters = getelementptr i64, ptr %frame, i64 {COUNTERS}
  %start = getelementptr i64, ptr @dlc_rows, i64 %first
  %moves = icmp sgt i64 %depth, 0
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %argument, label %leave
argument:
  %k = phi i64 [ 0, %entry ], [ %next, %place ]
  %row = phi ptr [ %start, %entry ], [ %after, %place ]
  %base = load i64, ptr %row, align 8
  %field = sub i64 0, %base
  %given = icmp sge i64 %base, 0
  %list = select i1 %given, ptr %slots, ptr %frame
  %number = select i1 %given, i64 %base, i64 %field
  %found = getelementptr ptr, ptr %list, i64 %number
  %pointer = load ptr, ptr %found, align 8
  %offsetp = getelementptr i64, ptr %row, i64 1
  %fixed = load i64, ptr %offsetp, align 8
  %steps = getelementptr i64, ptr %row, i64 2
  %after = getelementptr i64, ptr %steps, i64 %depth
  br i1 %moves, label %move, label %place
move:
  %d = phi i64 [ 0, %argument ], [ %deeper, %move ]
  %sum = phi i64 [ %fixed, %argument ], [ %moved, %move ]
  %stepp = getelementptr i64, ptr %steps, i64 %d
  %step = load i64, ptr %stepp, align 8
  %counterp = getelementptr i64, ptr %counters, i64 %d
  %counter = load i64, ptr %counterp, align 8
  %way = mul i64 %step, %counter
  %moved = add i64 %sum, %way
  %deeper = add nuw nsw i64 %d, 1
  %again = icmp slt i64 %deeper, %depth
  br i1 %again, label %move, label %place
place:
  %offset = phi i64 [ %fixed, %argument ], [ %moved, %move ]
  %address = getelementptr i8, ptr %pointer, i64 %offset
  %to = getelementptr ptr, ptr %args, i64 %k
  store ptr %address, ptr %to, align 8
  %next = add nuw nsw i64 %k, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %argument, label %leave
leave:
  ret void
}}"""


_LAUNCH = "{ ptr, i64, i64, i64, i64, i64, i64 }"  # function, first word, arguments, depth, tasks, grain, number
# function, first word of the arguments, how many (0: they are in the frame's, at this place), depth, first task, end,
# number of the launch, its place in the flow, first of the waits, end
PIECE = "{ ptr, i64, i64, i64, i64, i64, i64, i64, i64, i64 }"
WAIT = "{ i64, i64 }"  # the place of a launch in the flow, its pieces


def _run(parallel: bool, profile: bool) -> str:
    """The text of `dlc_run`. With `profile` the time of each launch is added to its number's."""
    before, after = _timed(profile)
    here = "  call void %function(ptr %args, i64 0, i64 %tasks)"
    call = here if not parallel else f"""  %alone = icmp sge i64 %grain, %tasks
  br i1 %alone, label %here, label %spread
here:
{here}
  br label %done
spread:
  call void @dlc_parallel(ptr %function, ptr %args, i64 %tasks, i64 %grain)
  br label %done
done:"""
    names = "first", "count", "depth", "tasks", "grain", "number"
    fields = _loaded(names, _LAUNCH, "%launch")
    return f"""define internal void @dlc_run(ptr %args, ptr %frame, i64 %begin, i64 %end) nounwind {{
entry:
  br label %next
next:
  %k = phi i64 [ %begin, %entry ], [ %more, %{"done" if parallel else "next"} ]
  %launch = getelementptr {_LAUNCH}, ptr @dlc_launches, i64 %k
  %function = load ptr, ptr %launch, align 8
{fields}
  call void @dlc_arguments(ptr %args, ptr %frame, i64 %first, i64 %count, i64 %depth)
{before}{call}{after}
  %more = add nuw nsw i64 %k, 1
  %again = icmp slt i64 %more, %end
  br i1 %again, label %next, label %leave
leave:
  ret void
}}"""


def _flow(profile: bool, pause: tuple[str, str], width: int) -> str:
    """The text of `dlc_flows` and what it calls; `width` is the most arguments that a thread finds for itself.

    The lists of a flow are words: where the list of each thread begins (and the last one ends), then for each list the
    numbers of its pieces, filled up with -1 to whole cache lines. The claim of the entry at such a place has the same
    place among the claims.
    """
    before, after = _timed(profile)
    names = "first", "count", "depth", "from", "to", "number", "place"
    waits = _loaded(("wait", "enough"), PIECE, "%piece", 8)

    def fields(**which: tuple[int, str]) -> str:
        return "\n".join(f"""  %{name}_at = getelementptr i64, ptr %frame, i64 {field}
  %{name} = load {kind}, ptr %{name}_at, align 8""" for name, (field, kind) in which.items())

    pieces, done = (PIECES, "ptr"), (DONE, "ptr")
    return f"""{pause[0]}
declare i32 @sched_yield()

define internal void @dlc_flows(
    ptr %frame, i64 %first, i64 %count, i64 %lists, i64 %launches, i64 %threads) nounwind {{
entry:
  %start = getelementptr {PIECE}, ptr @dlc_pieces, i64 %first
  %piecesp = getelementptr i64, ptr %frame, i64 {PIECES}
  store ptr %start, ptr %piecesp, align 8
  %countp = getelementptr i64, ptr %frame, i64 {COUNT}
  store i64 %count, ptr %countp, align 8
  %own = getelementptr i64, ptr @dlc_lists, i64 %lists
  %listsp = getelementptr i64, ptr %frame, i64 {LISTS}
  store ptr %own, ptr %listsp, align 8
  %threadsp = getelementptr i64, ptr %frame, i64 {THREADS}
  store i64 %threads, ptr %threadsp, align 8
{fields(done=done)}
  %counters = mul i64 %launches, {LINE}
  %claims = getelementptr i64, ptr %done, i64 %counters
  %claimsp = getelementptr i64, ptr %frame, i64 {CLAIMS}
  store ptr %claims, ptr %claimsp, align 8
  %lastp = getelementptr i64, ptr %own, i64 %threads
  %entries = load i64, ptr %lastp, align 8
  %words = add i64 %counters, %entries
  br label %clear
clear:
  %w = phi i64 [ 0, %entry ], [ %next, %clear ]
  %word = getelementptr i64, ptr %done, i64 %w
  store atomic i64 0, ptr %word monotonic, align 8
  %next = add i64 %w, 1
  %more = icmp slt i64 %next, %words
  br i1 %more, label %clear, label %fork
fork:
  call void @dlc_parallel(ptr @dlc_flow, ptr %frame, i64 %threads, i64 1)
  ret void
}}

define internal i1 @dlc_ready(ptr %frame, i64 %k) nounwind {{
entry:
{fields(pieces=pieces, done=done)}
  %piece = getelementptr {PIECE}, ptr %pieces, i64 %k
{waits}
  br label %check
check:
  %w = phi i64 [ %wait, %entry ], [ %w_next, %look ]
  %open = icmp slt i64 %w, %enough
  br i1 %open, label %look, label %yes
look:
  %entryp = getelementptr {WAIT}, ptr @dlc_waits, i64 %w
  %other = load i64, ptr %entryp, align 8
  %neededp = getelementptr {WAIT}, ptr %entryp, i64 0, i32 1
  %needed = load i64, ptr %neededp, align 8
  %counter = getelementptr i64, ptr %done, i64 %other
  %now = load atomic i64, ptr %counter acquire, align 8
  %there = icmp sge i64 %now, %needed
  %w_next = add i64 %w, 1
  br i1 %there, label %check, label %no
yes:
  ret i1 true
no:
  ret i1 false
}}

define internal void @dlc_piece(ptr %frame, i64 %k) nounwind {{
entry:
  %mine = alloca [{max(width, 1)} x ptr], align 64
{fields(args=(ARGS, "ptr"), pieces=pieces, done=done)}
  %piece = getelementptr {PIECE}, ptr %pieces, i64 %k
  %function = load ptr, ptr %piece, align 8
{_loaded(names, PIECE, "%piece")}
  %given = icmp eq i64 %count, 0
  br i1 %given, label %shared, label %own
shared:
  %there = getelementptr ptr, ptr %args, i64 %first
  br label %run
own:
  call void @dlc_arguments(ptr %mine, ptr %frame, i64 %first, i64 %count, i64 %depth)
  br label %run
run:
  %arguments = phi ptr [ %there, %shared ], [ %mine, %own ]
{before}  call void %function(ptr %arguments, i64 %from, i64 %to){after}
  %counter = getelementptr i64, ptr %done, i64 %place
  %ignored_count = atomicrmw add ptr %counter, i64 1 release, align 8
  ret void
}}

define internal i1 @dlc_claim(ptr %claim) nounwind {{
  %before = atomicrmw xchg ptr %claim, i64 1 monotonic, align 8
  %won = icmp eq i64 %before, 0
  ret i1 %won
}}

; 0: every piece is claimed, 1: one was run, 2: none can start
define internal i64 @dlc_steal(ptr %frame) nounwind {{
entry:
{fields(lists=(LISTS, "ptr"), claims=(CLAIMS, "ptr"), threads=(THREADS, "i64"))}
  %lastp = getelementptr i64, ptr %lists, i64 %threads
  %last = load i64, ptr %lastp, align 8
  %numbers = getelementptr i64, ptr %lastp, i64 1
  br label %next
next:
  %j = phi i64 [ 0, %entry ], [ %j_next, %skip ]
  %left = phi i64 [ 0, %entry ], [ %left_next, %skip ]
  %inside = icmp slt i64 %j, %last
  br i1 %inside, label %look, label %nothing
look:
  %j_next = add i64 %j, 1
  %kp = getelementptr i64, ptr %numbers, i64 %j
  %k = load i64, ptr %kp, align 8
  %real = icmp sge i64 %k, 0
  br i1 %real, label %claimed, label %skip
claimed:
  %claim = getelementptr i64, ptr %claims, i64 %j
  %taken = load atomic i64, ptr %claim monotonic, align 8
  %free = icmp eq i64 %taken, 0
  br i1 %free, label %able, label %skip
able:
  %can = call i1 @dlc_ready(ptr %frame, i64 %k)
  br i1 %can, label %try, label %skip
try:
  %won = call i1 @dlc_claim(ptr %claim)
  br i1 %won, label %run, label %skip
run:
  call void @dlc_piece(ptr %frame, i64 %k)
  ret i64 1
skip:
  %left_next = phi i64 [ %left, %look ], [ %left, %claimed ], [ 2, %able ], [ %left, %try ]
  br label %next
nothing:
  ret i64 %left
}}

define internal void @dlc_flow(ptr %frame, i64 %thread, i64 %end) nounwind {{
entry:
{fields(all=(COUNT, "i64"), lists=(LISTS, "ptr"), claims=(CLAIMS, "ptr"), threads=(THREADS, "i64"))}
  %beyond = sub i64 %end, %thread
  %alone = icmp sgt i64 %beyond, 1
  br i1 %alone, label %one, label %several
one:
  %k_alone = phi i64 [ 0, %entry ], [ %k_next, %one ]
  call void @dlc_piece(ptr %frame, i64 %k_alone)
  %k_next = add i64 %k_alone, 1
  %k_more = icmp slt i64 %k_next, %all
  br i1 %k_more, label %one, label %leave
several:
  %startp = getelementptr i64, ptr %lists, i64 %thread
  %start = load i64, ptr %startp, align 8
  %stopp = getelementptr i64, ptr %startp, i64 1
  %stop = load i64, ptr %stopp, align 8
  %endp = getelementptr i64, ptr %lists, i64 %threads
  %numbers = getelementptr i64, ptr %endp, i64 1
  br label %next
next:
  %j = phi i64 [ %start, %several ], [ %j_next, %advance ]
  %inside = icmp slt i64 %j, %stop
  br i1 %inside, label %number, label %help
number:
  %kp = getelementptr i64, ptr %numbers, i64 %j
  %k = load i64, ptr %kp, align 8
  %claim = getelementptr i64, ptr %claims, i64 %j
  %real = icmp sge i64 %k, 0
  br i1 %real, label %look, label %help
look:
  %tries = phi i64 [ 0, %number ], [ %tries_next, %pause ], [ %tries_next, %other ], [ %tries_next, %yield ]
  %tries_next = add i64 %tries, 1
  %taken = load atomic i64, ptr %claim monotonic, align 8
  %free = icmp eq i64 %taken, 0
  br i1 %free, label %able, label %advance
able:
  %can = call i1 @dlc_ready(ptr %frame, i64 %k)
  br i1 %can, label %try, label %wait
try:
  %won = call i1 @dlc_claim(ptr %claim)
  br i1 %won, label %run, label %advance
run:
  call void @dlc_piece(ptr %frame, i64 %k)
  br label %advance
advance:
  %j_next = add i64 %j, 1
  br label %next
wait:
  %turn = urem i64 %tries_next, {PATIENCE}
  %patient = icmp ne i64 %turn, 0
  br i1 %patient, label %pause, label %other
pause:
  {pause[1]}
  br label %look
other:
  %found = call i64 @dlc_steal(ptr %frame)
  %helped = icmp eq i64 %found, 1
  %short = icmp ult i64 %tries_next, 2048
  %go_on = or i1 %helped, %short
  br i1 %go_on, label %look, label %yield
yield:
  %ignored_rc = call i32 @sched_yield()
  br label %look
help:
  %idle = phi i64 [ 0, %next ], [ 0, %number ], [ %idle_next, %rest ], [ 0, %took ], [ %idle_next, %give ]
  %idle_next = add i64 %idle, 1
  %idle_turn = urem i64 %idle, {PATIENCE}
  %waits = icmp ne i64 %idle_turn, 0
  br i1 %waits, label %rest, label %seek
rest:
  {pause[1]}
  br label %help
seek:
  %what = call i64 @dlc_steal(ptr %frame)
  switch i64 %what, label %still [ i64 0, label %leave
                                   i64 1, label %took ]
took:
  br label %help
still:
  %long = icmp ugt i64 %idle_next, 2048
  br i1 %long, label %give, label %rest
give:
  %ignored_help = call i32 @sched_yield()
  br label %help
leave:
  ret void
}}"""


def _loaded(names: Sequence[str], record: str, place: str, first: int = 1) -> str:
    """Loads of a record's fields from number `first` on."""
    return "\n".join(f"""  %{name}p = getelementptr {record}, ptr {place}, i64 0, i32 {n}
  %{name} = load i64, ptr %{name}p, align 8""" for n, name in enumerate(names, first))


def _timed(profile: bool) -> tuple[str, str]:
    """What comes before and after a call whose time is added to that of launch `%number`."""
    if not profile:
        return "", ""
    return "  %before = call i64 @dlc_now()\n", f"""
  %after = call i64 @dlc_now()
  %spent = sub i64 %after, %before
  %timesp = getelementptr i64, ptr %frame, i64 {TIMES}
  %times = load ptr, ptr %timesp, align 8
  %time = getelementptr i64, ptr %times, i64 %number
  %ignored = atomicrmw add ptr %time, i64 %spent monotonic, align 8"""


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
        functions = [_ARGUMENTS, _run(parallel, profile)]
        if self.pieces:
            functions.append(_flow(profile, pause, self.width))
        return "\n".join([*parts, *functions])


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
