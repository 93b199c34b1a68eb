"""Executables for graphs: from the disk cache if an earlier process compiled an equal graph, else from the compiler.

Who only runs what is in the cache never imports the compiler (0.3 s): `driver` is imported when something is missing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dlc.base import settings
from dlc.runtime.collector import no_collection
from dlc.runtime.cpu import host, stored
from dlc.runtime.watch import Observer

if TYPE_CHECKING:
    from dlc.codegen.target.cpu import CpuTarget
    from dlc.ir.graph.graph import Graph
    from dlc.runtime.cpu.executable import Executable
    from dlc.runtime.cuda.executable import CudaExecutable
    from dlc.runtime.interpreted import Interpreted

Donated = tuple[tuple[int, int], ...]  # (parameter, output) pairs


def compile_graph(graph: Graph, donate: Donated = (), name: str = "main", *, target: CpuTarget | None = None,
                  device: str = "cpu", profile: bool = False, observe: Observer | None = None, tune: bool = False,
                  tf32: bool = False) -> Executable | CudaExecutable | Interpreted:
    """Compile `graph` for `device`. `donate` pairs (parameter, output) say which outputs are written into which
    parameter's buffer. `tune` measures schedules for its kernels first, unless that was done before. `tf32` lets a
    GPU's matrix unit multiply float32.

    `observe` is told of every stage: graph, grad, simplified, layout, program (with its groups), memory,
    objects, load; the disk cache is not asked then.
    """
    if settings.switch("DLC_INTERPRET"):
        from dlc.runtime.interpreted import Interpreted

        return Interpreted(graph, donate, device)
    with no_collection():
        if device == "cpu":
            return _for_cpu(graph, donate, name, target, profile, observe, tune)
        return _for_gpu(graph, donate, name, device, profile, observe, tune, tf32)


def _for_cpu(graph: Graph, donate: Donated, name: str, target: CpuTarget | None, profile: bool,
             observe: Observer | None, tune: bool) -> Executable:
    machine = _tuned(graph, target or host.detect(), name, "cpu") if tune else target or host.detect()
    key = ""
    if observe is None and not profile:
        key = stored.program_key(graph, donate, machine)
        found = stored.load(key)
        if found is not None:
            return found
    from dlc.runtime import compile as compiler

    return compiler.for_cpu(graph, donate, name, machine, key, profile, observe)


def _for_gpu(graph: Graph, donate: Donated, name: str, device: str, profile: bool, observe: Observer | None, tune: bool,
             tf32: bool) -> CudaExecutable:
    from dlc.runtime.cuda import device as cuda_device
    from dlc.runtime.cuda import stored as cuda_stored
    from dlc.runtime.devices import index_of

    index = index_of(device)
    machine = replace(cuda_device.gpu_target(index), tf32=tf32)
    if tune:
        machine = _tuned(graph, machine, name, device)
    key = ""
    if observe is None and not profile:
        key = cuda_stored.program_key(graph, donate, machine)
        found = cuda_stored.load(key, index)
        if found is not None:
            return found
    from dlc.runtime import compile as compiler

    return compiler.for_gpu(graph, donate, name, machine, index, key, profile, observe)


def _tuned(graph: Graph, machine: Any, name: str, device: str) -> Any:
    from dlc.runtime.tuning import tune as tuning

    return tuning.tuned_target(graph, machine, name, device)
