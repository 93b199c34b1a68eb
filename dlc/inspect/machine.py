"""What to generate code for, by name."""

from __future__ import annotations

from dataclasses import replace

from dlc.base.errors import DeviceError
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.runtime import devices
from dlc.runtime.cpu import host
from dlc.runtime.cuda import device as cuda_device

Machine = CpuTarget | GpuTarget

TYPICAL = "sm_90a"


def with_tf32(machine: Machine, tf32: bool) -> Machine:
    """The machine for float32 products of precision "high": a GPU's matrix unit multiplies them."""
    return replace(machine, tf32=tf32) if isinstance(machine, GpuTarget) else machine


def machine(text: str) -> Machine:
    """"cpu", "cuda:sm_90" (any machine will do), "cuda:1" (a GPU that is here); "cuda" is the first GPU, or a typical
    one where there is none. Raises DeviceError."""
    try:
        if text == "cpu":
            return host.detect()
        kind, _, which = text.partition(":")
        if kind == "cuda" and which.startswith("sm_"):
            return GpuTarget.of(which)
        if text == "cuda" and not cuda_device.cards():
            return GpuTarget.of(TYPICAL)
        name = devices.usable(text)
        return cuda_device.gpu_target(devices.index_of(name)) if name != "cpu" else host.detect()
    except ValueError as error:
        raise DeviceError(str(error)) from None
