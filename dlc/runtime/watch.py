"""Who looks on while something is compiled, and checks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dlc.ir.graph.graph import Graph

Observer = Callable[[str, Any, float], None]  # (stage, its result, seconds)


class Watch:
    """Tells the observer of each stage with the seconds it took, and verifies what it sees when asked to."""

    def __init__(self, observe: Observer | None, check: bool):
        self.observe, self.check = observe, check
        self.last = time.perf_counter()

    def __call__(self, stage: str, result: Any) -> None:
        if self.observe is not None:
            self.observe(stage, result, time.perf_counter() - self.last)
        if self.check and isinstance(result, Graph):
            from dlc.ir.graph.verify import verify as verify_graph

            verify_graph(result, stage)
        if self.check and stage == "donated":
            from dlc.ir.loops.verify import verify as verify_kernel
            from dlc.ir.program.coverage import check_program

            for k in result.kernels():
                verify_kernel(k, stage)
            check_program(result)
        if self.check and stage == "program":
            from dlc.codegen.program.donation import verify_aliases

            verify_aliases(result)
        self.last = time.perf_counter()
