"""The tiles of contractions and attention on a GPU, by formulas over their shapes and the target."""

from __future__ import annotations

import math
from dataclasses import replace

from dlc.codegen.cost.cpu_contract import swapped
from dlc.codegen.cost.gpu_waves import INNER, best_simt, best_tile, stages_for, tiles_for
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.attention import labels_of, sizes_of
from dlc.ir.graph.graph import Node
from dlc.ir.loops import schedule
from dlc.passes.views.contraction import label_sizes, parts_of
from dlc.passes.views.views import base_of

LEAST_INNER = 16  # inner range from which matrix instructions are worth it
LOCAL_TURNS = 4  # tiles of a persistent block: more, and blocks drift apart, each reading what the cache has lost


def contract(node: Node, target: GpuTarget) -> schedule.GpuContract | schedule.GpuMma:
    """The tile of a contraction, by shapes: the one that a model of the GPU finds fastest. Half floats go to the
    matrix units, and float32 where the target says so."""
    swap = swapped(node)
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    m, n = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns))
    batch = math.prod(sizes[x] for x in parts.batch)
    k = math.prod(sizes[x] for x in parts.inner)
    dtype = node.inputs[0].dtype
    tiles = tiles_for(dtype, target) if node.dtype.itemsize <= 4 and k >= LEAST_INNER else ()
    if tiles:
        warpgroups = target.arch == "sm_90a" and dtype.is_half
        tile = best_tile(m, n, k, batch, target.sm_count, tiles)[1]
        stages = stages_for(tile, dtype, target)
        made = schedule.GpuMma(tile.bm, tile.bn, INNER if dtype.is_half else INNER // 2,
                               stages if warpgroups else min(4, stages), tile.gm, tile.gn,
                               128 if warpgroups else 32, swap)
        count = batch * -(-m // tile.bm) * -(-n // tile.bn)
        return in_bulk(made, count, sum(base_of(x).type.nbytes for x in node.inputs), target) if warpgroups else made

    chosen = best_simt(m, n, k, batch, target.sm_count)[1]
    return schedule.GpuContract(chosen.bm, chosen.bn, chosen.bk, chosen.tm, chosen.tn, swap, chosen.blocks)


def in_bulk(sched: schedule.GpuMma, tiles: int, read: int, target: GpuTarget) -> schedule.GpuMma:
    """Copied in bulk where the operands are boxes (else lowering leaves that off), by blocks that stay for all tiles
    where these take few turns, or the second-level cache holds all `read` bytes of the operands anyway."""
    stays = tiles > target.sm_count and (tiles <= LOCAL_TURNS * target.sm_count or read <= target.l2_bytes)
    return replace(sched, bulk=True, persistent=target.sm_count if stays else 0)


def attention(node: Node, target: GpuTarget) -> schedule.GpuAttention:
    """Rows that fill the registers. Several blocks of a multiprocessor compute exponentials and products in turns."""
    labels = labels_of(node.attrs)
    sizes = sizes_of(labels, *(i.type for i in node.inputs[:3]))
    widest = max(sizes[labels.inner], sizes[labels.value])
    pair = 2 if widest <= 64 else 1
    if not node.inputs[0].dtype.is_half:  # 16 rows of float32 a warp, twice the bytes in shared memory
        return schedule.GpuAttention(16 * pair, 4, 2, 32, pair, True)
    kind = node.attrs["wrt"] if node.op == "attention_grad" else "out"
    if target.arch != "sm_90a":
        return schedule.GpuAttention(64, 4, 2, 32, pair) if kind == "out" else (
            schedule.GpuAttention(32 * pair, 4, 2, 32, 1, True))
    # the fastest that were measured for 64 and for 128 columns, 1,024 and 2,048 rows
    if kind == "kv":
        return schedule.GpuAttention(64, 1, 1 + pair, 128, 2, True)
    if pair == 1:
        return schedule.GpuAttention(128, 2, 2, 128, 1, True)
    return schedule.GpuAttention(64, 1, 3 if kind == "out" else 2, 128, 4, True)
