"""Layout: contractions are brought into forms that the register-tiled schedule runs well.

    degenerate   without rows or columns (dot products, outer products, matrix times vector) a contraction becomes a
                 multiplication and a sum, which the row and column reductions run at memory speed
    pairs        bfloat16 operands become words of two, where the target multiplies such (`codegen/layout/cpu_pairs.py`)
    half         other two-byte floats are widened as they are packed
    split        few results over a long inner range: the range is cut into pieces that run in parallel
    wide         scatters with many updates of large tables combine them in a wider type
    pack         a column operand that is not contiguous along its columns is copied into panels [tile, k, column]

Each is an ordinary graph rewrite made of views, so later passes and the dump see plain operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_letters

from dlc.codegen.cost.cpu_contract import SCRATCH_LIMIT
from dlc.codegen.cost.cpu_scatter import TASKS, is_long_scatter
from dlc.codegen.layout.cpu_amx import (
    columns_in_place,
    in_whole_steps,
    rows_in_place,
    with_other_columns,
    with_rows_in_tiles,
    words_copied,
)
from dlc.codegen.layout.cpu_pairs import pair_operands
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, param, rewrite, substitute, unique
from dlc.ir.graph.ops import split_spec
from dlc.passes.views.contraction import Parts, column_run, label_sizes, parts_of
from dlc.passes.views.strides import strides_of
from dlc.passes.views.views import base_of

PAGE = 4096  # bytes
COPIED = -1  # uid of copies that all contractions of a tensor share
SAME_SET = 4  # rows of a tile that may start in the same set of a first-level cache (64 sets of 64 bytes)
VECTOR = 16  # neighbouring results that one task computes
MOST_PARTS = 512  # partial results for which another pass costs little
OFTEN = 16  # updates a row from which a wider table costs little beside them
LONG = 8192  # inner range from which panels outgrow the second-level cache


def layout(graph: Graph, tile_of, min_tasks: int, pairs: bool = False, same: frozenset[Node] = frozenset()) -> Graph:
    """Rewrite every contraction; `tile_of(node)` is the target's schedule for a contraction node. `pairs`: the target
    multiplies pairs of bfloat16. `same`: the graph is the body of a loop, and these parameters never change."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op == "reduce":
            return split_reduce(node, ins[0], min_tasks)
        if node.op == "scatter":
            return wide_scatter(node, ins)
        if node.op != "contract":
            return None
        return _contract(make("contract", ins, node.loc, **node.attrs), tile_of, min_tasks, pairs, same)

    unchanged = {n.attrs["body"]: frozenset(n.attrs["body"].params[: n.attrs["consts"]])
                 for n in graph.nodes() if n.op == "scan" and n.attrs["length"] > 1}
    graph = map_bodies(graph, lambda body: layout(body, tile_of, min_tasks, pairs, unchanged.get(body, frozenset())))
    return hoist_invariants(rewrite(graph, rule))


