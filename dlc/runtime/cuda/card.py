"""What a GPU is called, and what to install where none can be used."""

from __future__ import annotations

from typing import NamedTuple

INSTALL = "pip install cupy-cuda13x nvidia-cuda-nvrtc (cupy-cuda12x for a driver older than 580)"


class Card(NamedTuple):
    """One GPU: its number, marketing name, architecture ("sm_90a"), and total and free bytes."""

    index: int
    name: str
    arch: str
    total_bytes: int
    free_bytes: int


def arch_name(major: int, minor: int) -> str:
    """NVRTC's name of a compute capability. From Hopper on the "a" variant, which has the tensor core instructions."""
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")
