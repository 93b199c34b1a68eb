"""Compiled programs in the disk cache: their key, and how they are written and read (a GPU's: `cuda/stored.py`)."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlc.base import settings
from dlc.base.errors import PACKAGE
from dlc.ir.graph.graph import structure
from dlc.runtime import cache
from dlc.runtime.cpu import llvm, threads
from dlc.runtime.cpu.executable import Executable, Frame

if TYPE_CHECKING:
    from dlc.codegen.target.cpu import CpuTarget
    from dlc.ir.graph.graph import Graph


@functools.cache
def compiler_version() -> str:
    """A digest of the compiler's own source: a changed compiler never runs what another one left in the cache."""
    return source_digest(Path(PACKAGE))


def source_digest(package: Path) -> str:
    """A digest of all files of the compiler's folders below `package`, texts that it emits as they are among them."""
    digest = hashlib.sha256()
    for folder in ("base", "ir", "passes", "codegen", "runtime"):
        for path in sorted((package / folder).rglob("*")):
            if path.suffix in (".py", ".ll", ".cuh"):
                digest.update(f"{path.relative_to(package)} {path.stat().st_size}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def program_key(graph: Graph, donate: tuple[tuple[int, int], ...], target: CpuTarget) -> str:
    """Everything that a program's machine code depends on."""
    what = repr((structure(graph), donate, target.threads, is_checked())) + target.tuned.digest
    return llvm.object_key(what, target, passes=compiler_version())


def is_checked() -> bool:
    """Whether every kernel is checked: who wants that takes from the cache what was checked when it was compiled."""
    return settings.switch("DLC_VERIFY")


def keep(key: str, frame: Frame, objects: list[bytes]) -> None:
    """Store a program under `key`: a line of JSON, then its objects."""
    head = json.dumps([frame.into, frame.output_bytes, [frame.arena_bytes], [len(o) for o in objects]]).encode()
    cache.default().put(key, b"\n".join((head, b"".join(objects))))


def load(key: str) -> Executable | None:
    """The executable stored under `key`, or None."""
    data = cache.default().get(key)
    if data is None:
        return None
    try:
        frame, objects = _decoded(data)
        return Executable(frame, llvm.Library.load(objects, threads.pool_symbols(), ("dlc_entry",)))
    except (ValueError, llvm.LinkError):
        return None  # a damaged entry: compile again


def _decoded(data: bytes) -> tuple[Frame, list[bytes]]:
    """What `keep` wrote. Raises ValueError for anything else.

    That is for mishaps: code and numbers that look right are believed, since only files of our own are read.
    """
    head, _, code = data.partition(b"\n")
    try:
        into, sizes, (arena,), lengths = (_numbers(part) for part in json.loads(head))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not the head of a program ({error})") from None
    ends = list(itertools.accumulate(lengths))
    if len(into) != len(sizes) or min(into, default=0) < -1 or min((*sizes, arena, *lengths)) < 0:
        raise ValueError("not the numbers of a program")
    if not lengths or ends[-1] != len(code):
        raise ValueError("the objects are cut short")
    return Frame(into, sizes, arena), [code[end - n : end] for end, n in zip(ends, lengths, strict=True)]


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int for n in value):
        raise ValueError("not a list of whole numbers")
    return tuple(value)
