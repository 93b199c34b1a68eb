"""Axis order: permutations sink towards the outputs, and convolutions keep their channels last.

Every node is described as `permute(core, perm)`: views, elementwise operations, reductions and contractions are
rebuilt on cores, so that a permutation moves past them and ends where it costs nothing: in a contraction's labels,
against its inverse, or at an output. A contraction over a sliding window then gives its result the order that its
schedule writes best: batch, space, channels. What follows a convolution therefore runs on channels-last memory without
a transpose. Any other contraction with one user gives its result in the order of what it meets there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from dlc.ir.graph import nodes as build
from dlc.ir.graph.formulas import base_of_casts
from dlc.ir.graph.graph import Graph, Node, TensorType, make, map_bodies, remade
from dlc.ir.graph.ops import split_spec
from dlc.ir.graph.table import OPS

Placed = tuple[Node, tuple[int, ...]]  # (core, perm): axis k of the node is axis perm[k] of the core


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    out = [0] * len(perm)
    for k, a in enumerate(perm):
        out[a] = k
    return tuple(out)


def identity(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


def full(placed: Placed) -> Node:
    """The node itself."""
    core, perm = placed
    return build.permute(core, perm, core.loc) if perm else core


def sink_permutes(graph: Graph) -> Graph:
    """The graph with permutations moved towards its outputs and windows' contractions in channels-last order."""
    graph = map_bodies(graph, sink_permutes)
    done: dict[Node, Placed] = {p: (p, identity(p.ndim)) for p in graph.params}
    nodes = graph.nodes()
    uses = Counter(i for n in nodes for i in n.inputs) + Counter(graph.outputs)
    free: set[Node] = set()  # cores that can have any order as well
    for node in nodes:
        if node in done:
            continue
        if not all(isinstance(n.type, TensorType) for n in (node, *node.inputs)):
            done[node] = _plain(node, [full(done[i]) for i in node.inputs])
            continue
        ins = [done[i] for i in node.inputs]
        if OPS[node.op].elementwise or node.op == "barrier":
            placed = _elementwise(node, ins, free)
        else:
            rule = _RULES.get(node.op)
            placed = rule(node, ins) if rule is not None else None
        done[node] = placed or _plain(node, [full(p) for p in ins])
        core, perm = done[node]
        if uses[node] == 1 and perm == identity(node.ndim) and _any_order(core, free):
            free.add(core)
    return graph.with_outputs([full(done[o]) for o in graph.outputs])


def _plain(node: Node, ins: Sequence[Node]) -> Placed:
    out = remade(node, ins)
    return out, identity(out.ndim) if isinstance(out.type, TensorType) else ()


def _as_core(placed: Placed, perm: tuple[int, ...], free: Set[Node] = frozenset()) -> Node:
    """The core that gives the node of `placed` when permuted by `perm`."""
    core, own = placed
    if own == perm:
        return core
    axes = tuple(own[k] for k in inverse(perm))
    return _in_order(core, axes) if core in free else permuted(core, axes)


def _any_order(core: Node, free: Set[Node]) -> bool:
    """Is this a contraction whose result may have any order, or the like with axes of extent 1 more or less?"""
    if core.op == "contract":
        return not any(base_of_casts(x).op == "window" for x in core.inputs)
    if core.op == "reshape":
        return core.inputs[0] in free and _wide(core.inputs[0]) == _wide(core)
    return core.op == "cast" and core.inputs[0] in free


def _wide(x: Node) -> list[int]:
    return [d for d in x.shape if d != 1]


def _in_order(core: Node, axes: tuple[int, ...]) -> Node:
    """`permute(core, axes)` of a core that can have any order."""
    if core.op == "contract":
        a, b, out = split_spec(core.attrs["spec"])
        spec = f"{a},{b}->{''.join(out[k] for k in axes)}"
        return make("contract", core.inputs, core.loc, **(core.attrs | {"spec": spec}))
    x = core.inputs[0]
    if core.op == "cast":
        return build.cast(_in_order(x, axes), core.dtype, core.loc)
    # the axes of x that those of the reshape stand for
    stands = dict(zip((k for k in range(core.ndim) if core.shape[k] != 1),
                      (k for k in range(x.ndim) if x.shape[k] != 1), strict=True))
    order = [*(k for k in range(x.ndim) if x.shape[k] == 1), *(stands[k] for k in axes if k in stands)]
    return build.reshape(_in_order(x, tuple(order)), [core.shape[k] for k in axes], core.loc)


