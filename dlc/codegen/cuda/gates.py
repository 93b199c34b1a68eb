"""Statements around a block's gates (mbarriers in shared memory), and the bulk copies that pass them."""

from __future__ import annotations

import math

from dlc.codegen.cuda.expr import Expressions
from dlc.codegen.cuda.launch import shared_buffers
from dlc.codegen.cuda.writer import Writer
from dlc.ir.loops.instructions import Arrive, Await, TmaCopy
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.traverse import exprs
from dlc.ir.program.tensor_map import arrivals, tensor_maps


class Gates:
    """Writes Arrive, Await and TmaCopy."""

    def __init__(self, writer: Writer, expressions: Expressions, kernel: Kernel) -> None:
        self.w, self.x, self.kernel = writer, expressions, kernel
        self.bare = expressions.bare
        self._maps: dict[tuple, str] = {}  # of the views that bulk copies read

    def parameters(self) -> list[str]:
        """The kernel's parameters for tensor maps."""
        for n, view in enumerate(tensor_maps(self.kernel)):
            self._maps[view] = self.w.name(None, f"map{n}")
        return [f"const __grid_constant__ TensorMap {name}" for name in self._maps.values()]

    def start(self) -> None:
        """The first thread makes the block's gates."""
        gates = arrivals(self.kernel)
        if not gates:
            return
        self.w.open("if (threadIdx.x == 0)")
        for b, of in gates.items():
            self.w.line(f"for (int i = 0; i < {b.size}; ++i) gate_start(&{self.w.names[b]}[i], {of});")
        self.w.line("gates_started();")
        self.w.close()
        self.w.line("__syncthreads();")

    def write(self, s: Arrive | Await | TmaCopy) -> None:
        self.x.count(exprs(s))
        gate = f"&{self.w.names[s.gate]}[{self.bare(s.slot)}]"
        if isinstance(s, Arrive):
            self.w.line(f"gate_arrive({gate});")
        elif isinstance(s, Await):
            self.w.line(f"gate_await({gate}, {self.bare(s.phases)});")
            self.x.forget([b for b in shared_buffers(self.kernel) if b is not s.gate])
        else:
            source = self._maps[s.source, s.view, s.buffer.swizzled]
            at = ", ".join(self.bare(e) for e in reversed(s.at))
            to = f"&{self.w.names[s.buffer]}{self.x.subscripts(s.index)}"
            self.w.line(f"gate_expect({gate}, {math.prod(s.view.box) * s.buffer.dtype.itemsize});")
            self.w.line(f"bulk_copy_{len(s.at)}({to}, {source}, {gate}, {at});")
