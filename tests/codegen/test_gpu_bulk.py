"""Tiles copied in bulk by a warp of their own (GpuMma.bulk): meaning, emission, and what falls back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.layout import gpu_aligned_operands
from dlc.codegen.program import gpu_kernels, gpu_lowering
from dlc.codegen.schedule import choice
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import bfloat16, float32
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.loops import schedule
from dlc.ir.loops.instructions import Mma, SetMaxNReg, TmaCopy
from dlc.ir.loops.ir import For, Store
from dlc.ir.loops.traverse import walk
from tests.codegen.test_cuda_programs import TARGET, check, forced, program_of
from tests.codegen.test_gpu_convolutions import convolution
from tests.passes.programs import tensor

ONE = schedule.GpuMma(64, 64, 64, 3, 1, 1, bulk=True)
TWO = schedule.GpuMma(128, 64, 64, 2, 2, 1, bulk=True)
FEW = replace(ONE, persistent=3, stages=2)


def bulks(program) -> int:
    return sum(isinstance(s, TmaCopy) for k in program.kernels() for s in walk(k.body))


def product(spec: str, a, b) -> Graph:
    x, y = tensor("x", *a, dtype=bfloat16), tensor("y", *b, dtype=bfloat16)
    z = B.contract(x, y, spec)
    return Graph((x, y), [B.op("add", z, B.like(z, 1))])


@pytest.mark.parametrize("sched", [ONE, TWO, FEW], ids=["one", "two", "few"])
@pytest.mark.parametrize("spec, a, b", [
    ("mk,kn->mn", (70, 72), (72, 80)), ("mk,nk->mn", (130, 200), (80, 200)), ("km,kn->mn", (40, 136), (40, 64)),
    ("km,nk->nm", (136, 128), (72, 136)), ("bmk,bkn->bmn", (2, 24, 64), (2, 64, 72)),
])  # fmt: skip
def test_products(monkeypatch, sched, spec, a, b):
    forced(monkeypatch, "contract", sched)
    assert bulks(check(product(spec, a, b), seeds=(1,))) >= 2


@pytest.mark.parametrize("part", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("sched, n, c, h, o, stride", [(ONE, 4, 64, 4, 64, 1), (FEW, 4, 64, 4, 128, 1),
                                                       (ONE, 4, 64, 4, 64, 2)], ids=["one", "few", "stride"])
def test_convolutions(monkeypatch, sched, part, n, c, h, o, stride):
    monkeypatch.setattr(gpu_aligned_operands, "WORTH", 0)
    monkeypatch.setattr(gpu_aligned_operands, "PRODUCTS", 0)
    forced(monkeypatch, "contract", sched)
    program = check(convolution(n, c, h, o, stride, bfloat16, part), seeds=(1,))
    assert bulks(program) >= 2 or stride == 2


def test_a_window_is_a_tensor_with_one_axis_for_position_and_tap(monkeypatch):
    monkeypatch.setattr(gpu_aligned_operands, "WORTH", 0)
    forced(monkeypatch, "contract", ONE)
    program = program_of(convolution(8, 64, 16, 64, 1, bfloat16, "fwd"))
    (kernel,) = [k for k in program.kernels() if "contract" in k.name]
    a, b = launch_shape(kernel).maps
    assert a.sizes == (8, 18, 18, 64) and a.strides == (18 * 18 * 64, 18 * 64, 64, 1) and a.box == (1, 4, 16, 64)
    assert b.box[-1] == 64 and a.swizzled and b.swizzled
    assert [kernel.params[m.param].size for m in (a, b)] == [8 * 18 * 18 * 64, 9 * 64 * 64]


@pytest.mark.parametrize("spec, a, b", [
    ("mk,kn->mn", (64, 65), (65, 64)),  # rows off 16-byte boundaries
    ("mk,kn->mn", (64, 24), (24, 64)),
])
def test_what_is_no_box_is_copied_by_all_threads(monkeypatch, spec, a, b):
    forced(monkeypatch, "contract", replace(ONE, persistent=2))
    monkeypatch.setattr(gpu_aligned_operands, "WORTH", 1 << 60)
    program = check(product(spec, a, b), seeds=(1,))
    (kernel,) = [k for k in program.kernels() if "contract" in k.name]
    assert bool(bulks(program)) == (a[1] % 8 == 0)
    assert kernel.schedule.bulk == bool(bulks(program)) and launch_shape(kernel).block == kernel.schedule.block


def test_source(monkeypatch):
    forced(monkeypatch, "contract", replace(TWO, persistent=4))
    program = program_of(product("mk,kn->mn", (1024, 256), (256, 1024)))
    source = emit_module(program.kernels(), TARGET)
    for text in ("__launch_bounds__(288", "const __grid_constant__ TensorMap map0", "gate_start(&free[i], 8)",
                 "bulk_copy_2(", "gate_expect(&full", "sync_first<256>", "wgmma_64x64"):
        assert text in source
    assert "copy_async" not in source


@pytest.mark.parametrize("m, n, k, tile, persistent", [
    (1024, 1024, 1024, (128, 64), 0),  # one turn
    (4096, 4096, 4096, (128, 256), 132),  # four
    (8192, 8192, 8192, (128, 256), 0),  # sixteen, and operands that no cache holds
    (16384, 384, 1536, (128, 192), 132),  # two of these columns leave nothing idle
    (16384, 1536, 384, (128, 256), 132),  # six turns of what the cache holds
])
def test_what_is_chosen(m, n, k, tile, persistent):
    (kernel,) = program_of(product("mk,kn->mn", (m, k), (k, n)), target=TARGET).kernels()
    s = kernel.schedule
    assert (s.bulk, (s.bm, s.bn), s.persistent) == (True, tile, persistent)
    (other,) = program_of(product("mk,kn->mn", (m, k), (k, n)), target=GpuTarget.of("sm_80")).kernels()
    assert other.schedule.lanes == 32 and not other.schedule.bulk


@pytest.mark.parametrize("bulk", [True, False], ids=["bulk", "threads"])
@pytest.mark.parametrize("bm, bn", [(256, 64), (128, 192)])
def test_tiles_that_are_no_squares(monkeypatch, bm, bn, bulk):
    forced(monkeypatch, "contract", schedule.GpuMma(bm, bn, 64, 3, 2, 1, bulk=bulk))
    assert bool(bulks(check(product("mk,kn->mn", (136, 72), (72, 72)), seeds=(1,)))) == bulk


@pytest.mark.parametrize("gm, bm", [(2, 128), (3, 192)])
def test_many_sums_take_the_registers_of_threads_that_copy(monkeypatch, gm, bm):
    forced(monkeypatch, "contract", schedule.GpuMma(bm, 192, 64, 3, gm, 1, bulk=True))
    (kernel,) = [k for k in program_of(product("mk,kn->mn", (384, 256), (256, 384))).kernels() if "contract" in k.name]
    more, fewer = (s.count for s in walk(kernel.body) if isinstance(s, SetMaxNReg))
    block = launch_shape(kernel).block
    assert block == kernel.schedule.block == 128 * (gm + 1)
    start = (1 << 16) // block // 8 * 8  # what a thread has before; none can wait for what there is not
    assert fewer < start < more and gm * more + fewer <= (gm + 1) * start
    source = emit_module([kernel], TARGET)
    assert f"more_registers<{more}>();" in source and f"fewer_registers<{fewer}>();" in source


@pytest.mark.parametrize("bulk", [True, False], ids=["bulk", "threads"])
def test_an_epilogue_that_reads_much_takes_turns(monkeypatch, bulk):
    x, y = tensor("x", 70, 64, dtype=bfloat16), tensor("y", 64, 72, dtype=bfloat16)
    more = [tensor(f"z{k}", 70, 72) for k in range(6)]
    z = B.cast(B.contract(x, y, "mk,kn->mn"), float32)
    for other in more:
        z = B.op("add", z, other)
    graph = Graph((x, y, *more), [z])
    sched = replace(ONE, bulk=bulk)
    forced(monkeypatch, "contract", sched)
    (kernel,) = check(graph, seeds=(1,)).kernels()
    (turns,) = [s for s in walk(kernel.body) if isinstance(s, For) and s.kind == "serial" and s.extent.op == "const"
                and s.extent.attr > 1 and any(isinstance(w, Store) for w in walk(s.body))
                and not any(isinstance(w, (Mma, TmaCopy)) for w in walk(s.body))]
    assert "#pragma unroll 1" in emit_module([kernel], TARGET)
    assert turns.extent.attr == 2  # eight vectors of 26 words each


def test_the_fallback_of_a_measured_schedule_is_noted_too(monkeypatch):
    """Rows of a stacked tensor that start off 16-byte boundaries cannot be copied in bulk."""
    forced(monkeypatch, "contract", ONE)
    lowered = gpu_lowering.lowered_group
    monkeypatch.setattr(gpu_kernels, "lowered_group", lambda *args: choice.noted(lowered(*args)))
    w, x = tensor("w", 72, 80, dtype=bfloat16), tensor("x", 3, 70 * 72 + 1, dtype=bfloat16)
    row = tensor("row", 70 * 72 + 1, dtype=bfloat16)
    taken = B.reshape(B.slice_(row, (0,), (70 * 72,)), (70, 72))
    body = Graph((w, row), [B.contract(taken, w, "mk,kn->mn")])
    scan = make("scan", (w, x), body=body, length=3, consts=1, carry=0, reverse=False)
    kernels = program_of(Graph((w, x), [B.item(scan, 0)])).kernels()
    assert {(k.schedule.bulk, k.tuned) for k in kernels if isinstance(k.schedule, schedule.GpuMma)} == {(False, True)}
