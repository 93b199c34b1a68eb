"""Finds attention: contract, pointwise, softmax, pointwise, contract become one `attention` node.

It runs on the traced graph, before derivatives are taken: the derivative of an `attention` is an `attention_grad` by a
rule here, and need not be found again among what differentiation makes of a softmax. Only a target with kernels for
it runs this pass, and only forms that these take are rewritten; anything else stays as it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from string import ascii_letters
from typing import Any, NamedTuple

from dlc.base.errors import ShapeError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.attention import labels_of, sizes_of
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, param, remade, substitute, topological
from dlc.ir.graph.ops import split_spec
from dlc.ir.graph.table import OPS
from dlc.ir.scalar import SCALAR_OPS

LONGEST = 128  # elements of a query, key or value at most: a row of results stays in registers
PIECE = 8  # halves of one copy: rows are multiples of it, those of float32 too
SHORTEST = 16  # queries and keys at least
EXPENSIVE = 8  # scalar cost from which a mask is computed once, into memory

_VIEWS = frozenset({"reshape", "permute", "broadcast", "slice", "flip"})


def find_attention(graph: Graph, tf32: bool = False) -> Graph:
    """The graph, and the bodies in it, with attention in single nodes: on half floats, and with `tf32` on float32."""
    graph = map_bodies(graph, partial(find_attention, tf32=tf32))
    nodes = graph.nodes()
    if not any(n.op == "reduce" and n.attrs["monoid"] == "max" for n in nodes):
        return graph
    users: dict[Node, set[Node | None]] = defaultdict(set)
    for n in nodes:
        for i in n.inputs:
            users[i].add(n)
    for o in graph.outputs:
        users[o].add(None)
    done: dict[Node, Node] = {}
    for node in nodes:
        match = _match(node, users, tf32) if node.op == "contract" else None
        if match is not None:
            new = make("attention", [done[i] for i in match.inputs], node.loc, **match.attrs)
            done[node] = build.item(new, 0, node.loc)
            continue
        done[node] = remade(node, [done[i] for i in node.inputs])
    return Graph(graph.params, [done[o] for o in graph.outputs], graph.name)


def _elementwise(n: Node) -> bool:
    return n.op != "param" and OPS[n.op].elementwise


class _Match(NamedTuple):
    inputs: tuple[Node, ...]
    attrs: dict[str, Any]


class _Softmax(NamedTuple):
    node: Node
    x: Node
    axis: int
    empty: bool


def _match(out: Node, users: dict[Node, set[Node | None]], tf32: bool) -> _Match | None:
    """The attention whose last contraction is `out`."""
    dtype = out.dtype
    if not (dtype.is_half or (tf32 and dtype is dtypes.float32)) or out.inputs[0].dtype.is_half != dtype.is_half:
        return None
    for side in (0, 1):
        w = out.inputs[side]
        for soft in filter(None, map(_softmax, _pointwise(w))):
            for s in _pointwise(soft.x):
                if s.op == "contract" and s.inputs[0].dtype.is_half == dtype.is_half and s.shape == soft.x.shape:
                    found = _fitting(out, side, soft, s, users)
                    if found is not None:
                        return found
    return None


def _pointwise(root: Node) -> list[Node]:
    """`root` and what it is computed from element by element at the same place."""
    out, stack = [], [root]
    while stack:
        n = stack.pop()
        if n not in out:
            out.append(n)
            if _elementwise(n):
                stack.extend(reversed(n.inputs))
    return out


def _softmax(p: Node) -> _Softmax | None:
    """exp(x - max) / sum, of one axis; where a row may have no score at all, with selects that keep NaN away."""
    if p.op != "div" or p.inputs[0].op != "exp" or p.inputs[0].inputs[0].op != "sub":
        return None
    e = p.inputs[0]
    x, below = e.inputs[0].inputs
    reduced = [n for n in topological([p.inputs[1]], stop=lambda n: n.op == "reduce") if n.op == "reduce"]
    total = next((n for n in reduced if n.inputs[0] is e and n.attrs["monoid"] == "sum"), None)
    if total is None or len(total.attrs["axes"]) != 1:
        return None
    (axis,) = total.attrs["axes"]
    top = build.reduce(x, "max", (axis,))
    divisor, base = (_of_rows(n, x.shape, axis) for n in (p.inputs[1], below))
    if divisor is total and base is top:
        return _Softmax(p, x, axis, False)
    if divisor is None or base is None or not divisor.op == base.op == "select":
        return None
    none = base.inputs[0]
    empty = (none is divisor.inputs[0] and none.op == "eq" and _peeled(none.inputs[0]) is top
             and _is_const(none.inputs[1], -math.inf) and _is_const(base.inputs[1], 0.0)
             and _peeled(base.inputs[2]) is top and _is_const(divisor.inputs[1], 1.0)
             and _peeled(divisor.inputs[2]) is total)
    return _Softmax(p, x, axis, True) if empty else None


def _of_rows(n: Node, shape: tuple[int, ...], axis: int) -> Node | None:
    """The node that `n` repeats along `axis`, if it does only that."""
    if n.op != "broadcast" or n.shape != shape:
        return None
    src, others = n.inputs[0], tuple(a for a in range(len(shape)) if a != axis)
    rows = tuple(shape[a] for a in others)
    kept = tuple(1 if a == axis else d for a, d in enumerate(shape))
    if (n.attrs["axes"], src.shape) not in ((others, rows), (tuple(range(len(shape))), kept)):
        return None
    return _peeled(src)


def _peeled(n: Node) -> Node:
    """`n` without reshapes that add or drop an axis of one element, and without stop_gradient."""
    while n.op == "stop_gradient" or (n.op == "reshape" and _wide(n.shape) == _wide(n.inputs[0].shape)):
        n = n.inputs[0]
    return n


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)


def _is_const(n: Node, value: float) -> bool:
    while n.op in ("broadcast", "reshape", "cast"):
        n = n.inputs[0]
    return n.op == "const" and n.attrs["value"] == value


def _fitting(out: Node, side: int, soft: _Softmax, s: Node, users: dict[Node, set[Node | None]]) -> _Match | None:
    """The match if every condition holds."""
    w = out.inputs[side]
    between = _between(w, s)
    if any(not users[n] <= (between | {out} if n is w else between) for n in between):
        return None  # something else needs scores or weights
    weighted, scored = _between(w, soft.node), _between(soft.x, s)
    if not all(_linear(n, weighted) for n in weighted if n is not soft.node):
        return None
    if not all(_elementwise(n) for n in scored if n is not s) or not (soft.x.dtype.is_half
                                                                            or soft.x.dtype is dtypes.float32):
        return None
    extras: dict[Node, None] = {}
    _collect(scored - {s}, scored, extras)
    _collect(weighted - {soft.node}, weighted, extras)
    try:
        q, k, v, scores, values = _specs(s, out, side, soft.axis)
        attrs = {
            "scores": scores, "values": values, "scores_dtype": s.dtype, "dtype": out.dtype, "empty": soft.empty,
            "score": _body("score", soft.x, s, extras), "weights": _body("weights", w, soft.node, extras),
        }  # fmt: skip
        labels = labels_of(attrs)
        sizes = sizes_of(labels, q.type, k.type, v.type)
    except ShapeError:
        return None
    wide = (sizes[labels.inner], sizes[labels.value])
    fits = all(n % PIECE == 0 and 0 < n <= LONGEST for n in wide) and math.prod(sizes.values()) > 0
    if not fits or min(sizes[labels.query], sizes[labels.key]) < SHORTEST:
        return None
    if not q.dtype is k.dtype is v.dtype is w.dtype is out.dtype:
        return None
    return _Match((q, k, v, *extras), attrs)


def _between(root: Node, source: Node) -> set[Node]:
    """The nodes on the ways from `source` to `root`, both included."""
    found = {source}
    for n in topological([root], stop=lambda n: n is source or not (
            _elementwise(n) or n.op in _VIEWS or n.op in ("reduce", "stop_gradient"))):
        if any(i in found for i in n.inputs) and n is not source:
            found.add(n)
    return found


def _linear(n: Node, inside: set[Node]) -> bool:
    """Is `n` linear, element by element, in its operands in `inside`?"""
    own = [i in inside for i in n.inputs]
    if n.op == "cast":
        return n.dtype.is_float
    if n.op == "mul":
        return sum(own) == 1
    if n.op == "div":
        return own == [True, False]
    if n.op == "select":
        return not own[0] and all(mine or _is_const(i, 0.0) for i, mine in zip(n.inputs[1:], own[1:], strict=True))
    return n.op == "neg"


def _collect(nodes: set[Node], inside: set[Node], extras: dict[Node, None]) -> None:
    """Add what `nodes` read that is not in `inside`: what is cheap becomes part of them, as far as memory."""
    cost: dict[Node, int] = {}
    seen: set[Node] = set()
    stack = [i for n in sorted(nodes, key=lambda n: n.serial) for i in n.inputs if i not in inside]
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if n.op in _VIEWS or (_elementwise(n) and _cost(n, cost) < EXPENSIVE):
            stack.extend(n.inputs)
        elif n.op not in ("const", "iota"):
            extras[n] = None


def _cost(root: Node, known: dict[Node, int]) -> int:
    """Scalar cost of computing an element of `root` from memory and nothing."""
    for n in topological([root], stop=lambda n: n in known or not (_elementwise(n) or n.op in _VIEWS)):
        if n not in known:
            row = SCALAR_OPS.get(n.op)
            inner = sum(known.get(i, 0) for i in n.inputs) if _elementwise(n) or n.op in _VIEWS else 0
            known[n] = min(EXPENSIVE, inner + (row.cost if row is not None and row.cost > 1 else 0))
    return known[root]


def _body(name: str, root: Node, source: Node, extras: dict[Node, None]) -> Graph:
    """`root` as a function of `source` and the extras."""
    first = param(source.type, name[0])
    rest = {n: param(n.type, f"x{k}") for k, n in enumerate(extras)}
    return Graph((first, *rest.values()), substitute([root], {**rest, source: first}), name)


def _specs(s: Node, out: Node, side: int, axis: int) -> tuple[Node, Node, Node, str, str]:
    """The operands of the scores and both specs in common labels."""
    a, b, result = split_spec(s.attrs["spec"])
    key = result[axis]
    if (key in a) == (key in b):
        raise ShapeError("attention: the softmax is not along one operand of the scores")
    (q, ql), (k, kl) = sorted(zip(s.inputs, (a, b), strict=True), key=lambda item: key in item[1])
    parts = split_spec(out.attrs["spec"])
    names = dict(zip(parts[side], result, strict=True))
    fresh = iter(x for x in ascii_letters if x not in a + b)
    for x in parts[1 - side]:
        if x not in names:
            names[x] = next(fresh)
    vl = "".join(names[x] for x in parts[1 - side])
    ol = "".join(names[x] for x in parts[2])
    (q, ql), (k, kl), (v, vl) = map(_unpermuted, (q, k, out.inputs[1 - side]), (ql, kl, vl))
    return q, k, v, f"{ql},{kl}->{result}", f"{result},{vl}->{ol}"


def _unpermuted(x: Node, labels: str) -> tuple[Node, str]:
    """`x` without permutations, and what its axes are called then."""
    while x.op == "permute":
        axes = x.attrs["axes"]
        labels = "".join(labels[axes.index(a)] for a in range(len(axes)))
        x = x.inputs[0]
    return x, labels


# ---------------------------------------------------------------------------------------------------- the derivative


