"""`fn.lower(*args)`: what a jitted function becomes for some arguments, to be read and timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dlc.base.errors import TraceError
from dlc.frontend.core import eager
from dlc.frontend.core.precision import setting
from dlc.frontend.jit.calls import Call
from dlc.frontend.jit.compiled import Compiled
from dlc.frontend.jit.entry import Entry
from dlc.frontend.jit.names import name_parameters
from dlc.inspect.launches import lines, threads, work
from dlc.inspect.machine import machine, with_tf32
from dlc.inspect.stages import STAGES, Stages
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.ir import Kernel
from dlc.ir.program.program import Program
from dlc.runtime import devices, programs
from dlc.runtime.interpreted import Interpreted


class KernelTime(NamedTuple):
    """One kernel over one call of the function."""

    name: str
    launches: int
    seconds: float
    bytes: float
    flops: float
    lines: str


class Profile(NamedTuple):
    """The kernels in program order, and the seconds of a whole call."""

    kernels: list[KernelTime]
    seconds: float


class Lowered:
    """A function traced for some arguments; nothing is compiled further than somebody looks.

    `device` in its methods says what to compile for: "cpu", "cuda", "cuda:1", or "cuda:sm_90", which need not be there;
    by default where the arguments are.
    """

    def __init__(self, name: str, fn: Callable[..., Any], tuned: bool, traced: tuple[Entry, Call],
                 arguments: tuple[tuple, dict[str, Any]]):
        self.name, self._tuned, self._tf32 = name, tuned, setting.tf32
        self._entry, self._call = traced
        self._held = fn, arguments  # an entry keeps nothing alive
        name_parameters(self._entry, fn, *arguments)
        self._stages: dict[str, Stages] = {}

    def __repr__(self) -> str:
        return f"<{self.name} lowered; .text(stage) for stages {', '.join(STAGES)}>"

    @property
    def graph(self) -> Graph:
        """The traced graph."""
        return self._entry.graph

    @property
    def device(self) -> str:
        """Where the function runs for these arguments."""
        return self._entry.device

    def _for(self, device: str | None) -> Stages:
        where = device or self._entry.device
        if where not in self._stages:
            self._stages[where] = Stages(self._entry.graph, self._entry.donate, self.name,
                                         with_tf32(machine(where), self._tf32), self._tuned)
        return self._stages[where]

    def text(self, stage: str, device: str | None = None) -> str:
        """One of the stages that `dlc dump` shows, as text. Raises ValueError for a name that is none of them."""
        if device is None and stage in ("cuda", "ptx", "sass") and self._entry.device == "cpu":
            device = "cuda"
        return self._for(device).text(stage)

    def kernels(self, stage: str = "scheduled", device: str | None = None) -> list[Kernel]:
        """The kernels as Loop IR: at stage "loops" or "scheduled"."""
        return self._for(device).kernels(stage)

    def program(self, device: str | None = None) -> Program:
        """The launches in order and the memory plan."""
        return self._for(device).program()

    def profile(self, repeat: int = 20) -> Profile:
        """Run the function `repeat` times with a clock read around each launch, and without; medians.

        State that it updates is updated. Raises TraceError where it is interpreted.
        """
        entry, call = self._entry, self._call
        executable = programs.compile_graph(entry.graph, entry.donate, self.name, device=entry.device, profile=True,
                                          tune=self._tuned, tf32=self._tf32)
        if isinstance(executable, Interpreted) or executable.times is None:
            raise TraceError("there is nothing to profile under DLC_INTERPRET=1")
        profiled = Compiled(entry, executable)
        on_gpu = entry.device != "cpu"
        usual = Compiled(entry, eager.compiled(entry.graph, entry.donate, entry.device)) if on_gpu else profiled
        for _ in range(3):
            usual.run(call.tensors, call.numbers)
        whole = np.zeros(repeat)
        for k in range(repeat):
            start = time.perf_counter()
            usual.run(call.tensors, call.numbers)
            devices.synchronize(entry.device)
            whole[k] = time.perf_counter() - start
        profiled.run(call.tensors, call.numbers)
        counters = np.frombuffer(executable.times, np.int64)  # nanoseconds of each launch, added up
        launches = np.zeros((repeat, len(counters)))
        for k in range(repeat):
            counters[:] = 0
            profiled.run(call.tensors, call.numbers)
            launches[k] = counters
        spent = np.median(launches, 0) / 1e9
        spent[:] /= [*threads(executable.program.steps)] or 1  # of loops whose iterations run at the same time
        rows = [
            KernelTime(w.kernel.name, w.launches, float(spent[w.places].sum()), w.bytes, w.flops, lines(w.kernel))
            for w in work(executable.program)
        ]
        return Profile(rows, float(np.median(whole)))
