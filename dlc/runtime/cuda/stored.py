"""Compiled GPU programs in the disk cache: their key, and how they are written and read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dlc.base.errors import DeviceError
from dlc.ir.graph.graph import structure
from dlc.runtime import cache
from dlc.runtime.cpu.stored import compiler_version, is_checked
from dlc.runtime.cuda import modules as cuda_modules
from dlc.runtime.cuda import plan as cuda_plan
from dlc.runtime.cuda.executable import CudaExecutable
from dlc.runtime.cuda.plan import Plan

if TYPE_CHECKING:
    from dlc.codegen.target.gpu import GpuTarget
    from dlc.ir.graph.graph import Graph

DAMAGED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)  # what decoding anything may raise


def program_key(graph: Graph, donate: tuple[tuple[int, int], ...], target: GpuTarget) -> str:
    """Everything that a program's machine code depends on."""
    return key(repr((structure(graph), donate, is_checked())) + target.tuned.digest, target)


def key(what: str, target: GpuTarget) -> str:
    """Everything that machine code for `what` depends on."""
    options = " ".join(cuda_modules.OPTIONS)
    return f"cuda-nvrtc{cuda_modules.version()}-{target.key()}-{options}-{compiler_version()}-{what}"


def keep(key: str, plan: Plan, code: list[bytes]) -> None:
    """Store a program under `key`."""
    cache.default().put(key, pack(plan, code))


def load(key: str, index: int) -> CudaExecutable | None:
    """The executable stored under `key`, for GPU `index`, or None."""
    data = cache.default().get(key)
    if data is None:
        return None
    try:
        return CudaExecutable(*unpack(data), index)
    except (*DAMAGED, DeviceError):
        return None  # a damaged entry: compile again


def pack(plan: Plan, code: list[bytes]) -> bytes:
    """A plan and its modules as one entry of the disk cache: a line of JSON, then the modules."""
    head = json.dumps({"plan": cuda_plan.encode(plan), "modules": [len(c) for c in code]}, separators=(",", ":"))
    return head.encode() + b"\n" + b"".join(code)


def unpack(data: bytes) -> tuple[Plan, list[bytes]]:
    """What was packed. Raises one of DAMAGED for other data."""
    head, _, rest = data.partition(b"\n")
    found = json.loads(head)
    code, at = [], 0
    for size in found["modules"]:
        code.append(rest[at : at + size])
        at += size
    if at != len(rest):
        raise ValueError("the modules are cut short")
    return cuda_plan.decode(found["plan"]), code
