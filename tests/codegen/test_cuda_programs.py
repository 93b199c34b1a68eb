"""Whole programs for a GPU: every kernel verified and interpreted, thread by thread, against the graph interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.gpu_lowering import LOWER
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import bfloat16, float16, float32, float64, int32, int64
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import AllReduce, Store, Sync
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.traverse import walk
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from dlc.ir.program.program import Program, Repeat
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.windows import lower_unwindow
from tests.passes import programs
from tests.passes.programs import tensor
from tests.random_graphs import arguments, graphs, integer_graphs

TARGET = GpuTarget.of("sm_90a")
_TOLERANCE = {"float64": 1e-12, "float32": 3e-5, "float16": 2e-2, "bfloat16": 6e-2}


def program_of(graph: Graph, donate=(), target: GpuTarget = TARGET) -> Program:
    program = plan_memory(build_program(target_layout(graph, target), donate, target, "test"))
    for kernel in program.kernels():
        verify(kernel)
        text = print_kernel(kernel)
        assert print_kernel(parse_kernel(text)) == text
    return program


def check(graph: Graph, args=None, seeds=(0, 1)) -> Program:
    args = arguments(graph) if args is None else args
    want = graph_interp.evaluate(graph, args)
    program = program_of(graph)
    for seed in seeds:
        for o, g, w in zip(graph.outputs, run_program(program, args, seed), want, strict=True):
            assert g.dtype == w.dtype and g.shape == w.shape
            if o.dtype.is_float:
                types = [getattr(n.type, "dtype", float32) for n in graph.nodes()]
                half = any(d.is_half for d in types)  # rounded when stored or cast to, not at every step
                t = _TOLERANCE["bfloat16" if half else o.dtype.name]
                np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), t, t)
            else:
                np.testing.assert_array_equal(g, w)
    return program


def forced(monkeypatch, kind: str, sched: schedule.Schedule) -> None:
    """Use `sched` for every group of a kind."""
    real = gpu_schedule.choose
    monkeypatch.setattr(gpu_schedule, "choose", lambda f, g, t: sched if g.kind == kind else real(f, g, t))


@pytest.mark.parametrize("graph", [
    programs.softmax((3, 33)), programs.softmax((33, 3), 0), programs.softmax((2, 3, 2, 5), 2),
    programs.softmax((1, 7)), programs.softmax((7, 1)), programs.softmax((3, 20), dtype=float16),
    programs.softmax((3, 19), dtype=float64), programs.softmax((2, 1030)), programs.layernorm(3, 21),
    programs.layernorm(2, 8, float16), programs.layernorm(5, 1), programs.layernorm(3, 260),
    programs.batchnorm(3, 5, 3), programs.linear_gelu(5, 4, 18), programs.linear_gelu(1, 3, 7),
    programs.adam((3, 7), (7,), ()), programs.attention(2, 3, 5),
], ids=lambda g: g.outputs[0].op + str(list(g.params[0].shape)))  # fmt: skip
def test_programs(graph):
    args = [np.abs(a) if p.attrs["name"][0] in "vr" else a for p, a in zip(graph.params, arguments(graph), strict=True)]
    check(graph, args)


@pytest.mark.parametrize("gradient", [False, True])
def test_cross_entropy(gradient):
    graph = programs.cross_entropy(5, 7, gradient)
    check(graph, [arguments(graph)[0], np.array([0, 6, 3, 3, 9])])


def test_softmax_reads_memory_once():
    program = program_of(programs.softmax((2, 2048)))
    (kernel,) = program.kernels()
    x = kernel.params[0]
    reading = [s for s in walk(kernel.body) if isinstance(s, Store) and s.value.op == "load" and s.value.attr is x]
    assert len(reading) == 1 and print_kernel(kernel).count(" x[") == 1


# ---------------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("shape", [(), (1,), (17,), (4096,), (3, 5), (1, 5), (5, 1), (2, 1, 7), (4, 4, 4), (0, 3)])
def test_map_extents(shape):
    x, y = tensor("x", *shape), tensor("y", *shape)
    check(Graph((x, y), [B.op("add", B.op("mul", x, y), x), B.op("exp", y)]))


@pytest.mark.parametrize("lanes, unroll, block", [(1, 1, 32), (4, 1, 32), (4, 3, 32), (2, 2, 64), (8, 1, 32)])
def test_map_schedules(monkeypatch, lanes, unroll, block):
    forced(monkeypatch, "map", schedule.GpuMap(block, lanes, unroll))
    for m, n in ((9, 40), (5, 13), (2, 192)):
        x, row = tensor("x", m, n), tensor("row", n)
        check(Graph((x, row), [B.op("add", B.op("mul", x, x), B.broadcast_to(row, x.shape))]))
        check(programs.adam((m, n), (n,)), [np.abs(a) for a in arguments(programs.adam((m, n), (n,)))])


@pytest.mark.parametrize("shape, order", [((33, 40), (1, 0)), ((3, 33, 20), (0, 2, 1)), ((17, 3, 32), (2, 1, 0)),
                                          ((32, 64), (1, 0)), ((5, 3), (1, 0))])
@pytest.mark.parametrize("dtype", [float32, float16])
def test_transposes(shape, order, dtype):
    x = tensor("x", *shape, dtype=dtype)
    y = tensor("y", *(shape[a] for a in order), dtype=dtype)
    check(Graph((x, y), [B.op("add", B.permute(x, order), y)]))


@pytest.mark.parametrize("tile, lanes, block", [(16, 1, 64), (16, 4, 64), (32, 2, 96), (8, 4, 32)])
def test_transpose_schedules(monkeypatch, tile, lanes, block):
    forced(monkeypatch, "map", schedule.GpuMap(block, lanes, 1, tile))
    for shape in ((16, 32), (20, 12), (7, 9)):
        x = tensor("x", *shape)
        program = check(Graph((x,), [B.op("neg", B.permute(x, (1, 0)))]))
        assert any(isinstance(s, Sync) for k in program.kernels() for s in walk(k.body))


def test_concat_pad_and_gather():
    a, b, i = tensor("a", 3, 5), tensor("b", 3, 5), tensor("i", 7, dtype=int64)
    c = make("concat", (a, B.op("neg", b), a), axis=0)
    picked = make("gather", (c, i), axis=0)
    check(Graph((a, b, i), [B.op("mul", c, c), B.flip(c, (0, 1)), picked, B.pad(picked, (1, -2), (3, 1), value=3)]),
          [*arguments(Graph((a, b), [a])), np.array([0, 8, -3, 99, 4, 4, 2])])


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
def test_dtypes_of_maps(dtype):
    x, y = tensor("x", 3, 8, dtype=dtype), tensor("y", 3, 8, dtype=dtype)
    name = "xor" if dtype.is_bool else "mul"
    z = B.op(name, x, B.op("max", x, y))
    outs = [z, B.op("lt", x, y), B.select(B.op("le", z, y), x, y), B.cast(z, float32), B.cast(z, dtypes.bool_)]
    check(Graph((x, y), [*outs, B.cast(B.cast(x, float32), dtype), B.cast(z, int64)]))


def test_donated_state_is_updated_in_place():
    graph = programs.adam((64, 64))
    program = program_of(graph, [(1, 0), (3, 1), (4, 2)])
    assert len(program.steps) == 1 and [s.alias for s in program.outputs] == [program.inputs[k] for k in (1, 3, 4)]


def test_scan_rows_off_16_bytes_are_not_read_as_vectors():
    c, x = tensor("c", 3), tensor("x", 3)
    body = Graph((c, x), [B.op("add", c, x), B.op("mul", c, x)])
    start, rows = tensor("start", 3), tensor("rows", 4, 3)
    s = make("scan", (start, rows), body=body, consts=0, carry=1, length=4, reverse=False)
    graph = Graph((start, rows), [make("item", (s,), index=0), make("item", (s,), index=1)])
    program = check(graph)
    assert any(k.unaligned for k in program.kernels())


def test_a_new_carry_is_written_over_the_old_one():
    c, x = tensor("c", 6), tensor("x", 6)
    start, rows = tensor("start", 6), tensor("rows", 4, 6)
    s = make("scan", (start, rows), body=Graph((c, x), [B.op("add", c, x)]), consts=0, carry=1, length=4, reverse=True)
    (loop,) = (step for step in check(Graph((start, rows), [make("item", (s,), index=0)])).steps
               if isinstance(step, Repeat))
    assert len(loop.body) == 1


def test_carries_that_are_still_needed_are_copied():
    """a, b, c = b, a, c + a: at most one of a and b can be written at once."""
    a, b, c = (tensor(n, 6) for n in "abc")
    total = B.expand(B.reduce(a, "sum", (0,)), (6,), (0,))
    body = Graph((a, b, c), [B.op("mul", b, b), B.op("neg", a), B.op("add", c, total)])
    starts = [tensor(n, 6) for n in ("x", "y", "z")]
    s = make("scan", tuple(starts), body=body, consts=0, carry=3, length=3, reverse=False)
    check(Graph(tuple(starts), [make("item", (s,), index=k) for k in range(3)]))


# ---------------------------------------------------------------------------------------------------------------- rows

_SHAPES = [((7,), (0,)), ((5, 9), (1,)), ((5, 9), (0,)), ((5, 9), (0, 1)), ((3, 4, 5), (0, 2)), ((3, 4, 5), (1,)),
           ((2, 3, 4, 5), (1, 3)), ((1, 6), (0,)), ((6, 1), (1,)), ((3, 40), (1,)), ((40, 3), (0,)), ((2, 0), (1,)),
           ((0, 2), (0,)), ((0,), (0,)), ((), ())]  # fmt: skip


@pytest.mark.parametrize("monoid", ["sum", "max", "argmin"])
@pytest.mark.parametrize("shape, axes", _SHAPES, ids=str)
def test_reductions(shape, axes, monoid):
    if monoid != "sum" and 0 in shape:
        return
    x = tensor("x", *shape)
    y = B.reduce(x, monoid, axes)
    check(Graph((x,), [B.op("neg", y), y]))


_ROWS = [schedule.GpuRows(32, 8, 1, 4, 2), schedule.GpuRows(64, 32, 4, 32, 1), schedule.GpuRows(64, 64, 2, 2, 2),
         schedule.GpuRows(32, 1, 4, 64, 1), schedule.GpuRows(128, 128, 4, 1, 1)]


@pytest.mark.parametrize("sched", _ROWS, ids=str)
def test_row_schedules(monkeypatch, sched):
    forced(monkeypatch, "rows", sched)
    check(programs.softmax((5, 33)))
    check(programs.layernorm(3, 20))
    x = tensor("x", 6, 26)
    value = np.random.default_rng(0).integers(-3, 4, (6, 26)).astype(np.float32)
    check(Graph((x,), [B.reduce(x, m, (1,)) for m in ("argmax", "argmin", "min", "prod")]), [value])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lanes, block, depth", [(1, 32, 1), (4, 32, 1), (2, 64, 4), (1, 32, 32)])
def test_column_schedules(monkeypatch, axis, lanes, block, depth):
    x = tensor("x", 6, 8, 9)
    rows = [a for a in range(3) if a != axis]
    forced(monkeypatch, "rows", schedule.GpuColumns(block, lanes, len(rows) - 1, depth, 3))
    value = np.random.default_rng(0).integers(-2, 3, x.shape).astype(np.float32)
    check(Graph((x,), [B.reduce(x, m, (axis,)) for m in ("sum", "max", "argmax")]), [value])
    check(programs.softmax((6, 8, 9), axis))
    x = tensor("x", 4, 10)
    y = programs.softmax_of(x, axis % 2)
    forced(monkeypatch, "rows", schedule.GpuColumns(block, lanes, 0, depth, 3))
    check(Graph((x,), [B.op("add", y, B.flip(y, (axis % 2,)))]))


@pytest.mark.parametrize("monoid", ["argmax", "argmin", "max", "min"])
def test_nan_and_ties(monoid):
    nan, inf = np.nan, np.inf
    rows = [[nan] * 9, [1] * 9, [inf] * 9, [-inf] * 9, [0, nan, 5, nan, 9, 1, 1, 1, 1], [1, 2, 3, 3, 2, 3, 1, 1, 1],
            [5, 5, 4, 3, 3, 3, 4, 5, 5], [1, 2, 3, 4, 5, 6, 7, 8, nan], [-inf, nan] + [inf] * 7]
    value = np.array(rows, np.float32)
    for axis in (0, 1):
        x = tensor("x", *value.shape)
        check(Graph((x,), [B.reduce(x, monoid, (axis,))]), [value])


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
def test_dtypes_of_reductions(dtype):
    x = tensor("x", 3, 12, dtype=dtype)
    monoids = ("any", "all", "argmax") if dtype.is_bool else ("sum", "prod", "max", "min", "argmax", "argmin")
    check(Graph((x,), [B.reduce(x, m, (a,)) for a in (0, 1) for m in monoids]))


@pytest.mark.parametrize("shape", [(4, 10), (10, 4), (9, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_shifted_reads_of_a_row_member(shape, axis):
    """A softmax that is padded, shifted, flipped and joined to itself inside its own row."""
    x = tensor("x", *shape)
    y = programs.softmax_of(x, axis)
    pad = [0, 0]
    pad[axis] = 2
    moved = B.pad(y, pad, [-p for p in pad] if shape[axis] > 2 else (0, 0), value=7)
    more = B.pad(y, pad, pad)
    check(Graph((x,), [moved, more, B.op("add", y, B.flip(y, (axis,))), make("concat", (y, x, y), axis=axis)]))


def test_split_reductions():
    for axes in ((0,), (0, 1)):
        x = tensor("x", 1 << 14, 24)
        program = program_of(Graph((x,), [B.reduce(x, "sum", axes)]))
        assert len(program.kernels()) == 2


# ------------------------------------------------------------------------------------------------------------ contract


@pytest.mark.parametrize("spec, a, b", [
    ("ik,kj->ij", (5, 3), (3, 9)), ("ik,jk->ij", (40, 33), (50, 33)), ("ki,kj->ij", (20, 36), (20, 44)),
    ("ik,kj->ji", (5, 3), (3, 9)), ("bik,bkj->bij", (2, 3, 4), (2, 4, 5)), ("i,j->ij", (5,), (7,)),
    ("i,i->", (9,), (9,)),
    ("ik,k->i", (5, 3), (3,)), ("k,kj->j", (3,), (3, 11)), ("ik,kj->ij", (1, 3), (3, 1)), ("ik,kj->ij", (4, 1), (1, 6)),
    ("ik,kj->ij", (4, 0), (0, 6)), ("abk,kcd->dbca", (2, 3, 4), (4, 3, 5)), ("ikl,lkj->ij", (3, 2, 4), (4, 2, 9)),
    (",->", (), ()), ("bi,bj->ibj", (2, 3), (2, 9)),
])  # fmt: skip
def test_contractions(spec, a, b):
    x, y = tensor("x", *a), tensor("y", *b)
    z = B.contract(x, y, spec)
    check(Graph((x, y), [B.op("add", z, B.like(z, 1)), z]))


@pytest.mark.parametrize("dtype, out", [(float16, None), (bfloat16, float32), (float64, None), (int32, None),
                                        (dtypes.int8, int32), (float32, float64), (dtypes.uint64, None)])
def test_contraction_dtypes(dtype, out):
    x, y = tensor("x", 3, 4, dtype=dtype), tensor("y", 4, 9, dtype=dtype)
    check(Graph((x, y), [B.contract(x, y, "ik,kj->ij", out)]))


@pytest.mark.parametrize("tile", [(16, 16, 4, 4, 4), (32, 16, 8, 8, 2), (16, 64, 8, 4, 8), (8, 8, 8, 2, 1)])
def test_contract_schedules(monkeypatch, tile):
    for swap in (False, True):
        forced(monkeypatch, "contract", schedule.GpuContract(*tile, swap))
        check(programs.linear_gelu(20, 13, 36))
        x, y = tensor("x", 24, 16), tensor("y", 32, 16)
        check(Graph((x, y), [B.contract(x, y, "ik,jk->ij")]))


def test_contraction_of_views_and_windows():
    x, w, b = tensor("x", 2, 3, 7), tensor("w", 4, 3, 3), tensor("b", 4)
    taps = B.window(B.pad(x, (0, 0, 1), (0, 0, 1)), (2,), (3,), (2,))  # n c l k
    y = B.contract(taps, w, "nclk,ock->nlo")
    y = B.op("max", B.op("add", y, B.broadcast_to(b, y.shape)), B.like(y, 0))
    check(Graph((x, w, b), [B.permute(y, (0, 2, 1)), B.reduce(y, "max", (1,))]))


def test_a_padding_that_is_not_zero_stays_inside():
    x, w = tensor("x", 5, 6), tensor("w", 8, 7)
    check(Graph((x, w), [B.contract(B.pad(x, (0, 1), (0, 1), value=2), w, "ik,kj->ij")]))


@pytest.mark.parametrize("tile", [(64, 64, 64, 4, 1, 1, 128), (128, 64, 64, 3, 2, 1, 128), (64, 128, 32, 4, 1, 2, 128),
                                  (32, 64, 64, 3, 2, 2, 32), (64, 32, 64, 5, 1, 2, 32)], ids=str)
@pytest.mark.parametrize("spec, a, b", [("mk,kn->mn", (70, 72), (72, 80)), ("mk,nk->mn", (70, 200), (80, 200)),
                                        ("km,kn->mn", (40, 72), (40, 64)), ("mk,kn->mn", (65, 33), (33, 70)),
                                        ("bmk,bkn->bnm", (2, 17, 64), (2, 64, 24))])
def test_matrix_instructions(monkeypatch, tile, spec, a, b):
    sched = schedule.GpuMma(*tile)
    forced(monkeypatch, "contract", sched if spec != "bmk,bkn->bnm" else replace(sched, swap=True))
    x, y = tensor("x", *a, dtype=bfloat16), tensor("y", *b, dtype=bfloat16)
    z = B.contract(x, y, spec)
    check(Graph((x, y), [B.op("add", z, B.like(z, 1))]), seeds=(1,))


def test_matrix_instructions_on_a_padded_window(monkeypatch):
    forced(monkeypatch, "contract", schedule.GpuMma(64, 64, 32, 3, 1, 1, 128))
    x, w = tensor("x", 2, 5, 5, 8, dtype=float16), tensor("w", 16, 3, 3, 8, dtype=float16)
    taps = B.window(B.pad(x, (0, 1, 1, 0), (0, 1, 1, 0)), (1, 2), (3, 3), (1, 1))  # n h w c k l
    program = check(Graph((x, w), [B.contract(taps, w, "nhwckl,oklc->nhwo")]), seeds=(1,))
    source = emit_module(program.kernels(), TARGET)
    assert "copy_async" in source and "wgmma_64x64" in source


# ------------------------------------------------------------------------------------------------------------- ordered


def test_scatter_cumulative_and_sort():
    x, i, u = tensor("x", 6, 5), tensor("i", 9, dtype=int64), tensor("u", 9, 5)
    outs = [make("scatter", (x, i, u), axis=0, combine=c) for c in ("add", "set", "max")]
    outs += [make("cumulative", (x,), axis=a, monoid="sum", reverse=r) for a in (0, 1) for r in (False, True)]
    s = make("sort", (x,), axis=1, descending=True)
    outs += [make("item", (s,), index=k) for k in (0, 1)]
    graph = Graph((x, i, u), outs)
    args = arguments(graph)
    check(graph, [args[0], np.array([5, 0, 5, 2, -1, 9, 2, 2, 0]), args[2]])


@pytest.mark.parametrize("threads", [1, 7, 1000])
def test_scatter_pieces(monkeypatch, threads):
    for shape, index_shape, axis in (((5, 7), (9,), 0), ((3, 4, 5), (2, 3), 1), ((6,), (11,), 0), ((13, 1), (40,), 0)):
        forced(monkeypatch, "scatter", schedule.GpuOrdered(32, threads))
        shape_u = (*shape[:axis], *index_shape, *shape[axis + 1 :])
        x, i, u = tensor("x", *shape), tensor("i", *index_shape, dtype=int64), tensor("u", *shape_u)
        graph = Graph((x, i, u), [make("scatter", (x, i, u), axis=axis, combine=c) for c in ("add", "set", "min")])
        args = arguments(graph)
        check(graph, [args[0], np.random.default_rng(1).integers(-2, shape[axis] + 2, index_shape), args[2]])


@pytest.mark.parametrize("dtype", [float32, float16, dtypes.uint8, dtypes.bool_])
@pytest.mark.parametrize("axis, descending", [(0, False), (1, True)])
def test_sort_is_stable_and_puts_nan_last(dtype, axis, descending):
    x = tensor("x", 9, 14, dtype=dtype)
    s = make("sort", (x,), axis=axis, descending=descending)
    value = np.random.default_rng(2).integers(0, 4, (9, 14)).astype(dtype.np)
    if dtype.is_float:
        value[value == 3] = np.nan
    check(Graph((x,), [make("item", (s,), index=k) for k in (0, 1)]), [value])


# ------------------------------------------------------------------------------------------------------- random graphs


_SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@_SETTINGS
@given(integer_graphs(), st.integers(0, 10_000))
def test_random_integer_graphs(graph, seed):
    low = lower_unwindow(remove_markers(graph))
    args = arguments(graph, seed)
    got = run_program(program_of(low), args, seed)
    for g, w in zip(got, graph_interp.evaluate(graph, args), strict=True):
        np.testing.assert_array_equal(g, w)


@_SETTINGS
@given(graphs(float_types=(float32, float64), max_extent=9), st.integers(0, 10_000))
def test_random_graphs(graph, seed):
    low = lower_unwindow(remove_markers(graph))
    args = arguments(graph, seed)
    got = run_program(program_of(low), args, seed)
    for o, g, w in zip(graph.outputs, got, graph_interp.evaluate(graph, args), strict=True):
        if o.dtype.is_float:
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), 1e-3, 1e-3)


def test_every_family_has_a_lowering():
    assert set(LOWER) == {"map", "rows", "contract", "scatter", "sort", "cumulative", "attention", "attention_grad"}
    program = program_of(programs.softmax((2, 300)))
    assert any(isinstance(s, AllReduce) for k in program.kernels() for s in walk(k.body))


def test_registers_are_computed_before_memory_is_overwritten():
    """A row kernel whose output may live in its input: the sum must not read what the store has changed."""
    x = tensor("x", 3, 21)  # 21 is no multiple of the threads: stores and sums have different predicates
    y = B.op("mul", x, B.like(x, 2))
    total = B.reduce(B.op("mul", y, x), "sum", (1,))
    program = check(Graph((x,), [y, total]))
    (kernel,) = program.kernels()
    source = emit_module([kernel], TARGET)
    body = source[source.index('extern "C"') :]
    assert body.index("+=") < body.index("t0[") if "t0[" in body else body.index("+=") < body.index("t0 +")


def test_statistics_of_few_channels_fill_the_gpu():
    """What reads or writes a big tensor runs in many blocks, however few the rows of a reduction are."""
    for kernel in program_of(programs.batchnorm(512, 64, 32)).kernels():
        if sum(p.nbytes for p in kernel.params) >= 1 << 24:
            assert kernel.body.axis.attr[1] >= TARGET.sm_count


@pytest.mark.parametrize("graph", [
    Graph((tensor("x", 4, 192), tensor("y", 192, 8)), []), Graph((tensor("x", 3, 250), tensor("y", 250, 6)), []),
    Graph((tensor("x", 4, 2048, dtype=bfloat16), tensor("y", 2048, 8, dtype=bfloat16)), []),
], ids=["f32", "f32_odd", "bf16"])  # fmt: skip
def test_a_long_inner_range_is_cut(graph):
    x, y = graph.params
    program = check(Graph(graph.params, [B.contract(x, y, "mk,kn->mn")]))
    assert len(program.steps) == 2
