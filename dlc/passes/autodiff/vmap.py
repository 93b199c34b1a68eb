"""Batching as a transform of the Graph IR: from nodes for one example, nodes for a batch of them.

A rule is `rule(node, ins, batched, size)`: the node's new inputs, of which those with `batched[k]` have the batch as
axis 0 (at least one has); it gives the node's result with the batch as axis 0 (a list for several results).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dlc.base.errors import ShapeError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add, gather, scale, scatter
from dlc.ir.graph.graph import Graph, Node, TensorType, located, make, param, remade, substitute, topological
from dlc.ir.graph.ops import split_spec
from dlc.ir.graph.table import OPS
from dlc.passes.autodiff.vjp import expand_nodes

Rule = Callable[[Node, list[Node], list[bool], int], Any]


class Lane(NamedTuple):
    """A result of batching: `node` has the batch as axis 0 if `batched`, else is the same for every example."""

    node: Any
    batched: bool


def batch(outputs: Sequence[Node], mapped: Mapping[Node, tuple[Node, int]]) -> list[Node]:
    """`outputs` for a whole batch, which is axis 0 of every result.

    `mapped` gives, for leaves that stand for one example, the batched tensor and which of its axes is the batch.
    Raises ShapeError where batched tensors disagree in size, or with the example's type.
    """
    lanes, size = {}, None
    for leaf, (whole, axis) in mapped.items():
        front = B.permute(whole, (axis, *(a for a in range(whole.ndim) if a != axis)))
        if size is None:
            size = front.shape[0]
        if front.shape[0] != size:
            raise ShapeError(f"vmap: mapped axes have sizes {size} and {front.shape[0]}")
        if TensorType(front.dtype, front.shape[1:]) != leaf.type:
            raise ShapeError(f"vmap: {whole.type} mapped along axis {axis} does not give {leaf.type}")
        lanes[leaf] = Lane(front, True)
    if size is None:
        raise ShapeError("vmap: nothing is mapped")
    if any(n.op == "vjp" for n in topological(outputs, stop=lambda n: n in lanes)):
        outputs = expand_nodes(outputs)
    return [lift(*lane, size) for lane in batch_nodes(outputs, lanes, size)]


def batch_nodes(outputs: Sequence[Node], lanes: Mapping[Node, Lane], size: int) -> list[Lane]:
    """`outputs` with the leaves in `lanes` replaced; what depends on no batched leaf stays unbatched."""
    done: dict[Node, Lane] = dict(lanes)
    for node in topological(outputs, stop=lambda n: n in done):
        if node in done:
            continue
        ins = [done[i] for i in node.inputs]
        with located(node.loc):
            if node.op == "item":
                done[node] = ins[0].node[node.attrs["index"]] if isinstance(ins[0].node, list) else _rebuilt(node, ins)
            elif any(lane.batched for lane in ins):
                new = BATCH[node.op](node, [lane.node for lane in ins], [lane.batched for lane in ins], size)
                done[node] = Lane(new, True)
            else:
                done[node] = _rebuilt(node, ins)
    return [done[o] for o in outputs]


def _rebuilt(node: Node, ins: Sequence[Lane]) -> Lane:
    return Lane(remade(node, [lane.node for lane in ins]), False)


def lift(x: Node, batched: bool, size: int) -> Node:
    """`x` with the batch as axis 0, repeated if it was not batched."""
    return x if batched else B.broadcast(x, (size, *x.shape), range(1, x.ndim + 1))


def _lifted(ins: list[Node], batched: list[bool], size: int) -> list[Node]:
    return [lift(x, b, size) for x, b in zip(ins, batched, strict=True)]


def _elementwise(node: Node, ins: list[Node], batched: list[bool], size: int) -> Node:
    return make(node.op, _lifted(ins, batched, size), **node.attrs)


def _shifted(**how: Callable[[Any, int], Any]) -> Rule:
    """The same operation on batched inputs, with the named attributes adapted by `f(value, size)`."""

    def rule(node: Node, ins: list[Node], batched: list[bool], size: int) -> Any:
        attrs = {k: how[k](v, size) if k in how else v for k, v in node.attrs.items()}
        new = make(node.op, _lifted(ins, batched, size), **attrs)
        return new if isinstance(new.type, TensorType) else _items(new)

    return rule


def _items(node: Node) -> list[Lane]:
    return [Lane(B.item(node, k), True) for k in range(len(node.type))]


def _axis(axis: int, size: int) -> int:
    return axis + 1


def _axes(axes: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(a + 1 for a in axes)


def _all_axes(axes: tuple[int, ...], size: int) -> tuple[int, ...]:
    return (0, *_axes(axes, size))


def _shape(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return (size, *shape)


def _before(first: int) -> Callable[[tuple[int, ...], int], tuple[int, ...]]:
    return lambda values, size: (first, *values)


def _contract(node: Node, ins: list[Node], batched: list[bool], size: int) -> Node:
    left, right, out = split_spec(node.attrs["spec"])
    new = next(c for c in "zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in left + right)
    left, right = (new * b + labels for labels, b in zip((left, right), batched, strict=True))
    return make("contract", ins, spec=f"{left},{right}->{new}{out}", dtype=node.dtype)


def _clamped(index: Node, extent: int) -> Node:
    """`index` as int64 in [0, extent)."""
    high = min(max(extent - 1, 0), dtypes.limits(index.dtype)[1])
    inside = make("max", (make("min", (index, B.like(index, high))), B.like(index, 0)))
    return B.cast(inside, dtypes.int64)


def _flat_index(index: Node, extent: int) -> Node:
    """A batched index into `extent` rows as an index into the rows of all examples, one after the other."""
    return add(_clamped(index, extent), scale(B.iota(index.shape, 0), extent))


def _rows_first(x: Node, axis: int, count: int) -> Node:
    """[B, pre, rows (count axes at `axis`), post] -> [B, rows, pre, post]."""
    rows = range(axis, axis + count)
    return B.permute(x, (0, *rows, *(a for a in range(1, x.ndim) if a not in rows)))


def _rows_back(x: Node, axis: int, count: int) -> Node:
    """[B, rows, pre, post] -> [B, pre, rows, post]."""
    order = [0, *range(1 + count, axis + count), *range(1, 1 + count), *range(axis + count, x.ndim)]
    return B.permute(x, order)


def _gather(node: Node, ins: list[Node], batched: list[bool], size: int) -> Node:
    (src, index), axis = ins, node.attrs["axis"]
    if not batched[1]:
        return gather(src, index, axis + 1)
    if not batched[0]:
        out = gather(src, index, axis)
        return B.permute(out, (axis, *(a for a in range(out.ndim) if a != axis)))
    extent = src.shape[axis + 1]
    rows = _rows_first(src, axis + 1, 1)
    flat = B.reshape(rows, (size * extent, *rows.shape[2:]))
    return _rows_back(gather(flat, _flat_index(index, extent), 0), axis + 1, index.ndim - 1)


def _scatter(node: Node, ins: list[Node], batched: list[bool], size: int) -> Node:
    axis, combine = node.attrs["axis"], node.attrs["combine"]
    base, updates = lift(ins[0], batched[0], size), lift(ins[2], batched[2], size)
    index = ins[1]
    if not batched[1]:
        return scatter(base, index, updates, axis + 1, combine)
    extent = base.shape[axis + 1]
    rows = _rows_first(base, axis + 1, 1)
    flat = B.reshape(rows, (size * extent, *rows.shape[2:]))
    changed = _rows_first(updates, axis + 1, index.ndim - 1)
    out = scatter(flat, _flat_index(index, extent), changed, 0, combine)
    return _rows_back(B.reshape(out, rows.shape), axis + 1, 1)


def _swapped(x: Node) -> Node:
    return B.permute(x, (1, 0, *range(2, x.ndim)))


def _batched_body(body: Graph, batched: Sequence[bool], size: int) -> tuple[list[Node], list[Lane]]:
    """New parameters, the flagged ones batched, and the body's results for them."""
    params = [
        param(TensorType(p.dtype, (size, *p.shape)) if b else p.type, p.attrs["name"], p.loc)
        for p, b in zip(body.params, batched, strict=True)
    ]
    lanes = {p: Lane(new, b) for p, new, b in zip(body.params, params, batched, strict=True)}
    return params, batch_nodes(body.outputs, lanes, size)


