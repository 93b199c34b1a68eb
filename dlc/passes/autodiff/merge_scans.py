"""A loop that records values for its derivative takes the place of the plain one, so that it runs once."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, make, map_bodies, substitute, topological


def merge_scans(roots: Sequence[Node]) -> list[Node]:
    """Scans that repeat a loop and add to it (record residuals, carry tangents) take the plain loop's place."""
    while pair := _mergeable(topological(roots)):
        roots = _merge(roots, *pair)
    return list(map_bodies(Graph((), roots), _merge_body).outputs)


def _merge_body(body: Graph) -> Graph:
    return body.with_outputs(merge_scans(body.outputs))


def _mergeable(order: Sequence[Node]) -> tuple[Node, Node] | None:
    """A scan and another one that runs everything it runs and does not wait for its result."""
    with_param: dict[Node, list[Node]] = {}
    scans = [n for n in order if n.op == "scan" and n.inputs]
    for scan in scans:
        for p in scan.attrs["body"].params:
            with_param.setdefault(p, []).append(scan)
    for small in scans:
        for large in with_param[small.attrs["body"].params[0]]:
            if large is not small and _covers(large, small) and small not in topological(large.inputs):
                return small, large
    return None


def _roles(scan: Node) -> dict[Node, tuple]:
    """What each parameter of the body is: constant, carry or scanned, its input, and for a carry its next value."""
    n_const, n_carry, body = scan.attrs["consts"], scan.attrs["carry"], scan.attrs["body"]
    kind = ["const"] * n_const + ["carry"] * n_carry + ["xs"] * (len(body.params) - n_const - n_carry)
    following = [None] * n_const + list(body.outputs[:n_carry]) + [None] * len(body.params)
    rows = zip(kind, scan.inputs, following[: len(kind)], strict=True)
    return dict(zip(body.params, rows, strict=True))


def _covers(large: Node, small: Node) -> bool:
    if any(large.attrs[k] != small.attrs[k] for k in ("length", "reverse")):
        return False
    return _roles(small).items() <= _roles(large).items()


def _merge(roots: Sequence[Node], small: Node, large: Node) -> list[Node]:
    """`large` also stacks what `small` stacks, and `small` goes."""
    ours, theirs = large.attrs["body"], small.attrs["body"]
    n_ours, n_theirs = large.attrs["carry"], small.attrs["carry"]
    ys = {y: k for k, y in enumerate(ours.outputs) if k >= n_ours}
    extra = [y for y in dict.fromkeys(theirs.outputs[n_theirs:]) if y not in ys]
    ys |= {y: len(ours.outputs) + k for k, y in enumerate(extra)}
    body = Graph(ours.params, (*ours.outputs, *extra), theirs.name)
    both = make("scan", large.inputs, large.loc or small.loc, **{**large.attrs, "body": body})
    carry_at = {p: k for k, p in enumerate(ours.params[large.attrs["consts"] :][:n_ours])}
    place = [carry_at[p] for p in theirs.params[small.attrs["consts"] :][:n_theirs]]
    place += [ys[y] for y in theirs.outputs[n_theirs:]]
    mapping = {}
    for node in topological(roots):
        if node.op == "item" and node.inputs[0] in (small, large):
            index = node.attrs["index"]
            mapping[node] = B.item(both, index if node.inputs[0] is large else place[index])
    return substitute(roots, mapping)
