"""Forward-mode differentiation as a transform of the Graph IR.

A rule is `rule(node, tangents)`: one tangent an input, None where an input has none, at least one given; it gives the
tangent of the result (a list for operations with several). An elementwise operation has a diagonal Jacobian, which is
its own transpose, so its reverse rule serves here as it is; an operation linear in its one input is applied to the
tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add, cumulative, div, gather, mul, scatter, shift, take_along, where, zeros
from dlc.ir.graph.graph import Graph, Node, inline, located, make, param, substitute, topological, unique
from dlc.ir.graph.table import OPS
from dlc.passes.autodiff.scan_rule import active_params
from dlc.passes.autodiff.vjp import VJP, differentiable, expand_nodes, pullback, rule_of
from dlc.passes.autodiff.vjp_rules import (
    excluded_product,
    inverse,
    other_factors,
    reduced_last,
    running_positions,
    scatter_ties,
    shared_ties,
)

Tangent = Node | None
Rule = Callable[[Node, list[Tangent]], Any]


def pushforward(outputs: Sequence[Node], wrt: Sequence[Node], tangents: Sequence[Tangent]) -> list[Tangent]:
    """The tangents of `outputs`, None for one that depends on no node of `wrt` with a tangent."""
    given = {w: t for w, t in zip(wrt, tangents, strict=True) if t is not None}
    found: dict[Node, Any] = dict(given)
    for node in topological(outputs, stop=lambda n: n in given):
        ins = [found.get(i) for i in node.inputs]
        if node in given or all(t is None for t in ins) or not differentiable(node):
            continue
        with located(node.loc):
            found[node] = ins[0][node.attrs["index"]] if node.op == "item" else JVP[node.op](node, ins)
    return [found.get(o) for o in outputs]


def jvp(outputs: Sequence[Node], wrt: Sequence[Node], tangents: Sequence[Tangent]) -> list[Node]:
    """The directional derivative of `outputs` where each node of `wrt` moves along its tangent (None: stands still).

    `wrt` are leaves, or nodes treated as such. Zeros come back for outputs that do not depend on them.
    """
    keep = set(wrt)
    if any(n.op == "vjp" for n in topological(outputs, stop=lambda n: n in keep)):
        outputs = expand_nodes(outputs)
    moved = pushforward(outputs, wrt, tangents)
    return [zeros(o) if t is None else t for o, t in zip(outputs, moved, strict=True)]


def _diagonal(node: Node, tangents: list[Tangent]) -> Tangent:
    """Elementwise: the sum over inputs of tangent * derivative, from the reverse rule."""
    total = None
    for k, t in enumerate(tangents):
        if t is not None:
            need = tuple(j == k for j in range(len(tangents)))
            part = VJP[node.op](node, t, need)[k]
            if part is not None:
                total = part if total is None else add(total, part)
    return total


def _linear(node: Node, tangents: list[Tangent]) -> Node:
    return make(node.op, tangents, **node.attrs)


def _pad(node: Node, tangents: list[Tangent]) -> Node:
    a = node.attrs
    return B.pad(tangents[0], a["low"], a["high"], a["interior"])


def _reduce(node: Node, tangents: list[Tangent]) -> Tangent:
    x, (t,), axes, monoid = node.inputs[0], tangents, node.attrs["axes"], node.attrs["monoid"]
    if monoid == "sum":
        return B.sum_(t, axes)
    if monoid == "prod":
        flat, _ = reduced_last(x, axes)
        moved, _ = reduced_last(t, axes)
        return B.sum_(mul(moved, excluded_product(flat, flat.ndim - 1)), (flat.ndim - 1,))
    ties, count = shared_ties(x, node, axes)
    total = B.sum_(where(ties, B.cast(t, count.dtype)), axes)
    return B.cast(where(make("lt", (zeros(count), count)), div(total, count)), t.dtype)


def _cumulative(node: Node, tangents: list[Tangent]) -> Node:
    x, (t,), axis, reverse = node.inputs[0], tangents, node.attrs["axis"], node.attrs["reverse"]
    if node.attrs["monoid"] == "sum":
        return cumulative(t, "sum", axis, reverse)
    if node.attrs["monoid"] == "prod":
        return _cumulative_prod(node, x, t, axis, reverse)
    return take_along(t, running_positions(node), axis)


def _cumulative_prod(node: Node, x: Node, t: Node, axis: int, reverse: bool) -> Node:
    """With y_k = y_{k-1} x_k: dy_k = dy_{k-1} x_k + y_{k-1} dx_k."""
    order = (axis, *(a for a in range(x.ndim) if a != axis))
    sources = mul(shift(node, axis, -1 if reverse else 1, 1), t)
    steps, factors = B.permute(sources, order), B.permute(x, order)
    total, factor, source = (param(steps.type._replace(shape=steps.shape[1:])) for _ in range(3))
    new = add(mul(total, factor), source)
    body = Graph((total, factor, source), (new, new), "product_tangents")
    start = B.const(0, x.dtype, steps.shape[1:])
    scan = make("scan", (start, factors, steps), body=body, length=x.shape[axis], consts=0, carry=1, reverse=reverse)
    return B.permute(B.item(scan, 1), inverse(order))


def _sort(node: Node, tangents: list[Tangent]) -> list[Tangent]:
    return [take_along(tangents[0], B.item(node, 1), node.attrs["axis"]), None]


def _contract(node: Node, tangents: list[Tangent]) -> Node:
    (a, b), (ta, tb) = node.inputs, tangents
    spec, dtype = node.attrs["spec"], node.dtype
    if ta is None:
        return B.contract(a, tb, spec, dtype)
    if tb is None:
        return B.contract(ta, b, spec, dtype)
    return add(B.contract(ta, b, spec, dtype), B.contract(a, tb, spec, dtype))


def _gather(node: Node, tangents: list[Tangent]) -> Node:
    return gather(tangents[0], node.inputs[1], node.attrs["axis"])


def _scatter(node: Node, tangents: list[Tangent]) -> Node:
    base, index, updates = node.inputs
    t_base = zeros(base) if tangents[0] is None else tangents[0]
    t_updates = tangents[2]
    axis, combine = node.attrs["axis"], node.attrs["combine"]
    if combine == "set":
        return scatter(t_base, index, zeros(updates) if t_updates is None else t_updates, axis, "set")
    if combine == "add":
        return t_base if t_updates is None else scatter(t_base, index, t_updates, axis, "add")
    if combine == "mul":
        moved = scatter(t_base, index, updates, axis, "mul")
        return moved if t_updates is None else scatter(moved, index, mul(t_updates, other_factors(node)), axis, "add")
    own, hit, count = scatter_ties(node)
    total = where(own, B.cast(t_base, count.dtype))
    if t_updates is not None:
        total = scatter(total, index, where(hit, B.cast(t_updates, count.dtype)), axis, "add")
    return B.cast(where(make("lt", (zeros(count), count)), div(total, count)), node.dtype)


def _concat(node: Node, tangents: list[Tangent]) -> Node:
    parts = [zeros(x) if t is None else t for x, t in zip(node.inputs, tangents, strict=True)]
    return make("concat", parts, axis=node.attrs["axis"])


def _scan(node: Node, tangents: list[Tangent]) -> list[Tangent]:
    """The same loop with tangents carried and stacked beside the values."""
    attrs, body = node.attrs, node.attrs["body"]
    n_const, n_carry = attrs["consts"], attrs["carry"]
    active = active_params(node, [t is not None for t in tangents])
    moving = [k for k in range(len(tangents)) if active >> k & 1]
    tangent_of = {k: param(body.params[k].type, f"{body.params[k].attrs['name']}_tangent") for k in moving}
    start = {k: zeros(node.inputs[k]) if tangents[k] is None else tangents[k] for k in moving}

    moved = pushforward(body.outputs, [body.params[k] for k in moving], list(tangent_of.values()))
    carried = [k for k in moving if n_const <= k < n_const + n_carry]
    carry_tangents = [moved[k - n_const] or zeros(body.outputs[k - n_const]) for k in carried]
    stacked = [k for k in range(n_carry, len(body.outputs)) if moved[k] is not None]

    def arranged(values: Sequence[Node], extra: dict[int, Node]) -> list[Node]:
        """Constants, their tangents, carry, its tangents, scanned inputs, their tangents."""
        out: list[Node] = []
        for low, high in ((0, n_const), (n_const, n_const + n_carry), (n_const + n_carry, len(values))):
            out += [*values[low:high], *(extra[k] for k in moving if low <= k < high)]
        return out

    outs = [*body.outputs[:n_carry], *carry_tangents, *body.outputs[n_carry:], *(moved[k] for k in stacked)]
    wide = make(
        "scan",
        arranged(node.inputs, start),
        body=Graph(arranged(body.params, tangent_of), outs, f"{body.name}_tangents"),
        length=attrs["length"],
        consts=n_const + sum(k < n_const for k in moving),
        carry=n_carry + len(carried),
        reverse=attrs["reverse"],
    )
    result: list[Tangent] = [None] * len(body.outputs)
    for at, k in enumerate(carried):
        result[k - n_const] = B.item(wide, n_carry + at)
    for at, k in enumerate(stacked):
        result[k] = B.item(wide, len(body.outputs) + len(carried) + at)
    return result


def _checkpoint(node: Node, tangents: list[Tangent]) -> list[Tangent]:
    body = node.attrs["body"]
    given = [k for k, t in enumerate(tangents) if t is not None]
    tangent_of = [param(body.params[k].type) for k in given]
    moved = pushforward(body.outputs, [body.params[k] for k in given], tangent_of)
    outs = [t for t in moved if t is not None]
    wide = Graph([*body.params, *tangent_of], outs, f"{body.name}_tangents")
    again = make("checkpoint", (*node.inputs, *(tangents[k] for k in given)), body=wide)
    results = iter([B.item(again, k) for k in range(len(outs))])
    return [None if t is None else next(results) for t in moved]


def _call(node: Node, tangents: list[Tangent]) -> list[Tangent]:
    """The rule that came with the kernel; without one, the transpose of its reverse rule, which is linear."""
    results = [B.item(node, k) for k in range(len(node.type))]
    moving = [zeros(x) if t is None else t for x, t in zip(node.inputs, tangents, strict=True) if x.dtype.is_float]
    floats = [r for r in results if r.dtype.is_float]
    if "jvp" in node.attrs or "vjp" not in node.attrs:
        moved = inline(rule_of(node, "jvp"), [*node.inputs, *results, *moving])
    else:
        names = [make("tag", (zeros(r),), uid=unique()) for r in floats]
        grads = inline(rule_of(node, "vjp"), [*node.inputs, *results, *names])
        moved = [zeros(n) if t is None else t for n, t in zip(names, pullback(grads, moving, names), strict=True)]
    back = iter(moved)
    return [next(back) if r.dtype.is_float else None for r in results]


def _by_plain(node: Node, tangents: list[Tangent]) -> list[Tangent]:
    body = OPS[node.op].plain(node)  # type: ignore[misc]
    given = [k for k, t in enumerate(tangents) if t is not None]
    tangent_of = [param(body.params[k].type) for k in given]
    moved = pushforward(body.outputs, [body.params[k] for k in given], tangent_of)
    known = dict(zip(body.params, node.inputs, strict=True))
    known |= {p: tangents[k] for p, k in zip(tangent_of, given, strict=True)}
    return [None if t is None else substitute([t], known)[0] for t in moved]


_LINEAR = ("cast", "reshape", "permute", "broadcast", "slice", "flip", "window", "unwindow", "tag", "barrier")

JVP: dict[str, Rule] = {
    **{op: _diagonal for op, row in OPS.items() if row.elementwise and VJP[op] is not None},
    **dict.fromkeys(_LINEAR, _linear),
    "pad": _pad,
    "reduce": _reduce,
    "cumulative": _cumulative,
    "sort": _sort,
    "contract": _contract,
    "gather": _gather,
    "scatter": _scatter,
    "concat": _concat,
    "scan": _scan,
    "checkpoint": _checkpoint,
    "call": _call,
    **{op: _by_plain for op, row in OPS.items() if row.plain},
}
