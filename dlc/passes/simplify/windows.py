"""Windows: pooling as plain views, a convolution's data gradient as a convolution, and the end of `unwindow`.

`unwindow` is what the derivative of `window` leaves: overlapping taps are added up. Where the taps come from a
contraction it is a contraction over a window again, with the kernel flipped and the cotangent spread out by the stride;
where windows do not overlap it is a view. `lower_unwindow` writes what is left, late, as a sum of shifted copies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add
from dlc.ir.graph.graph import Graph, Node, located, map_bodies, rewrite
from dlc.ir.graph.ops import split_spec, window_steps
from dlc.passes.autodiff.vjp_rules import inverse

Rule = Callable[[Node], Node | None]


def _taps(node: Node) -> list[tuple[int, int, int, int]]:
    """(axis, size, stride, dilation) for each window axis."""
    a = node.attrs
    return list(zip(a["axes"], a["sizes"], a["strides"], a["dilations"], strict=True))


def _disjoint(node: Node) -> bool:
    """Whether windows neither overlap nor skip inside: then they are blocks of their axis."""
    counts = (node.inputs[0] if node.op == "unwindow" else node).shape
    return all((dilation == 1 and (size == stride or counts[axis] == 1)) or size == 1
               for axis, size, stride, dilation in _taps(node))


def _named_again(node: Node) -> bool:
    """Whether there are windows over the positions of windows."""
    return len(set(node.attrs["axes"])) < len(node.attrs["axes"])


def _blocked_order(node: Node, rank: int) -> tuple[list[int], dict[int, int]]:
    """The axes of a window's result with each tap axis right behind the axis that it came from."""
    tap_of = {axis: rank + k for k, axis in enumerate(node.attrs["axes"])}
    order = [b for a in range(rank) for b in ((a, tap_of[a]) if a in tap_of else (a,))]
    return order, tap_of


def window_as_view(node: Node) -> Node | None:
    """Windows whose stride is their size: slice off the rest, split the axis, move the taps last."""
    x = node.inputs[0]
    if _named_again(node) or not _disjoint(node) or 0 in node.shape:
        return None
    stop, step = list(x.shape), [1] * x.ndim
    for axis, size, stride, _ in _taps(node):
        count = node.shape[axis]
        stop[axis], step[axis] = (count * size, 1) if size > 1 else ((count - 1) * stride + 1, stride)
    order, _ = _blocked_order(node, x.ndim)
    split = B.reshape(B.slice_(x, [0] * x.ndim, stop, step), [node.shape[a] for a in order])
    return B.permute(split, inverse(order))


def unwindow_as_view(node: Node) -> Node | None:
    """The way back: taps beside their axis, axes joined, and zeros where no window was."""
    x, rank = node.inputs[0], node.ndim
    if _named_again(node) or not _disjoint(node) or 0 in x.shape:
        return None
    order, tap_of = _blocked_order(node, rank)
    shape = [x.shape[a] * (x.shape[tap_of[a]] if a in tap_of else 1) for a in range(rank)]
    joined = B.reshape(B.permute(x, order), shape)
    interior = [0] * rank
    for axis, size, stride, _ in _taps(node):
        interior[axis] = stride - 1 if size == 1 else 0
    high = [
        want - have - (have - 1) * gap for want, have, gap in zip(node.shape, shape, interior, strict=True)
    ]
    return B.pad(joined, [0] * rank, high, interior)


def unwindow_of_contract(node: Node) -> Node | None:
    """unwindow(contract(dy, w)) -> contract(window(pad(dy)), flip(w)): the data gradient of a convolution.

    With y = sum_i x[s o + d i] w[i] the gradient is dx[p] = sum over (o, i) with s o + d i = p of dy[o] w[i]. Spread dy
    by s - 1 zeros, with d (k - 1) zeros before; then window p of dilation d meets w from its last tap to its first.
    """
    x = node.inputs[0]
    if x.op != "contract" or 0 in x.shape or _named_again(node):
        return None
    labels = split_spec(x.attrs["spec"])
    out, rank = labels[2], node.ndim
    counts = [out[a] for a in node.attrs["axes"]]
    taps = out[rank:]
    for k in (0, 1):
        mine, theirs = labels[k], labels[1 - k]
        if all(c in mine and c not in theirs for c in counts) and all(t in theirs and t not in mine for t in taps):
            break
    else:
        return None
    dy, w = x.inputs[k], x.inputs[1 - k]
    low, high, interior = ([0] * dy.ndim for _ in range(3))
    for axis, size, stride, dilation in _taps(node):
        at = mine.index(out[axis])
        low[at] = dilation * (size - 1)
        interior[at] = stride - 1
        high[at] = node.shape[axis] - ((dy.shape[at] - 1) * stride + 1)
    spread = B.pad(dy, low, high, interior)
    seen = B.window(spread, [mine.index(c) for c in counts], node.attrs["sizes"], None, node.attrs["dilations"])
    flipped = B.flip(w, [theirs.index(t) for t in taps])
    pair = (seen, flipped) if k == 0 else (flipped, seen)
    spec = f"{mine}{taps},{theirs}" if k == 0 else f"{theirs},{mine}{taps}"
    return B.contract(*pair, f"{spec}->{out[:rank]}", x.dtype)


WINDOW_RULES: dict[str, tuple[Rule, ...]] = {
    "window": (window_as_view,),
    "unwindow": (unwindow_as_view, unwindow_of_contract),
}


def lower_unwindow(graph: Graph) -> Graph:
    """`graph` with every remaining `unwindow` as a sum over taps of padded slices; half types add up in float32."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "unwindow":
            return None
        with located(node.loc):
            return _sum_of_taps(node, ins[0])

    return rewrite(map_bodies(graph, lower_unwindow), rule)


def _sum_of_taps(node: Node, x: Node) -> Node:
    rank, wide = node.ndim, node.dtype.compute
    if 0 in x.shape:
        return B.like(node, 0)
    counts = x.shape[:rank]
    positions, steps = window_steps(node.attrs)
    total = None
    for tap in itertools.product(*map(range, node.attrs["sizes"])):
        one = B.slice_(x, (*[0] * rank, *tap), (*counts, *(t + 1 for t in tap)))
        low, high, interior = [0] * rank, [0] * rank, [0] * rank
        for axis, step in positions.items():
            low[axis] = sum(t * by for a, t, by in zip(node.attrs["axes"], tap, steps, strict=True) if a == axis)
            interior[axis] = step - 1
            high[axis] = node.shape[axis] - low[axis] - (counts[axis] - 1) * step - 1
        part = B.pad(B.cast(B.reshape(one, counts), wide), low, high, interior)
        total = part if total is None else add(total, part)
    return B.cast(total, node.dtype)
