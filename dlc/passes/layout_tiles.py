"""What tiles of a matrix unit ask of the row operand of a contraction of pairs.

A tile is loaded line by line, so its rows must be contiguous along the inner range, at one distance, and the range must
be whole steps. Where an operand is not like that it is copied to [batch..., row, inner]; a range that has no whole
steps is filled with zeros, in both operands, as they are copied.
"""

from __future__ import annotations

import math

from dlc.ir import build
from dlc.ir.graph import Node, make
from dlc.ir.loops import TILE
from dlc.ir.ops import split_spec
from dlc.passes.lower_contract import Parts, label_sizes, parts_of, row_run, strides_of
from dlc.passes.lower_contract_tiles import step_of

LEAST_STEP = 8  # pairs that are worth a step
SHORT_RUN = 4  # rows at one stride that are worth a tile


def rows_in_place(node: Node, swap: bool) -> bool:
    """Can tiles be loaded from the row operand where it lies?"""
    which = 1 if swap else 0
    own, sizes = split_spec(node.attrs["spec"])[which], label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    strides = dict(zip(own, strides_of(node.inputs[which]), strict=True))
    if None in strides.values() or strides[parts.inner[-1]] != 1:
        return False
    together = 1
    for label in reversed(parts.inner):  # those that follow each other in memory
        if strides[label] != together:
            break
        together *= sizes[label]
    m, run = math.prod(sizes[x] for x in parts.rows), row_run(node, swap)
    return step_of(together) >= min(LEAST_STEP, together) and (run or m) >= min(m, SHORT_RUN)


def in_whole_steps(node: Node, swap: bool) -> tuple[Node, Parts, bool]:
    """The contraction with an inner range of whole steps, its labels, and whether that needed zeros, which both
    operands are to be copied with."""
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    k = math.prod(sizes[x] for x in parts.inner)
    whole = -(-k // TILE) * TILE
    if whole == k:
        return node, parts, False
    a, b, out = split_spec(node.attrs["spec"])
    label = parts.inner[-1]

    def flat(x: Node, own: str) -> tuple[Node, str]:
        rest = [c for c in own if c not in parts.inner]
        x = build.permute(x, [own.index(c) for c in (*rest, *parts.inner)], node.loc)
        shape = [sizes[c] for c in rest]
        x = build.reshape(x, [*shape, k], node.loc)
        x = build.pad(x, [0] * x.ndim, [*(0 for _ in shape), whole - k], None, 0, node.loc)
        return x, "".join(rest) + label

    (x, a), (y, b) = flat(node.inputs[0], a), flat(node.inputs[1], b)
    node = make("contract", (x, y), node.loc, **(node.attrs | {"spec": f"{a},{b}->{out}"}))
    return node, parts_of(node.attrs["spec"], label_sizes(node), swap), True
