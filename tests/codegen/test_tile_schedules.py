"""Contractions of pairs on a matrix unit: every form against the interpreter, by AMX itself where the processor has it,
elsewhere by the meaning of its instructions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dlc.codegen.cost import cpu_amx
from dlc.codegen.cost.cpu_amx import AmxTiles
from dlc.codegen.cost.cpu_contract import contract, on_tiles
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.llvm import kernel as llvm_kernel
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.schedule import cpu_candidates as candidates
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, Node
from dlc.ir.graph.interp import evaluate
from dlc.ir.loops.instructions import StoreTile, TileMma
from dlc.ir.loops.ir import Kernel, Prefetch
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.schedule import Contract
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.traverse import walk
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from dlc.runtime.cpu import threads
from dlc.runtime.cpu.memory import allocate, as_ndarray
from dlc.runtime.programs import compile_graph
from tests import targets
from tests.codegen.amx import Unit, emulated
from tests.codegen.test_contract_schedules import check, tensor
from tests.codegen.test_pair_schedules import operations, product, taps

BF16, F32 = dtypes.bfloat16, dtypes.float32
UNIT = targets.cpu("amx", 1)
SPECS = ["mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->nm", "mk,nk->nm"]
pytestmark = pytest.mark.skipif(not targets.runs(targets.cpu("avx512-bf16")), reason="the emulation runs all but AMX")


def kernels(graph: Graph, target=UNIT) -> list[Kernel]:
    return list(build_program(target_layout(sink_permutes(graph), target), (), target, "main").kernels())


def on_unit(k: Kernel) -> bool:
    return any(isinstance(s, TileMma) for s in walk(k.body))


@pytest.fixture
def check_tiles(monkeypatch):
    """Check that a graph's contraction is on the unit, and what it computes."""

    def run_it(graph: Graph, tolerance: float = 2e-5, others: int | None = None, target=UNIT) -> list[Kernel]:
        made = kernels(graph, target)
        for k in made:
            verify(k, "test")
            assert print_kernel(parse_kernel(print_kernel(k))) == print_kernel(k)
        tiled = [k for k in made if on_unit(k)]
        assert tiled and not any("dot2" in operations(k) for k in made)
        assert others is None or len(made) - len(tiled) == others
        if targets.runs(UNIT):
            check(graph, "amx", tolerance)
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(p.shape).astype(p.dtype.np) for p in graph.params]
        buffers = []
        for a in arrays:
            buffers.append(allocate(a.nbytes))
            as_ndarray(buffers[-1], a.shape, a.dtype)[...] = a
        unit = Unit()
        module, symbols = llvm_kernel.LlvmModule, {**threads.pool_symbols(), **unit.symbols()}
        written = module.text
        with monkeypatch.context() as patch:
            patch.setattr(module, "text", lambda *a: emulated(written(*a)))
            patch.setattr(threads, "pool_symbols", lambda: symbols)
            results = compile_graph(graph, target=target, observe=lambda *_: None).run(buffers)
        assert not unit.wrong and unit.count["tdpbf16ps"]
        for node, want, got in zip(graph.outputs, evaluate(graph, arrays, wide=True), results, strict=True):
            have = as_ndarray(got, node.shape, node.dtype.np).astype(np.float64)
            assert np.abs(have - want).max(initial=0) <= tolerance * max(1.0, float(np.abs(want).max(initial=0)))
        return tiled

    return run_it


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("m, n, k", [(37, 50, 46), (16, 32, 64), (8, 9, 33), (100, 70, 129), (33, 96, 514)])
def test_matrix_products(check_tiles, spec, m, n, k):
    check_tiles(product(spec, dict(m=m, n=n, k=k)))


def test_the_interpreter_agrees():
    for spec in SPECS:
        graph = product(spec, dict(m=19, n=17, k=50))
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(p.shape).astype(p.dtype.np) for p in graph.params]
        results = run_program(plan_memory(build_program(target_layout(graph, UNIT), (), UNIT, "main")), arrays)
        np.testing.assert_allclose(results[0], evaluate(graph, arrays, wide=True)[0], rtol=1e-4, atol=1e-4)


def test_what_is_copied(check_tiles):
    check_tiles(product("mk,nk->mn", dict(m=48, n=40, k=64)), others=1)  # rows are read where they lie
    check_tiles(product("mk,nk->mn", dict(m=48, n=40, k=74)), others=2)  # 37 pairs are no whole steps
    check_tiles(product("km,nk->mn", dict(m=48, n=40, k=64)), others=2)


