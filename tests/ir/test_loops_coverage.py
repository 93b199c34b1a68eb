"""What `loops_coverage` must find: faults planted in kernels, schedules and lowerings. Each kernel is right before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest

from dlc.base.errors import VerifyError
from dlc.codegen.lower import contract as cpu_contract
from dlc.codegen.lower import contraction
from dlc.codegen.lower.gpu.contract import Panel
from dlc.codegen.lower.gpu.contract import lower_contract as gpu_contract
from dlc.codegen.lower.gpu.mma import Ring, lower_mma
from dlc.codegen.lower.map import lower_map
from dlc.codegen.lower.rows import lower_rows
from dlc.codegen.program.gpu_lowering import lowered_group as gpu_lowered_group
from dlc.codegen.program.lowering import lowered_group
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.ir.loops import instructions, traverse
from dlc.ir.loops import ir as loops
from dlc.ir.loops.coverage import check
from dlc.ir.loops.ir import Expr, For, If, Kernel, Seq, Stmt, Store, Sync
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.schedule import Contract, GpuContract, GpuMma, Map, Rows
from dlc.ir.loops.traverse import map_expr, map_stmt
from dlc.passes.fuse.fuse import fuse
from tests.targets import target


def tensor(name: str, *shape: int, dtype=dtypes.float32) -> Node:
    return param(TensorType(dtype, shape), name)


def product(m: int, n: int, k: int, dtype=dtypes.float32) -> Graph:
    x, w = tensor("x", m, k, dtype=dtype), tensor("w", k, n, dtype=dtype)
    return Graph([x, w], [b.contract(x, w, "mk,kn->mn")])


def only(graph: Graph, lower: Callable, *args) -> Kernel:
    """The kernel of a graph's one group."""
    fused = fuse(graph)
    (group,) = fused.groups
    return lower(fused, group, *args).kernel