def permuted(x: Node, axes: tuple[int, ...]) -> Node:
    """`permute(x, axes)`, moved into constants and broadcasts."""
    if axes == identity(x.ndim):
        return x
    at = x.attrs
    if x.op == "const":
        return build.const(at["value"], x.dtype, [x.shape[a] for a in axes], x.loc)
    if x.op == "iota":
        return build.iota([x.shape[a] for a in axes], axes.index(at["axis"]), x.dtype, x.loc)
    if x.op == "permute":
        return permuted(x.inputs[0], tuple(at["axes"][a] for a in axes))
    if x.op == "broadcast":
        src = x.inputs[0]
        where = [axes.index(a) for a in at["axes"]]  # output place of each source axis
        order = sorted(range(src.ndim), key=lambda k: where[k])
        turned = permuted(src, tuple(order))
        return build.broadcast(turned, [x.shape[a] for a in axes], sorted(where), x.loc)
    return build.permute(x, axes, x.loc)


def _choose(ins: Sequence[Placed], rank: int, free: Set[Node] = frozenset()) -> tuple[int, ...]:
    """The permutation of the operand that holds most memory, constants and broadcasts aside. Beside parameters all
    stays as it is: what is computed from a parameter and a gradient is most likely the parameter's update."""
    fixed = [(c, p) for c, p in ins if c not in free]
    ins = fixed if any(c.op not in _UNIFORM for c, _ in fixed) else ins
    votes = [p for c, p in ins if c.op not in _UNIFORM and p != identity(rank)]
    if not votes or any(p == identity(rank) and _from_parameters(c) for c, p in ins if c.op not in _UNIFORM):
        return identity(rank)
    return max(votes, key=votes.count)


_UNIFORM = ("const", "iota", "broadcast")


def _from_parameters(x: Node, depth: int = 4) -> bool:
    """Is `x` a parameter, or computed from such element by element in a few steps?"""
    if x.op == "param" or depth == 0:
        return x.op == "param"
    return OPS[x.op].elementwise and all(_from_parameters(i, depth - 1) for i in x.inputs if i.op not in _UNIFORM)


def _elementwise(node: Node, ins: list[Placed], free: Set[Node]) -> Placed:
    perm = _choose(ins, node.ndim, free)
    return remade(node, [_as_core(p, perm, free) for p in ins]), perm


def _concat(node: Node, ins: list[Placed]) -> Placed:
    perm = _choose(ins, node.ndim)
    return make("concat", [_as_core(p, perm) for p in ins], node.loc, axis=perm[node.attrs["axis"]]), perm


def _permute(node: Node, ins: list[Placed]) -> Placed:
    core, perm = ins[0]
    return core, tuple(perm[a] for a in node.attrs["axes"])


def _on_core(node: Node, placed: Placed, **attrs: Sequence) -> Placed:
    """Rebuild a one-operand node on its core with per-axis attributes moved along."""
    core, perm = placed
    back = inverse(perm)
    moved = {k: tuple(v[a] for a in back) for k, v in attrs.items()}
    return make(node.op, (core,), node.loc, **(node.attrs | moved)), perm


def _slice(node: Node, ins: list[Placed]) -> Placed:
    at = node.attrs
    return _on_core(node, ins[0], start=at["start"], stop=at["stop"], step=at["step"])


def _pad(node: Node, ins: list[Placed]) -> Placed:
    at = node.attrs
    return _on_core(node, ins[0], low=at["low"], high=at["high"], interior=at["interior"])


def _flip(node: Node, ins: list[Placed]) -> Placed:
    core, perm = ins[0]
    return build.flip(core, [perm[a] for a in node.attrs["axes"]], node.loc), perm


