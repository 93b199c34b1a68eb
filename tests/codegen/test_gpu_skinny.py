"""Contractions with few rows on a GPU: the schedule's choice, and kernels interpreted and compiled."""

from __future__ import annotations

import pytest

from dlc.base.errors import DeviceError
from dlc.codegen.cost.gpu_skinny import is_skinny, skinny
from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.program.build import build_program
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import bfloat16, float64
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.loops import schedule
from tests.codegen.test_cuda_programs import check, forced
from tests.passes.programs import tensor

TARGET = GpuTarget.of("sm_90a")


def product(spec: str, a: tuple[int, ...], b: tuple[int, ...], dtype=None):
    kind = {} if dtype is None else {"dtype": dtype}
    x, y = tensor("x", *a, **kind), tensor("y", *b, **kind)
    return B.contract(x, y, spec)


@pytest.mark.parametrize("spec, a, b, swap", [
    ("mk,nk->mn", (20, 650), (2600, 650), False), ("mk,kn->mn", (20, 2600), (2600, 650), False),
    ("nk,mk->nm", (2600, 650), (20, 650), True), ("mk,nk->mn", (1, 100), (400, 100), False),
    ("mk,nk->mn", (16, 4096), (10000, 4096), False),
])  # fmt: skip
def test_the_schedule_fits(spec, a, b, swap):
    node = product(spec, a, b)
    assert is_skinny(node)
    sched = skinny(node, TARGET)
    results = sched.bm // sched.tm * (sched.bn // sched.tn)
    assert sched.swap is swap and sched.bk % (sched.along * sched.slices) == 0 and sched.bm % sched.tm == 0
    assert sched.slices * results <= sched.block and sched.bn % sched.tn == 0
    assert -(-max(node.shape) // sched.bn) <= 2 * TARGET.sm_count
    shared = 8 * (sched.bm + sched.bn) * (sched.bk + 4) + 4 * sched.slices * sched.bm * sched.bn
    assert shared <= TARGET.shared_bytes


@pytest.mark.parametrize("spec, a, b, dtype", [
    ("mk,nk->mn", (20, 32), (64, 650), None), ("mk,nk->mn", (33, 650), (2600, 650), None),
    ("mk,nk->mn", (20, 650), (2600, 650), bfloat16), ("bmk,bnk->bmn", (2, 20, 650), (2, 2600, 650), None),
])  # fmt: skip
def test_others_are_not_skinny(spec, a, b, dtype):
    if spec == "mk,nk->mn" and a == (20, 32):
        b = (64, 32)
    assert not is_skinny(product(spec, a, b, dtype))


@pytest.mark.parametrize("sched", [
    schedule.GpuSkinny(64, 8, 8, 16, 4, 4, 2, 4), schedule.GpuSkinny(64, 8, 4, 8, 2, 4, 1, 2),
    schedule.GpuSkinny(32, 12, 4, 64, 4, 4, 8, 4), schedule.GpuSkinny(96, 4, 12, 32, 1, 4, 4, 4),
], ids=str)
@pytest.mark.parametrize("spec, a, b", [
    ("mk,nk->mn", (7, 24), (20, 24)), ("mk,kn->mn", (4, 26), (26, 11)), ("km,kn->mn", (17, 5), (17, 9)),
    ("mk,nk->nm", (3, 40), (10, 40)),
])
def test_kernels(monkeypatch, sched, spec, a, b):
    forced(monkeypatch, "contract", sched)
    z = product(spec, a, b)
    x, y = z.inputs
    check(Graph((x, y), [B.op("add", z, B.like(z, 1)), z]), seeds=(1,))


def test_swapped_and_double(monkeypatch):
    forced(monkeypatch, "contract", schedule.GpuSkinny(64, 4, 8, 16, 4, 4, 2, 4, True))
    z = product("nk,mk->nm", (18, 20), (3, 20), float64)
    check(Graph(z.inputs, [z]), seeds=(1,))


def test_the_chosen_kernel_runs():
    z = product("mk,nk->mn", (5, 66), (65, 66))
    program = check(Graph(z.inputs, [z]), seeds=(1,))
    assert isinstance(program.kernels()[0].schedule, schedule.GpuSkinny)
    assert isinstance(gpu_schedule.skinny(z, TARGET), schedule.GpuSkinny)
    source = emit_module(program.kernels(), TARGET)
    assert "load<4>(" in source  # from shared memory, four inner positions at once


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("spec, a, b", [("mk,nk->mn", (20, 650), (2600, 650)), ("mk,kn->mn", (20, 2600), (2600, 650)),
                                        ("nk,mk->nm", (2600, 512), (17, 512)), ("mk,nk->mn", (3, 100), (400, 100))])
def test_nothing_spills(spec, a, b, arch):
    pytest.importorskip("cupy")
    from tests.codegen.test_cuda_nvrtc import compile_graph, spills

    z = product(spec, a, b)
    assert spills(compile_graph(Graph(z.inputs, [z]), arch)) == 0


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90a"])
@pytest.mark.parametrize("m, k, n", [(1, 1425, 153), (6, 1425, 153), (20, 4096, 4096), (32, 700, 10000)])
def test_double_precision_fits_as_well(arch, m, k, n):
    node = product("mk,nk->mn", (m, k), (n, k), float64)
    target = GpuTarget.of(arch)
    (kernel,) = build_program(Graph(list(node.inputs), [node]), (), target, "main").kernels()
    assert not is_skinny(node) or isinstance(kernel.schedule, schedule.GpuSkinny)
    assert launch_shape(kernel).shared_bytes <= target.shared_bytes


def test_a_kernel_that_needs_more_shared_memory_than_there_is(monkeypatch):
    node = product("mk,nk->mn", (6, 1425), (153, 1425), float64)
    sched = schedule.GpuSkinny(512, 8, 4, 1024, 4, 4, 256, 4)
    monkeypatch.setattr(gpu_schedule, "skinny", lambda node, target: sched)
    with pytest.raises(DeviceError, match="needs 262912 bytes of shared memory, and a block on sm_90a has 232448"):
        build_program(Graph(list(node.inputs), [node]), (), TARGET, "main")
