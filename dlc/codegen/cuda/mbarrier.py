"""The device functions behind Arrive, Await and TmaCopy, and the tensor maps (`mbarrier.cuh`)."""

from __future__ import annotations

import re

from dlc.base import texts

_BULK_COPY = re.compile(r"\bbulk_copy_(\d)\(")


def mbarrier_functions(text: str) -> list[str]:
    """The functions that `text` calls."""
    parts = [texts.section(__package__, "mbarrier.cuh", "mbarrier")] if "gate_" in text else []
    return parts + [_bulk_copy(int(rank)) for rank in sorted(set(_BULK_COPY.findall(text)))]


def _bulk_copy(rank: int) -> str:
    """The copy of a box from a view with `rank` axes."""
    return texts.section(
        __package__,
        "mbarrier.cuh",
        "bulk_copy",
        rank=rank,
        parameters="".join(f", int c{k}" for k in range(rank)),
        places=", ".join(f"%{k + 3}" for k in range(rank)),
        values="".join(f', "r"(c{k})' for k in range(rank)),
    )