def _window(node: Node, ins: list[Placed]) -> Placed:
    core, perm = ins[0]
    at = node.attrs
    out = build.window(core, [perm[a] for a in at["axes"]], at["sizes"], at["strides"], at["dilations"], node.loc)
    return out, (*perm, *range(len(perm), node.ndim))


def _reduce(node: Node, ins: list[Placed]) -> Placed | None:
    core, perm = ins[0]
    axes = node.attrs["axes"]
    if node.attrs["monoid"].startswith("arg") and len(axes) > 1:
        return None
    out = build.reduce(core, node.attrs["monoid"], [perm[a] for a in axes], node.loc)
    kept = [perm[a] for a in range(len(perm)) if a not in axes]
    order = sorted(kept)
    return out, tuple(order.index(a) for a in kept)


def _broadcast(node: Node, ins: list[Placed]) -> Placed:
    core, perm = ins[0]
    shape, axes = node.attrs["shape"], node.attrs["axes"]
    places = sorted(axes)
    core_shape, out_perm = list(shape), list(range(len(shape)))
    for j, a in enumerate(axes):
        core_shape[places[perm[j]]] = shape[a]
        out_perm[a] = places[perm[j]]
    return build.broadcast(core, core_shape, places, node.loc), tuple(out_perm)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Cut a reshape into independent ones: lists of old and new axes with equal products."""
    if 0 in old:
        return None
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right, a, b = [], [], 1, 1
        while True:
            if a == b and left and right:
                break
            if (a <= b and i < len(old)) or j >= len(new):
                if i >= len(old):
                    break
                left.append(i)
                a *= old[i]
                i += 1
            else:
                right.append(j)
                b *= new[j]
                j += 1
        if a != b:
            return None
        out.append((left, right))
    return out


def _reshape(node: Node, ins: list[Placed]) -> Placed | None:
    core, perm = ins[0]
    if perm == identity(len(perm)):
        return None
    old = tuple(core.shape[a] for a in perm)
    groups = _groups(old, node.shape)
    if groups is None:
        return None
    for left, _ in groups:
        if any(perm[b] != perm[a] + 1 for a, b in zip(left, left[1:], strict=False)):
            return None
    ordered = sorted(groups, key=lambda g: perm[g[0][0]] if g[0] else len(perm))
    shape, place = [], {}
    for _, right in ordered:
        for j in right:
            place[j] = len(shape)
            shape.append(node.shape[j])
    return build.reshape(core, shape, node.loc), tuple(place[j] for j in range(node.ndim))


def _contract(node: Node, ins: list[Placed]) -> Placed:
    spec = split_spec(node.attrs["spec"])
    out = spec[2]
    labels = ["".join(own[a] for a in inverse(perm)) for own, (_, perm) in zip(spec[:2], ins, strict=True)]
    cores = [c for c, _ in ins]
    order = out
    for k in (0, 1):
        seen = base_of_casts(cores[k])
        if seen.op == "window":
            order = _channels_last(out, labels[k], labels[1 - k], seen)
            break
    core = build.contract(cores[0], cores[1], f"{labels[0]},{labels[1]}->{order}", node.dtype, node.loc)
    return core, tuple(order.index(x) for x in out)


def _channels_last(out: str, windowed: str, other: str, core: Node) -> str:
    """Labels of the windowed operand in the order of its memory, taps before what they slide over, then the other's."""
    base = windowed[: core.inputs[0].ndim]
    taps = windowed[core.inputs[0].ndim :]
    over = [base[a] for a in dict.fromkeys(core.attrs["axes"])]
    first = min((base.index(x) for x in over), default=0)
    order = [*base[:first], *over, *taps, *(x for x in base[first:] if x not in over)]
    batch = [x for x in order if x in out and x in other]
    own = [x for x in order if x in out and x not in other]
    rest = [x for x in other if x in out and x not in windowed]
    return "".join((*batch, *own, *rest)) if rest else out


_RULES = {
    "permute": _permute, "slice": _slice, "pad": _pad, "flip": _flip, "window": _window, "reduce": _reduce,
    "broadcast": _broadcast, "reshape": _reshape, "contract": _contract, "concat": _concat,
}
