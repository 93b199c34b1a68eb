"""Takes away what is no longer needed: markers once derivatives are expanded, and dead parts of loops."""

from __future__ import annotations

from dlc.ir import build as B
from dlc.ir.graph import Graph, Node, inline, make, map_bodies, remade, topological
from dlc.ir.ops import CALL_RULES


def remove_markers(graph: Graph) -> Graph:
    """`graph` without checkpoint, tag and stop_gradient nodes and the derivatives of calls, in bodies too. Barriers
    stay until fusion."""
    graph = map_bodies(graph, remove_markers)
    done: dict[Node, Node | list[Node]] = {}
    for node in graph.nodes():
        ins = [done[i] for i in node.inputs]
        if node.op in ("tag", "stop_gradient"):
            done[node] = ins[0]
        elif node.op == "checkpoint":
            done[node] = inline(node.attrs["body"], ins)
        elif node.op == "item" and isinstance(ins[0], list):
            done[node] = ins[0][node.attrs["index"]]
        elif node.op == "call":
            kept = {k: v for k, v in node.attrs.items() if k not in CALL_RULES}
            done[node] = make("call", ins, node.loc, **kept)
        else:
            done[node] = remade(node, ins)
    return graph.with_outputs([done[o] for o in graph.outputs])


def prune_scans(graph: Graph) -> Graph:
    """`graph` without the results of loops that nobody reads, the carries that only they need, and unread inputs.
    What a loop stacks twice it stacks once."""
    used: dict[Node, set[int]] = {}
    for node in graph.nodes():
        if node.op == "item" and node.inputs[0].op == "scan":
            used.setdefault(node.inputs[0], set()).add(_first_stack(node.inputs[0], node.attrs["index"]))
    if not used:
        return graph
    done: dict[Node, Node | dict[int, Node]] = {}
    for node in graph.nodes():
        ins = [done[i] for i in node.inputs]
        if node in used:
            done[node] = _pruned(node, ins, used[node])
        elif node.op == "item" and node.inputs[0] in used:
            done[node] = ins[0][_first_stack(node.inputs[0], node.attrs["index"])]
        else:
            done[node] = remade(node, ins)
    return Graph(graph.params, [done[o] for o in graph.outputs], graph.name)


def _first_stack(scan: Node, index: int) -> int:
    """The first result of a loop that is result `index`: of the same value in each step, if it is a stack of these."""
    outputs, n_carry = scan.attrs["body"].outputs, scan.attrs["carry"]
    return index if index < n_carry else outputs.index(outputs[index], n_carry)


def _pruned(node: Node, ins: list[Node], used: set[int]) -> dict[int, Node]:
    """The used results of a loop that computes no others."""
    attrs, body = node.attrs, node.attrs["body"]
    n_const, n_carry = attrs["consts"], attrs["carry"]
    live = set(used)
    while True:  # a carry that a live result reads is live; each round adds one at least
        reached = set(topological(body.outputs[k] for k in live))
        more = {k for k in range(n_carry) if body.params[n_const + k] in reached} - live
        if not more:
            break
        live |= more
    outs = sorted(live)
    carry = [k for k in outs if k < n_carry]
    consts = [k for k in range(n_const) if body.params[k] in reached]
    xs = [k for k in range(n_const + n_carry, len(ins)) if body.params[k] in reached]
    kept = [*consts, *(n_const + k for k in carry), *xs]
    if len(kept) == len(ins) and len(outs) == len(body.outputs):
        new = make("scan", ins, node.loc, **attrs)
    else:
        small = Graph([body.params[k] for k in kept], [body.outputs[k] for k in outs], body.name)
        sizes = {"consts": len(consts), "carry": len(carry)}
        new = make("scan", [ins[k] for k in kept], node.loc, **{**attrs, **sizes, "body": small})
    return {k: B.item(new, at) for at, k in enumerate(outs)}
