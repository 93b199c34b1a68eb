"""One compiled signature of a jitted function, and what running it does to the Tensors it reads and assigns.

This is what every call of a training step goes through: work for each Tensor is counted in nanoseconds here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import Any

import numpy as np

from dlc.frontend.core import eager, moving, places
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.tensor import Tensor, from_buffer
from dlc.frontend.core.trace import execution, leaf_cell, leaked, register_leaf, state
from dlc.frontend.core.tree import tree_unflatten
from dlc.frontend.jit.guards import Guards
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.passes.autodiff.vjp import expand_nodes
from dlc.runtime import devices
from dlc.runtime.cpu.memory import Buffer, allocate, from_array

_first = itertools.islice
Ref = Callable[[], Any]  # weak, but to what only the entry has
Owner = int | Ref


def _counts() -> tuple[int, int]:
    """What getrefcount says, as Entry.run asks it, of a node that only its cell holds, and of its Buffer."""

    class Cell:
        __slots__ = ("_node",)

    cell = Cell()
    cell._node = param(TensorType(dtypes.float32, ()), data=allocate(4))
    nodes = [c._node for c in (cell,)]
    buffers = [n.data for n in nodes]
    return next(map(getrefcount, nodes)), next(map(getrefcount, buffers))


_NODE_FREE, _BUFFER_FREE = _counts()


class NeedsHistory(Exception):
    """A Tensor that a function reaches was computed outside from one that requires gradients: the call is part of that
    computation, and runs as such."""


class Entry:
    """One compiled signature of a jitted function."""

    def __init__(self, name: str, guards: Guards):
        self.name, self.guards = name, guards
        self.unkept = ""  # why it serves the call that it was traced for only
        self.used = 0.0  # when, on the clock of time.monotonic
        self.graph: Graph
        self.executable: Any = None
        self.device = "cpu"
        self.donate: tuple[tuple[int, int], ...] = ()
        # Nothing that exists without the entry is kept alive by it: Tensors are referred to weakly; owners too, or by
        # the number of an argument.
        self.cells: list[Ref] = []  # assigned ones first
        self.held_grads: list[Owner] = []  # owners of gradients read, assigned ones first
        self.grad_targets: list[Owner] = []  # owners of gradients that are made anew at each call
        self.grad_reads: list[tuple[Owner, bool, Any]] = []
        self.grad_clears: list[Owner] = []
        self.grad_sets: list[tuple[Owner, Ref]] = []
        self.arrays: list[Ref] = []
        self.results: list[tuple[str, Any]] = []
        self.differentiable: list[int] = []
        self.pinned: list[tuple[int, Ref]] = []

    def finish(self) -> None:
        """Prepare what `run` needs at every call."""
        n = self.n_assigned
        assigned = self.cells[:n] if places.several else []
        self.followers = [c for c in assigned if places.place_of(c()) in places.NOWHERE]
        # nobody but us holds nodes and buffers if their reference counts add up to the smallest possible
        self.free_nodes, self.free_buffers = _NODE_FREE * n, _BUFFER_FREE * n
        # every argument is an input, in order, if there are this many
        self.all_args = len(self.arg_slots) if self.arg_slots == list(range(len(self.arg_slots))) else -1
        self.no_grads = not (self.held_grads or self.grad_targets or self.grad_clears or self.grad_sets)
        owners = (*self.held_grads, *self.grad_targets, *self.grad_clears)
        self.by_number = any(type(o) is int for o in owners)
        # an owner and a list hold a gradient, as a cell and a list hold a node: the same count
        m = len(self.grad_targets)
        self.free_targets, self.free_target_buffers = _NODE_FREE * m, _BUFFER_FREE * m
        self._number_params = self.graph.params[len(self.arg_slots) : len(self.arg_slots) + len(self.number_slots)]
        self.single = None
        if len(self.results) == 1 and self.results[0][0] == "output" and self.treedef.kind is None:
            self.single = self.result_types[0]

    # --- validity ---

    def valid(self, tensors: Sequence[Tensor]) -> bool:
        """Whether what the trace read outside its key is as it was."""
        if not self.guards.hold():
            return False
        if self.conflicts and not self.conflicts.isdisjoint(map(id, tensors)):
            return False
        for k, cell in self.pinned:
            if tensors[k]._home is not cell():
                return False
        for owner, was_none, grad in self.grad_reads:
            now = _owner(tensors, owner)._grad
            if (now is None) != was_none or grad is not None and now is not grad():
                return False
        return True

    def explain(self, tensors: Sequence[Tensor]) -> str:
        reason = self.guards.explain()
        if not reason and any(tensors[k]._home is not cell() for k, cell in self.pinned):
            reason = "an argument is another Tensor, where the one before was also reached in another way"
        if not reason and self.conflicts and not self.conflicts.isdisjoint(map(id, tensors)):
            reason = "an argument is a Tensor that the function also reaches in another way"
        if not reason and any((_owner(tensors, o)._grad is None) != none for o, none, _ in self.grad_reads):
            reason = "a gradient that the function reads was None before and is not now, or the other way round"
        return reason

    # --- running ---

    def run(self, tensors: Sequence[Tensor], numbers: Sequence[Any]) -> Any:
        """Run on these arguments: write what the function assigns, and return its result."""
        with execution:
            for follower in self.followers:
                self._gather(follower())
            cells = [c() for c in self.cells]
            inputs = []
            for t in tensors if len(tensors) == self.all_args else [tensors[k] for k in self.arg_slots]:
                data = t._node.data
                if data is None:
                    data = _realized(t)
                inputs.append(data)
            if numbers:
                inputs += [
                    from_array(np.array(numbers[k], d))
                    for k, d in zip(self.number_slots, self.number_dtypes, strict=True)
                ]
            nodes = [c._node for c in cells]
            buffers = [n.data for n in nodes]
            if not all(buffers):
                eager.realize(*cells)
                nodes = [c._node for c in cells]
                buffers = [n.data for n in nodes]
            history = None
            if self.differentiable and not state.no_grad:
                history = self._history(tensors, inputs, nodes)
            replaced = None
            n = self.n_assigned
            if n and not (
                sum(map(getrefcount, _first(nodes, n))) == self.free_nodes
                and sum(map(getrefcount, _first(buffers, n))) == self.free_buffers
            ):
                # a computed value is never held by its cell alone: it comes here
                if any(map(computed, _first(cells, n))):
                    raise NeedsHistory
                replaced = _unshare(nodes, buffers, n)
            inputs += buffers
            grads = None
            if not self.no_grads:
                grads = self._grad_buffers(tensors, inputs)
            if self.arrays:
                inputs += map(_array_buffer, self.arrays)
            inputs += self.captured
            if places.several and self.device == "cpu":  # a GPU's program takes what is elsewhere itself
                inputs = places.on(inputs, "cpu")
            executable = self.executable
            if state.checked is not None:
                executable = eager.compiled(self.graph, self.donate, self.device)
            outputs = executable.run(inputs)
            if replaced:
                for k in replaced:
                    _put(cells[k], buffers[k], nodes[k].type)
            if grads is not None:
                self._write_grads(tensors, grads)
            if self.arg_writes:
                for k, buffer in zip(self.arg_writes, outputs[len(outputs) - len(self.arg_writes) :], strict=True):
                    _put(tensors[k], buffer, tensors[k]._node.type)
            if history is None and self.single is not None:
                return from_buffer(outputs[0], self.single)
            return self._result(tensors, outputs, history)

    def _gather(self, cell: Tensor) -> None:
        """Bring state that follows the computation (0-d Tensors, random state) to where the entry updates it."""
        if cell._node.data is None or cell._node.op != "param":
            eager.realize(cell)
        if cell._node.data.device != self.device:
            moving.follow(cell, self.device)

    def _result(self, tensors: Sequence[Tensor], outputs: list[Buffer], history: list[Node] | None) -> Any:
        leaves = []
        made = {}
        for kind, what in self.results:
            if kind == "output":
                out = from_buffer(outputs[what], self.result_types[what])
                if history is not None and what in self.differentiable:
                    node = history[self.differentiable.index(what)]
                    node.data = eager.remember(node, outputs[what])
                    out._node = node
                leaves.append(made.setdefault(what, out))
            elif kind == "arg":
                leaves.append(tensors[what])
            else:
                leaves.append(what())
        return tree_unflatten(self.treedef, leaves)

    def _history(self, tensors: Sequence[Tensor], inputs: list[Buffer], nodes: list[Node]) -> list[Node] | None:
        """Nodes that say what the differentiable results are of the inputs, for a `backward()` after this call."""
        leaves = [tensors[k]._node for k in self.arg_slots]
        leaves += [eager.leaf(b, p.type) for b, p in zip(inputs[len(leaves) :], self._number_params, strict=True)]
        leaves += nodes
        if not any(leaf_cell(n) is not None for n in leaves):
            return None
        leaves += [t._grad._node for t in self._owners(tensors, self.held_grads)]
        n_read, n_written = len(leaves), len(self.grad_targets)
        tail = [*map(_array_buffer, self.arrays), *self.captured]
        rest = self.graph.params[n_read + n_written :]
        leaves += [eager.leaf(b, p.type) for b, p in zip(tail, rest, strict=True)]
        if self._body is None:
            outputs = expand_nodes([self.graph.outputs[k] for k in self.differentiable])
            self._body = Graph([*self.graph.params[:n_read], *rest], outputs, self.name)
        bundle = make("checkpoint", leaves, here(), body=self._body)
        return [build.item(bundle, k) for k in range(len(self.differentiable))]

    _body: Graph | None = None

    # --- gradients ---

    def _grad_buffers(self, tensors: Sequence[Tensor], inputs: list[Buffer]) -> tuple:
        """Add the Buffers of gradients to `inputs`; which of the held ones, and of the made ones, need a new home."""
        held = [t._grad for t in self._owners(tensors, self.held_grads)]
        for g in held:
            if g._node.data is None or g._node.op != "param":
                eager.realize(g)
        nodes = [g._node for g in held]
        buffers = [n.data for n in nodes]
        m = self.n_assigned_grads
        moved = _unshare(nodes, buffers, m) if m else []
        inputs += buffers
        # the made ones: into the buffer of the gradient that the last call made, if nobody else holds that
        fresh = []
        del nodes
        if self.grad_targets:
            old = [t._grad for t in self._owners(tensors, self.grad_targets)]
            try:
                old_nodes = [g._node for g in old]
                old_buffers = [n.data for n in old_nodes]
                clean = (
                    sum(map(getrefcount, old)) == self.free_targets
                    and sum(map(getrefcount, old_nodes)) == self.free_targets
                    and sum(map(getrefcount, old_buffers)) == self.free_target_buffers
                )
            except AttributeError:
                clean = False
            if clean:
                inputs += old_buffers
            else:
                fresh = [devices.allocate(t.nbytes, self.device, f"gradients of {self.name}") for t in self.grad_types]
                inputs += fresh
        return held, buffers, moved, fresh

    def _owners(self, tensors: Sequence[Tensor], owners: list[Owner]) -> list[Tensor]:
        if self.by_number:
            return [_owner(tensors, o) for o in owners]
        return [o() for o in owners]  # type: ignore[operator]

    def _write_grads(self, tensors: Sequence[Tensor], grads: tuple) -> None:
        held, buffers, moved, fresh = grads
        for k in moved:
            _put(held[k], buffers[k], held[k]._node.type)
        if fresh:
            owners = self._owners(tensors, self.grad_targets)
            for owner, buffer, type_ in zip(owners, fresh, self.grad_types, strict=True):
                owner._grad = from_buffer(buffer, type_)
        for owner in self._owners(tensors, self.grad_clears):
            owner._grad = None
        for owner, value in self.grad_sets:
            _owner(tensors, owner)._grad = value()


def _owner(tensors: Sequence[Tensor], owner: Owner) -> Tensor:
    return tensors[owner] if type(owner) is int else owner()  # type: ignore[operator]


def computed(cell: Tensor) -> bool:
    """Whether a Tensor, seen from outside of all traces, has a history that gradients flow through."""
    node = cell._node
    return node.op != "param" and not cell._requires_grad and tracing.differentiable(node)


def _realized(t: Tensor) -> Buffer:
    if t._owner is not None:
        raise leaked(t)
    eager.realize(t)
    return t._node.data


def _unshare(nodes: list[Node], buffers: list[Buffer], n: int) -> list[int]:
    """Replace, in `buffers`, those of the first `n` that anybody else holds by copies; the positions replaced."""
    node_counts = list(map(getrefcount, _first(nodes, n)))
    buffer_counts = list(map(getrefcount, _first(buffers, n)))
    out = [k for k in range(n) if node_counts[k] != _NODE_FREE or buffer_counts[k] != _BUFFER_FREE]
    for k in out:
        buffers[k] = devices.copied(buffers[k], label="state that something else still holds")
    return out


def _put(cell: Tensor, buffer: Buffer, type_: TensorType) -> None:
    """The cell's value is in `buffer` from now on."""
    cell._node = eager.leaf(buffer, type_, "follows" in cell._node.attrs)
    if cell._requires_grad:
        register_leaf(cell._node, cell)


def _array_buffer(ref: Ref) -> Buffer:
    array = ref()
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return from_array(np.require(native, requirements="CAE"))  # row-major, aligned, no subclass
