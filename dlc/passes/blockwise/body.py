"""The body of a region's loops: its members once more, on one position of the loops and one block of the rows.

`BlockBody.at(node, labels)` is `node` cut to the current block; `labels` says to which class each of its axes belongs.
Wide tensors have their rows last there: their contractions then read every operand where it lies, the statistics of
rows are vectors, and nothing needs to be packed but the block of rows itself.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import NamedTuple

from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, TensorType, make, param, settings, topological
from dlc.ir.graph.ops import split_spec
from dlc.ir.loops.index import linear, simplify
from dlc.ir.loops.ir import Buffer, under_casts
from dlc.passes.blockwise.region import BlockRegion, Labels, is_elementwise, reshaped_axes
from dlc.passes.views.elements import Elements
from dlc.passes.views.views import base_of, contiguous, fresh_index

_VIEWS = frozenset({"permute", "reshape", "broadcast"})


class Window(NamedTuple):
    """A view of memory: element [i, j, ...] of it is element start + i*strides[0] + ... of `memory`."""

    memory: Node
    start: int
    strides: tuple[int, ...]


def window_of(node: Node) -> Window:
    """`node` as a view of the memory under it, or as memory of its own where it is no such view."""
    base, own = base_of(node), Window(node, 0, contiguous(node.shape))
    if base is node or base.op in ("const", "iota") or not isinstance(base.type, TensorType):
        return own
    buffer, index = Buffer("memory", base.dtype, (base.type.size,)), fresh_index(node.shape)
    value = under_casts(Elements(lambda x: buffer if x is base else None).value(node, index))
    if value.op != "load" or len(value.args) > 1 or value.attr is not buffer:
        return own
    terms, start = linear(simplify(value.args[0]))
    if any(atom not in index for atom in terms) or start < 0 or any(c < 0 for c in terms.values()):
        return own
    return Window(base, start, tuple(terms.get(i, 0) if i.op == "axis" else 0 for i in index))


class BlockEntry(NamedTuple):
    """Something that the region reads: a node, the classes of its axes, and the body's parameter for its block."""

    node: Node
    labels: Labels
    param: Node


class Around:
    """The graph that the regions are in: which region each node belongs to, and what is known of the nodes outside."""

    def __init__(self, home: dict[Node, BlockRegion]):
        self.home = home
        self._fixed: dict[Node, bool] = {}
        self._windows: dict[Node, Window] = {}

    def window(self, node: Node) -> Window:
        """`window_of`, found once."""
        if node not in self._windows:
            self._windows[node] = window_of(node)
        return self._windows[node]

    def region_key(self, region: BlockRegion) -> tuple[Hashable, list[Node]]:
        """A key that is equal for regions whose bodies differ only in what they read, and the nodes that a body may be
        made of or read, in an order that equal regions share."""
        inside = {*region.members, *region.again}

        def is_read(n: Node) -> bool:
            outside = n in self.home or not is_elementwise(n)
            return n not in inside and outside and n.op not in _VIEWS

        nodes = topological(region.exits, stop=is_read)
        number = {n: k for k, n in enumerate(nodes)}
        rows = tuple([
            (n.op, n.type, settings(n), n in inside, n in self.home, region.labels.get(n),
             () if is_read(n) else tuple([number[i] for i in n.inputs]))
            for n in nodes
        ])
        sizes = tuple(sorted(region.sizes.items()))
        exits = tuple([number[e] for e in region.exits])
        return (rows, exits, sizes, region.loops, region.rows, region.wide), nodes

    def is_fixed(self, root: Node) -> bool:
        """Is a node made of constants alone?"""
        if root in self._fixed:
            return self._fixed[root]
        for n in topological([root], stop=lambda n: n in self._fixed):
            if n not in self._fixed:
                known = is_elementwise(n) or n.op in _VIEWS
                self._fixed[n] = n.op in ("const", "iota") or (known and all(self._fixed[i] for i in n.inputs))
        return self._fixed[root]


