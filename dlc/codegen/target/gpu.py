"""What the CUDA emitter and the GPU's schedules may know about the GPU that they generate code for.

Plain data, as `CpuTarget` is: a kernel for any GPU can be generated, compiled and read on a machine that has none.
`dlc.runtime` fills one in from the device; `GpuTarget.of("sm_90a")` gives a typical card of an architecture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from dlc.codegen.target.tuned import NOTHING, Tuned

# architecture: (multiprocessors, shared memory of a block at most, second-level cache), of its data-centre card
_TYPICAL = {
    "sm_80": (108, 163 << 10, 40 << 20),
    "sm_86": (84, 99 << 10, 6 << 20),
    "sm_89": (128, 99 << 10, 72 << 20),
    "sm_90a": (132, 227 << 10, 50 << 20),
    "sm_100a": (148, 227 << 10, 126 << 20),
    "sm_120a": (170, 99 << 10, 96 << 20),
}


@dataclass(frozen=True)
class GpuTarget:
    """A GPU: NVRTC's name for its architecture, the sizes (bytes) that schedules are chosen by, schedules that were
    measured on it, and whether matrix instructions may multiply float32 (as TF32)."""

    arch: str
    sm_count: int
    shared_bytes: int
    l2_bytes: int
    tuned: Tuned = NOTHING
    tf32: bool = False

    @classmethod
    def of(cls, arch: str) -> GpuTarget:
        """The typical card of an architecture: "sm_80", "sm_90a" ("sm_90" means that too). Raises ValueError."""
        name = arch if arch in _TYPICAL else arch + "a"
        if name not in _TYPICAL:
            raise ValueError(f"unknown GPU architecture {arch!r}; known are {', '.join(_TYPICAL)}")
        return cls(name, *_TYPICAL[name])

    @property
    def threads(self) -> int:
        """Threads that run at the same time."""
        return self.sm_count * 2048

    def key(self) -> str:
        """A stable name for cache keys: everything that code may depend on but what was tuned."""
        facts = repr((self.arch, self.sm_count, self.shared_bytes, self.l2_bytes, self.tf32))
        return f"{self.arch}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
