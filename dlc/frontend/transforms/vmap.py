"""`vmap`: a function of one example as a function of many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from dlc.base.errors import ShapeError, TraceError
from dlc.frontend.core import places as placement
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import wrap
from dlc.frontend.core.tree import LEAF, TreeDef, paths, tree_flatten, tree_unflatten
from dlc.frontend.jit.calls import name_of
from dlc.frontend.transforms.body import TracedBody, with_nodes
from dlc.frontend.transforms.gradients import Axes, check_callable, show
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, TensorType, param, substitute
from dlc.passes.autodiff import vmap as batching
from dlc.passes.autodiff.vjp import expand_nodes


def vmap(fn: Callable, in_axes: Axes = 0, out_axes: Axes = 0) -> Callable:
    """`fn` for one example, made to work on a batch of them.

    `in_axes`: the batch axis of each argument (an int, None for "the same for all", or a tree prefix); `out_axes`
    likewise for the result. Random numbers drawn inside from a generator are different for each example; those drawn
    with `key=` are what the key says, so equal keys give equal numbers. Tensors assigned inside must not depend on the
    example.
    """
    check_callable("vmap", fn)

    @functools.wraps(fn)
    @functools.partial(user_errors, name="vmap")
    def vmap(*args: Any, **kwargs: Any) -> Any:
        axes = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ShapeError(f"vmap: in_axes has {len(axes)} entries for {len(args)} arguments of {name_of(fn)}")
        leaves, treedef = tree_flatten((args, kwargs))
        flat_axes = _spread(tuple(axes), treedef.children[0], "in_axes") + [0] * treedef.children[1].size
        names = paths(treedef.children[0], "arguments") + paths(treedef.children[1], "keywords")
        mapped: list[tuple[Node, int]] = []
        types: list[tuple[TensorType, str]] = []
        places: list[int] = []
        size = None
        for k, (leaf, axis, path) in enumerate(zip(leaves, flat_axes, names, strict=True)):
            if axis is None:
                continue
            node = as_node(leaf)
            if not -node.ndim <= axis < node.ndim:
                raise ShapeError(
                    f"vmap: {path} has shape {node.shape}, with no axis {axis} to map (None leaves it as it is)"
                )
            axis %= node.ndim
            if size is None:
                size, first = node.shape[axis], path
            if node.shape[axis] != size:
                raise ShapeError(f"vmap: {path} has {node.shape[axis]} examples, {first} has {size}")
            mapped.append((node, axis))
            types.append((TensorType(node.dtype, node.shape[:axis] + node.shape[axis + 1 :]), path))
            places.append(k)
        if size is None:
            raise ShapeError(f"vmap: no argument of {name_of(fn)} is mapped")
        body = TracedBody("vmap", fn)
        number, numbers = param(TensorType(dtypes.uint64, ()), "example"), build.iota((size,), 0, dtypes.uint64)
        body.scope.example = number, size
        if placement.several:
            placement.note_all([number], [numbers])

        nodes, out_tree = body.run(types, with_nodes(fn, treedef, leaves, places), [n for n, _ in mapped])
        roots = [*nodes, *(r.current for r in body.assigned)]
        outside = {r.placeholder: r.cell._read() for r in (*body.read, *body.assigned)}
        roots = substitute(expand_nodes(roots), outside)
        lanes = {
            p: batching.Lane(_front(node, axis), True) for p, (node, axis) in zip(body.params, mapped, strict=True)
        }
        lanes[number] = batching.Lane(numbers, True)
        done = batching.batch_nodes(roots, lanes, size)
        for record, lane in zip(body.assigned, done[len(nodes) :], strict=True):
            if lane.batched:
                raise TraceError(
                    f"vmap: {name_of(fn)} assigns a Tensor (read at {record.loc}) a value that is different for each "
                    "example; return it instead"
                )
            record.cell._write(lane.node)
        out_axes_flat = _spread(out_axes, out_tree, "out_axes")
        results = []
        for lane, axis in zip(done[: len(nodes)], out_axes_flat, strict=True):
            if axis is None:
                if lane.batched:
                    raise ShapeError("vmap: out_axes is None for a result that is different for each example")
                results.append(wrap(lane.node))
                continue
            whole = batching.lift(lane.node, lane.batched, size)
            if not -whole.ndim <= axis < whole.ndim:
                raise ShapeError(f"vmap: out_axes {axis} for a result of shape {whole.shape[1:]}")
            order = list(range(1, whole.ndim))
            order.insert(axis % whole.ndim, 0)
            results.append(wrap(build.permute(whole, order)))
        return tree_unflatten(out_tree, results)

    return vmap


def _front(node: Node, axis: int) -> Node:
    return build.permute(node, (axis, *(a for a in range(node.ndim) if a != axis)))


def _spread(axes: Axes, treedef: TreeDef, what: str) -> list[int | None]:
    """`axes`, a prefix of the tree, as one entry a leaf."""
    if axes is None or isinstance(axes, int):
        return [axes] * treedef.size
    children: Sequence[Any]
    if isinstance(axes, dict):
        children = [axes[k] for k in treedef.aux] if treedef.aux and set(axes) == set(treedef.aux) else ()
    else:
        children = tuple(axes)
    if treedef == LEAF or len(children) != len(treedef.children):
        raise ShapeError(f"vmap: {what} {axes} does not fit {show(treedef)}")
    return [a for axis, child in zip(children, treedef.children, strict=True) for a in _spread(axis, child, what)]
