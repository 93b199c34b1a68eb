"""A GPU that is none, but runs the CUDA C that dlc generates: g++ compiles it, and threads are fibers on one core.

    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(arch="sm_80"))

It shows wrong text: indices, barriers that not all threads reach, missing waits, fragments in the wrong lane, memory
that is not the kernel's own. It does not show time, what the memory model allows, or that PTX means what we think.
"""

from tests.cuda_on_cpu.device import EmulatedGpu, MachineError, run_program, use, why_not
from tests.cuda_on_cpu.source import NotEmulated

__all__ = ["EmulatedGpu", "MachineError", "NotEmulated", "run_program", "use", "why_not"]