@pytest.mark.parametrize("spec, a, c", [
    ("bik,bkj->bij", (3, 20, 34), (3, 34, 17)), ("bik,bjk->bij", (3, 20, 33), (3, 17, 33)),
    ("bqhd,bkhd->bhqk", (2, 9, 3, 32), (2, 11, 3, 32)), ("bhqk,bkhd->bqhd", (2, 3, 9, 32), (2, 32, 3, 8)),
    ("btm,btn->mn", (4, 17, 24), (4, 17, 20)), ("aibj,bkj->aik", (3, 4, 5, 8), (5, 9, 8)),
])
def test_batches_and_several_inner_labels(check_tiles, spec, a, c):
    x, w = tensor("x", *a, dtype=BF16), tensor("w", *c, dtype=BF16)
    check_tiles(Graph([x, w], [b.contract(x, w, spec, F32)]))


@pytest.mark.parametrize("size, channels, kernel, stride", [(9, 6, 3, 1), (9, 16, 3, 2), (8, 3, 3, 1), (7, 32, 1, 1),
                                                            (20, 16, 3, 1)])
def test_convolution_and_its_weight_gradient(check_tiles, size, channels, kernel, stride):
    image = tensor("x", 2, size, size, channels, dtype=BF16)
    weight = tensor("w", 9, channels, kernel, kernel, dtype=BF16)
    window = taps(image, kernel, stride)
    out = b.contract(window, weight, "nhwcrs,ocrs->nhwo", F32)
    check_tiles(Graph([image, weight], [out]))
    back = tensor("dy", *out.shape, dtype=BF16)
    check_tiles(Graph([image, back], [b.contract(window, back, "nhwcrs,nhwo->ocrs", F32)]))


def test_rows_of_several_labels_are_copied_as_one(check_tiles):
    """49 channels make no whole pairs in place; a tile's rows cross the lines of the image."""
    image, weight = tensor("x", 2, 12, 12, 49, dtype=BF16), tensor("w", 20, 49, dtype=BF16)
    (k,) = check_tiles(Graph([image, weight], [b.contract(image, weight, "nhwc,oc->nhwo", F32)]))
    assert k.schedule.run == 0


def test_images_are_read_in_place(check_tiles):
    """The lines of an image are runs of rows; a tile stays inside one, and the last of a line begins earlier."""
    image = tensor("x", 2, 20, 20, 32, dtype=BF16)
    weight = tensor("w", 9, 32, 3, 3, dtype=BF16)
    graph = Graph([image, weight], [b.contract(taps(image, 3, 1), weight, "nhwcrs,ocrs->nhwo", F32)])
    (k,) = check_tiles(graph, others=2)  # the padding, and the weights
    assert k.schedule.run == 20 and k.schedule.mr // k.schedule.stack == 10


def test_operands_that_are_rounded_on_the_way(check_tiles):
    x, w = tensor("x", 40, 66), tensor("w", 36, 66)
    half = [b.cast(v, BF16) for v in (x, w)]
    check_tiles(Graph([x, w], [b.contract(*half, "mk,nk->mn", F32)]), tolerance=5e-3)


@pytest.mark.parametrize("m, n", [(32, 32), (40, 40), (48, 70)])
def test_epilogues(check_tiles, m, n):
    """A light one, one with a residual in float32, and a long one."""
    x, w = tensor("x", m, 64, dtype=BF16), tensor("w", n, 64, dtype=BF16)
    bias, rest = tensor("b", n), tensor("r", m, n)
    y = b.op("add", b.contract(x, w, "mk,nk->mn", F32), b.expand(bias, (m, n), [0]))
    light = b.cast(b.op("max", y, b.like(y, 0.0)), BF16)
    long = b.op("div", b.op("tanh", b.op("add", y, rest)), b.op("add", b.op("exp", rest), b.like(rest, 1.0)))
    check_tiles(Graph([x, w, bias], [light]), tolerance=5e-3, others=1)
    check_tiles(Graph([x, w, bias, rest], [b.op("add", y, rest), long]), others=1)