def hoist_invariants(graph: Graph) -> Graph:
    """What a loop's body computes from its constants alone (packed weights) is computed once, before the loop."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "scan":
            return None
        body, n_const = node.attrs["body"], node.attrs["consts"]
        nodes = body.nodes()
        fixed = set(body.params[:n_const])
        for n in nodes:
            if n.op != "param" and n.op != "item" and all(i in fixed for i in n.inputs):
                fixed.add(n)
        # copies made for a contraction; what views or single numbers cost is nothing
        edge = [n for n in nodes if n in fixed and n.op == "barrier"]
        edge = [n for n in edge if any(i is n for u in nodes for i in u.inputs)]
        if not edge:
            return None
        outer = substitute(edge, dict(zip(body.params[:n_const], ins[:n_const], strict=True)))
        new = [param(n.type, "packed") for n in edge]
        outputs = substitute(body.outputs, dict(zip(edge, new, strict=True)))
        params = (*body.params[:n_const], *new, *body.params[n_const:])
        inner = Graph(params, outputs, body.name)
        attrs = dict(node.attrs, body=inner, consts=n_const + len(new))
        return make("scan", (*ins[:n_const], *outer, *ins[n_const:]), node.loc, **attrs)

    return rewrite(graph, rule)


def wide_scatter(node: Node, ins: tuple[Node, ...]) -> Node | None:
    """A scatter with a result too large for scratch memory (`lower_ordered` holds others there), so that halves are
    rounded once, and sums into rows that are hit often don't lose digits."""
    size, rows = node.inputs[1].type.size, node.shape[node.attrs["axis"]]
    if not is_long_scatter(node) or 8 * node.type.size <= SCRATCH_LIMIT * TASKS // 2:
        return None
    if not node.dtype.is_half and size < OFTEN * rows:
        return None
    wide = dtypes.float64 if size >= OFTEN * rows else dtypes.float32
    base, index, updates = ins
    filled = make("scatter", (build.cast(base, wide), index, build.cast(updates, wide)), node.loc, **node.attrs)
    return build.cast(filled, node.dtype, node.loc)


def split_reduce(node: Node, x: Node, min_tasks: int) -> Node | None:
    """A reduction to few values over a large range, cut into partial reductions."""
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    total = math.prod(x.shape[a] for a in axes)
    if monoid.startswith("arg") or total * node.type.size < (1 << 16):
        return None
    if node.type.size >= min_tasks:
        return _by_first_axis(node, x, min_tasks)
    axis = max(axes, key=lambda a: x.shape[a])
    if axis != min(axes):
        axis = min((a for a in axes if x.shape[a] >= 2 * min_tasks), default=axis)
    return cut_reduce(node, x, axis, max(min_tasks, 2) * 4)


def _by_first_axis(node: Node, x: Node, min_tasks: int) -> Node | None:
    """A reduction whose few results are neighbours in memory (channels), vectors across which are no tasks for all
    threads: first of all but the first axis, so that what is computed beside it keeps its axes."""
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    if min_tasks == 1 or len(axes) < 2 or x.ndim - 1 in axes or node.type.size >= min_tasks * VECTOR // 2:
        return None
    first, *others = axes
    if not 2 * min_tasks <= x.shape[first] <= MOST_PARTS or math.prod(x.shape[a] for a in others) < VECTOR:
        return None
    return build.reduce(build.reduce(x, monoid, others, node.loc), monoid, [first], node.loc)


