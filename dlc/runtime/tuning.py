"""Opt-in tuning: each kernel's schedule is the fastest of a short list, measured once and remembered on disk.

`codegen/candidates.py` ranks at most 16 schedules a kernel, the chosen one first. Each kernel is compiled alone with
each of them and timed (`trials.py`), within a fixed time a kernel. A schedule that wins clearly goes into the target's
table of measured schedules, with which the program is then compiled as always.

On disk are the winner of each kernel, and the table of each program: a later process finds the table, then the program,
and measures nothing.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlc.codegen import candidates, llvm_kernel, tuned
from dlc.codegen import schedule as schedules
from dlc.codegen.build import LOWER, _Builder, build_program, target_layout
from dlc.codegen.target import CpuTarget
from dlc.codegen.tuned import Tuned
from dlc.ir.graph import Graph, Node
from dlc.ir.schedule import Contract, Schedule
from dlc.passes.fuse import Fused, Group
from dlc.passes.lower_contract import label_sizes
from dlc.runtime import cache, driver, native, trials
from dlc.runtime.memory import Buffer
from dlc.runtime.trials import Trial

KERNEL_S = 0.5  # of compiling and timing the candidates of one kernel, besides one run of each
AT_ONCE = 4  # candidates compiled together
WORTH_NS = 1500  # kernels estimated to take less are left alone
GAIN = 0.97  # a winner takes at most this part of the chosen schedule's time


def tuned_target(graph: Graph, target: CpuTarget, name: str) -> CpuTarget:
    """The target with the best schedules of the graph's kernels: those remembered, else measured now."""
    found = _table(graph, target)
    if found is None:
        found = _Session(target, name).tune(graph)
        cache.default().put(_table_key(graph, target), tuned.encode(found).encode())
    return replace(target, tuned=found)


def remembered(graph: Graph, target: CpuTarget) -> CpuTarget:
    """The target with what an earlier run measured for the graph; as it is where there is nothing."""
    found = _table(graph, target)
    return target if found is None else replace(target, tuned=found)


def _table_key(graph: Graph, target: CpuTarget) -> str:
    return f"table-{driver.program_key(graph, (), target)}"


def _table(graph: Graph, target: CpuTarget) -> Tuned | None:
    data = cache.default().get(_table_key(graph, target))
    if data is None:
        return None
    try:
        return tuned.decode(data.decode())
    except ValueError:
        return None  # damaged: measured again


@dataclass(frozen=True, eq=False)
class Subject:
    """A kernel to tune: its candidates, the chosen schedule first, how to make a trial of one, and values for it."""

    name: str
    key: str
    schedules: Sequence[Schedule]
    trial: Callable[[Schedule], Trial]
    inputs: Callable[[Trial], list[Buffer]]


