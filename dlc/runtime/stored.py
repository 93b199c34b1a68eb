"""Compiled programs in the disk cache: their key, and how they are written and read (a GPU's: `cuda_stored.py`)."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dlc.ir.graph import structure
from dlc.runtime import cache, native, threads
from dlc.runtime.executable import Executable, Frame

if TYPE_CHECKING:
    from dlc.codegen.target import CpuTarget
    from dlc.ir.graph import Graph


@functools.cache
def compiler_version() -> str:
    """A digest of the compiler's own source: a changed compiler never runs what another one left in the cache."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in ("ir", "passes", "codegen", "runtime"):
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def program_key(graph: Graph, donate: tuple[tuple[int, int], ...], target: CpuTarget) -> str:
    """Everything that a program's machine code depends on."""
    what = repr((structure(graph), donate, target.threads)) + target.tuned.digest
    return native.object_key(what, target, passes=compiler_version())


def keep(key: str, frame: Frame, objects: list[bytes]) -> None:
    """Store a program under `key`: a line of JSON, then its objects."""
    head = json.dumps([*frame, [len(o) for o in objects]]).encode()
    cache.default().put(key, b"\n".join((head, b"".join(objects))))


def load(key: str) -> Executable | None:
    """The executable stored under `key`, or None."""
    data = cache.default().get(key)
    if data is None:
        return None
    head, _, code = data.partition(b"\n")
    try:
        into, sizes, arena, lengths = json.loads(head)
        ends = list(itertools.accumulate(lengths))
        objects = [code[end - n : end] for end, n in zip(ends, lengths, strict=True)]
        library = native.Library.load(objects, threads.pool_symbols(), ("dlc_entry",))
        return Executable(Frame(tuple(into), tuple(sizes), arena), library)
    except (ValueError, native.LinkError):
        return None  # a damaged entry: compile again
