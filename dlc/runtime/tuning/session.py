"""The tuning of one graph: which kernels are worth it, their candidates, the winners."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dlc.codegen.cost import cpu_contract
from dlc.codegen.cost.cpu_blocking import turn
from dlc.codegen.lower.body import LoweredKernel
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.lowering import LOWER
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.schedule import cpu_candidates as candidates
from dlc.codegen.schedule import tuned_text
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.tuned import Tuned
from dlc.ir.graph.graph import Graph, Node, topological
from dlc.ir.loops.schedule import Contract, Schedule
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.views.contraction import label_sizes
from dlc.passes.views.elements import reach
from dlc.runtime import cache
from dlc.runtime import compile as compiler
from dlc.runtime.cpu import llvm, stored
from dlc.runtime.tuning import search, trials
from dlc.runtime.tuning.search import Subject, Winner
from dlc.runtime.tuning.trials import Trial

KERNEL_S = 0.5  # of compiling and timing the candidates of one kernel, besides one run of each
AT_ONCE = 4  # candidates compiled together
WORTH_NS = 1500  # kernels estimated to take less are left alone


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

    def contract(self, key: str, node: Node) -> Contract | None:
        self.nodes.setdefault(key, node)
        return self.schedule


class Session:
    """The tuning of one graph on the CPU, and what a GPU's has in common with it."""

    seconds: float
    at_once = AT_ONCE
    kinds: tuple[str, ...] = ("map", "rows")

    def __init__(self, target: CpuTarget, name: str):
        self.target, self.name, self.device = target, name, "cpu"
        self.seconds = KERNEL_S
        self.measured = self.changed = 0
        self.begin = time.perf_counter()

    def compile(self, made: Sequence[Trial]) -> None:
        """Give each trial its executable."""
        trials.compile_all(made, self.target)

    def tune(self, graph: Graph) -> Tuned:
        """The best schedules of all kernels of the graph."""
        graph = compiler.lower(graph, compiler.Job(self.target), last="blocks")
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
            print(f"dlc: tuned {self.name}: {self.measured} kernels measured in {spent:.1f} s (at most "
                  f"{self.seconds:g} s and {candidates.MOST} runs each), {self.changed} with another schedule",
                  file=sys.stderr)
        return Tuned(contracts, kernels)

    def winner(self, subject: Subject) -> Winner:
        """The best schedule of a kernel, from disk or by measuring."""
        data = cache.tuned().get(subject.key)
        if data is not None:
            try:
                return Winner.decode(data)
            except ValueError:
                pass  # damaged: measured again
        found = search.search(subject, self)
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
        # passes make new nodes of a loop's body, but leave its parameters
        fixed: set[Node] = set()
        serial: set[Node] = set()
        for loop, on_one_thread in _loops(graph):
            body = loop.attrs["body"]
            fixed.update(body.params[: loop.attrs["consts"]] if loop.op == "scan" else ())
            serial.update(body.params if on_one_thread else ())
        for key, node in list(asked.nodes.items()):
            work = 0.02 * _product(node)
            if key in known or work < WORTH_NS or not node.dtype.is_float:
                continue
            threads = self.target.threads if serial.isdisjoint(_leaves(node)) else 1
            yield self.contraction(key, node, work, fixed, threads)

    def contraction(self, key: str, node: Node, work: float, fixed: set[Node], threads: int) -> Subject:
        """What is to be tuned of a contraction that runs on `threads` threads. What is computed from parameters in
        `fixed` is packed before the loop that the contraction is in."""
        machine = self.target.with_threads(threads)
        alone, bases = tuned_text.alone(node)
        unchanging = [k for k, b in enumerate(bases) if _leaves(b) and _leaves(b) <= fixed]
        if len(unchanging) == len(bases):
            unchanging = []
        first = cpu_contract.contract(node, machine)

        def trial(sched: Contract) -> Trial:
            asked = _Asked(None if sched == first else sched)
            target = replace(machine, tuned=asked)
            program = build_program(target_layout(alone, target), (), target, "trial")
            for slot, p in zip(program.inputs, alone.params, strict=True):
                if "strides" in p.attrs:  # a window of a larger tensor
                    slot.size = reach(p.shape, p.attrs["strides"])
            return trials.trial(sched, program, work, list(asked.nodes), unchanging)

        return Subject(
            f"contract {node.attrs['spec']} of {node.inputs[0].type} and {node.inputs[1].type}",
            self.key("contract", f"{key} {unchanging}", threads),
            candidates.contractions(node, machine),
            trial,  # type: ignore[arg-type]
            lambda t: trials.made_up(t.program.inputs, [64] * len(t.program.inputs), self.device),
        )

    # --- other kernels, as they are lowered ---

    def groups(self, all_fused: Sequence[Fused]) -> Iterator[Subject]:
        """The kernels of the program that have a choice of schedules."""
        seen: set[str] = set()
        for fused in all_fused:
            machine = self.machine(fused)
            for group in fused.groups:
                if group.kind not in self.kinds or all(u.node.type.size == 0 for u in group.units):
                    continue
                lowered = self.lower(fused, group, self.choose(fused, group, machine))
                work = self.work_ns(fused, group, lowered)
                key = tuned_text.kernel_digest(lowered.kernel)
                if key not in seen and work:
                    seen.add(key)
                    yield self.group(fused, group, machine, key, lowered.kernel.name, work)

    def group(self, fused: Fused, group: Group, machine: Any, key: str, name: str, work: float) -> Subject:
        """What is to be tuned of a group's kernel."""
        high = trials.index_range(group.units)
        made = itertools.count()

        def trial(sched: Schedule) -> Trial:
            lowered = self.lower(fused, group, sched)
            program, tensors = trials.one_launch(lowered, self.grain(lowered, work, machine), next(made))
            layout = fused.table.layout
            windows = {s: (n.shape, layout[n]) for s, n in tensors.items() if n in layout}
            return trials.trial(sched, program, work, [key], windows=windows)

        return Subject(name, self.key("kernel", key, machine.threads), self.candidates(fused, group, machine), trial,
                       lambda t: trials.made_up(t.program.inputs, [high] * len(t.program.inputs), self.device))

    def machine(self, fused: Fused) -> Any:
        """The target with as many threads as the kernels of `fused` may use."""
        return self.target.with_threads(fused.threads or self.target.threads)

    def choose(self, fused: Fused, group: Group, machine: Any) -> Schedule:
        """The schedule that is not measured."""
        return schedules.choose(fused, group, machine)

    def lower(self, fused: Fused, group: Group, sched: Schedule) -> LoweredKernel:
        """A group's kernel with a schedule."""
        return LOWER[group.kind](fused, group, sched)

    def candidates(self, fused: Fused, group: Group, machine: Any) -> Sequence[Schedule]:
        """The schedules to try for a group."""
        return candidates.group_schedules(fused, group, machine)

    def work_ns(self, fused: Fused, group: Group, lowered: LoweredKernel) -> float:
        """The estimated time of a kernel; 0 where that is too little to be tuned."""
        work = schedules.work_ns(fused, group, lowered.kernel.bytes)
        return work if work >= WORTH_NS else 0

    def grain(self, lowered: LoweredKernel, work: float, machine: Any) -> int:
        """Tasks that a thread takes at a time."""
        cut = isinstance(lowered.kernel.schedule, Contract)
        return turn(lowered.tasks, work, machine.threads, cut)

    def key(self, kind: str, what: str, threads: int) -> str:
        """All that a winner depends on."""
        return llvm.object_key(f"{kind} {what} {threads}", self.target, passes=stored.compiler_version())


def _loops(graph: Graph, on_one_thread: bool = False) -> Iterator[tuple[Node, bool]]:
    """The loops of a graph, those inside others too; and whether each iteration of them runs on one thread."""
    for node in graph.nodes():
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            alone = on_one_thread or bool(node.attrs.get("parallel"))
            yield node, alone
            yield from _loops(body, alone)


def _leaves(node: Node) -> set[Node]:
    return {n for n in topological([node]) if n.op == "param"}


def _product(node: Node) -> int:
    total = 1
    for extent in label_sizes(node).values():
        total *= extent
    return total
