"""Reverse-mode differentiation as a transform of the Graph IR.

`vjp` builds, from graph nodes, the nodes of the gradient; `expand` replaces every `vjp` node of a graph so. Rules
(`vjp_rules.py`) emit Graph operations only, and so can be differentiated again to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlc.base.errors import TraceError, VerifyError
from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add, zeros
from dlc.ir.graph.graph import (
    Graph,
    Node,
    TensorType,
    inline,
    located,
    make,
    map_bodies,
    substitute,
    topological,
    unique,
)
from dlc.ir.graph.table import OPS
from dlc.passes.autodiff.merge_scans import merge_scans
from dlc.passes.autodiff.vjp_rules import RULES, Ct, Rule


def differentiable(node: Node) -> bool:
    """Whether a cotangent can pass from the result of `node` to its inputs."""
    if VJP[node.op] is None:
        return False
    return not isinstance(node.type, TensorType) or node.dtype.is_float  # several results: their `item`s decide


def pullback(outputs: Sequence[Node], cotangents: Sequence[Ct], wrt: Sequence[Node]) -> list[Ct]:
    """The cotangents of `wrt`, None where no output with a cotangent depends on one. See `vjp`."""
    order = topological(o for o, ct in zip(outputs, cotangents, strict=True) if ct is not None)
    active = set(wrt)
    for node in order:
        if node not in active and any(i in active for i in node.inputs) and differentiable(node):
            active.add(node)
    slots: dict[Node, Any] = {}

    def give(node: Node, ct: Node) -> None:
        before = slots.get(node)
        slots[node] = ct if before is None else add(before, ct)

    for out, ct in zip(outputs, cotangents, strict=True):
        if ct is not None and out in active:
            give(out, ct)
    for node in reversed(order):
        ct = slots.get(node)
        need = tuple(i in active for i in node.inputs)
        if ct is None or node not in active or not any(need) or not differentiable(node):
            continue
        with located(node.loc):
            if node.op == "item":
                source = node.inputs[0]
                results = slots.setdefault(source, [None] * len(source.type))
                results[node.attrs["index"]] = ct  # items are unique nodes, so each slot is filled once
                continue
            for source, wanted, piece in zip(node.inputs, need, VJP[node.op](node, ct, need), strict=True):
                if wanted and piece is not None:
                    give(source, piece)
    return [slots.get(w) for w in wrt]


def vjp(outputs: Sequence[Node], cotangents: Sequence[Ct], wrt: Sequence[Node]) -> list[Node]:
    """Cotangents of `wrt` given those of `outputs` (None for an output that does not count).

    `wrt` may be any nodes, leaves or not; zeros come back for one that nothing depends on.
    """
    flat = [*outputs, *(ct for ct in cotangents if ct is not None), *wrt]
    if any(n.op == "vjp" for n in topological(flat)):
        flat = expand_nodes(flat)
        outputs, rest = flat[: len(outputs)], iter(flat[len(outputs) : len(flat) - len(wrt)])
        cotangents = [None if ct is None else next(rest) for ct in cotangents]
        wrt = flat[len(flat) - len(wrt) :]
    grads = pullback(outputs, cotangents, wrt)
    return [zeros(w) if g is None else g for w, g in zip(wrt, grads, strict=True)]


def expand(graph: Graph) -> Graph:
    """`graph` with every `vjp` node, also those inside bodies, replaced by the operations it stands for."""
    return graph.with_outputs(expand_nodes(graph.outputs))


def expand_nodes(roots: Sequence[Node]) -> list[Node]:
    """`expand` on nodes. Innermost first: a `vjp` node is expanded when nothing below it has one."""
    roots = merge_scans(map_bodies(Graph((), roots), expand).outputs)
    while True:
        order = topological(roots)
        node = next((n for n in order if n.op == "vjp"), None)
        if node is None:
            return roots
        n = node.attrs["outputs"]
        grads = vjp(node.inputs[:n], node.inputs[n : 2 * n], node.inputs[2 * n :])
        users = [u for u in order if u.op == "item" and u.inputs[0] is node]
        roots = merge_scans(substitute(roots, {u: grads[u.attrs["index"]] for u in users}))


# -- operations with graphs inside


def _checkpoint(node: Node, cts: list[Ct], need: tuple[bool, ...]) -> list[Ct]:
    """Computes the body a second time, behind barriers, so that hash-consing does not give back the first."""
    uid = unique()
    again = [make("barrier", (i,), uid=uid) for i in node.inputs]
    outs = inline(node.attrs["body"], again)
    wrt = list(dict.fromkeys(a for a, wanted in zip(again, need, strict=True) if wanted))
    grads = dict(zip(wrt, pullback(outs, cts, wrt), strict=True))
    return [grads.pop(a, None) for a in again]  # what is given twice, as an argument and by closure, gets it once


def _call(node: Node, cts: list[Ct], need: tuple[bool, ...]) -> list[Ct]:
    """The rule that came with the kernel; what it makes zero is no dependence."""
    results = [B.item(node, k) for k in range(len(node.type))]
    given = [zeros(r) if ct is None else ct for r, ct in zip(results, cts, strict=True) if r.dtype.is_float]
    grads = iter(inline(rule_of(node, "vjp"), [*node.inputs, *results, *given]))
    out = [next(grads) if i.dtype.is_float else None for i in node.inputs]
    return [None if g is not None and g.op == "const" and g.attrs["value"] == 0 else g for g in out]


def rule_of(node: Node, name: str) -> Graph:
    """The graph of a call's derivative."""
    rule = node.attrs.get(name)
    if rule is None:
        from dlc.ir.graph.custom import kernel_of  # graphs without a call need no Loop IR here

        kernel = kernel_of(node.attrs["kernel"]).name
        at = f"\n  at {node.loc}" + (f", in {node.loc.function}" if node.loc.function else "") if node.loc else ""
        raise TraceError(
            f"custom kernel {kernel} has no {name}: give custom_kernel the function that computes its derivative, or "
            f"keep gradients out with stop_gradient{at}"
        )
    return rule


def through_plain(node: Node, cts: list[Ct], need: tuple[bool, ...]) -> list[Ct]:
    """The cotangents of an operation by way of those that it stands for."""
    body = OPS[node.op].plain(node)  # type: ignore[misc]
    grads = pullback(body.outputs, cts, [p for p, wanted in zip(body.params, need, strict=True) if wanted])
    known = dict(zip(body.params, node.inputs, strict=True))
    found = iter([None if g is None else substitute([g], known)[0] for g in grads])
    return [next(found) if wanted else None for wanted in need]


def _unexpanded(node: Node, ct: Any, need: tuple[bool, ...]) -> list[Ct]:
    raise VerifyError("vjp: a vjp node inside what is differentiated; expand it first")


VJP: dict[str, Rule | None] = {
    **RULES,
    "checkpoint": _checkpoint,
    "call": _call,
    "vjp": _unexpanded,
}
