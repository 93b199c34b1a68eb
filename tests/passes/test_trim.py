"""trim: contractions compute what their slices keep."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.graph.verify import verify
from dlc.ir.program.interp import run_program
from dlc.passes.autodiff.vjp import expand, vjp
from dlc.passes.convolution.push_slices import cut, trim_contractions
from dlc.runtime.compile import Job, lower
from tests.passes.programs import tensor
from tests.random_graphs import arguments
from tests.targets import cpu


def trimmed(graph: Graph) -> Graph:
    new = trim_contractions(graph)
    verify(new, "trim")
    args = arguments(graph)
    for a, b in zip(graph_interp.evaluate(graph, args), graph_interp.evaluate(new, args), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)
    return new


def full_convolution(stride: int = 1, interior: int = 0) -> tuple[list, B.Node]:
    x, w = tensor("x", 2, 4, 5), tensor("w", 3, 5, 3)
    spread = B.pad(x, (0, 2, 0), (0, 2, 0), (0, interior, 0))
    taps = B.window(spread, (1,), (3,), (stride,))  # n l o u
    return [x, w], B.contract(taps, B.flip(w, [2]), "nlou,cou->nlc")


@pytest.mark.parametrize("stride, interior, rows", [(1, 0, 4), (2, 0, 2), (1, 1, 7)])
def test_the_padding_of_a_full_convolution_shrinks(stride, interior, rows):
    params, y = full_convolution(stride, interior)
    new = trimmed(Graph(params, [B.slice_(y, (0, 1, 0), (2, 1 + rows, 3))]))
    assert new.outputs[0].op == "contract"
    pads = [n for n in new.nodes() if n.op == "pad"]
    assert len(pads) == 1 and (pads[0].attrs["low"][1], pads[0].attrs["high"][1]) in ((1, 1), (0, 0), (0, 1), (1, 0))


@pytest.mark.parametrize("start, stop", [(0, 3), (2, 5), (1, 7), (6, 8)])
def test_cut(start, stop):
    x = tensor("x", 4)
    for view in (B.pad(x, (2,), (2,)), B.flip(B.pad(x, (1,), (3,)), [0])):
        whole, part = B.slice_(view, (start,), (stop,)), cut(view, 0, start, stop)
        args = [np.arange(1, 5, dtype=np.float32)]
        a, b = graph_interp.evaluate(Graph((x,), [whole, part]), args)
        np.testing.assert_array_equal(a, b)


AGAIN = [((0, 0), (2, 3), (1, 1), (1, 1)), ((0, 0), (2, 2), (2, 1), (1, 1)),
         ((0, 1, 0), (2, 2, 3), (2, 1, 2), (1, 2, 1)), ((1, 0, 0, 1), (2, 2, 2, 2), (1, 2, 1, 3), (2, 1, 3, 1))]


@pytest.mark.parametrize("axes, sizes, strides, dilations", AGAIN)
def test_cut_of_windows_over_windows(axes, sizes, strides, dilations):
    """A window that names an axis again has windows over the positions of the first ones."""
    x = tensor("x", 17, 19)
    view = B.window(x, axes, sizes, strides, dilations)
    nested = x
    for a, size, stride, dilation in zip(axes, sizes, strides, dilations, strict=True):
        nested = B.window(nested, (a,), (size,), (stride,), (dilation,))
    for axis in (0, 1):
        for start, stop in ((0, 1), (1, view.shape[axis]), (view.shape[axis] - 1, view.shape[axis])):
            low, high = [0] * view.ndim, list(view.shape)
            low[axis], high[axis] = start, stop
            part = cut(view, axis, start, stop)
            graph = Graph((x,), [B.slice_(nested, low, high), part])
            a, b = graph_interp.evaluate(graph, arguments(graph))
            np.testing.assert_array_equal(a, b)
            assert part.op == "window"


@pytest.mark.parametrize("axes, sizes, strides, dilations", AGAIN)
def test_windows_over_windows_and_their_derivatives_are_compiled(axes, sizes, strides, dilations):
    x = tensor("x", 17, 19)
    view = B.window(x, axes, sizes, strides, dilations)
    w = tensor("w", *view.shape[2:], 3)
    taps = "cdefgh"[: len(axes)]
    y = B.contract(view, w, f"ab{taps},{taps}z->abz")
    whole = vjp([y], [B.op("sin", y)], [x, w])
    cut_off = B.slice_(y, (1, 0, 0), (y.shape[0], y.shape[1], 2))
    graph = Graph((x, w), [y, cut_off, view, *whole])
    program = lower(graph, Job(cpu("avx2")))
    args = arguments(graph)
    for got, want in zip(run_program(program, args), graph_interp.evaluate(expand(graph), args), strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-4)
