"""No matrix kernel of the anchors' steps uses local memory, on sm_80 or sm_90a: contractions of all kinds, attention.

The kernels are those of the real sizes, compiled by NVRTC, which needs no GPU; equal ones once.
"""

from __future__ import annotations

from functools import cache

import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import bfloat16, float32
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.instructions import SetMaxNReg
from dlc.ir.loops.traverse import walk
from tests.codegen.test_cuda_programs import program_of
from tests.passes.programs import tensor

pytest.importorskip("cupy")

from benchmarks import gpu_code  # noqa: E402  needs CuPy

COMPILED: dict[tuple[str, str], gpu_code.Code] = {}


@cache
def step(name: str):
    return gpu_code.lowered(gpu_code.CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("arch", gpu_code.ARCHS)
@pytest.mark.parametrize("name", gpu_code.STEPS)
def test_the_anchors_steps(name, arch):
    kernels = list(gpu_code.texts(step(name), arch))
    assert kernels
    for kernel, _, source in kernels:
        key = arch, gpu_code.normal(source, kernel)
        code = COMPILED[key] = COMPILED.get(key) or gpu_code.compiled(source, arch)
        assert (code.spills, code.local, code.warnings) == (0, 0, ""), (kernel, code)


@pytest.mark.parametrize("arch", gpu_code.ARCHS)
@pytest.mark.parametrize("others", [1, 8])
def test_long_epilogues(others, arch):
    """A product whose results meet other tensors."""
    x, y = tensor("x", 16384, 3072, dtype=bfloat16), tensor("y", 3072, 768, dtype=bfloat16)
    more = [tensor(f"z{k}", 16384, 768) for k in range(others)]
    z = B.cast(B.contract(x, y, "mk,kn->mn"), float32)
    for other in more:
        z = B.op("add", z, other)
    (kernel,) = program_of(Graph((x, y, *more), [z]), target=GpuTarget.of(arch)).kernels()
    code = gpu_code.compiled(emit_module([kernel], GpuTarget.of(arch)), arch)
    assert (code.spills, code.local, code.warnings) == (0, 0, "")
    counts = [s.count for s in walk(kernel.body) if isinstance(s, SetMaxNReg)]
    assert bool(counts) == (arch == "sm_90a")
    if counts:  # the block starts with as many as its threads ask for later, or they wait for ever
        more_, fewer = counts
        groups = launch_shape(kernel).block // 128
        assert (groups - 1) * more_ + fewer <= groups * code.registers