def _scan(node: Node, ins: list[Node], batched: list[bool], size: int) -> list[Lane]:
    attrs, body = node.attrs, node.attrs["body"]
    n_const, n_carry = attrs["consts"], attrs["carry"]
    flags = list(batched)
    while True:  # a carry that becomes batched in a step is batched from the start; at most one round a carry
        params, lanes = _batched_body(body, flags, size)
        grown = [k for k in range(n_carry) if lanes[k].batched and not flags[n_const + k]]
        if not grown:
            break
        for k in grown:
            flags[n_const + k] = True
    outs = [lift(*lane, size) if flags[n_const + k] else lane.node for k, lane in enumerate(lanes[:n_carry])]
    outs += [lane.node for lane in lanes[n_carry:]]
    n_fixed = n_const + n_carry
    new_ins = [x if b == flag else lift(x, b, size) for x, b, flag in zip(ins, batched, flags, strict=True)]
    new_ins[n_fixed:] = [_swapped(x) if b else x for x, b in zip(ins[n_fixed:], batched[n_fixed:], strict=True)]
    new = make("scan", new_ins, **{**attrs, "body": Graph(params, outs, body.name)})
    results = [Lane(B.item(new, k), flags[n_const + k]) for k in range(n_carry)]
    for k in range(n_carry, len(outs)):
        y = B.item(new, k)
        results.append(Lane(_swapped(y), True) if lanes[k].batched else Lane(y, False))
    return results


