"""A compiled step before emission: kernels in order over one arena.

Every tensor that lives outside a kernel is a `Slot`. Inputs and outputs come from the caller, `arena` slots are packed
into one allocation by the memory plan. A `Launch` runs one kernel on slots; a `Repeat` runs its body `count` times
(`scan`, `each`), where a slot may advance by a number of elements an iteration. The iterations of a parallel Repeat are
dealt out to the threads, and each thread has its own copy of the slots that only the body touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dlc.base.lazy import cached_property
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import TensorType
from dlc.ir.loops.ir import Buffer, Kernel


@dataclass(eq=False)
class Slot:
    """Memory of one tensor. `kind` is input, output, arena or const; `index` is the argument's number, `offset` the
    arena's, `value` the one number that a const slot holds (a run-time size)."""

    name: str
    dtype: DType
    size: int  # elements
    kind: str
    index: int = -1
    offset: int = -1
    alias: Slot | None = None  # a donated output lives in its input
    value: int = 0
    private: Slot | None = None  # the workspace of the parallel Repeat to whose body it belongs; `offset` is inside it

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def memory(self) -> Slot:
        """The slot in whose memory this one lives."""
        slot = self
        while slot.alias is not None:
            slot = slot.alias
        return slot


@dataclass(frozen=True, eq=False)
class Ref:
    """A slot as a kernel's argument: its address is base + start + sum(steps[d] * iteration of Repeat d) elements.

    `steps` has one entry for each counter of each enclosing Repeat, outermost first; missing entries are 0.
    """

    slot: Slot
    start: int = 0
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Segment:
    """More work for the same kernel in the same launch: other tensors (all parameters in one optimizer update)."""

    args: tuple[Ref, ...]
    tasks: int


class Use(NamedTuple):
    """An argument of a launch: its segment, the kernel's parameter, and what that stands for."""

    segment: Segment
    param: Buffer
    ref: Ref


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel on its arguments, and on those of the further segments, in any order.

    `work` is the estimated time on one thread in nanoseconds. Launches in a row with the same `flow` (other than 0)
    are started as soon as they can be: when those of the row are done whose positions are in `after`. `owners` are the
    threads whose turn the pieces are, if these have time.
    """

    kernel: Kernel
    args: tuple[Ref, ...]
    tasks: int = 1
    grain: int = 1  # tasks a thread takes at a time; grain >= all tasks runs on the calling thread alone
    more: tuple[Segment, ...] = ()
    work: float = 0.0
    flow: int = 0
    after: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        return (Segment(self.args, self.tasks), *self.more)

    @cached_property
    def all_tasks(self) -> int:
        return sum(s.tasks for s in self.segments)

    @cached_property
    def all_args(self) -> tuple[Ref, ...]:
        return tuple(r for s in self.segments for r in s.args)

    @cached_property
    def _uses(self) -> dict[Slot, list[Use]]:
        found: dict[Slot, list[Use]] = {}
        for s in self.segments:
            for b, r in zip(self.kernel.params, s.args, strict=True):
                found.setdefault(r.slot, []).append(Use(s, b, r))
        return found

    def uses(self, slot: Slot) -> Sequence[Use]:
        """Where the launch reads or writes the slot."""
        return self._uses.get(slot, ())

    @cached_property
    def touched(self) -> set[Slot]:
        """The slots that the kernel reads or writes."""
        return {r.slot for s in self.segments for r in s.args}

    @cached_property
    def written(self) -> set[Slot]:
        """The slots that the kernel writes."""
        return {r.slot for s in self.segments for b, r in zip(self.kernel.params, s.args, strict=True)
                if b in self.kernel.writes}


@dataclass(frozen=True, eq=False)
class Workers:
    """How the iterations of a parallel Repeat are shared: `count` threads, each with its part of `space`, an arena slot
    of bytes whose size the memory plan finds."""

    count: int
    space: Slot


@dataclass(frozen=True, eq=False)
class Repeat:
    """`body`, `count` times: in order, or with `workers` in any order and at the same time. `extents` are the ranges of
    its counters, the last one fastest; their product is `count`."""

    count: int
    body: tuple[Launch | Repeat, ...]
    extents: tuple[int, ...] = ()
    workers: Workers | None = None

    @property
    def ranges(self) -> tuple[int, ...]:
        return self.extents or (self.count,)

    @cached_property
    def touched(self) -> set[Slot]:
        """The slots that the body reads or writes."""
        return set().union(*(s.touched for s in self.body))

    @cached_property
    def written(self) -> set[Slot]:
        """The slots that the body writes."""
        return set().union(*(s.written for s in self.body))


@dataclass(eq=False)
class Program:
    """`inputs` and `outputs` are slots in the caller's order; `arena_bytes` is the size of the shared scratch."""

    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    steps: tuple[Launch | Repeat, ...]
    output_types: tuple[TensorType, ...] = ()
    slots: tuple[Slot, ...] = ()
    arena_bytes: int = 0
    donate: tuple[tuple[int, int], ...] = ()
    notes: list[str] = field(default_factory=list)
    fused: tuple[Any, ...] = ()  # what fusion made of the graph and of the bodies of its loops (passes.fuse.Fused)
    origins: Mapping[Kernel, Any] = field(default_factory=dict)  # the first group of each (codegen.program.kernels)

    def kernels(self) -> list[Kernel]:
        """Distinct kernels in the order of first use."""
        found: dict[int, Kernel] = {}

        def visit(steps):
            for s in steps:
                if isinstance(s, Repeat):
                    visit(s.body)
                else:
                    found.setdefault(id(s.kernel), s.kernel)

        visit(self.steps)
        return list(found.values())


def rows(steps: Sequence[Launch | Repeat]) -> Iterator[list[Launch | Repeat]]:
    """The steps, those of one flow together."""
    row: list[Launch | Repeat] = []
    for step in steps:
        flow = step.flow if isinstance(step, Launch) else 0
        if row and not (flow and isinstance(row[-1], Launch) and row[-1].flow == flow):
            yield row
            row = []
        row.append(step)
    if row:
        yield row


def pieces(launch: Launch) -> Iterator[tuple[int, int]]:
    """The tasks [begin, end) of each piece of a launch."""
    for begin in range(0, launch.all_tasks, max(1, launch.grain)):
        yield begin, min(begin + launch.grain, launch.all_tasks)
