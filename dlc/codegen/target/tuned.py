"""Schedules that were measured to be the best, as data: a target carries them, and `codegen/choice.py` asks it.

`codegen/tuned_text.py` says by which keys they are known, and writes them as text. A target is made in every process,
so this file imports nothing of the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlc.base.lazy import cached_property

if TYPE_CHECKING:
    from dlc.ir.graph.graph import Node
    from dlc.ir.loops import schedule


@dataclass(frozen=True, eq=False)
class Tuned:
    """Measured schedules: `contracts` by `tuned_text.contract_key`, `kernels` by `tuned_text.kernel_key`."""

    contracts: Mapping[str, schedule.Contract]
    kernels: Mapping[str, schedule.Schedule]

    def __bool__(self) -> bool:
        return bool(self.contracts or self.kernels)

    def contract(self, node: Node) -> schedule.Contract | None:
        """The measured schedule of a contraction, if there is one."""
        from dlc.codegen.schedule.tuned_text import contract_key

        return self.contracts.get(contract_key(node))

    @cached_property
    def digest(self) -> str:
        """A name for cache keys: equal for equal tables, "" for the empty one."""
        if not self:
            return ""
        from dlc.codegen.schedule import tuned_text

        return tuned_text.digest(tuned_text.encode(self))


NOTHING = Tuned({}, {})
