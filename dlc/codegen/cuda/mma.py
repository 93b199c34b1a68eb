"""The device functions behind Mma, Async and Wait (`mma.cuh`). A module gets those that it calls."""

from __future__ import annotations

import re

from dlc.base import texts
from dlc.codegen.cuda.mbarrier import mbarrier_functions

# What a text has in it that needs a section. Modules have the sections in this order.
CALLS = {
    "copy_async": ("copy_async", "commit_copies", "wait_copies"),
    "swizzled": ("swizzled", "mma_16", "mma_held_16", "mma_tf32"),
    "mma_tf32": ("mma_tf32<", "mma_tf32_held<"),
    "mma_tf32_held": ("mma_tf32_held<",),
    "wgmma_sync": ("fence_shared", "wgmma_"),
    "mma_16": ("mma_16", "mma_held_16"),
    "pair_of": ("_held_",),
    "mma_held_16": ("mma_held_16",),
    "sync_first": ("sync_first<",),
    "setmaxnreg": ("_registers<",),
}
_WGMMA = (("wgmma", re.compile(r"\bwgmma_64x(\d+)\b")), ("wgmma_held", re.compile(r"\bwgmma_held_64x(\d+)\b")))
_TYPES = (("half", "f16"), ("bf16", "bf16"))  # in CUDA C, and in PTX


def matrix_functions(text: str) -> str:
    """The functions that `text` calls."""
    sections = texts.sections(__package__, "mma.cuh")
    parts = [sections[name] for name, calls in CALLS.items() if any(call in text for call in calls)]
    parts += mbarrier_functions(text)
    for name, pattern in _WGMMA:
        for n in sorted(map(int, set(pattern.findall(text)))):
            parts += [_wgmma(name, n, c_type, ptx) for c_type, ptx in _TYPES]
    return "\n".join(parts)


def _wgmma(name: str, n: int, c_type: str, ptx: str) -> str:
    """The function for n columns: the sums are n / 2 operands, a left tile that is held 4, all else one each."""
    sums, left = n // 2, 4 if name == "wgmma_held" else 1
    others = ("b", "tb", "add") if name == "wgmma_held" else ("b", "ta", "tb", "add")
    operands = {other: f"%{k}" for k, other in enumerate(others, sums + left)}
    operands["sums"] = ", ".join(f"%{k}" for k in range(sums))
    operands["a"] = ", ".join(f"%{k}" for k in range(sums, sums + left))
    outputs = ", ".join(f'"+f"(d[{k // 4}][{k % 4}])' for k in range(sums))
    return texts.section(__package__, "mma.cuh", name, n=n, tiles=n // 8, type=c_type, ptx=ptx, outputs=outputs,
                         **operands)
