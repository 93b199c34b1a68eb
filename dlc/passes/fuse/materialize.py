"""Which tensors get a place in memory, and the scalar expression each of them is computed by.

A `Realization` is a node that is computed into memory (or into registers, when fusion keeps it inside one kernel):
every reduction, contraction and other heavy operation, every output, and those elementwise nodes whose repeated
computation would cost more than a round trip through memory. Everything else is computed on the spot where it is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from dlc.ir.graph.graph import Graph, Node, TensorType, make, rewrite, unique
from dlc.ir.graph.ops import split_spec
from dlc.ir.loops.ir import Buffer, Expr
from dlc.ir.scalar import SCALAR_OPS
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.elements import INLINE, Elements, Index, reach
from dlc.passes.views.views import VIEWS, base_of, fresh_index, memory_of

# Operations whose units are made elsewhere: their files add themselves.
UNITS: dict[str, Callable[[Node, Elements], Realization]] = {}
HEAVY = frozenset({"reduce", "contract", "scatter", "sort", "cumulative", "scan", "call", "each", "attention",
                   "attention_grad"})
EXPENSIVE = 8  # scalar cost from which recomputing is worse than loading
SHORT_RUN = 8  # elements of the last axis that are no vector
LARGE = 1 << 12  # elements from which that matters
PARTS = 32  # of a concat, and of those inside it, among which the expression of one element chooses
_DEPTH = 120  # longest chain of operations computed on the spot


def few_parts(graph: Graph) -> Graph:
    """The graph with concats of many parts as trees of concats, which have memory of their own: an element chooses
    among few parts, and equal concats share a kernel. Without it code, and time for each element, would grow with the
    number of parts."""

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        if node.op != "concat" or len(ins) <= PARTS:
            return None
        parts = list(ins)
        while len(parts) > PARTS:
            rows = [parts[k : k + PARTS] for k in range(0, len(parts), PARTS)]
            parts = [make("concat", row, node.loc, axis=node.attrs["axis"]) if len(row) > 1 else row[0] for row in rows]
        return make("concat", parts, node.loc, axis=node.attrs["axis"])

    if all(n.op != "concat" or len(n.inputs) <= PARTS for n in graph.nodes()):
        return graph
    return rewrite(graph, rule)


def own_outputs(graph: Graph) -> Graph:
    """Give every output memory of its own: parameters, constants and repeated outputs are copied by a `barrier`."""
    outputs, taken = [], set()
    for out in graph.outputs:
        root = memory_of(out)
        if root.op == "param" or root in taken or (root.op == "item" and not made_in_place(root)):
            root = make("barrier", (out,), out.loc, uid=unique())
            out = root
        taken.add(root)
        outputs.append(out)
    return Graph(graph.params, outputs, graph.name)


def made_in_place(item: Node) -> bool:
    """Is this a result that is written to any memory it is given?"""
    node = item.inputs[0]
    if node.op == "each":  # part by part, unless it adds up over the iterations
        return -1 not in node.attrs["gives"][item.attrs["index"]]
    return node.op not in ("scan", "sort")


def choose_units(graph: Graph) -> list[Node]:
    """The nodes to compute into memory, inputs first."""
    nodes = graph.nodes()
    units = _choose(graph, nodes, set())
    scalars = repeated_scalars(nodes, units)
    return _choose(graph, nodes, scalars) if scalars else units


def repeated_scalars(nodes: Sequence[Node], units: Sequence[Node]) -> set[Node]:
    """Single numbers that are expensive to compute and would be computed anew by several kernels (the bias
    corrections of Adam). Plain maps of parameters count once: they become one kernel for tensors of all sizes."""
    chosen = set(units)
    inside: dict[Node, frozenset[Node]] = {}  # the expensive scalars computed on the spot as part of a node
    kernels: dict[Node, set[Node | None]] = defaultdict(set)
    only_plain: dict[Node, bool] = {}
    for n in nodes:
        if n.op == "param":
            inside[n], only_plain[n] = frozenset(), True
            continue
        found = _union([inside[i] for i in n.inputs])
        flat = n.op not in HEAVY and n.op != "item" and all(only_plain[i] for i in n.inputs)
        if n in chosen:
            for s in found:
                kernels[s].add(None if flat else n)
            found = frozenset()
        elif n.op in SCALAR_OPS and n.type.size == 1 and SCALAR_OPS[n.op].cost >= EXPENSIVE and flat:
            found = found | {n}
        inside[n], only_plain[n] = found, flat
    return {s for s, where in kernels.items() if len(where) > 2}


def _choose(graph: Graph, nodes: Sequence[Node], more: set[Node]) -> list[Node]:
    users: dict[Node, list[Node]] = defaultdict(list)
    for n in nodes:
        for i in dict.fromkeys(n.inputs):
            users[i].append(n)
    forced = {memory_of(o) for o in graph.outputs} | more
    for n in nodes:
        if n.op in ("contract", "attention", "attention_grad"):
            forced.update(base_of(i) for i in n.inputs)
        elif n.op in ("scan", "call"):
            forced.update(map(memory_of, n.inputs))
        elif n.op == "each":
            forced.update(n.inputs)
        elif n.op == "scatter":
            forced.update((n.inputs[1],) if n.inputs[1].op != "param" else ())
    units: list[Node] = []
    chosen: set[Node] = set()
    cost: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    parts: dict[Node, int] = {}  # among which the expression of an element chooses
    leaves: dict[Node, frozenset[Node]] = {}
    for n in nodes:
        parts[n] = (sum if n.op == "concat" else max)([parts[i] for i in n.inputs] or [1])
        if n.op == "param":
            cost[n], depth[n], leaves[n] = 0, 0, frozenset((n,))
            continue
        in_memory = n.op in HEAVY or n in forced or (n.op == "concat" and parts[n] >= PARTS)
        if n.op == "item":  # lives in the memory of its producer
            cost[n], depth[n], leaves[n] = 0, 0, frozenset((n,))
            continue
        c = SCALAR_OPS[n.op].cost if n.op in SCALAR_OPS else 0
        c += sum([cost[i] for i in n.inputs])
        d = 1 + max([depth[i] for i in n.inputs], default=0)
        lv = _union([leaves[i] for i in n.inputs])
        if not in_memory and d >= _DEPTH and n.op not in VIEWS:
            in_memory = True
        if not in_memory and n.op in INLINE and n.op not in VIEWS and n.op not in ("const", "iota"):
            in_memory = _worth_memory(n, users[n], c, lv)
        if in_memory:
            units.append(n)
            chosen.add(n)
            parts[n] = 1
            cost[n], depth[n], leaves[n] = 0, 0, frozenset((n,))
        else:
            cost[n], depth[n], leaves[n] = min(c, 1 << 20), d, lv
    return units


def _union(sets: Sequence[frozenset[Node]]) -> frozenset[Node]:
    """All that is in the sets: often the first one, which then is shared."""
    out = sets[0] if sets else frozenset()
    for more in sets[1:]:
        if not more <= out:
            out = out | more
    return out


def _worth_memory(n: Node, users: Sequence[Node], cost: int, leaves: frozenset[Node]) -> bool:
    if not leaves or n.type.size <= 1:
        return False  # made of constants, or computed once a kernel anyway
    repeats = sum(u.op == "broadcast" and u.type.size > n.type.size for u in users)
    if repeats and cost >= 4:
        return True
    if any(u.op in ("gather", "window") and u.inputs[0] is n for u in users) and cost >= 4:
        return True
    if any(u.op in ("sort", "cumulative") for u in users) and cost >= EXPENSIVE:
        return True  # their loops are not always vectors
    if cuts_runs(n) and any(u.op in SCALAR_OPS and len(u.inputs) > 1 for u in users):
        return True
    k = len(users)
    if k < 2:
        return False
    if n.op == "concat":
        return True
    big = sum(leaf.type.size * 2 > n.type.size for leaf in leaves)
    return cost >= EXPENSIVE or big * k > big + 1 + k


def cuts_runs(n: Node) -> bool:
    """Is this the padding of a last axis that is too short for vectors? Maps of whole tensors are one long run."""
    if n.op != "pad" or n.shape[-1] >= SHORT_RUN or n.type.size < LARGE:
        return False
    return any(n.attrs[side][-1] for side in ("low", "high", "interior"))


class UnitTable:
    """The units of a graph with their buffers: one global buffer for every parameter, unit and item."""

    def __init__(self, graph: Graph, layout: dict[Node, tuple[int, ...]] | None = None):
        self.graph = graph
        self.layout = {p: p.attrs["strides"] for p in graph.params if "strides" in p.attrs} | (layout or {})
        self.nodes = choose_units(graph)
        self.buffers: dict[Node, Buffer] = {}
        for k, p in enumerate(graph.params):
            self.buffers[p] = Buffer(_name(p, k), p.dtype, (self._size(p),), note=str(p.type))
        for k, n in enumerate(self.nodes):
            if isinstance(n.type, TensorType):  # not several results, which are `item`s
                self.buffers[n] = Buffer(f"t{k}", n.dtype, (self._size(n),), note=f"{n.op} {n.type}")
        self._items: dict[Node, dict[int, Node]] = defaultdict(dict)
        for k, n in enumerate(x for x in graph.nodes() if x.op == "item"):
            self.buffers[n] = Buffer(f"r{k}", n.dtype, (self._size(n),), note=f"item {n.type}")
            self._items[n.inputs[0]][n.attrs["index"]] = n
        self.elements = Elements(self.buffers.get, self.layout)
        self.units = [self._unit(n) for n in self.nodes]

    def items(self, node: Node) -> dict[int, Node]:
        """Those of a node's results that somebody reads, by number."""
        return self._items.get(node, {})

    def _size(self, n: Node) -> int:
        strides = self.layout.get(n)
        return n.type.size if strides is None else reach(n.shape, strides)

    def _unit(self, n: Node) -> Realization:
        els = self.elements
        if n.op == "reduce":
            src = n.inputs[0]
            index = fresh_index(src.shape)
            value = els.exact if n.attrs["monoid"].startswith("arg") else els.value  # these compare, the others round
            return self._with_loads(Realization(n, "reduce", index, src.shape, (value(src, index, None),)))
        if n.op == "contract":
            a, b, out = split_spec(n.attrs["spec"])
            sizes = dict(zip(a + b, n.inputs[0].shape + n.inputs[1].shape, strict=True))
            labels = "".join(dict.fromkeys(out + a + b))
            index = fresh_index([sizes[x] for x in labels], labels)
            at = dict(zip(labels, index, strict=True))
            values = (
                els.value(n.inputs[0], tuple(at[x] for x in a)),
                els.value(n.inputs[1], tuple(at[x] for x in b)),
            )
            unit = Realization(n, "contract", index, tuple(sizes[x] for x in labels), values, labels=labels)
            return self._with_loads(unit)
        if n.op == "scatter":
            base, idx, updates = n.inputs
            index = fresh_index(updates.shape)
            axis = n.attrs["axis"]
            values = (els.value(idx, index[axis : axis + idx.ndim]), els.value(updates, index))
            unit = Realization(n, "scatter", index, updates.shape, values)
            base_index = fresh_index(base.shape)
            unit.base = (base_index, els.value(base, base_index))
            unit = self._with_loads(unit)
            unit.loads.update(self._loads(unit.base[1]))
            return unit
        if n.op in UNITS:
            return self._with_loads(UNITS[n.op](n, els))
        if n.op in ("sort", "cumulative"):
            src = n.inputs[0]
            index = fresh_index(src.shape)
            value = els.exact if n.op == "sort" else els.value
            return self._with_loads(Realization(n, n.op, index, src.shape, (value(src, index, None),)))
        if n.op in ("scan", "call", "each"):
            index = fresh_index(n.inputs[0].shape) if n.inputs else ()
            unit = Realization(n, n.op, index, n.inputs[0].shape if n.inputs else (), ())
            for i in n.inputs if n.op == "each" else map(memory_of, n.inputs):
                at = fresh_index(i.shape)
                unit.loads[els.value(i, at)] = (i, at)
            return unit
        index = fresh_index(n.shape)
        return self._with_loads(Realization(n, "map", index, n.shape, (els.compute(n, index),)))

    def _with_loads(self, unit: Realization) -> Realization:
        for v in unit.values:
            unit.loads.update(self._loads(v))
        return unit

    def _loads(self, value: Expr) -> dict[Expr, tuple[Node, Index]]:
        found: dict[Expr, tuple[Node, Index]] = {}
        seen: set[Expr] = set()
        stack = [value]
        while stack:
            e = stack.pop()
            if e in seen:
                continue
            seen.add(e)
            if e.op == "load" and e.attr.space == "global":
                found[e] = self.elements.accesses[e]
            stack.extend(e.args)
        return dict(reversed(found.items()))


def _name(p: Node, k: int) -> str:
    name = "".join(c if c.isalnum() else "_" for c in p.attrs.get("name") or "")
    return name if name and not name[0].isdigit() else f"p{k}"
