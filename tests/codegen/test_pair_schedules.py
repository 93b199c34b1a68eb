"""Contractions of bfloat16 pairs: every form, compiled where this machine multiplies pairs, against the interpreter.

Results are asked for in float32, so that nothing but the sums' own roundings is allowed for.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from dlc.codegen.layout.cpu_pairs import pair_operands
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.memory import plan_memory
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, Node, structure
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify as verify_graph
from dlc.ir.loops.ir import Expr, Kernel
from dlc.ir.loops.traverse import exprs, walk
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from tests import targets
from tests.codegen.test_contract_schedules import check, tensor

BF16, F32 = dtypes.bfloat16, dtypes.float32
PAIRS = targets.cpu("avx512-bf16")


def operations(k: Kernel) -> set[str]:
    found: set[Expr] = set()
    stack = [e for s in walk(k.body) for e in exprs(s)]
    while stack:
        e = stack.pop()
        if e not in found:
            found.add(e)
            stack.extend(e.args)
    return {e.op for e in found}


def kernels(graph: Graph) -> list[Kernel]:
    return list(build_program(target_layout(sink_permutes(graph), PAIRS), (), PAIRS, "main").kernels())


def check_pairs(graph: Graph, interpret: bool = False, copies: int | None = None, tolerance: float = 2e-5) -> None:
    """The graph's kernels multiply pairs and give what the interpreter does; `copies`: the kernels besides."""
    made = kernels(graph)
    for k in made:
        verify(k, "test")
    assert any("dot2" in operations(k) for k in made)
    if copies is not None:
        assert sum("dot2" not in operations(k) for k in made) == copies
    if targets.runs(PAIRS):
        check(graph, "avx512-bf16", tolerance)
    if interpret:
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(p.shape).astype(p.dtype.np) for p in graph.params]
        program = build_program(target_layout(sink_permutes(graph), PAIRS), (), PAIRS, "main")
        results = run_program(plan_memory(program), arrays)
        for want, got in zip(evaluate(graph, arrays, wide=True), results, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def product(spec: str, sizes: dict[str, int], dtype: dtypes.DType = F32) -> Graph:
    first, second = spec.split("->")[0].split(",")
    x, w = tensor("x", *(sizes[c] for c in first), dtype=BF16), tensor("w", *(sizes[c] for c in second), dtype=BF16)
    return Graph([x, w], [b.contract(x, w, spec, dtype)])


def test_padded_panels_are_turned_in_registers():
    """The pairs of rows that a panel is filled up with are read under a condition, and still as one word each."""
    graph = product("mk,kn->mn", {"m": 1024, "k": 1024, "n": 1024})
    panels = [k for k in kernels(graph) if "dot2" not in operations(k)]
    padded = [k for k in panels if any(w.size % 1024 for w in k.writes)]
    assert padded and all(k.schedule.tile == 16 for k in padded)
    check_pairs(product("mk,kn->mn", {"m": 270, "k": 512, "n": 64}))


@pytest.mark.parametrize("spec", ["mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->nm", "mk,nk->nm"])
@pytest.mark.parametrize("m, n, k", [(37, 50, 46), (14, 32, 64), (5, 9, 11), (100, 70, 129), (300, 96, 514)])
def test_matrix_products(spec, m, n, k):
    check_pairs(product(spec, dict(m=m, n=n, k=k)), interpret=m < 20)


def test_rows_that_lie_along_the_inner_range_are_read_in_place():
    check_pairs(product("mk,kn->mn", dict(m=48, n=32, k=64)), copies=1)
    check_pairs(product("mk,nk->mn", dict(m=6, n=32, k=512)), copies=0)  # both: vectors along it


@pytest.mark.parametrize("spec, a, c", [
    ("bik,bkj->bij", (3, 20, 34), (3, 34, 17)), ("bik,bjk->bij", (3, 20, 33), (3, 17, 33)),
    ("bqhd,bkhd->bhqk", (2, 9, 3, 8), (2, 11, 3, 8)), ("bhqk,bkhd->bqhd", (2, 3, 9, 16), (2, 16, 3, 8)),
    ("btm,btn->mn", (4, 17, 24), (4, 17, 20)), ("aibj,bkj->aik", (3, 4, 5, 6), (5, 7, 6)),
])
def test_batches_and_several_inner_labels(spec, a, c):
    x, w = tensor("x", *a, dtype=BF16), tensor("w", *c, dtype=BF16)
    check_pairs(Graph([x, w], [b.contract(x, w, spec, F32)]))


def taps(image: Node, kernel: int, stride: int) -> Node:
    p = kernel // 2
    padded = b.pad(image, (0, p, p, 0), (0, p, p, 0))
    return b.window(padded, (1, 2), (kernel, kernel), (stride, stride))


@pytest.mark.parametrize("size, channels, kernel, stride", [(9, 6, 3, 1), (9, 16, 3, 2), (8, 3, 3, 1), (7, 8, 1, 1)])
def test_convolution_and_its_weight_gradient(size, channels, kernel, stride):
    image = tensor("x", 4, size, size, channels, dtype=BF16)
    weight = tensor("w", 7, channels, kernel, kernel, dtype=BF16)
    window = taps(image, kernel, stride)
    out = b.contract(window, weight, "nhwcrs,ocrs->nhwo", F32)
    check_pairs(Graph([image, weight], [out]), interpret=size < 8)
    back = tensor("dy", *out.shape, dtype=BF16)
    check_pairs(Graph([image, back], [b.contract(window, back, "nhwcrs,nhwo->ocrs", F32)]))


def test_operands_that_are_rounded_on_the_way():
    """Master weights and activations in float32: the casts end up in the packing. (The interpreter rounds nothing.)"""
    x, w = tensor("x", 40, 66), tensor("w", 36, 66)
    half = [b.cast(v, BF16) for v in (x, w)]
    check_pairs(Graph([x, w], [b.contract(*half, "mk,nk->mn", F32)]), copies=2, tolerance=5e-3)


def test_what_is_too_small_for_pairs():
    for sizes in (dict(m=2, n=40, k=64), dict(m=40, n=3, k=64), dict(m=40, n=40, k=4)):
        assert pair_operands(product("mk,kn->mn", sizes).outputs[0]) is None


def test_a_window_along_every_inner_label():
    """Nothing to pair along without copying every tap: such a contraction is widened as before."""
    image, weight = tensor("x", 1, 30, 30, 1, dtype=BF16), tensor("w", 8, 1, 3, 3, dtype=BF16)
    graph = Graph([image, weight], [b.contract(taps(image, 3, 1), weight, "nhwcrs,ocrs->nhwo", F32)])
    assert all("dot2" not in operations(k) for k in kernels(graph))
    check(graph, "avx512-bf16")


def test_the_layout_of_pairs_prints_and_parses():
    graph = target_layout(product("mk,nk->mn", dict(m=48, n=32, k=64)), PAIRS)
    verify_graph(graph, "layout")
    text = print_graph(graph, locs=False)
    assert "pairs=true" in text and "= pair(" in text
    assert structure(parse_graph(text)) == structure(parse_graph(print_graph(parse_graph(text), locs=False)))
    assert re.sub("uid=.*", "", print_graph(parse_graph(text), locs=False)) == re.sub("uid=.*", "", text)
