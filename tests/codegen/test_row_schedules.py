"""What the formulas choose for reductions across rows: how many neighbouring columns one task adds up."""

from __future__ import annotations

import pytest

from dlc.codegen.program.build import build_program
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, TensorType, param
from dlc.ir.loops.schedule import Columns
from tests.targets import cpu


@pytest.mark.parametrize("columns, after, threads, unroll", [
    (1536, 0, 2, 16),  # a sum alone: long runs of memory
    (1536, 2, 2, 8),  # all else comes after its loop
    (384, 2, 2, 4),  # eight vectors a task would be three tasks
    (64, 2, 1, 4),  # one thread needs no tasks to share out
    (64, 2, 2, 1),
])
def test_columns_of_a_task(columns, after, threads, unroll):
    rows = 4096 if columns > 64 else 32
    x, w = (param(TensorType(dtypes.float32, s), "x") for s in ((rows, columns), (columns,)))
    y = b.reduce(x, "sum", [0])
    for _ in range(after):
        y = b.op("mul", b.op("add", y, w), w)
    target = cpu("avx512", threads)
    program = build_program(Graph([x, w], [y]), (), target, "main")
    (sched,) = (k.schedule for k in program.kernels() if isinstance(k.schedule, Columns))
    assert sched.unroll == unroll
