"""Convolutions over spread-out operands without their zeros: data gradients of strided ones, transposed ones.

    y[p] = sum over t of z[p + t] w[t],   z = pad(x) with s - 1 zeros between neighbours

Of the taps only every s-th meets an element of x, and which ones depends on p mod s, the *phase*. With p = s q + r and
taps t = s j + (s - 1 - r) - c, for the one c in 0 .. s - 1 that lets these meet elements, it is a contraction over a
window of x itself,

    y[s q + r] = sum over j of x[q + j + e] w'[j, r],

where r is a label of w' alone: one contraction gives all phases, with about k / s taps instead of k.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_letters

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import base_of_casts, with_base
from dlc.ir.graph.graph import Graph, Node, located, map_bodies, rewrite
from dlc.ir.graph.ops import split_spec


def split_phases(graph: Graph) -> Graph:
    """`graph` with every contraction over a window of an operand with zeros in between computed phase by phase."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "contract" or 0 in node.shape:
            return None
        with located(node.loc):
            return _split(node, ins, 0) or _split(node, ins, 1)

    return rewrite(map_bodies(graph, split_phases), rule)


@dataclass(frozen=True)
class _Axis:
    """A window's axis over a spread-out one: k taps at `count` positions, s - 1 zeros between n elements."""

    axis: int
    at: int  # its number among the window's axes
    n: int
    low: int
    s: int
    k: int
    count: int

    @property
    def skipped(self) -> int:
        """Taps of value 0 before the first (c)."""
        return (self.s - 1 - self.low) % self.s

    @property
    def taps(self) -> int:
        """Taps of each phase."""
        return -(-(self.k + self.skipped) // self.s)

    @property
    def groups(self) -> int:
        """Positions of each phase."""
        return -(-self.count // self.s)

    @property
    def start(self) -> int:
        """Where the first window starts among the elements (e)."""
        return (self.s - 1 - self.skipped - self.low) // self.s

    @property
    def stop(self) -> int:
        """Where the last window ends."""
        return self.start + self.groups + self.taps - 1


def _split(node: Node, ins: tuple[Node, ...], k: int) -> Node | None:
    """The contraction with its operand number k no longer spread out, or None where it is not."""
    spec = split_spec(node.attrs["spec"])
    mine, theirs, out = spec[k], spec[1 - k], spec[2]
    seen, other = base_of_casts(ins[k]), ins[1 - k]
    if seen.op != "window" or seen.inputs[0].op != "pad" or seen.inputs[0].attrs["value"] != 0:
        return None
    rank = seen.inputs[0].ndim
    axes = [
        a for a in _spread_axes(seen)
        if mine[rank + a.at] in theirs and mine[rank + a.at] not in out
        and mine[a.axis] in out and mine[a.axis] not in theirs
    ]
    if not axes:
        return None
    fresh = iter(c for c in ascii_letters if c not in mine + theirs)
    sizes = dict(zip(out, node.shape, strict=True))
    result = out
    for a in axes:
        tap, position, phase = mine[rank + a.at], mine[a.axis], next(fresh)
        other = _by_phase(other, theirs.index(tap), a)
        theirs = theirs.replace(tap, tap + phase)
        result = result.replace(position, position + phase)
        sizes[position] = a.groups * a.s
    seen = with_base(ins[k], _gathered(seen, axes))
    pair = (seen, other) if k == 0 else (other, seen)
    ins_spec = f"{mine},{theirs}" if k == 0 else f"{theirs},{mine}"
    y = B.contract(*pair, f"{ins_spec}->{result}", node.dtype)
    return B.slice_(B.reshape(y, [sizes[c] for c in out]), [0] * node.ndim, node.shape)


def _spread_axes(window: Node) -> list[_Axis]:
    """The axes of a window that step by step look at a spread-out axis."""
    a, pad = window.attrs, window.inputs[0]
    return [
        _Axis(axis, at, pad.inputs[0].shape[axis], pad.attrs["low"][axis], pad.attrs["interior"][axis] + 1, size,
              window.shape[axis])
        for at, (axis, size, stride, dilation) in enumerate(
            zip(a["axes"], a["sizes"], a["strides"], a["dilations"], strict=True))
        if pad.attrs["interior"][axis] and size > 1 and stride == dilation == 1 and a["axes"].count(axis) == 1
    ]


def _by_phase(w: Node, axis: int, a: _Axis) -> Node:
    """The taps along `axis` of the other operand as two axes: taps of a phase, phases."""
    low, high = [0] * w.ndim, [0] * w.ndim
    low[axis], high[axis] = a.skipped, a.taps * a.s - a.k - a.skipped
    w = B.pad(w, low, high)
    w = B.reshape(w, (*w.shape[:axis], a.taps, a.s, *w.shape[axis + 1 :]))
    return B.flip(w, [axis + 1])


def _gathered(window: Node, axes: list[_Axis]) -> Node:
    """The window over elements alone, along `axes`."""
    at, pad = window.attrs, window.inputs[0]
    x = pad.inputs[0]
    low, high, interior = (list(pad.attrs[name]) for name in ("low", "high", "interior"))
    start, stop, sizes = [0] * x.ndim, list(x.shape), list(at["sizes"])
    for a in axes:
        start[a.axis], stop[a.axis] = max(0, a.start), min(a.n, a.stop)
        low[a.axis], high[a.axis], interior[a.axis] = max(0, -a.start), max(0, a.stop - a.n), 0
        sizes[a.at] = a.taps
    spread = B.pad(B.slice_(x, start, stop), low, high, interior)
    return B.window(spread, at["axes"], sizes, at["strides"], at["dilations"])