def cut_reduce(node: Node, x: Node, axis: int, pieces: int) -> Node:
    """The reduction of `x` as one of at most `pieces` parts of `axis` each, and one of their results."""
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    extent = x.shape[axis]
    pieces = min(extent, pieces)
    step = -(-extent // pieces)
    short = pieces * step - extent
    if short:
        high = [short if a == axis else 0 for a in range(x.ndim)]
        fill = {"sum": 0, "prod": 1, "any": False, "all": True}.get(monoid)
        if fill is None:
            low, top = dtypes.limits(x.dtype)
            fill = (float("-inf") if monoid == "max" else float("inf")) if x.dtype.is_float else (
                low if monoid == "max" else top)
        x = build.pad(x, [0] * x.ndim, high, None, fill, node.loc)
    shape = (*x.shape[:axis], pieces, step, *x.shape[axis + 1 :])
    cut = build.reshape(x, shape, node.loc)
    inner = [a if a < axis else a + 1 for a in axes]
    inner[inner.index(axis + 1) if axis + 1 in inner else 0] = axis + 1
    part = build.reduce(cut, monoid, inner, node.loc)
    kept_before = sum(1 for a in range(axis) if a not in axes)
    return build.reduce(part, monoid, [kept_before], node.loc)


def _contract(node: Node, tile_of, min_tasks: int, pairs: bool, same: frozenset[Node]) -> Node:
    sizes = label_sizes(node)
    loc = node.loc
    if node.type.size == 0:
        return node
    if any(sizes[x] == 0 for x in sizes):
        return build.const(0, node.dtype, node.shape, loc)
    parts = parts_of(node.attrs["spec"], sizes, False)
    if not parts.inner or not parts.rows or not parts.columns:
        return as_reduction(node, sizes)
    node = _with_strides(node)
    a, b = node.inputs
    paired = pair_operands(node) if pairs and a.dtype is b.dtype is dtypes.bfloat16 else None
    if paired is not None:
        cut = _split(in_memory_order(paired), tile_of, min_tasks)
        if cut.op == "contract":  # all sums are finished in registers: rounded there
            cut = make("contract", cut.inputs, loc, **(cut.attrs | {"dtype": node.dtype}))
        return build.cast(pack(cut, tile_of), node.dtype, loc)
    if a.dtype.is_half:
        wide = build.contract(build.cast(a, dtypes.float32), build.cast(b, dtypes.float32), node.attrs["spec"],
                              dtypes.float32, loc)
        return build.cast(_contract(wide, tile_of, min_tasks, pairs, same), node.dtype, loc)
    if node.dtype is not a.dtype and node.dtype.is_float:
        wide = build.contract(build.cast(a, node.dtype), build.cast(b, node.dtype), node.attrs["spec"], None, loc)
        return _contract(wide, tile_of, min_tasks, pairs, same)
    return pack(_split(in_memory_order(node), tile_of, min_tasks), tile_of, same)


def _with_strides(node: Node) -> Node:
    """The contraction with operands copied whose elements lie at no strides (axes merged across a permutation): once,
    for all contractions that read them, rather than in every packing."""
    operands = [
        make("barrier", (x,), x.loc, uid=COPIED)
        if None in strides_of(x) and x.type.size <= base_of(x).type.size else x
        for x in node.inputs
    ]
    return node if operands == list(node.inputs) else _again(node, operands, node.attrs["spec"])


def _again(node: Node, inputs: Sequence[Node], spec: str) -> Node:
    """The contraction of other views of the same operands."""
    return make("contract", inputs, node.loc, **(node.attrs | {"spec": spec}))


def as_reduction(node: Node, sizes: dict[str, int]) -> Node:
    a, b, out = split_spec(node.attrs["spec"])
    wide = node.inputs[0].dtype.compute if node.inputs[0].dtype.is_half else node.dtype
    inner = "".join(x for x in dict.fromkeys(a + b) if x not in out)
    labels = out + inner
    shape = tuple(sizes[x] for x in labels)

    def aligned(x: Node, own: str) -> Node:
        order = sorted(range(len(own)), key=lambda k: labels.index(own[k]))
        turned = build.permute(build.cast(x, wide), order)
        return build.broadcast(turned, shape, [labels.index(own[k]) for k in order], node.loc)

    product = build.op("mul", aligned(node.inputs[0], a), aligned(node.inputs[1], b), loc=node.loc)
    total = build.sum_(product, range(len(out), len(labels)), node.loc)
    return build.cast(total, node.dtype, node.loc)


def _split(node: Node, tile_of, min_tasks: int) -> Node:
    """Cut the longest inner label in pieces when there are too few tiles for the threads, or when a panel of it does
    not stay in the cache while the other operand passes by."""
    tile = tile_of(node)
    swap, mr, nr = tile.swap, tile.mr, tile.nr
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    m, n, k = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns, parts.inner))
    tiles = math.prod(sizes[x] for x in parts.batch) * -(-m // mr) * -(-n // nr)
    label = max(parts.inner, key=lambda x: sizes[x])
    if node.dtype.is_int:
        return node
    if tiles < min_tasks and k >= 1024:
        wanted = [p for p in (8, 4, 2) if k // p >= 256]
    elif k >= LONG and (m * n * 8 < (m + n) * k or (tile.stack and k >= 8 * LONG)):
        # the partial sums are small beside the operands; or a matrix unit would add more than `long_sums` lets others
        wanted = sorted(range(2, 65), key=lambda p: abs(k // p - LONG // 4))
    else:
        return node
    pieces = next((p for p in wanted if sizes[label] % p == 0), 0)
    if not pieces:
        return node
    return build.sum_(pack(_again(node, *in_pieces(node, label, pieces)), tile_of), [0], node.loc)


def in_pieces(node: Node, label: str, pieces: int) -> tuple[tuple[Node, ...], str]:
    """Operands and spec of a contraction of which a label that is summed is cut in pieces: the result's first axis."""
    own = split_spec(node.attrs["spec"])
    fresh = next(c for c in ascii_letters if c not in "".join(own))
    cut = []
    for x, labels in zip(node.inputs, own, strict=False):
        at = labels.index(label)
        cut.append(build.reshape(x, (*x.shape[:at], pieces, x.shape[at] // pieces, *x.shape[at + 1 :])))
    a, b = (labels.replace(label, fresh + label) for labels in own[:2])
    return tuple(cut), f"{a},{b}->{fresh}{own[2]}"


def pack(node: Node, tile_of, same: frozenset[Node] = frozenset()) -> Node:
    """Panels for the operands that would be read badly where they are, and for columns that are the `same` in all
    iterations of a loop: they are packed once, before it."""
    if node.op == "reduce":
        return node
    tile = tile_of(node)
    if tile.stack:
        return _pack_tiles(node, tile_of)
    swap, mr, nr = tile.swap, tile.mr, tile.nr
    sizes = label_sizes(node)
    parts = parts_of(node.attrs["spec"], sizes, swap)
    m, n, k = (math.prod(sizes[x] for x in labels) for labels in (parts.rows, parts.columns, parts.inner))
    column_at, row_at = (0, 1) if swap else (1, 0)
    if m >= 4 and base_of(node.inputs[column_at]) in same:
        if tile.along:  # the register tile of panels, which may be of any width for that
            nr = tile_of(_with_panels(node, column_at, parts, parts.columns, tile.lanes, sizes)).nr
        return _with_panels(node, column_at, parts, parts.columns, nr, sizes)
    if tile.along and m >= 4:
        return node
    labels = split_spec(node.attrs["spec"])[:2]
    direct = streams_along(node.inputs[column_at], [labels[column_at].index(x) for x in column_run(node, swap)])
    if m < 4 and not direct:
        return as_reduction(node, sizes)
    # rows far apart cost TLB entries, rows a power of two apart fall into the same cache sets
    width = node.inputs[0].dtype.itemsize
    far = n * width >= 2048 and k >= 256 and m >= 256
    if not direct or far:
        node = _with_panels(node, column_at, parts, parts.columns, nr, sizes)
    strides = dict(zip(labels[row_at], strides_of(node.inputs[row_at]), strict=True))
    if node.attrs.get("pairs") and None in strides.values():  # made once, not for every tile of columns
        return _with_panels(node, row_at, parts, parts.rows, mr, sizes)
    across, along = ((strides[x[-1]] or 0) * width for x in (parts.rows, parts.inner))
    crowded = across % 1024 == 0 and mr > SAME_SET * (PAGE // math.gcd(across, PAGE))  # rows in the same cache sets
    bad = crowded or along >= PAGE  # a page for every step
    overlapping = base_of(node.inputs[row_at]).type.size < node.inputs[row_at].type.size
    if m >= 64 and n >= 64 and k >= 128 and not overlapping and (bad or far):
        node = _with_panels(node, row_at, parts, parts.rows, mr, sizes)
    return node


def _pack_tiles(node: Node, tile_of) -> Node:
    """Operands for a matrix unit. The one that needs fewer copies as columns gives the columns, and with them the last
    label of the result."""
    turned = with_other_columns(node, tile_of(node).swap)
    if turned is not None and words_copied(turned, tile_of) < words_copied(node, tile_of):
        out, own = (split_spec(x.attrs["spec"])[2] for x in (node, turned))
        return build.permute(_pack_tiles_as_they_are(turned, tile_of), [own.index(c) for c in out], node.loc)
    return _pack_tiles_as_they_are(node, tile_of)


def _pack_tiles_as_they_are(node: Node, tile_of) -> Node:
    """Rows first, since the width of the columns' panels follows from how they lie."""
    swap, direct = tile_of(node).swap, columns_in_place(node, tile_of(node))
    column_at = 0 if swap else 1
    if not rows_in_place(node, swap):
        node = node if direct else in_whole_steps(node, swap)
        sizes = label_sizes(node)
        parts = parts_of(node.attrs["spec"], sizes, swap)
        if len(parts.rows) == 1:
            node = with_rows_in_tiles(node, swap)
        else:  # a tile crosses the bounds of labels: rows of any number begin where lines of the whole range do
            node = _with_panels(node, 1 - column_at, parts, parts.rows, 1, sizes)
    tile, sizes = tile_of(node), label_sizes(node)
    if direct and columns_in_place(node, tile):
        return node
    parts = parts_of(node.attrs["spec"], sizes, swap)
    return _with_panels(node, column_at, parts, parts.columns, tile.nr, sizes)


def _with_panels(node: Node, which: int, parts: Parts, tiled: str, width: int, sizes: dict[str, int]) -> Node:
    """The contraction with operand `which` copied to [batch..., tile, inner, width] and viewed as it was."""
    spec = list(split_spec(node.attrs["spec"])[:2])
    out = split_spec(node.attrs["spec"])[2]
    operand, own = node.inputs[which], spec[which]
    ones = [x for x in own if sizes[x] == 1]
    order = [*ones, *parts.batch, *tiled, *parts.inner]
    x = build.permute(operand, [own.index(label) for label in order], node.loc)
    lead = tuple(sizes[c] for c in (*ones, *parts.batch))
    n = math.prod(sizes[c] for c in tiled)
    k = math.prod(sizes[c] for c in parts.inner)
    tiles = -(-n // width)
    flat = len(lead)
    x = build.reshape(x, (*lead, n, k), node.loc)
    x = build.pad(x, [0] * (flat + 2), [0] * flat + [tiles * width - n, 0], None, 0, node.loc)
    x = build.reshape(x, (*lead, tiles, width, k), node.loc)
    turn = [*range(flat), flat, flat + 2, flat + 1]
    x = make("barrier", (build.permute(x, turn, node.loc),), node.loc, uid=unique())
    x = build.reshape(build.permute(x, turn), (*lead, tiles * width, k))
    x = build.slice_(x, [0] * (flat + 2), [*lead, n, k])
    inputs = list(node.inputs)
    inputs[which], spec[which] = build.reshape(x, [sizes[c] for c in order]), "".join(order)
    return _again(node, inputs, f"{spec[0]},{spec[1]}->{out}")


def streams_along(node: Node, axes: Sequence[int]) -> bool:
    """Is the memory under `node` contiguous along `axes`, read through nothing but views?"""
    strides, want = strides_of(node), 1
    for a in reversed(axes):
        if node.shape[a] != 1 and strides[a] != want:
            return False
        want *= node.shape[a]
    return True


def in_memory_order(node: Node) -> Node:
    """The contraction with each operand's labels in the order in which they lie in memory, so that loops over several
    labels run along it."""
    spec = list(split_spec(node.attrs["spec"]))
    inputs = list(node.inputs)
    for k in (0, 1):
        strides = strides_of(inputs[k])
        if None in strides:
            continue
        order = sorted(range(len(strides)), key=lambda a: -strides[a])
        inputs[k] = build.permute(inputs[k], order, node.loc)
        spec[k] = "".join(spec[k][a] for a in order)
    return _again(node, inputs, f"{spec[0]},{spec[1]}->{spec[2]}")
