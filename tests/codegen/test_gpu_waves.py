"""The choice of tiles for float32 products by estimated time: what full, half empty and small GPUs get."""

from __future__ import annotations

import pytest

from dlc.codegen.cost.gpu_waves import SIMT, TF32, best_simt, best_tile, stages_for
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import float32
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.loops import schedule
from tests.codegen.test_cuda_programs import TARGET, check, forced, program_of
from tests.passes.programs import tensor


@pytest.mark.parametrize("m, n, k, batch, tile", [
    (4096, 4096, 4096, 1, (64, 128)),  # enough for all tiles: the one that reads least
    (65536, 64, 576, 1, (128, 64)),  # no half of a tile beyond the columns
    (4096, 256, 1152, 1, (64, 64)),  # two small blocks a multiprocessor instead of one that waits for memory
    (64, 64, 512, 1, (32, 32)), (36, 64, 1024, 64, (32, 32)),
])  # fmt: skip
def test_scalar_tiles(m, n, k, batch, tile):
    assert best_simt(m, n, k, batch, 132)[1][:2] == tile


def test_a_long_thin_product_is_cut_for_tiles_that_fill_the_gpu():
    x, y = tensor("x", 65536, 576), tensor("y", 65536, 64)
    kernels = program_of(Graph((x, y), [B.contract(x, y, "km,kn->mn")]), target=TARGET).kernels()
    (sched,) = [k.schedule for k in kernels if isinstance(k.schedule, schedule.GpuContract)]
    assert (sched.tm, sched.tn) == (8, 8)
    grid = next(s for s in kernels if s.schedule is sched).body.extent.attr
    assert grid >= 2 * TARGET.sm_count


@pytest.mark.parametrize("tile", SIMT, ids=lambda t: f"{t.bm}x{t.bn}x{t.tm}")
def test_every_scalar_tile_is_right(monkeypatch, tile):
    sched = schedule.GpuContract(tile.bm, tile.bn, tile.bk, tile.tm, tile.tn, False, tile.blocks)
    forced(monkeypatch, "contract", sched)
    x, y = tensor("x", 70, 24), tensor("y", 24, 68)
    check(Graph((x, y), [B.contract(x, y, "mk,kn->mn")]), seeds=(1,))


def test_matrix_tiles_of_float32():
    target = GpuTarget.of("sm_90a")
    chosen = best_tile(16384, 1536, 384, 1, target.sm_count, TF32)[1]
    assert (chosen.bm, chosen.bn) == (128, 256)
    assert best_tile(69696, 128, 256, 1, target.sm_count, TF32)[1].bm == 128  # 272.25 times 256 rows
    assert best_tile(73984, 128, 256, 1, target.sm_count, TF32)[1].bm == 256
    for t in TF32:
        assert stages_for(t, float32, target) >= 4
