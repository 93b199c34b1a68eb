"""What the CPU emitter and the schedules may know about the machine that they generate code for.

A `CpuTarget` is plain data: the emitter reads it and never asks the machine itself, so that a kernel for another host
can be generated, printed and (where the features allow it) run in a test. `dlc.runtime.cpu.host.detect` fills one in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace

from dlc.codegen.target.tuned import NOTHING, Tuned

LINE, PAGE = 64, 4096  # bytes that a cache fetches at once, and inside which it guesses what comes next

LEVELS = ("sse2", "avx2", "avx512")

# LLVM feature names per x86-64 level; each level contains the ones before it (the psABI's v1, v3 and v4).
LEVEL_FEATURES = {
    "sse2": ("64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"),
    "avx2": (
        *("avx", "avx2", "bmi", "bmi2", "crc32", "cx16", "f16c", "fma", "lzcnt"),
        *("movbe", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3", "xsave"),
    ),
    "avx512": ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"),
}
LEVEL_CPU = {"sse2": "x86-64", "avx2": "x86-64-v3", "avx512": "x86-64-v4"}


@dataclass(frozen=True)
class CpuTarget:
    """A processor to generate code for: LLVM's three names for it, and the sizes that schedules are chosen by.

    `features` is LLVM's feature string ("+avx2,-avx512f"). The `has_*` flags and the vector sizes derive from feature
    flags, never from the name `cpu`, which virtual machines get wrong; the name only tunes instruction order.
    Cache sizes are in bytes: `l1d_bytes` and `l2_bytes` of one core, `l3_bytes` of the whole shared cache. `tuned` are
    schedules that were measured here.
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    has_fma: bool
    has_avx2: bool
    has_avx512f: bool
    has_avx512bf16: bool
    has_amx_bf16: bool
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    threads: int
    tuned: Tuned = NOTHING

    @classmethod
    def from_features(cls, triple: str, cpu: str, features: dict[str, bool], *, l1d_bytes: int, l2_bytes: int,
                      l3_bytes: int, threads: int) -> CpuTarget:
        """The target with these LLVM feature flags; everything about vectors follows from the flags."""
        def has(name: str) -> bool:
            return features.get(name, False)

        arm = triple.startswith(("aarch64", "arm64"))
        avx512 = has("avx512f")
        return cls(
            triple=triple,
            cpu=cpu,
            features=",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(features.items())),
            vector_bytes=64 if avx512 else 32 if has("avx") else 16,
            vector_registers=32 if avx512 or arm else 16,
            has_fma=has("fma") or arm,
            has_avx2=has("avx2"),
            has_avx512f=avx512,
            has_avx512bf16=has("avx512bf16"),
            has_amx_bf16=has("amx-bf16") and has("amx-tile"),
            l1d_bytes=l1d_bytes,
            l2_bytes=l2_bytes,
            l3_bytes=l3_bytes,
            threads=threads,
        )

    @property
    def is_x86(self) -> bool:
        """Whether x86-64 intrinsics may be used."""
        return self.triple.startswith(("x86_64", "amd64"))

    @property
    def level(self) -> str:
        """"sse2", "avx2" or "avx512" (x86-64), or "neon"."""
        if not self.is_x86:
            return "neon"
        if self.has_avx512f:
            return "avx512"
        return "avx2" if self.has_avx2 and self.has_fma else "sse2"

    def lanes(self, itemsize: int) -> int:
        """How many elements of `itemsize` bytes one vector register holds (at least 1)."""
        return max(1, self.vector_bytes // itemsize)

    def key(self) -> str:
        """A stable name for cache keys: everything that code may depend on but the thread count and what was tuned."""
        names = [field.name for field in fields(self) if field.name not in ("threads", "tuned")]
        facts = repr([(name, getattr(self, name)) for name in names])
        return f"{self.triple}-{self.level}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def with_features(self, level: str) -> CpuTarget:
        """This machine's sizes with the instructions of another x86-64 level: "sse2", "avx2" or "avx512".

        Lower levels are exact (only the level's own features), so that their code is the same on every host. The
        machine's own level returns the machine unchanged, extras such as bf16 included. A higher level may be
        compiled and read, but not run here.
        """
        if level not in LEVELS:
            raise ValueError(f"unknown CPU level {level!r}; expected one of {', '.join(LEVELS)}")
        if not self.is_x86:
            raise ValueError(f"CPU level {level!r} exists only on x86-64; this target is {self.triple}")
        if level == self.level:
            return self
        names = [name for step in LEVELS[: LEVELS.index(level) + 1] for name in LEVEL_FEATURES[step]]
        sizes = {name: getattr(self, name) for name in ("l1d_bytes", "l2_bytes", "l3_bytes", "threads")}
        return CpuTarget.from_features(self.triple, LEVEL_CPU[level], dict.fromkeys(names, True), **sizes)

    def with_threads(self, threads: int) -> CpuTarget:
        """The same target used by another number of threads."""
        return replace(self, threads=threads)