def changed(kernel: Kernel, expr: Callable[[Expr, tuple[Expr, ...]], Expr | None] | None = None,
            stmt: Callable[[Stmt], Stmt | None] | None = None) -> Kernel:
    """The kernel with expressions and statements replaced by rules; at least one has to be."""
    hits: list[object] = []

    def on_expr(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        new = None if expr is None else expr(e, args)
        if new is not None:
            hits.append(e)
        return new

    def on_stmt(s: Stmt) -> Stmt | None:
        new = None if stmt is None else stmt(s)
        if new is not None:
            hits.append(s)
        return new

    memo: dict[Expr, Expr] = {}
    body = map_stmt(kernel.body, lambda e: map_expr(e, on_expr, memo), on_stmt)
    assert hits, "nothing was planted"
    return replace(kernel, body=body)


def is_right(kernel: Kernel, sizes: dict | None = None) -> None:
    assert check(kernel, sizes) == []


def is_wrong(kernel: Kernel, message: str, sizes: dict | None = None) -> None:
    with pytest.raises(VerifyError, match=message):
        check(kernel, sizes)


def parsed(text: str) -> Kernel:
    return parse_kernel(dedent(text).strip())


def stores(kernel: Kernel) -> Iterator[Store]:
    return (s for s in traverse.walk(kernel.body) if isinstance(s, Store))


CONTRACT = Contract(16, 4, 16, 2, 3, tail=4)


def test_a_tail_too_narrow(monkeypatch):
    graph = product(10, 25, 8)
    is_right(only(graph, cpu_contract.lower_contract, CONTRACT))
    monkeypatch.setattr(cpu_contract, "last_lanes", lambda n, nr, lanes, fewest: fewest)
    is_wrong(only(graph, cpu_contract.lower_contract, CONTRACT), "50 of 250 elements of t0 are never written")


def test_a_guard_left_out():
    kernel = only(product(10, 25, 8), cpu_contract.lower_contract, CONTRACT)
    bare = changed(kernel, stmt=lambda s: s.then if isinstance(s, If) and s.other is None else None)
    is_wrong(bare, "outside 0..249")


def test_a_predicate_left_out():
    x = tensor("x", 37, 45)
    kernel = only(Graph([x], [b.permute(x, (1, 0))]), lower_map, Map(16, 1024, 16))
    is_right(kernel)
    bare = changed(kernel, stmt=lambda s: replace(s, predicate=None) if isinstance(s, Store) and s.predicate else None)
    is_wrong(bare, "outside 0..1664|written 2 times")


def test_a_load_without_its_guard():
    x = tensor("x", 37, 45)
    kernel = only(Graph([x], [b.permute(x, (1, 0))]), lower_map, Map(16, 1024, 16))

    def bare(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
        return loops.load(e.attr, args[0]) if e.op == "load" and e.attr.space == "global" and len(args) > 1 else None

    is_wrong(changed(kernel, bare), "x is touched at 0 to [0-9]+, outside 0..1664")


@pytest.mark.parametrize("fewer", [1, -1])
def test_a_number_of_row_tiles_off_by_one(monkeypatch, fewer):
    tiles = contraction.over_tiles

    def off(block, per, total, name, body):
        return tiles(block, per, total - fewer, name, body) if name == "mt" else tiles(block, per, total, name, body)

    monkeypatch.setattr(cpu_contract, "over_tiles", off)
    kernel = only(product(30, 32, 8), cpu_contract.lower_contract, Contract(16, 5, 16, 8, 8))
    if fewer > 0:
        is_wrong(kernel, "160 of 960 elements of t0 are never written, the first is 800")
    else:
        is_wrong(kernel, "160 elements of t0 are written 2 times")


def test_a_wrong_stride():
    kernel = only(product(30, 32, 8), cpu_contract.lower_contract, Contract(16, 5, 16, 2, 1))

    def wrong(s: Stmt) -> Stmt | None:
        if not isinstance(s, Store) or s.buffer.space != "global":
            return None
        at = map_expr(s.index[0], lambda e, args: loops.const(31) if e is loops.const(32) else None, {})
        return replace(s, index=(at,))

    is_right(kernel)
    is_wrong(changed(kernel, stmt=wrong), "elements of t0 are (never written|written 2 times)")


def test_a_missing_initial_store():
    kernel = only(product(30, 32, 8), cpu_contract.lower_contract, Contract(16, 5, 16, 2, 1))
    first = next(stores(kernel))
    assert first.value.op == "const"
    is_wrong(changed(kernel, stmt=lambda s: Seq(()) if isinstance(s, Store) and s.value.op == "const" else None),
             r"of acc is read where nothing was written")


def test_a_sum_into_a_result_that_is_not_cleared():
    text = """
        kernel total(x: f32[32], out: f32[4] writes)
          for i in 4 parallel:
            {clear}
            for k in 8:
              out[i] += x[i*8 + k]
        """
    is_right(parsed(text.format(clear="out[i] = 0.0")))
    is_wrong(parsed(text.format(clear="")), "4 of 4 elements of out are never written")


def test_a_parallel_loop_over_a_reduction():
    text = """
        kernel total(x: f32[32], out: f32[4] writes)
          for k in 8{first}:
            for i in 4{second}:
              if k == 0:
                out[i] = 0.0
              out[i] += x[i*8 + k]
        """
    is_right(parsed(text.format(first="", second="")))
    is_wrong(parsed(text.format(first=" parallel", second="")), "another parallel iteration writes")


def test_iterations_that_read_what_others_write():
    text = """
        kernel shift(x: f32[32], out: f32[32] writes, more: f32[32] writes)
          for i in 32 parallel:
            out[i] = x[i]
            more[i] = out[{at}]
        """
    is_right(parsed(text.format(at="i")))
    is_wrong(parsed(text.format(at="31 - i")), "another parallel iteration writes")


def test_a_tail_that_overlaps():
    text = """
        kernel copy(x: f32[37], out: f32[37] writes)
          for i in 2:
            for v in 16 vector(16):
              out[i*16 + v] = x[i*16 + v]
          for v in {count} vector(16):
            out[{start} + v] = x[{start} + v]
        """
    is_right(parsed(text.format(count=5, start=32)))
    is_wrong(parsed(text.format(count=16, start=21)), "11 elements of out are written 2 times, the first is 21")
    is_wrong(parsed(text.format(count=4, start=32)), "1 of 37 elements of out are never written, the first is 36")
    is_wrong(parsed(text.format(count=6, start=32)), "is touched at 32 to 37, outside 0..36")


def test_a_loop_longer_than_its_axis():
    x = tensor("x", 37, 45)
    kernel = only(Graph([x], [b.sum_(x, [1])]), lower_rows, Rows(16, 2, 5))
    is_right(kernel)

    def longer(s: Stmt) -> Stmt | None:
        cut = isinstance(s, For) and s.extent.op == "min"
        return replace(s, extent=s.extent.args[1]) if cut else None

    is_wrong(changed(kernel, stmt=longer), "a loop of up to 37 turns over an axis of 5")


@pytest.mark.parametrize("dtype, clamped", [("i64", False), ("i64", True), ("u8", False), ("u8", True)])
def test_an_index_without_its_clamp(dtype, clamped):
    at = "min(max(i64(at[i]), 0), 99)" if clamped else "i64(at[i])"
    kernel = parsed(f"""
        kernel pick(x: f32[100], at: {dtype}[8], out: f32[8] writes)
          for i in 8 parallel:
            out[i] = x[{at}]
        """)
    if clamped:
        is_right(kernel)
    else:
        is_wrong(kernel, f"x is touched at {'0 to 255' if dtype == 'u8' else 'any place'}, outside 0..99")


def test_a_scatter_whose_tasks_do_not_keep_to_their_rows():
    x, i, u = tensor("x", 40000), tensor("i", 9, dtype=dtypes.int64), tensor("u", 9)
    graph = Graph([x, i, u], [make("scatter", (x, i, u), axis=0, combine="add")])
    kernel = only(graph, lambda f, g: lowered_group(f, g, target("avx2")))
    is_right(kernel)
    is_wrong(changed(kernel, stmt=lambda s: s.then if isinstance(s, If) else None), "another parallel iteration writes")


def test_amx_sums_drained_to_the_wrong_rows():
    kernel = matrix_unit()
    is_right(kernel)

    def shifted(s: Stmt) -> Stmt | None:
        return replace(s, index=(loops.const(0), s.index[1])) if isinstance(s, instructions.StoreTile) else None

    is_wrong(changed(kernel, stmt=shifted), "of tile is read where nothing was written")


def test_amx_lines_at_a_wrong_distance():
    def apart(s: Stmt) -> Stmt | None:
        return replace(s, b_stride=s.b_stride + 1) if isinstance(s, instructions.TileMma) else None

    is_wrong(changed(matrix_unit(), stmt=apart), r"is touched at 0 to [0-9]+, outside")


def matrix_unit() -> Kernel:
    from dlc.codegen.program.build import build_program, target_layout

    graph = target_layout(product(50, 48, 64, dtypes.bfloat16), target("amx"))
    (kernel,) = (k for k in build_program(graph, (), target("amx"), "main").kernels()
                 if isinstance(k.schedule, Contract) and k.schedule.stack > 1)
    return kernel


GPU = GpuContract(32, 32, 8, 4, 4)


def test_a_barrier_left_out():
    kernel = only(product(50, 70, 40), gpu_contract, GPU)
    is_right(kernel)
    is_wrong(changed(kernel, stmt=lambda s: Seq(()) if isinstance(s, Sync) else None), "with no barrier between")


def test_the_half_that_is_still_read(monkeypatch):
    commit = Panel.commit
    monkeypatch.setattr(Panel, "commit", lambda self, half: commit(self, half if half.op == "const" else
                                                                   loops.const(1) - half))
    is_wrong(only(product(50, 70, 40), gpu_contract, GPU), "with no barrier between|where nothing was written")


def test_a_shared_tile_that_is_not_filled(monkeypatch):
    kernel = only(product(64, 64, 64), gpu_contract, GPU)
    is_right(kernel)

    def fewer(s: Stmt) -> Stmt | None:
        half = isinstance(s, Store) and s.buffer.name == "a_tile"
        return If(loops.op("lt", s.index[1], loops.const(7)), s) if half else None

    is_wrong(changed(kernel, stmt=fewer), "of a_tile is read where nothing was written")


def test_a_ring_whose_copies_come_too_late(monkeypatch):
    graph = product(128, 128, 512, dtypes.bfloat16)
    sched = GpuMma(64, 64, 64, 4, 1, 2, 32)
    is_right(only(graph, lower_mma, sched))
    copy = Ring.copy
    monkeypatch.setattr(Ring, "copy", lambda self, step, stage: copy(self, step, loops.const(0) if stage.op == "const"
                                                                     else stage))
    is_wrong(only(graph, lower_mma, sched), "of [ab]_tile is read where nothing was written")


def test_results_that_other_kernels_share():
    """Elements that lie apart, with others between them."""
    text = """
        kernel part(x: f32[6], out: f32[10] writes)
          for i in 2 parallel:
            for j in 3:
              out[i*{step} + j] = x[i*3 + j]
        """
    right, wrong = (parsed(text.format(step=k)) for k in (7, 5))
    apart = {right.params[1]: ((2, 3), (7, 1))}
    assert check(right, None, apart) == []
    is_wrong(right, "4 of 10 elements of out are never written")
    with pytest.raises(VerifyError, match="never written"):
        check(wrong, None, {wrong.params[1]: ((2, 3), (7, 1))})


@pytest.mark.parametrize("name", ["avx2", "sm_90a"])
@pytest.mark.parametrize("n", [31, 1023, 8192, 10001])
def test_kernels_of_any_size(name, n):
    x = tensor("x", n)
    lower = gpu_lowered_group if name.startswith("sm") else lowered_group
    kernel = only(Graph([x], [b.op("exp", x)]), lambda f, g: lower(f, g, target(name)))
    size = kernel.params[-1]
    sizes = {p: n for p in kernel.params}
    is_right(kernel, sizes)
    is_wrong(changed(kernel, lambda e, args: loops.const(n - 1) if e.op == "load" and e.attr is size else None),
             f"1 of {n} elements", sizes)
    with pytest.raises(ValueError, match="for tensors of any size"):
        check(kernel)


def test_a_statement_that_is_not_known():
    class Unknown(Stmt):
        pass

    kernel = parsed("kernel copy(x: f32[4], out: f32[4] writes)\n  for i in 4:\n    out[i] = x[i]\n")
    traverse._STMTS[Unknown] = traverse._EXPRS[Unknown] = ()
    try:
        is_wrong(replace(kernel, body=Seq((kernel.body, Unknown()))), "what a Unknown touches is not known")
    finally:
        del traverse._STMTS[Unknown], traverse._EXPRS[Unknown]


def test_custom_kernels_may_leave_elements_unwritten():
    kernel = parsed("kernel half(x: f32[8], out: f32[8] writes)\n  for i in 4:\n    out[i] = x[i]\n")
    is_wrong(kernel, "4 of 8 elements of out are never written")
    assert check(replace(kernel, custom=True)) == []


def test_driver_checks_under_dlc_verify(monkeypatch):
    import dlc

    monkeypatch.setenv("DLC_VERIFY", "1")
    monkeypatch.setattr(cpu_contract, "columns_left", lambda total, per, tile: loops.const(1))
    x = dlc.asarray(np.ones((5, 300), np.float32))
    with pytest.raises(VerifyError, match="never written"):
        dlc.jit(lambda x: dlc.exp(x @ x.T))(x).numpy()


def test_a_result_that_is_read_back_is_written_once():
    text = """
        kernel both(x: f32[32], out: f32[32] writes, more: f32[32] writes)
          for i in 8 parallel:
            for j in {count}:
              out[i*4 + min(j, 3)] = x[i*4 + min(j, 3)]
            for k in 4:
              more[i*4 + k] = out[i*4 + k]
        """
    is_right(parsed(text.format(count=4)))
    is_wrong(parsed(text.format(count=5)), "8 elements of out are written 2 times, the first is 3")
