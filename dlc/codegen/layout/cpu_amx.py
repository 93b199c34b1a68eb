"""What tiles of a matrix unit ask of the operands of a contraction of pairs.

A tile is loaded line by line: words side by side, lines at one distance. Of the rows' operand a line is a part of the
inner range, of the columns' operand a part of the columns. An operand that does not lie so is copied, the rows tile
after tile, the columns to panels; an inner range that has no whole steps is then filled with zeros, in both operands.
"""

from __future__ import annotations

import math

from dlc.codegen.cost.cpu_amx import SHORT_RUN, height_of, step_of
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, make, unique
from dlc.ir.graph.ops import split_spec
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import TILE
from dlc.passes.views.contraction import label_sizes, parts_of, row_run
from dlc.passes.views.strides import strides_of

LEAST_STEP = 8  # pairs that are worth a step
SHORT_STEP = 4  # those that are worth it where an operand is not copied nine times, as a window would be
PAGE = 4096  # bytes


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


def columns_in_place(node: Node, tile: schedule.Contract) -> bool:
    """Can tiles be loaded from the column operand where it lies?"""
    which = 0 if tile.swap else 1
    own, sizes = split_spec(node.attrs["spec"])[which], label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, tile.swap)
    strides = dict(zip(own, strides_of(node.inputs[which]), strict=True))
    last, line = parts.columns[-1], parts.inner[-1]
    if None in strides.values() or strides[last] != 1 or sizes[last] % tile.nr:
        return False
    distance = 4 * (strides[line] or 0)
    return step_of(sizes[line]) >= min(SHORT_STEP, sizes[line]) and distance < PAGE


def words_copied(node: Node, tile_of) -> float:
    """How many words are written to bring the operands into place; a copy that turns lines costs twice as much."""
    tile, sizes = tile_of(node), label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, tile.swap)
    m, n, k, outer = (math.prod(sizes[x] for x in labels)
                      for labels in (parts.rows, parts.columns, parts.inner, parts.batch))
    rows = 0 if rows_in_place(node, tile.swap) else 2 * m * k
    return outer * (rows + (0 if columns_in_place(node, tile) else n * k))


def with_other_columns(node: Node, swap: bool) -> Node | None:
    """The contraction with its result's labels in another order, so that its rows become columns; None where the result
    is not small beside the operands."""
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    m, n, k = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns, parts.inner))
    if 8 * m * n > (m + n) * k:
        return None
    a, b, out = split_spec(node.attrs["spec"])
    turned = [x for x in out if x not in parts.rows] + [x for x in out if x in parts.rows]
    return make("contract", node.inputs, node.loc, **(node.attrs | {"spec": f"{a},{b}->{''.join(turned)}"}))


def in_whole_steps(node: Node, swap: bool) -> Node:
    """The contraction with one inner label of whole steps, with zeros at its end where needed."""
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    k = math.prod(sizes[x] for x in parts.inner)
    whole = -(-k // TILE) * TILE
    if whole == k and len(parts.inner) == 1:
        return node
    a, b, out = split_spec(node.attrs["spec"])
    label = parts.inner[-1]

    def flat(x: Node, own: str) -> tuple[Node, str]:
        rest = [c for c in own if c not in parts.inner]
        x = build.permute(x, [own.index(c) for c in (*rest, *parts.inner)], node.loc)
        shape = [sizes[c] for c in rest]
        x = build.reshape(x, [*shape, k], node.loc)
        if whole > k:
            x = build.pad(x, [0] * x.ndim, [*(0 for _ in shape), whole - k], None, 0, node.loc)
        return x, "".join(rest) + label

    (x, a), (y, b) = flat(node.inputs[0], a), flat(node.inputs[1], b)
    return make("contract", (x, y), node.loc, **(node.attrs | {"spec": f"{a},{b}->{out}"}))


def with_rows_in_tiles(node: Node, swap: bool) -> Node:
    """The contraction with its row operand copied to [batch..., tile, step, row, pair]: a tile is one piece of memory.
    Rows behind the last are zeros."""
    which = 1 if swap else 0
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    spec = list(split_spec(node.attrs["spec"])[:2])
    own, out = spec[which], split_spec(node.attrs["spec"])[2]
    lead = [*(x for x in own if sizes[x] == 1), *parts.batch]
    order = [*lead, *parts.rows, *parts.inner]
    m, k = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.inner))
    high, step = height_of(m), step_of(sizes[parts.inner[-1]])
    down, flat, shape = -(-m // high), len(lead), [sizes[x] for x in lead]
    x = build.permute(node.inputs[which], [own.index(c) for c in order], node.loc)
    x = build.reshape(x, [*shape, m, k], node.loc)
    if m < down * high:
        x = build.pad(x, [0] * (flat + 2), [*(0 for _ in lead), down * high - m, 0], None, 0, node.loc)
    x = build.reshape(x, [*shape, down, high, k // step, step], node.loc)
    turn = [*range(flat), flat, flat + 2, flat + 1, flat + 3]
    x = make("barrier", (build.permute(x, turn, node.loc),), node.loc, uid=unique())
    x = build.reshape(build.permute(x, turn), [*shape, down * high, k])
    x = build.slice_(x, [0] * (flat + 2), [*shape, m, k])
    inputs = list(node.inputs)
    inputs[which], spec[which] = build.reshape(x, [sizes[c] for c in order]), "".join(order)
    return make("contract", inputs, node.loc, **(node.attrs | {"spec": f"{spec[0]},{spec[1]}->{out}"}))