class BlockBody:
    """The region's nodes on blocks of `block` rows, and on the first `width` positions of class `columns`."""

    def __init__(self, region: BlockRegion, block: int, around: Around, columns: int = -1, width: int = 0):
        self.region, self.block, self.around = region, block, around
        self.columns, self.width = columns, width
        self.inside = {*region.members, *region.again}
        self.needs: dict[tuple[Node, Labels], list[tuple[Node, Labels]] | None] = {}
        self.entries: dict[tuple[Node, Labels], BlockEntry] = {}
        self.done: dict[tuple[Node, Labels], Node] = {}

    def _is_wide(self, labels: Labels) -> bool:
        return any(c in self.region.wide for c in labels)

    def extent(self, label: int, whole: int) -> int:
        if label in self.region.loops:
            return 1
        if label == self.columns and label >= 0:
            return self.width
        return self.block if label == self.region.rows and label >= 0 else whole

    def order(self, labels: Labels) -> tuple[int, ...]:
        """The axes in the order in which the block has them."""
        rows = self.region.rows
        if rows < 0 or rows not in labels or not self._is_wide(labels):
            return tuple(range(len(labels)))
        return (*(k for k, c in enumerate(labels) if c != rows), labels.index(rows))

    def shape(self, node: Node, labels: Labels) -> tuple[int, ...]:
        return tuple(self.extent(labels[k], node.shape[k]) for k in self.order(labels))

    def straight(self, node: Node, labels: Labels) -> Node:
        """The block of `node` with its axes in their own order."""
        order = self.order(labels)
        return build.permute(self.at(node, labels), [order.index(k) for k in range(len(order))], node.loc)

    def at(self, root: Node, labels: Labels) -> Node:
        """The block of `root`."""
        stack = [(root, labels)]
        while stack:
            key = stack[-1]
            if key in self.done:
                stack.pop()
                continue
            needs = self.operands(*key)
            missing = [] if needs is None else [k for k in needs if k not in self.done]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            self.done[key] = self._entry(*key) if needs is None else self._block(*key, [self.done[k] for k in needs])
        return self.done[root, labels]

    def operands(self, node: Node, labels: Labels) -> list[tuple[Node, Labels]] | None:
        """What the block is computed from, with labels; None if the node is read from memory."""
        key = node, labels
        if key not in self.needs:
            self.needs[key] = self._operands(node, labels)
        return self.needs[key]

    def _operands(self, node: Node, labels: Labels) -> list[tuple[Node, Labels]] | None:
        if node.op in ("const", "iota"):
            return []
        if node not in self.inside and not self._computed_again(node, labels):
            return None
        if node.op == "contract":
            a, b, _ = self._specs(node)
            return [(i, self._operand_labels(node, k, (a, b)[k])) for k, i in enumerate(node.inputs)]
        if is_elementwise(node):
            return [(i, labels) for i in node.inputs]
        x = node.inputs[0]
        if node.op == "permute":
            back = [node.attrs["axes"].index(k) for k in range(x.ndim)]
            return [(x, tuple(labels[k] for k in back))]
        if node.op == "broadcast":
            return [(x, tuple(labels[a] if x.shape[k] == node.shape[a] and node.shape[a] != 1 else -1
                              for k, a in enumerate(node.attrs["axes"])))]
        if node.op == "reshape":
            pairs = dict(reshaped_axes(x.shape, node.shape))
            if self._cuts_folded(node, labels):
                other = unfolded(node)
                return [(other, labels)] if other is not None else None
            return [(x, tuple(labels[pairs[k]] if k in pairs else -1 for k in range(x.ndim)))]
        return [(x, self._reduced_labels(node, labels))]

    def _computed_again(self, node: Node, labels: Labels) -> bool:
        """Is a node outside the region computed in the body: views of other regions' results, constants, and what has
        the axes of the region's wide tensors?"""
        if not is_elementwise(node) and node.op not in _VIEWS:
            return False
        if node in self.around.home:
            return node.op in _VIEWS
        wide = self._is_wide(labels) and (self.region.rows < 0 or self.region.rows in labels)
        return wide or self.around.is_fixed(node)

    def _cuts_folded(self, node: Node, labels: Labels) -> bool:
        """Is a reshape cut along an axis that its operand does not have?"""
        kept = {labels[j] for _, j in reshaped_axes(node.inputs[0].shape, node.shape)}
        return any(self.extent(c, d) != d and c not in kept for c, d in zip(labels, node.shape, strict=True))

    def _reduced_labels(self, node: Node, labels: Labels) -> Labels:
        x = node.inputs[0]
        left = iter(labels)
        return self.region.labels.get(x) or tuple(-1 if k in node.attrs["axes"] else next(left) for k in range(x.ndim))

    def _specs(self, node: Node) -> tuple[str, str, str]:
        return split_spec(node.attrs["spec"])

    def _operand_labels(self, node: Node, k: int, spec: str) -> Labels:
        x, known = node.inputs[k], self.region.labels
        if x in self.inside:
            return known[x]
        a, b, out = self._specs(node)
        class_of = dict(zip(out, known[node], strict=True))
        other, other_spec = node.inputs[1 - k], (b, a)[k]
        if other in self.inside:
            class_of |= dict(zip(other_spec, known[other], strict=True))
        return tuple(class_of.get(c, -1) if d != 1 else -1 for c, d in zip(spec, x.shape, strict=True))

    def _block(self, node: Node, labels: Labels, ins: list[Node]) -> Node:
        shape = self.shape(node, labels)
        if node.op == "const":
            return build.const(node.attrs["value"], node.dtype, shape, node.loc)
        if node.op == "iota":
            return self._iota(node, labels, shape)
        if is_elementwise(node):
            return ins[0] if node.op in ("barrier", "stop_gradient", "tag") else make(
                node.op, ins, node.loc, **node.attrs)
        if node.op == "reshape" and self._cuts_folded(node, labels):
            return ins[0]
        order = self.order(labels)
        (x, own), *_ = self.operands(node, labels) or ()
        given = self.order(own)  # axis k of the block ins[0] is axis given[k] of x
        if node.op == "contract":
            a, b, out = self._specs(node)
            b_own = self._operand_labels(node, 1, b)
            spec = ("".join(a[k] for k in given), "".join(b[k] for k in self.order(b_own)),
                    "".join(out[k] for k in order))
            return build.contract(*ins, f"{spec[0]},{spec[1]}->{spec[2]}", node.dtype, node.loc)
        if node.op == "reduce":
            kept = [k for k in range(x.ndim) if k not in node.attrs["axes"]]
            axes = [p for p, k in enumerate(given) if k in node.attrs["axes"]]
            out = build.reduce(ins[0], node.attrs["monoid"], axes, node.loc)
            left = [kept.index(k) for k in given if k in kept]
            return build.permute(out, [left.index(k) for k in order], node.loc)
        straight = build.permute(ins[0], [given.index(k) for k in range(x.ndim)], node.loc)
        if node.op == "permute":
            turned = build.permute(straight, node.attrs["axes"], node.loc)
            return build.permute(turned, order, node.loc)
        if node.op == "broadcast":
            place = [order.index(a) for a in node.attrs["axes"]]
            sources = sorted(range(x.ndim), key=lambda k: place[k])
            return build.broadcast(build.permute(straight, sources), shape, sorted(place), node.loc)
        whole = tuple(self.extent(c, d) for c, d in zip(labels, node.shape, strict=True))
        return build.permute(build.reshape(straight, whole, node.loc), order, node.loc)

    def _iota(self, node: Node, labels: Labels, shape: tuple[int, ...]) -> Node:
        axis = node.attrs["axis"]
        place = self.order(labels).index(axis)
        label = labels[axis]
        if self.extent(label, node.shape[axis]) == node.shape[axis] or label == self.columns:
            return build.iota(shape, place, node.dtype, node.loc)
        line = build.iota((node.shape[axis],), 0, node.dtype, node.loc)
        return build.broadcast(self._entry(line, (label,)), shape, (place,), node.loc)

    def _entry(self, node: Node, labels: Labels) -> Node:
        kept = {*self.region.loops, self.region.rows, self.columns}
        cut = tuple(c if c in kept else -1 for c in labels)
        found = self.entries.get((node, cut))
        if found is None:
            shape = tuple(self.extent(c, d) for c, d in zip(cut, node.shape, strict=True))
            strides = self.around.window(node).strides
            p = strided(TensorType(node.dtype, shape), strides, node.attrs.get("name") or node.op)
            found = self.entries[node, cut] = BlockEntry(node, cut, p)
        order = self.order(labels)
        return build.permute(found.param, order, node.loc)


