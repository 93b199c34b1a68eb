"""`scan`: a loop that is compiled once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from dlc.base.errors import ShapeError
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.operands import as_node, is_weak
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.core.tree import LEAF, paths, tree_flatten, tree_structure, tree_unflatten
from dlc.frontend.jit.calls import name_of
from dlc.frontend.transforms.body import TracedBody, closed
from dlc.frontend.transforms.gradients import pending, show
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import TensorType, make


@user_errors
def scan(fn: Callable, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """A loop whose compiled size does not depend on its length: `carry, y = fn(carry, x)` over the first axis of `xs`.

    Returns (last carry, ys stacked along a new first axis). `init` and `xs` are trees; the carry keeps its tree, shapes
    and dtypes. Without `xs`, `length` says how many steps; `reverse` runs from the last row to the first (row t of ys
    belongs to row t of xs). Tensors that `fn` assigns are carried along.
    """
    loc, name = here(), name_of(fn)
    init_leaves, init_tree = tree_flatten(init)
    xs_leaves, xs_tree = tree_flatten(xs)
    start = [as_node(leaf) for leaf in init_leaves]
    rows = [as_node(leaf) for leaf in xs_leaves]
    for row, path in zip(rows, paths(xs_tree, "xs"), strict=True):
        if not row.shape:
            raise ShapeError(f"scan: {path} is a scalar; it needs a first axis to step along")
        if length is None:
            length = row.shape[0]
        if row.shape[0] != length:
            raise ShapeError(f"scan: {path} has {row.shape[0]} rows for {length} steps")
    if length is None:
        raise ShapeError("scan: give xs or length")
    length = operator.index(length)
    if length < 0:
        raise ShapeError(f"scan: {length} steps")
    types = [(n.type, p) for n, p in zip(start, paths(init_tree, "carry"), strict=True)]
    types += [(TensorType(r.dtype, r.shape[1:]), p) for r, p in zip(rows, paths(xs_tree, "x"), strict=True)]
    body = TracedBody("scan", fn)
    ys_tree = LEAF

    def call(tensors: list[Tensor]) -> Any:
        nonlocal ys_tree
        carry = tree_unflatten(init_tree, tensors[: len(start)])
        out = fn(carry, tree_unflatten(xs_tree, tensors[len(start) :]))
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise ShapeError(f"scan: {name} must return (carry, y); it returned a {type(out).__name__}")
        got = tree_structure(out[0])
        if got != init_tree:
            raise ShapeError(f"scan: the carry has the tree {show(init_tree)} and {name} returns {show(got)}")
        ys_tree = tree_structure(out[1])
        return tuple(out)

    nodes, _ = body.run(types, call, [*start, *rows])
    carry, ys = nodes[: len(start)], nodes[len(start) :]
    for k, ((want, path), node) in enumerate(zip(types, carry, strict=False)):
        if node.type == want:
            continue
        # a carry that starts as a Python number takes its kind, not its width, from that
        if node.shape != want.shape or node.dtype.kind != want.dtype.kind or not is_weak(init_leaves[k]):
            got = f"{node.dtype.name} {node.shape}"
            raise ShapeError(f"scan: {path} is {want.dtype.name} {want.shape} and {name} returns {got} for it")
        carry[k] = build.cast(node, want.dtype)
    outputs = [*carry, *(r.current for r in body.assigned), *ys]
    const_params, consts = body.consts(outputs)
    cells = [r.placeholder for r in body.assigned]
    before = [r.cell._read() for r in body.assigned]
    n = len(start)
    graph = closed([*const_params, *body.params[:n], *cells, *body.params[n:]], outputs, name)
    n_carry = n + len(cells)
    bundle = make(
        "scan", (*consts, *start, *before, *rows), loc,
        body=graph, length=length, consts=len(consts), carry=n_carry, reverse=reverse,
    )  # fmt: skip
    results = [build.item(bundle, k, loc) for k in range(len(outputs))]
    for record, node in zip(body.assigned, results[n:n_carry], strict=True):
        record.cell._write(node)
    last = tree_unflatten(init_tree, [pending(r) for r in results[:n]])
    return last, tree_unflatten(ys_tree, [pending(r) for r in results[n_carry:]])
