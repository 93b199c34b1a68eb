"""Rows of a GPU's reductions that are walked turned, so that threads read what lies together."""

from __future__ import annotations

import pytest

from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.loops import schedule
from tests.codegen.test_cuda_programs import check, program_of
from tests.passes.programs import tensor

TARGET = GpuTarget.of("sm_90a")


def groups_of_channels(n: int, h: int, w: int, groups: int, each: int, keep: bool = False) -> Graph:
    """Sums over the pixels and channels of each group, of an image with channels last; `keep`: x less that sum too."""
    x = tensor("x", n, h, w, groups * each)
    rows = B.reshape(B.permute(x, (0, 3, 1, 2)), (n, groups, each * h * w))
    total = B.reduce(B.op("mul", rows, rows), "sum", (2,))
    if not keep:
        return Graph((x,), [total])
    spread = B.broadcast_to(B.reshape(total, (n, groups, 1)), rows.shape)
    return Graph((x,), [B.op("sub", rows, spread)])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("sizes", [(2, 4, 4, 3, 8), (1, 3, 5, 2, 4), (3, 2, 2, 1, 2), (2, 1, 7, 5, 3)])
def test_turned_rows(sizes, keep):
    check(groups_of_channels(*sizes, keep))


def test_channels_of_a_group_are_read_as_vectors():
    (kernel,) = program_of(groups_of_channels(16, 16, 16, 8, 8)).kernels()
    assert isinstance(kernel.schedule, schedule.GpuRows)
    assert "= load<4>(" in emit_module([kernel], TARGET)


def test_rows_that_lie_together_are_walked_as_they_are():
    x = tensor("x", 6, 40, 40)
    (kernel,) = program_of(Graph((x,), [B.reduce(x, "sum", (1, 2))])).kernels()
    assert isinstance(kernel.schedule, schedule.GpuRows)
    assert "umod" not in emit_module([kernel], TARGET)
