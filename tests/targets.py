"""Targets that tests name, whatever the host is: their code can be made, read and interpreted anywhere."""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.gpu_target import GpuTarget
from dlc.codegen.target import LEVELS, CpuTarget

WITH_BF16 = ",+avx512bf16"
WITH_AMX = WITH_BF16 + ",+amx-tile,+amx-bf16"
GPUS = ("sm_80", "sm_90a")
CPUS = (*LEVELS, "avx512-bf16", "amx")


def cpu(name: str, threads: int = 4) -> CpuTarget:
    """A processor by its instructions: a level ("sse2", "avx2", "avx512"), "avx512-bf16", or "amx", which has both."""
    plain = CpuTarget.from_features("x86_64-unknown-linux-gnu", "x86-64", {}, l1d_bytes=32 << 10, l2_bytes=1 << 20,
                                    l3_bytes=32 << 20, threads=threads)
    if name in LEVELS:
        return plain.with_features(name)
    wide = plain.with_features("avx512")
    amx = name == "amx"
    features = wide.features + (WITH_AMX if amx else WITH_BF16)
    return replace(wide, has_avx512bf16=True, has_amx_bf16=amx, features=features)


def target(name: str, threads: int = 4) -> CpuTarget | GpuTarget:
    """A target of `CPUS` or `GPUS`; `threads` of a processor."""
    return GpuTarget.of(name) if name in GPUS else cpu(name, threads)
