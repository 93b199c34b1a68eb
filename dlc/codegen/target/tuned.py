"""Schedules that were measured to be the best, as data: a target carries them, and `schedule/choice.py` asks it.

`schedule/tuned_text.py` says by which keys they are known, and writes them as text. A target is made in every process,
so this file imports nothing of the compiler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlc.base.lazy import cached_property

if TYPE_CHECKING:
    from dlc.ir.graph.graph import Node
    from dlc.ir.loops import schedule


@dataclass(frozen=True, eq=False)
class Tuned:
    """Measured schedules: `contracts` by `tuned_text.contract_key`, `kernels` by `tuned_text.kernel_digest`."""

    contracts: Mapping[str, schedule.Contract]
    kernels: Mapping[str, schedule.Schedule]

    def __bool__(self) -> bool:
        return bool(self.contracts or self.kernels)

    def contract(self, key: str, node: Node) -> schedule.Contract | None:
        """The measured schedule of the contraction that is known by `key`, if there is one."""
        return self.contracts.get(key)

    @cached_property
    def digest(self) -> str:
        """A name for cache keys: equal for equal tables, "" for the empty one."""
        if not self:
            return ""
        parts = [sorted((key, repr(s)) for key, s in part.items()) for part in (self.contracts, self.kernels)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


NOTHING = Tuned({}, {})
