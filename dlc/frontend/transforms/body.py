"""Functions traced as bodies of loops and checkpoints: their graph, what they close over, what they assign."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dlc.base.errors import TraceError
from dlc.frontend.core import places as placement
from dlc.frontend.core.location import here
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, bare
from dlc.frontend.core.trace import Trace, state
from dlc.frontend.core.tree import TreeDef, tree_flatten, tree_unflatten
from dlc.frontend.jit.calls import name_of
from dlc.ir.graph.graph import Graph, Node, TensorType, param, substitute, topological
from dlc.passes.autodiff.vjp import expand_nodes


class TracedBody:
    """A function traced on placeholders, for vmap, scan and checkpoint."""

    def __init__(self, kind: str, fn: Callable):
        self.kind, self.fn = kind, fn
        self.scope = Trace(kind, name_of(fn), state.trace)

    def run(
        self, leaves: list[tuple[TensorType, str]], call: Callable[[list[Tensor]], Any], values: Iterable[Node] = ()
    ) -> tuple[list[Node], TreeDef]:
        """Call with a Tensor for each of `leaves`; the nodes and the tree of the result.

        `values` are what the leaves stand for: they say on which device.
        """
        loc = here()
        self.params = [param(t, name, loc) for t, name in leaves]
        if placement.several:
            placement.note_all(self.params, values)
        with self.scope:
            result = call([bare(p, self.scope) for p in self.params])
            out, treedef = tree_flatten(result)
            nodes = [as_node(leaf) for leaf in out]
        for record in self.scope.grads.values():
            if record.current is not None and not record.read:
                raise TraceError(
                    f"`.grad` was set inside {self.kind} of {name_of(self.fn)}: return the gradient instead\n  at {loc}"
                )
        records = list(self.scope.cells.values())
        self.assigned = [r for r in records if r.assigned]
        self.read = [r for r in records if not r.assigned]
        return nodes, treedef

    def consts(self, outputs: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """(leaves of the body that are neither its parameters nor assigned, their values outside)."""
        inside = {n for n in topological(outputs) if n.op == "param"}
        known = {*self.params, *(r.placeholder for r in self.assigned)}
        leaves = [r.placeholder for r in self.read if r.placeholder in inside]
        values = [r.cell._read() for r in self.read if r.placeholder in inside]
        known.update(leaves)
        for node in topological(outputs):  # arrays and numbers that the enclosing trace holds as leaves
            if node.op == "param" and node not in known:
                leaves.append(node)
                values.append(node)
        return leaves, values


def with_nodes(fn: Callable, treedef: TreeDef, leaves: list[Any], places: list[int]) -> Callable[[list[Tensor]], Any]:
    """`fn` of the arguments that `treedef` and `leaves` make, as a function of the leaves at some places."""

    def call(tensors: list[Tensor]) -> Any:
        inside = list(leaves)
        for k, t in zip(places, tensors, strict=True):
            inside[k] = t
        args, kwargs = tree_unflatten(treedef, inside)
        return fn(*args, **kwargs)

    return call


def closed(params: Sequence[Node], outputs: Sequence[Node], name: str) -> Graph:
    """A closed graph with parameters of its own, derivatives expanded."""
    fresh = [param(p.type, p.attrs["name"], p.loc) for p in params]
    outputs = expand_nodes(list(outputs))
    return Graph(fresh, substitute(outputs, dict(zip(params, fresh, strict=True))), name)
