"""Every form that a contraction can take on the CPU, compiled for each instruction level, against the interpreter."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dlc.base.errors import VerifyError
from dlc.codegen.cost import cpu_contract
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.codegen.lower.contract import lower_contract
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.target.cpu import LEVELS, CpuTarget
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Alloc, Buffer, Expr, For, Kernel, Prefetch, Stmt, Store
from dlc.ir.loops.schedule import Contract
from dlc.ir.loops.traverse import children, walk
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from dlc.ir.program.program import Launch, Program
from dlc.passes.fuse.fuse import fuse
from dlc.runtime.cpu.memory import allocate, as_ndarray
from tests.targets import cpu, executable


def tensor(name: str, *shape: int, dtype=dtypes.float32) -> Node:
    return param(TensorType(dtype, shape), name)


def check(graph: Graph, level: str, tolerance: float = 2e-5, **sizes: int) -> list[Contract]:
    """Compile and compare with the interpreter; the contractions' schedules."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(p.shape).astype(p.dtype.np) for p in graph.params]
    target = replace(cpu(level), **sizes)
    buffers = []
    for a in arrays:
        buffers.append(allocate(a.nbytes))
        as_ndarray(buffers[-1], a.shape, a.dtype)[...] = a
    results = executable(graph, target).run(buffers)
    for node, want, got in zip(graph.outputs, evaluate(graph, arrays, wide=True), results, strict=True):
        have = as_ndarray(got, node.shape, node.dtype.np).astype(np.float64)
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        assert np.abs(have - want).max(initial=0) <= tolerance * scale
    kernels = build_program(target_layout(sink_permutes(graph), target), (), target, "main").kernels()
    for k in kernels:
        verify(k, "test")
    return [k.schedule for k in kernels if isinstance(k.schedule, Contract)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spec", ["mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->nm", "mk,nk->nm"])
@pytest.mark.parametrize("m, n, k", [(37, 50, 45), (14, 32, 64), (5, 3, 7), (100, 70, 129)])
def test_matrix_products(level, spec, m, n, k):
    size = dict(m=m, n=n, k=k)
    first, second = spec.split("->")[0].split(",")
    x, w = tensor("x", *(size[c] for c in first)), tensor("w", *(size[c] for c in second))
    check(Graph([x, w], [b.contract(x, w, spec)]), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("m, n, k", [(10, 7, 137), (17, 33, 512), (4, 5, 128)])
def test_few_rows_run_along_the_inner_range(level, m, n, k):
    x, w, bias = tensor("x", m, k), tensor("w", n, k), tensor("b", n)
    y = b.op("add", b.contract(x, w, "mk,nk->mn"), b.expand(bias, (m, n), [0]))
    schedules = check(Graph([x, w, bias], [b.op("max", y, b.like(y, 0.0))]), level)
    assert [s.along for s in schedules] == [True]


@pytest.mark.parametrize("level", LEVELS)
def test_long_epilogue_goes_through_scratch(level):
    x, w, m = tensor("x", 23, 40), tensor("w", 40, 37), tensor("m", 23, 37)
    y = b.contract(x, w, "mk,kn->mn")
    z = b.op("div", b.op("tanh", b.op("add", y, m)), b.op("add", b.op("exp", m), b.like(m, 1.0)))
    check(Graph([x, w, m], [z, y]), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size, kernel, stride", [(9, 3, 1), (9, 3, 2), (16, 1, 1), (12, 5, 1), (6, 3, 1)])
def test_convolutions(level, size, kernel, stride):
    image, weight = tensor("image", 2, 5, size, size), tensor("weight", 7, 5, kernel, kernel)
    p = kernel // 2
    padded = b.pad(image, (0, 0, p, p), (0, 0, p, p))
    taps = b.window(padded, (2, 3), (kernel, kernel), (stride, stride))
    check(Graph([image, weight], [b.contract(taps, weight, "nchwrs,ocrs->nohw")]), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("order", ["cuvn", "nuvc"])
def test_vectors_run_over_several_labels_of_the_result(level, order):
    """The weight gradient of a 2x2 kernel on a 2x2 image: no vectors of two elements, however the image lies."""
    size = dict(n=24, u=2, v=2, c=12, o=40)
    image, dy = tensor("image", *(size[x] for x in order)), tensor("dy", 24, 40)
    (schedule,) = check(Graph([image, dy], [b.contract(image, dy, f"{order},no->ocuv")]), level)
    assert schedule.lanes == cpu(level).vector_bytes // 4


@pytest.mark.parametrize("channels, most", [(512, 16), (1024, 8), (528, 28)])
def test_rows_of_an_image_that_share_cache_sets_are_few(channels, most):
    image, weight = tensor("image", 6, 4, 4, channels), tensor("weight", 16, channels, 3, 3)
    taps = b.window(b.pad(image, (0, 1, 1, 0), (0, 1, 1, 0)), (1, 2), (3, 3))
    (schedule,) = check(Graph([image, weight], [b.contract(taps, weight, "nxycuv,ocuv->nxyo")]), LEVELS[-1], 1e-4)
    assert schedule.run == 0 and most // 2 < schedule.mr <= most


@pytest.mark.parametrize("level", LEVELS)
def test_split_and_packed(level):
    x, w = tensor("x", 70, 8192 * 2), tensor("w", 9, 8192 * 2)
    check(Graph([x, w], [b.contract(x, w, "mk,nk->mn")]), level, 1e-4)
    x, w = tensor("x", 256, 300), tensor("w", 256, 130)
    check(Graph([x, w], [b.contract(x, w, "km,kn->mn")]), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spec, a, c", [
    ("bik,bkj->bij", (3, 20, 33), (3, 33, 17)), ("bik,bjk->bij", (3, 20, 33), (3, 17, 33)),
    ("bhqd,bhkd->bhqk", (2, 3, 9, 8), (2, 3, 11, 8)), ("bqhd,bkhd->bhqk", (2, 9, 3, 8), (2, 11, 3, 8)),
    ("i,j->ij", (5,), (6,)), ("ij,j->i", (30, 40), (40,)), ("ij,ij->i", (30, 40), (30, 40)),
    ("ij,ij->", (30, 40), (30, 40)), ("aibj,bkj->aik", (3, 4, 5, 6), (5, 7, 6)),
])
def test_batches_and_degenerate_forms(level, spec, a, c):
    x, w = tensor("x", *a), tensor("w", *c)
    check(Graph([x, w], [b.contract(x, w, spec)]), level)


@pytest.mark.parametrize("dtype, tolerance", [(dtypes.float64, 1e-12), (dtypes.bfloat16, 1e-2), (dtypes.float16, 2e-3)])
def test_other_floats(dtype, tolerance):
    x, w = tensor("x", 33, 40, dtype=dtype), tensor("w", 21, 40, dtype=dtype)
    check(Graph([x, w], [b.contract(x, w, "mk,nk->mn")]), LEVELS[-1], tolerance)


def test_operands_without_strides_are_copied_once():
    """Axes merged across a permutation: the product and its transpose share a copy that lies in rows."""
    x, v, w = tensor("x", 3, 40, 16), tensor("v", 48, 20), tensor("w", 40, 24)
    merged = b.reshape(b.permute(x, (1, 0, 2)), (40, 48))
    graph = Graph([x, v, w], [b.contract(merged, v, "mk,kn->mn"), b.contract(merged, w, "mk,mn->kn")])
    laid = target_layout(graph, cpu("avx512"))
    assert len({n for n in laid.nodes() if n.op == "barrier" and n.shape == (40, 48)}) == 1
    check(graph, LEVELS[-1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("m, n", [(61, 70), (28, 32), (29, 16)])
@pytest.mark.parametrize("light", [True, False])
def test_results_beyond_the_caches_are_fetched_ahead(level, m, n, light):
    x, w, r = tensor("x", m, 80), tensor("w", 80, n), tensor("r", m, n)
    y = b.op("add", b.contract(x, w, "mk,kn->mn"), r)
    graph = Graph([x, w, r], [y if light else b.op("tanh", b.op("mul", y, r))])
    assert [s.ahead for s in check(graph, level, l2_bytes=1 << 10)] == [True]
    assert [s.ahead for s in check(graph, level)] == [False]


@pytest.mark.parametrize("m, n, spec, inner", [(61, 96, "mk,kn->mn", (80,)), (40, 64, "mk,kn->mn", (83,)),
                                               (30, 64, "mkl,kln->mn", (6, 20))])
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16])
def test_all_lines_of_the_results_are_fetched_ahead(m, n, spec, inner, dtype):
    x, w, r = tensor("x", m, *inner), tensor("w", *inner, n), tensor("r", m, n, dtype=dtype)
    y = b.op("add", b.cast(b.contract(x, w, spec), dtype), r)
    graph = Graph([x, w, r], [b.op("mul", y, r)])
    check(graph, LEVELS[-1], 2e-5 if dtype is dtypes.float32 else 2e-2, l2_bytes=1 << 10)
    target = replace(cpu("avx512", 1), l2_bytes=1 << 10)
    kernel = build_program(target_layout(graph, target), (), target, "main").kernels()[-1]
    assert kernel.schedule.ahead
    line = 64 // dtype.itemsize
    fetched, written = places(kernel.body, Prefetch), places(kernel.body, Store)
    (result,) = kernel.writes
    lines = {at // line for buffer, at in written if buffer is result}
    assert lines and lines <= {at // line for buffer, at in fetched if buffer is result}
    part = next((s for s in walk(kernel.body) if isinstance(s, For) and s.axis.attr[0] == "part"), None)
    assert (part is None) == (inner == (83,))


def places(stmt: Stmt, kind: type, at: dict | None = None) -> set[tuple[Buffer, int]]:
    """Where statements of a kind touch memory when a kernel runs: first indices by buffer. Branches are all taken."""
    at = at or {}
    if isinstance(stmt, kind):
        return {(stmt.buffer, number(stmt.index[0], at))}
    if isinstance(stmt, For):
        return set().union(*(places(stmt.body, kind, {**at, stmt.axis: i}) for i in range(number(stmt.extent, at))))
    return set().union(*(places(s, kind, at) for s in children(stmt)))


def number(e: Expr, at: dict) -> int:
    if e.op == "axis":
        return at[e]
    return e.attr if e.op == "const" else INTEGERS[e.op](*(number(a, at) for a in e.args))


INTEGERS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv,
            "mod": operator.mod, "min": min, "max": max}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spec", ["mk,kn->mn", "mk,nk->mn", "km,kn->nm", "bmk,bkn->bmn"])
def test_columns_are_fetched_ahead(level, spec):
    """The last positions of the inner range ask for what lies behind the operand."""
    size = dict(b=2, m=37, n=70, k=45)
    first, second = spec.split("->")[0].split(",")
    x, w = tensor("x", *(size[c] for c in first)), tensor("w", *(size[c] for c in second))
    assert all(s.stream for s in check(Graph([x, w], [b.contract(x, w, spec)]), level, l1d_bytes=1 << 10))


def recurrent(length: int, batch: int, hidden: int) -> Graph:
    """h = tanh(x + h w^T / 20), step by step."""
    w, h, x = tensor("w", hidden, hidden), tensor("h", batch, hidden), tensor("x", batch, hidden)
    product = b.contract(h, w, "mk,nk->mn")
    new = b.op("tanh", b.op("add", b.op("mul", product, b.like(product, 0.05)), x))
    body = Graph([w, h, x], [new, new])
    inputs = [tensor("w", hidden, hidden), tensor("h", batch, hidden), tensor("x", length, batch, hidden)]
    scan = make("scan", inputs, body=body, length=length, consts=1, carry=1, reverse=False)
    return Graph(inputs, [b.item(scan, 0), b.item(scan, 1)])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("batch, hidden", [(5, 130), (20, 150), (3, 40)])
def test_weights_of_a_loop_are_packed_before_it(level, batch, hidden):
    graph = recurrent(4, batch, hidden)
    schedules = check(graph, level)
    assert not any(s.along for s in schedules)
    program = build_program(target_layout(graph, cpu(level)), (), cpu(level), "main")
    before = list(itertools.takewhile(lambda s: isinstance(s, Launch), program.steps))
    assert any("barrier" in s.kernel.name for s in before) == (batch >= 4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("m", [28, 45])
def test_rows_pages_apart_are_fetched_ahead(level, m):
    x, w = tensor("x", m, 1100), tensor("w", 1100, 20)
    graph = Graph([x, w], [b.contract(x, w, "mk,kn->mn")])
    check(graph, level)
    target = cpu(level, 1)
    kernels = build_program(target_layout(graph, target), (), target, "main").kernels()
    fetched = [s.buffer for k in kernels for s in walk(k.body) if isinstance(s, Prefetch)]
    assert {f.size for f in fetched} >= {m * 1100}


def narrow_lanes(kernels: Sequence[Kernel]) -> list[int]:
    """Lanes of the register tiles of a kernel's last columns, where they are fewer than the others'."""
    sums = [s.buffer for k in kernels for s in walk(k.body) if isinstance(s, Alloc) and s.buffer.name == "acc"]
    return sorted({b.shape[-1] for b in sums} - {max(b.shape[-1] for b in sums)})


def lowered(graph: Graph, target: CpuTarget) -> Program:
    graph = target_layout(sink_permutes(graph), target)
    return plan_memory(build_program(graph, (), target, "main"))


@pytest.mark.parametrize("n, tail", [(50, 4), (100, 4), (21, 8), (24, 8), (33, 4), (25, 0), (48, 0), (7, 0)])
@pytest.mark.parametrize("heavy", [True, False])
def test_few_columns_beyond_the_last_tile_take_narrow_vectors(n, tail, heavy):
    x, w, r = tensor("x", 41, 64), tensor("w", 64, n), tensor("r", 41, n)
    y = b.op("add", b.contract(x, w, "mk,kn->mn"), r)
    y = b.op("tanh", b.op("exp", b.op("mul", y, b.like(y, 0.01)))) if heavy else y
    graph = Graph([x, w, r], [y])
    assert narrow_lanes(lowered(graph, cpu("avx512")).kernels()) == [tail] * (tail > 0)
    for level in LEVELS:
        check(graph, level)


@pytest.mark.parametrize("spec", ["mk,bkn->bmn", "km,bkn->bmn", "mk,kbn->bmn", "bmk,nk->bnm", "gmk,gbkn->gbmn",
                                  "mk,ckn->mcn"])
@pytest.mark.parametrize("n", [9, 12, 17, 20, 31, 35])
@pytest.mark.parametrize("level", ["avx2", "avx512", "avx512-bf16"])
def test_columns_that_are_no_one_range_are_all_computed(level, n, spec):
    """Tiles cut the columns that are contiguous, of which fewer or more are left than of all columns."""
    size = dict(b=2, c=3, g=2, m=18, n=n, k=10)
    first, second = spec.split("->")[0].split(",")
    dtype = dtypes.bfloat16 if "bf16" in level else dtypes.float32
    x, w = (tensor(name, *(size[c] for c in labels), dtype=dtype) for name, labels in (("x", first), ("w", second)))
    y = b.contract(x, w, spec)
    everywhere(Graph([x, w], [y]), cpu(level))


def everywhere(graph: Graph, target: CpuTarget) -> None:
    """The interpreted program, whose memory starts as NaN, gives the graph's results."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, p.shape).astype(p.dtype.np) for p in graph.params]
    results = run_program(lowered(graph, target), arrays)
    for got, want in zip(results, evaluate(graph, arrays, wide=True), strict=True):
        np.testing.assert_array_equal(got.astype(np.float64), np.asarray(want, np.float64))


@pytest.mark.parametrize("tail", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("n", [9, 18, 21, 40])
def test_a_schedule_made_for_other_extents_loses_no_column(n, tail):
    x, w = tensor("x", 5, 6), tensor("w", 2, 6, n)
    graph = Graph([x, w], [b.contract(x, w, "mk,bkn->bmn")])
    fused = fuse(graph)
    for lanes, nr in ((16, 16), (8, 16), (16, 32)):
        kernel = lower_contract(fused, fused.groups[0], Contract(lanes, 4, nr, 2, 3, tail=tail)).kernel
        arrays = [np.ones(p.size, np.float32) for p in kernel.params[:-1]]
        out = np.full(kernel.params[-1].size, np.nan, np.float32)
        run(kernel, [*arrays, out])
        np.testing.assert_array_equal(out, 6)


def test_a_schedule_without_whole_vectors_is_refused():
    x, w = tensor("x", 5, 6), tensor("w", 6, 40)
    fused = fuse(Graph([x, w], [b.contract(x, w, "mk,kn->mn")]))
    with pytest.raises(VerifyError, match="24 columns are no whole vectors of 16"):
        lower_contract(fused, fused.groups[0], Contract(16, 4, 24))


@pytest.mark.parametrize("wrong", [dict(mr=33), dict(nr=40), dict(mr=100, stack=2)])
def test_a_schedule_without_whole_tiles_is_refused(wrong):
    x, w = (tensor(name, 50, 64, dtype=dtypes.bfloat16) for name in "xw")
    fused = fuse(target_layout(Graph([x, w], [b.contract(x, w, "mk,nk->mn")]), cpu("amx")))
    (group,) = (g for g in fused.groups if g.kind == "contract")
    sched = cpu_contract.contract(group.units[0].node, cpu("amx"))
    assert sched.stack and lower_contract(fused, group, sched)
    with pytest.raises(VerifyError, match="no whole tiles for runs of 50 rows"):
        lower_contract(fused, group, replace(sched, **wrong))