def _checkpoint(node: Node, ins: list[Node], batched: list[bool], size: int) -> list[Lane]:
    body = node.attrs["body"]
    params, lanes = _batched_body(body, batched, size)
    new = make("checkpoint", ins, body=Graph(params, [lane.node for lane in lanes], body.name))
    return [Lane(B.item(new, k), lane.batched) for k, lane in enumerate(lanes)]


def _call(node: Node, ins: list[Node], batched: list[bool], size: int) -> list[Lane]:
    """By the rule that came with the kernel, or one example after the other."""
    rule = node.attrs.get("batching")
    if rule is not None:
        return [Lane(n, True) for n in rule.batch(node, ins, batched, size)]
    order = sorted(range(len(ins)), key=lambda k: batched[k])  # constants of the loop first
    params = [param(i.type, loc=node.loc) for i in node.inputs]
    one = make("call", params, node.loc, **node.attrs)
    body = Graph([params[k] for k in order], [B.item(one, k) for k in range(len(node.type))], "examples")
    loop = make("scan", [ins[k] for k in order], body=body, length=size, consts=batched.count(False), carry=0,
                reverse=False)
    return [Lane(B.item(loop, k), True) for k in range(len(node.type))]


def _by_plain(node: Node, ins: list[Node], batched: list[bool], size: int) -> list[Lane]:
    params, lanes = _batched_body(OPS[node.op].plain(node), batched, size)
    nodes = substitute([lane.node for lane in lanes], dict(zip(params, ins, strict=True)))
    return [Lane(n, lane.batched) for n, lane in zip(nodes, lanes, strict=True)]


_SAME = _shifted()

BATCH: dict[str, Rule] = {
    **{op: _elementwise for op, row in OPS.items() if row.elementwise},
    "reshape": _shifted(shape=_shape),
    "permute": _shifted(axes=_all_axes),
    "broadcast": _shifted(shape=_shape, axes=_all_axes),
    "slice": lambda node, ins, batched, size: B.slice_(
        ins[0], (0, *node.attrs["start"]), (size, *node.attrs["stop"]), (1, *node.attrs["step"])
    ),
    "flip": _shifted(axes=_axes),
    "pad": _shifted(low=_before(0), high=_before(0), interior=_before(0)),
    "window": _shifted(axes=_axes),
    "unwindow": _shifted(shape=_shape, axes=_axes),
    "pair": _shifted(axis=_axis),
    "reduce": _shifted(axes=_axes),
    "contract": _contract,
    "gather": _gather,
    "scatter": _scatter,
    "concat": _shifted(axis=_axis),
    "sort": _shifted(axis=_axis),
    "cumulative": _shifted(axis=_axis),
    "scan": _scan,
    "stop_gradient": _SAME,
    "tag": _SAME,
    "barrier": _SAME,
    "checkpoint": _checkpoint,
    "call": _call,
    **{op: _by_plain for op, row in OPS.items() if row.plain},
}
