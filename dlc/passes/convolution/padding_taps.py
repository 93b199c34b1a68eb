"""Taps that only ever meet padding go: a 3x3 kernel over a 1x1 image with a border of zeros is a 1x1 kernel.

In contract(window(pad(x)), w) a tap along an axis reads the padded axis at one place for every position of the window.
Where all of these lie in the zeros around `x` its products are zeros, for all finite weights (others are left out too,
as oneDNN and XLA do on CPUs: docs/semantics.md): the window and `w` are cut. This runs before derivatives are taken, so
both gradients are the smaller contraction's; what is cut off of `w` gets zeros.
"""

from __future__ import annotations

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import base_of_casts, with_base
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, rewrite
from dlc.ir.graph.ops import split_spec
from dlc.passes.convolution.push_slices import cut


def drop_taps(graph: Graph) -> Graph:
    """`graph` with the contracted taps of windows limited to those that meet more than padding."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        return _cut_taps(node, ins) if node.op == "contract" else None

    return rewrite(map_bodies(graph, drop_taps), rule)


def _cut_taps(node: Node, ins: tuple[Node, ...]) -> Node | None:
    *labels, out = split_spec(node.attrs["spec"])
    operands, changed = list(ins), False
    for k in (0, 1):
        seen = base_of_casts(operands[k])
        if seen.op != "window":
            continue
        rank, kept = seen.inputs[0].ndim, dict[int, tuple[int, int]]()
        for at, label in enumerate(labels[k][rank:]):
            first, last = useful_taps(seen, at)
            if label in labels[1 - k] and label not in out and last - first < seen.attrs["sizes"][at]:
                kept[at] = first, last
                operands[1 - k] = cut(operands[1 - k], labels[1 - k].index(label), first, last)
        if kept:
            operands[k], changed = with_base(operands[k], _with_taps(seen, kept), seen.loc), True
    return make("contract", operands, node.loc, **node.attrs) if changed else None


def useful_taps(window: Node, at: int) -> tuple[int, int]:
    """Tap axis number `at` of a window: the range of taps outside of which all elements are padding with zeros. It is
    all taps where there is no such padding, or nothing else."""
    a, x = window.attrs, base_of_casts(window.inputs[0])
    axis, size, stride, dilation = (a[name][at] for name in ("axes", "sizes", "strides", "dilations"))
    if x.op != "pad" or x.attrs["value"] != 0 or a["axes"].count(axis) > 1:
        return 0, size
    start = x.attrs["low"][axis]
    stop = start + (x.inputs[0].shape[axis] - 1) * (x.attrs["interior"][axis] + 1) + 1
    places = range(0, window.shape[axis] * stride, stride)
    met = [t for t in range(size) if any(start <= p + t * dilation < stop for p in places)]
    return (met[0], met[-1] + 1) if met else (0, size)


def _with_taps(window: Node, kept: dict[int, tuple[int, int]]) -> Node:
    """The window with only the taps from `first` to `last - 1` of the tap axes in `kept`."""
    a, x = window.attrs, window.inputs[0]
    sizes = list(a["sizes"])
    for at, (first, last) in kept.items():
        axis, stride, dilation = (a[name][at] for name in ("axes", "strides", "dilations"))
        sizes[at] = last - first
        reach = (window.shape[axis] - 1) * stride + (last - first - 1) * dilation + 1
        x = cut(x, axis, first * dilation, first * dilation + reach)
    return B.window(x, a["axes"], sizes, a["strides"], a["dilations"], window.loc)
