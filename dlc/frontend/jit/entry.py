"""What tracing a jitted function for one signature found: the graph, and where its inputs and results are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlc.frontend.core import trace as tracing
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.core.tree import TreeDef
from dlc.frontend.jit.guards import Guards
from dlc.ir.graph.graph import Graph, TensorType
from dlc.runtime.cpu.memory import Buffer

Ref = Callable[[], Any]  # weak, but to what only the entry has
Owner = int | Ref


class NeedsHistory(Exception):
    """A Tensor that a function reaches was computed outside from one that requires gradients: the call is part of that
    computation, and runs as such."""


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """What a function does to the `.grad` of Tensors."""

    held: list[Owner]  # owners of gradients that are inputs, assigned ones first
    n_assigned: int
    targets: list[Owner]  # owners of gradients that are made anew at each call
    types: list[TensorType]  # of those
    reads: list[tuple[Owner, bool, Ref | None]]  # whether it was None, and which one it must be if that matters
    clears: list[Owner]
    sets: list[tuple[Owner, Ref]]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One signature of a jitted function: made once, from a trace.

    Nothing that exists without the entry is kept alive by it: Tensors are referred to weakly; owners too, or by the
    number of an argument. The graph's parameters are, in this order: arguments, numbers, cells, held gradients, targets
    of gradients, arrays, captured constants; its outputs: results, assigned cells, assigned gradients, made gradients,
    assigned arguments.
    """

    name: str
    guards: Guards
    graph: Graph
    device: str
    donate: tuple[tuple[int, int], ...]
    arg_slots: list[int]  # the arguments that are inputs
    number_slots: list[int]
    number_dtypes: list[np.dtype]
    cells: list[Ref]  # assigned ones first
    n_assigned: int
    arg_writes: list[int]  # the arguments that are assigned
    grads: Gradients
    arrays: list[Ref]
    captured: list[Buffer]
    treedef: TreeDef
    results: list[tuple[str, Any]]  # how each leaf of the result is made
    result_types: list[TensorType]
    differentiable: list[int]  # results that a later `backward()` may still go through
    pinned: list[tuple[int, Ref]]  # arguments that must be this Tensor's
    conflicts: frozenset[int]  # ids of Tensors that must not be arguments

    def valid(self, tensors: Sequence[Tensor]) -> bool:
        """Whether what the trace read outside its key is as it was."""
        if not self.guards.hold():
            return False
        if self.conflicts and not self.conflicts.isdisjoint(map(id, tensors)):
            return False
        for k, cell in self.pinned:
            if tensors[k]._home is not cell():
                return False
        for owner, was_none, grad in self.grads.reads:
            now = owner_of(tensors, owner)._grad
            if (now is None) != was_none or grad is not None and now is not grad():
                return False
        return True

    def explain(self, tensors: Sequence[Tensor]) -> str:
        reason = self.guards.explain()
        if not reason and any(tensors[k]._home is not cell() for k, cell in self.pinned):
            reason = "an argument is another Tensor, where the one before was also reached in another way"
        if not reason and self.conflicts and not self.conflicts.isdisjoint(map(id, tensors)):
            reason = "an argument is a Tensor that the function also reaches in another way"
        if not reason and any((owner_of(tensors, o)._grad is None) != none for o, none, _ in self.grads.reads):
            reason = "a gradient that the function reads was None before and is not now, or the other way round"
        return reason


def owner_of(tensors: Sequence[Tensor], owner: Owner) -> Tensor:
    return tensors[owner] if type(owner) is int else owner()  # type: ignore[operator]


def computed(cell: Tensor) -> bool:
    """Whether a Tensor, seen from outside of all traces, has a history that gradients flow through."""
    node = cell._node
    return node.op != "param" and not cell._requires_grad and tracing.differentiable(node)
