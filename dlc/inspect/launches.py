"""What the launches of a program come to: how often each kernel runs, and what that moves and computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dlc.ir.loc import Loc
from dlc.ir.loops.ir import RUNTIME, Kernel
from dlc.ir.program.program import Launch, Program, Repeat


@dataclass
class Work:
    """One kernel over one run of the program. `places` are its positions in `llvm_program.launches(program)`."""

    kernel: Kernel
    launches: int = 0
    tensors: int = 0  # sets of arguments: more than launches where one launch serves several
    bytes: float = 0
    flops: float = 0
    places: list[int] = field(default_factory=list)


def work(program: Program) -> list[Work]:
    """Every kernel of the program, in the order of first use."""
    found: dict[int, Work] = {}
    for place, (launch, times) in enumerate(each(program.steps)):
        w = found.setdefault(id(launch.kernel), Work(launch.kernel))
        w.places.append(place)
        w.launches += times
        w.tensors += times * len(launch.segments)
        moved = launch_bytes(launch)
        w.bytes += times * moved
        # a size-generic kernel counts its work for the first size that it was made for
        w.flops += times * launch.kernel.flops * (moved / launch.kernel.bytes if launch.kernel.bytes else 1)
    return list(found.values())


def each(steps: Sequence[Launch | Repeat], times: int = 1) -> Iterator[tuple[Launch, int]]:
    """(launch, how often it runs) in the order of the text."""
    for step in steps:
        if isinstance(step, Repeat):
            yield from each(step.body, times * step.count)
        else:
            yield step, times


def threads(steps: Sequence[Launch | Repeat], workers: int = 1) -> Iterator[int]:
    """For each launch in the order of the text, how many threads run it with iterations of their own."""
    for step in steps:
        if isinstance(step, Repeat):
            yield from threads(step.body, step.workers.count if step.workers is not None else workers)
        else:
            yield workers


def launch_bytes(launch: Launch) -> int:
    """Bytes of all arguments of a launch."""
    return sum(
        (ref.slot.size if param.size == RUNTIME else param.size) * param.dtype.itemsize
        for segment in launch.segments
        for param, ref in zip(launch.kernel.params, segment.args, strict=True)
    )


def lines(kernel: Kernel) -> str:
    """The user's source lines, short: 'mlp.py:12, 14'."""
    out: dict[str, list[int]] = {}
    for loc in kernel.locs:
        if isinstance(loc, Loc):
            numbers = out.setdefault(loc.file.replace("\\", "/").rpartition("/")[2], [])
            if loc.line not in numbers:
                numbers.append(loc.line)
    return "; ".join(f"{file}:{', '.join(map(str, sorted(numbers)))}" for file, numbers in out.items())
