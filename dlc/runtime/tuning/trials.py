"""Small programs of one kernel, compiled with a clock around it, run on made-up values, and compared.

The values are of the kernel's own shapes. Candidates run in turns, so that what disturbs the machine disturbs all of
them, and the fastest run of each counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dlc.codegen.llvm.launch.program import launches
from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Node, TensorType
from dlc.ir.loops import ir as loops
from dlc.ir.loops.schedule import Schedule
from dlc.ir.loops.text import print_stmt
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot
from dlc.passes.fuse.unit import Realization
from dlc.runtime import devices
from dlc.runtime.cpu import llvm, machine_code, threads
from dlc.runtime.cpu.executable import Executable
from dlc.runtime.cpu.memory import Buffer

CALL_NS = 100_000  # a call repeats short kernels until it takes about this long
MOST_REPEATS = 16
RACE_S = 0.05  # of the turns of one race
LEAST_TURNS, MOST_TURNS = 3, 100
HOPELESS, BEHIND = 1.3, 1.1  # times the best time: out of the race after one turn, and after three
_PATTERN = 1 << 16  # made-up values before they repeat

Window = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides


@dataclass(eq=False)
class Trial:
    """A candidate as a program. Only launches in `counted` are timed; they run `repeats` times a call. `places` are the
    keys under which a table of schedules has it, `windows` the shapes and strides of outputs that have gaps."""

    schedule: Schedule
    program: Program
    counted: Sequence[int]
    repeats: int
    places: tuple[str, ...] = ()
    windows: Mapping[Slot, Window] = field(default_factory=dict)
    executable: Executable | None = None
    best: float = math.inf  # nanoseconds
    seconds: float = 0.0  # of the last call

    def text(self) -> str:
        """What it runs: candidates may turn out to be the same."""
        return "\n".join(print_stmt(k.body) for k in self.program.kernels())

    def run(self, inputs: list[Buffer]) -> list[Buffer]:
        """One call; its outputs."""
        assert self.executable is not None
        times = self.executable.times
        for k in range(len(times)):
            times[k] = 0
        begin = time.perf_counter()
        out = self.executable.run(inputs)
        self.seconds = time.perf_counter() - begin
        self.best = min(self.best, sum(times[k] for k in self.counted) / self.repeats)
        return out


def one_launch(lowered: LoweredKernel, grain: int, number: int) -> tuple[Program, dict[Slot, Node]]:
    """The program that runs one kernel: what it writes are the outputs, all else it touches the inputs. Also, which
    tensor each of them is."""
    inputs: list[Slot] = []
    outputs: list[Slot] = []
    kernel = replace(lowered.kernel, name=f"{lowered.kernel.name}_{number}")
    refs: dict[Node | int, Ref] = {}
    tensors: dict[Slot, Node] = {}
    pairs = [(b, n) for b, n in zip(kernel.params, lowered.nodes, strict=True) if not isinstance(n, int)]
    for buffer, node in sorted(pairs, key=lambda pair: pair[1].serial):  # the same order for every schedule
        size = node.type.size if buffer.size == loops.RUNTIME else buffer.size
        kind, slots = ("output", outputs) if buffer in kernel.writes else ("input", inputs)
        slots.append(Slot(buffer.name, node.dtype, size, kind, len(slots)))
        refs[node] = Ref(slots[-1])
        tensors[slots[-1]] = node
    for node in lowered.nodes:
        if isinstance(node, int):
            refs[node] = Ref(Slot(f"n{node}", dtypes.int64, 1, "const", value=node))
    launch = Launch(kernel, tuple(refs[n] for n in lowered.nodes), lowered.tasks, grain)
    types = tuple(TensorType(s.dtype, (s.size,)) for s in outputs)
    return Program("trial", tuple(inputs), tuple(outputs), (launch,), types, (*inputs, *outputs)), tensors


def trial(sched: Schedule, program: Program, work_ns: float, places: Sequence[str],
          unchanging: Sequence[int] = (), windows: Mapping[Slot, Window] | None = None) -> Trial:
    """A program without a memory plan, to be timed. What is computed from the inputs numbered `unchanging` alone is
    done once before the loop that the kernel is in, and does not count."""
    repeats = int(max(1, min(MOST_REPEATS, CALL_NS // max(work_ns, 1))))
    fixed = {program.inputs[k] for k in unchanging}
    counted = []
    for k, launch in enumerate(launches(program)):
        reads = {r.slot for r in launch.all_args if r.slot.kind != "const"} - launch.written
        if fixed and reads <= fixed:
            fixed |= launch.written
        else:
            counted.append(k)
    if repeats > 1:
        program.steps = (Repeat(repeats, program.steps),)
    return Trial(sched, plan_memory(program), counted, repeats, tuple(places), windows or {})


def compile_all(trials: Sequence[Trial], target: CpuTarget) -> None:
    """Machine code for some trials, made at the same time."""
    codes = []
    for t in trials:
        codes.append(machine_code.MachineCode(target))
        for kernel in t.program.kernels():
            codes[-1].kernel(kernel)
        codes[-1].flush()
    for t, code in zip(trials, codes, strict=True):
        library = llvm.Library.load(code.finish(t.program, True), threads.pool_symbols(), ("dlc_entry",))
        t.executable = Executable(machine_code.frame_of(t.program), library, t.program, profile=True)


def race(entrants: Sequence[Trial], inputs: list[Buffer], deadline: float) -> None:
    """Time some compiled trials in turns; the first one stays until the end, others leave when clearly slower."""
    racing = list(entrants)
    for turn in range(MOST_TURNS):
        begin = time.perf_counter()
        for t in racing:
            t.run(inputs)
        now = time.perf_counter()
        best = min(t.best for t in racing)
        limit = best * (HOPELESS if turn < LEAST_TURNS else BEHIND)
        racing = [racing[0], *(t for t in racing[1:] if t.best <= limit)]
        if now > deadline or turn + 1 >= LEAST_TURNS and (turn + 1) * (now - begin) > RACE_S:
            return


def made_up(slots: Sequence[Slot], most: Sequence[int], device: str = "cpu") -> list[Buffer]:
    """Values for inputs: floats between 0.1 and 1, whole numbers below `most` of each slot."""
    rng = np.random.default_rng(0)
    out = []
    for slot, high in zip(slots, most, strict=True):
        out.append(devices.allocate(slot.nbytes, device, "values to tune with"))
        if slot.size:
            devices.write(out[-1], np.resize(_values(rng, slot.dtype, min(slot.size, _PATTERN), high), slot.size))
    return out


def _values(rng: np.random.Generator, dtype: DType, n: int, high: int) -> np.ndarray:
    if dtype.is_float:
        return rng.uniform(0.1, 1, n).astype(dtype.np)
    return rng.integers(0, 2 if dtype.is_bool else min(high, 1 << (dtype.bits - 1)), n).astype(dtype.np)


def index_range(units: Sequence[Realization]) -> int:
    """Whole numbers below this are indices of what some units gather from."""
    found = [64]
    stack: list[Node] = [u.node for u in units]
    loaded = {node for u in units for node, _ in u.loads.values()}
    seen: set[Node] = set()
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if n.op == "gather":
            found.append(n.inputs[0].shape[n.attrs["axis"]])
        stack += [i for i in n.inputs if i not in loaded]
    return max(found)


def same(want: Sequence[Buffer], have: Sequence[Buffer], inputs: Sequence[Buffer], made: Trial) -> bool:
    """Are two sets of outputs equal, up to what another order of summation changes?"""
    program = made.program
    pairs = [(_written(a, s, made), _written(b, s, made)) for a, b, s in zip(want, have, program.outputs, strict=True)]
    # what cancels in a sum leaves the rounding of its terms, each of which may be as large as anything around
    around = [*map(_read, inputs, program.inputs), *(a for a, _ in pairs)]
    term, most = max(map(_largest, around), default=0.0), max((x.size for x in around), default=0)
    return all(_close(a, b, s.dtype, term * (most / max(a.size, 1)))
               for (a, b), s in zip(pairs, program.outputs, strict=True))


_BITS = {"bfloat16": 7, "float16": 10, "float32": 22, "float64": 50}  # of two results that are nearly the same


def _close(want: np.ndarray, have: np.ndarray, dtype: DType, terms: float) -> bool:
    """Two results of one size; `terms` is the largest sum of magnitudes that may have cancelled in one."""
    if not dtype.is_float:  # a comparison of two sums may turn over
        return np.count_nonzero(want != have) <= want.size // 1000
    off = want != have  # infinities are equal
    a, b = want[off].astype(np.float64), have[off].astype(np.float64)
    none = np.isnan(a)
    if not (np.isnan(b) == none).all():
        return False
    step = 2.0 ** -_BITS[dtype.name]
    return bool((np.abs(a - b)[~none] <= step * (64 * _largest(want) + terms)).all())


def _largest(values: np.ndarray) -> float:
    """The largest finite magnitude of floats; 0 for anything else."""
    if values.dtype.kind in "biu" or not values.size:
        return 0.0
    sizes = np.abs(values.astype(np.float32 if values.dtype.itemsize < 4 else values.dtype))
    return float(np.max(sizes, initial=0, where=np.isfinite(sizes)))


def _written(buffer: Buffer, slot: Slot, made: Trial) -> np.ndarray:
    """The elements of an output that are written."""
    flat = _read(buffer, slot)
    if slot not in made.windows:
        return flat
    shape, strides = made.windows[slot]
    return np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides])


def _read(buffer: Buffer, slot: Slot) -> np.ndarray:
    return devices.read(buffer, (slot.size,), slot.dtype.np)