def unfolded(node: Node) -> Node | None:
    """A reshape of something computed from the index alone, as computed from the new axes' indices (the counters of
    random numbers)."""
    x = node.inputs[0]
    if is_elementwise(x) and x.op != "barrier":
        return make(x.op, [build.reshape(i, node.shape) for i in x.inputs], x.loc, **x.attrs)
    if x.op == "const":
        return build.const(x.attrs["value"], x.dtype, node.shape)
    if x.op == "broadcast" and x.inputs[0].type.size == 1:
        return build.broadcast(build.reshape(x.inputs[0], ()), node.shape, ())
    if x.op != "iota" or x.ndim != 1:
        return None
    terms = [build.op("mul", build.iota(node.shape, k, node.dtype), build.const(stride, node.dtype, node.shape))
             for k, stride in enumerate(contiguous(node.shape)) if node.shape[k] != 1]
    return functools.reduce(lambda a, b: build.op("add", a, b), terms)


def strided(type: TensorType, strides: tuple[int, ...], name: str) -> Node:
    """A parameter of the body of `each` whose elements lie at these strides."""
    apart = any(d > 1 and s != c for d, s, c in zip(type.shape, strides, contiguous(type.shape), strict=True))
    return param(type, name, strides=strides) if apart else param(type, name)
