"""`checkpoint`: compute a function again on the way back instead of keeping its values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.operands import as_node, is_weak
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.core.tree import paths, tree_flatten, tree_unflatten
from dlc.frontend.jit.calls import name_of
from dlc.frontend.transforms.body import TracedBody, closed, with_nodes
from dlc.frontend.transforms.gradients import check_callable
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import make


def checkpoint(fn: Callable) -> Callable:
    """`fn`, with nothing kept for its gradient but its inputs: going backward it is computed again, which saves
    memory.
    """
    check_callable("checkpoint", fn)

    @functools.wraps(fn)
    @functools.partial(user_errors, name="checkpoint")
    def checkpoint(*args: Any, **kwargs: Any) -> Any:
        loc = here()
        leaves, treedef = tree_flatten((args, kwargs))
        # a number keeps giving way to the dtypes that it meets: the body reads it as something that it closes over
        places = [k for k, x in enumerate(leaves) if isinstance(x, (Tensor, np.ndarray)) and not is_weak(x)]
        nodes_in = [as_node(leaves[k]) for k in places]
        names = paths(treedef.children[0], "arguments") + paths(treedef.children[1], "keywords")
        body = TracedBody("checkpoint", fn)

        types = [(n.type, names[k]) for k, n in zip(places, nodes_in, strict=True)]
        nodes, out_tree = body.run(types, with_nodes(fn, treedef, leaves, places), nodes_in)
        outputs = [*nodes, *(r.current for r in body.assigned)]
        const_params, consts = body.consts(outputs)
        cells = [r.placeholder for r in body.assigned]
        graph = closed([*body.params, *const_params, *cells], outputs, name_of(fn))
        before = [r.cell._read() for r in body.assigned]
        bundle = make("checkpoint", (*nodes_in, *consts, *before), loc, body=graph)
        results = [build.item(bundle, k, loc) for k in range(len(outputs))]
        for record, node in zip(body.assigned, results[len(nodes) :], strict=True):
            record.cell._write(node)
        return tree_unflatten(out_tree, [wrap(r) for r in results[: len(nodes)]])

    return checkpoint