@dataclass(frozen=True)
class Winner:
    """What is remembered of a kernel: its schedule (None: the chosen one), the keys of the target's table that this
    goes under, and the keys of the kernel with the chosen one: these need not be tuned."""

    schedule: Schedule | None
    places: tuple[str, ...]
    settled: tuple[str, ...]

    def encode(self) -> bytes:
        packed = None if self.schedule is None else tuned.pack(self.schedule)
        return json.dumps([packed, self.places, self.settled]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Winner:
        """Raises ValueError for what is no winner."""
        found: Any = json.loads(data)
        if not (isinstance(found, list) and len(found) == 3 and all(isinstance(keys, list) for keys in found[1:])
                and all(isinstance(k, str) for keys in found[1:] for k in keys)):
            raise ValueError("not a winner")
        return cls(None if found[0] is None else tuned.unpack(found[0]), tuple(found[1]), tuple(found[2]))


class _Asked(Tuned):
    """A table in which every contraction has the same schedule (or none), and which notes what it was asked for."""

    def __init__(self, sched: Contract | None):
        super().__init__({}, {})
        object.__setattr__(self, "schedule", sched)
        object.__setattr__(self, "nodes", {})

    nodes: dict[str, Node]
    schedule: Contract | None

    def __bool__(self) -> bool:
        return True

    def contract(self, node: Node) -> Contract | None:
        self.nodes.setdefault(tuned.contract_key(node), node)
        return self.schedule


class _Session:
    """The tuning of one graph."""

    def __init__(self, target: CpuTarget, name: str):
        self.target, self.name = target, name
        self.measured = self.changed = 0
        self.begin = time.perf_counter()

    def tune(self, graph: Graph) -> Tuned:
        """The best schedules of all kernels of the graph."""
        for _, graph_pass in driver.GRAPH_PASSES:
            graph = graph_pass(graph)
        contracts: dict[str, Any] = {}
        known: set[str] = set()
        for subject in self.contractions(graph, known):
            winner = self.winner(subject)
            known.update((*winner.places, *winner.settled))
            if winner.schedule is not None:
                contracts.update(dict.fromkeys(winner.places, winner.schedule))
        target = replace(self.target, tuned=Tuned(contracts, {}))
        program = build_program(target_layout(graph, target), (), target, self.name)
        kernels: dict[str, Schedule] = {}
        for subject in self.groups(program.fused):
            winner = self.winner(subject)
            if winner.schedule is not None:
                kernels.update(dict.fromkeys(winner.places, winner.schedule))
        if self.measured:
            spent = time.perf_counter() - self.begin
            print(f"dlc: tuned {self.name}: {self.measured} kernels measured in {spent:.1f} s (at most {KERNEL_S:g} s "
                  f"and {candidates.MOST} runs each), {self.changed} with another schedule", file=sys.stderr)
        return Tuned(contracts, kernels)

    def winner(self, subject: Subject) -> Winner:
        """The best schedule of a kernel, from disk or by measuring."""
        data = cache.tuned().get(subject.key)
        if data is not None:
            try:
                return Winner.decode(data)
            except ValueError:
                pass  # damaged: measured again
        found = search(subject, self.target)
        self.measured += 1
        self.changed += found.schedule is not None
        cache.tuned().put(subject.key, found.encode())
        return found

    # --- contractions, before their operands are packed ---

    def contractions(self, graph: Graph, known: set[str]) -> Iterator[Subject]:
        """The contractions that the layout pass chooses a tile for, but not those in `known`: pieces and packed forms
        of the ones before."""
        asked = _Asked(None)
        target_layout(graph, replace(self.target, tuned=asked))
        fixed = _loop_constants(graph)
        for key, node in list(asked.nodes.items()):
            work = 0.02 * _product(node)
            if key in known or work < WORTH_NS or not node.dtype.is_float:
                continue
            yield self.contraction(key, node, work, fixed)

    def contraction(self, key: str, node: Node, work: float, fixed: set[Node]) -> Subject:
        alone, bases = tuned.alone(node)
        unchanging = [k for k, b in enumerate(bases) if b in fixed]
        if len(unchanging) == len(bases):
            unchanging = []
        first = schedules.contract(node, self.target)

        def trial(sched: Contract) -> Trial:
            asked = _Asked(None if sched == first else sched)
            target = replace(self.target, tuned=asked)
            program = build_program(target_layout(alone, target), (), target, "trial")
            return trials.trial(sched, program, work, list(asked.nodes), unchanging)

        return Subject(
            f"contract {node.attrs['spec']} of {node.inputs[0].type} and {node.inputs[1].type}",
            self.key("contract", f"{key} {unchanging}"),
            candidates.contractions(node, self.target),
            trial,  # type: ignore[arg-type]
            lambda t: trials.made_up(t.program.inputs, [64] * len(t.program.inputs)),
        )

    # --- other kernels, as they are lowered ---

    def groups(self, all_fused: Sequence[Fused]) -> Iterator[Subject]:
        """The kernels of the program that have a choice of schedules."""
        seen: set[str] = set()
        for fused in all_fused:
            for group in fused.groups:
                if group.kind not in ("map", "rows") or all(u.node.type.size == 0 for u in group.units):
                    continue
                lowered = LOWER[group.kind](fused, group, schedules.choose(fused, group, self.target))
                work = schedules.work_ns(fused, group, lowered.kernel.bytes)
                key = tuned.kernel_key(lowered.kernel)
                if key in seen or work < WORTH_NS:
                    continue
                seen.add(key)
                yield self.group(fused, group, key, lowered.kernel.name, work)

    def group(self, fused: Fused, group: Group, key: str, name: str, work: float) -> Subject:
        builder = _Builder(self.target)
        high = trials.index_range(group.units)

        def trial(sched: Schedule) -> Trial:
            lowered = LOWER[group.kind](fused, group, sched)
            program = trials.one_launch(lowered, builder.grain(lowered.tasks, work))
            return trials.trial(sched, program, work, [key])

        return Subject(name, self.key("kernel", key), candidates.group_schedules(fused, group, self.target), trial,
                       lambda t: trials.made_up(t.program.inputs, [high] * len(t.program.inputs)))

    def key(self, kind: str, what: str) -> str:
        """All that a winner depends on."""
        return native.object_key(f"{kind} {what} {self.target.threads}", self.target, opt_level=llvm_kernel.OPT_LEVEL,
                                 passes=driver.compiler_version())


def search(subject: Subject, target: CpuTarget) -> Winner:
    """Compile and time the candidates of a kernel in the order of their ranks, until the time is over."""
    begin = time.perf_counter()
    deadline = begin + KERNEL_S
    first = subject.trial(subject.schedules[0])
    trials.compile_all([first], target)
    inputs = subject.inputs(first)
    expected = first.run(inputs)
    each = (time.perf_counter() - begin) / 2  # seconds of a candidate: two are compiled at the same time
    deadline += candidates.MOST * first.seconds
    best, at, seen = first, 1, {first.text()}
    while at < len(subject.schedules):
        started = time.perf_counter()
        fitting = int((deadline - started) / each)
        if fitting < 1:
            break
        batch: list[Trial] = []
        while at < len(subject.schedules) and len(batch) < min(AT_ONCE, fitting):
            trial = subject.trial(subject.schedules[at])
            if trial.text() not in seen:
                batch.append(trial)
                seen.add(trial.text())
            at += 1
        if not batch:
            break
        trials.compile_all(batch, target)
        sound = [t for t in batch if _right(subject, t, expected, inputs)]
        trials.race([first, *([best] if best is not first else []), *sound], inputs, deadline)
        best = min((first, best, *sound), key=lambda t: t.best)
        each = max(each, (time.perf_counter() - started) / len(batch))
    if best is not first and best.best <= GAIN * first.best:  # once more: of many, one is the fastest by luck
        first.best = best.best = math.inf
        trials.race([first, best], inputs, math.inf)
    if best.best > GAIN * first.best:
        best = first
    return Winner(None, (), first.places) if best is first else Winner(best.schedule, best.places, first.places)


def _right(subject: Subject, trial: Trial, expected: list[Buffer], inputs: list[Buffer]) -> bool:
    """Does a candidate compute what the chosen schedule does? It is not used, and said to be wrong, if not."""
    if trials.same(expected, trial.run(inputs), inputs, trial.program):
        return True
    warnings.warn(f"dlc: {subject.name} is computed wrongly with {trial.schedule!r}, which is not used; please report "
                  "this", RuntimeWarning, stacklevel=2)
    return False


def _loop_constants(graph: Graph) -> set[Node]:
    """What stays the same in all iterations of the loop that it is in: packing it is done before the loop."""
    out: set[Node] = set()
    for node in graph.nodes():
        if node.op == "scan":
            body, consts = node.attrs["body"], node.attrs["consts"]
            fixed = set(body.params[:consts])
            for n in body.nodes():
                if n.op not in ("param", "item") and n.inputs and all(i in fixed for i in n.inputs):
                    fixed.add(n)
            out |= fixed | _loop_constants(body)
    return out


def _product(node: Node) -> int:
    total = 1
    for extent in label_sizes(node).values():
        total *= extent
    return total