def test_an_output_in_the_memory_of_a_residual(check_tiles):
    """Rows that two tiles compute are stored once: a result may take the place of what it is made of."""
    x, w, rest = tensor("x", 20, 64, dtype=BF16), tensor("w", 40, 64, dtype=BF16), tensor("r", 20, 40)
    graph = Graph([x, w, rest], [b.op("add", b.contract(x, w, "mk,nk->mn", F32), rest)])
    program = build_program(target_layout(graph, UNIT), ((2, 0),), UNIT, "main")
    (k,) = (k for k in program.kernels() if on_unit(k))
    assert k.schedule.stack * 10 == k.schedule.mr
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(p.shape).astype(p.dtype.np) for p in graph.params]
    (result,) = run_program(plan_memory(program), arrays)
    np.testing.assert_allclose(result, evaluate(graph, arrays, wide=True)[0], rtol=1e-4, atol=1e-4)


def test_what_the_epilogue_meets_is_fetched(check_tiles):
    """Where the result does not fit the second-level cache: there the lines that will be written."""
    small = dataclasses.replace(UNIT, l2_bytes=4096)
    (k,) = check_tiles(product("mk,nk->mn", dict(m=50, n=70, k=128)), target=small)
    fetched = [s for s in walk(k.body) if isinstance(s, Prefetch)]
    assert k.schedule.ahead and fetched and all(s.buffer in k.writes for s in fetched)


def test_a_long_range_is_split(check_tiles):
    x, w = tensor("x", 20, 8192, dtype=BF16), tensor("w", 24, 8192, dtype=BF16)
    made = check_tiles(Graph([x, w], [b.contract(x, w, "mk,nk->mn", F32)]), tolerance=1e-4,
                       target=UNIT.with_threads(4))
    assert all(sum(isinstance(s, StoreTile) for s in walk(k.body)) == 1 for k in made)


def node_of(m: int, n: int, k: int) -> Node:
    """A contraction of pairs, as the layout pass asks about it."""
    x, w = tensor("x", m, k, dtype=dtypes.uint32), tensor("w", n, k, dtype=dtypes.uint32)
    return b.contract(x, w, "mk,nk->mn", F32, pairs=True)


def test_the_choice():
    def chosen(m, n, k, target=UNIT) -> Contract:
        return contract(node_of(m, n, k), target)

    big = chosen(1024, 1024, 512)
    assert (big.mr, big.nr, big.stack) == (32, 32, 2)
    assert chosen(16, 1024, 512).stack == 1 and chosen(16, 1024, 512).nr >= 64
    assert chosen(7, 1024, 512).stack == chosen(1024, 7, 512).stack == chosen(1024, 1024, 15).stack == 0
    without = dataclasses.replace(UNIT, has_amx_bf16=False)
    assert chosen(1024, 1024, 512, without).stack == 0
    words = b.contract(*node_of(64, 64, 64).inputs, "mk,nk->mn")  # not pairs
    assert contract(words, UNIT).stack == 0


def test_a_target_without_the_unit_multiplies_pairs():
    made = kernels(product("mk,nk->mn", dict(m=64, n=64, k=64)), dataclasses.replace(UNIT, has_amx_bf16=False))
    assert not any(map(on_unit, made)) and any("dot2" in operations(k) for k in made)


@pytest.mark.parametrize("m, n, k, run", [(1024, 1024, 512, 1024), (16, 64, 64, 16), (4096, 512, 2304, 8),
                                          (37, 9, 16, 37)])
def test_tiles_fit_the_registers(m, n, k, run):
    found = list(cpu_amx.costs(m, n, k, run))
    assert all(stack * wide <= 6 for (stack, wide), _ in found)
    assert len({tiles for tiles, _ in found}) == len(found)
    assert all(cost > 0 for _, cost in found)


@pytest.mark.parametrize("tiles", [AmxTiles(1, 1), AmxTiles(2, 3), AmxTiles(3, 2), AmxTiles(4, 1), AmxTiles(1, 6)])
def test_other_tiles(check_tiles, monkeypatch, tiles):
    made = on_tiles(node_of(90, 100, 64), UNIT, False, tiles)
    assert (made.mr, made.nr) == (15 * tiles.stack, 16 * tiles.wide)
    with monkeypatch.context() as patch:
        patch.setattr(cpu_amx, "best", lambda *_: tiles)
        (k,) = check_tiles(product("mk,nk->mn", dict(m=90, n=100, k=128)))
    assert (k.schedule.mr, k.schedule.nr, k.schedule.stack) == (made.mr, made.nr, made.stack)


def test_candidates_for_tuning():
    node = node_of(256, 256, 256)
    found = candidates.contractions(node, UNIT)
    assert found[0] == contract(node, UNIT) and found[0].stack
    assert any(not s.stack for s in found) and len(found) == len(set(found)) <= candidates.MOST
