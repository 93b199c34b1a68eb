"""A compiled entry of a jitted function, and what running it does to the Tensors it reads and assigns.

This is what every call of a training step goes through: work for each Tensor is counted in nanoseconds here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from sys import getrefcount
from typing import Any

import numpy as np

from dlc.frontend.core import eager, moving, places
from dlc.frontend.core.location import here
from dlc.frontend.core.tensor import Tensor, from_buffer
from dlc.frontend.core.trace import execution, leaf_cell, leaked, register_leaf, state
from dlc.frontend.core.tree import tree_unflatten
from dlc.frontend.jit.entry import Entry, NeedsHistory, Owner, Ref, computed, owner_of
from dlc.ir import dtypes
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.passes.autodiff.vjp import expand_nodes
from dlc.runtime import devices
from dlc.runtime.cpu.memory import Buffer, allocate, from_array

_first = itertools.islice


def _counts() -> tuple[int, int]:
    """What getrefcount says, as Compiled.run asks it, of a node that only its cell holds, and of its Buffer."""

    class Cell:
        __slots__ = ("_node",)

    cell = Cell()
    cell._node = param(TensorType(dtypes.float32, ()), data=allocate(4))
    nodes = [c._node for c in (cell,)]
    buffers = [n.data for n in nodes]
    return next(map(getrefcount, nodes)), next(map(getrefcount, buffers))


_NODE_FREE, _BUFFER_FREE = _counts()


class Compiled:
    """An entry with the program that runs it, and the time when it last did."""

    __slots__ = (
        "entry", "executable", "used", "_followers", "_free_nodes", "_free_buffers", "_all_args", "_no_grads",
        "_by_number", "_free_targets", "_free_target_buffers", "_single", "_body", "__weakref__",
    )  # fmt: skip

    def __init__(self, entry: Entry, executable: Any):
        self.entry, self.executable = entry, executable
        self.used = 0.0  # when, on the clock of time.monotonic
        self._body: Graph | None = None  # what `_history` differentiates, made when first needed
        # The rest is what `run` needs at every call.
        n, grads = entry.n_assigned, entry.grads
        assigned = entry.cells[:n] if places.several else []
        self._followers = [c for c in assigned if places.place_of(c()) in places.NOWHERE]
        # nobody but us holds nodes and buffers if their reference counts add up to the smallest possible
        self._free_nodes, self._free_buffers = _NODE_FREE * n, _BUFFER_FREE * n
        # every argument is an input, in order, if there are this many
        self._all_args = len(entry.arg_slots) if entry.arg_slots == list(range(len(entry.arg_slots))) else -1
        self._no_grads = not (grads.held or grads.targets or grads.clears or grads.sets)
        self._by_number = any(type(o) is int for o in (*grads.held, *grads.targets, *grads.clears))
        # an owner and a list hold a gradient, as a cell and a list hold a node: the same count
        m = len(grads.targets)
        self._free_targets, self._free_target_buffers = _NODE_FREE * m, _BUFFER_FREE * m
        self._single = None
        if len(entry.results) == 1 and entry.results[0][0] == "output" and entry.treedef.kind is None:
            self._single = entry.result_types[0]

    def run(self, tensors: Sequence[Tensor], numbers: Sequence[Any]) -> Any:
        """Run on these arguments: write what the function assigns, and return its result."""
        entry = self.entry
        with execution:
            for follower in self._followers:
                self._gather(follower())
            cells = [c() for c in entry.cells]
            inputs = []
            for t in tensors if len(tensors) == self._all_args else [tensors[k] for k in entry.arg_slots]:
                data = t._node.data
                if data is None:
                    data = _realized(t)
                inputs.append(data)
            if numbers:
                inputs += [
                    from_array(np.array(numbers[k], d))
                    for k, d in zip(entry.number_slots, entry.number_dtypes, strict=True)
                ]
            nodes = [c._node for c in cells]
            buffers = [n.data for n in nodes]
            if not all(buffers):
                eager.realize(*cells)
                nodes = [c._node for c in cells]
                buffers = [n.data for n in nodes]
            history = None
            if entry.differentiable and not state.no_grad:
                history = self._history(tensors, inputs, nodes)
            replaced = None
            n = entry.n_assigned
            if n and not (
                sum(map(getrefcount, _first(nodes, n))) == self._free_nodes
                and sum(map(getrefcount, _first(buffers, n))) == self._free_buffers
            ):
                # a computed value is never held by its cell alone: it comes here
                if any(map(computed, _first(cells, n))):
                    raise NeedsHistory
                replaced = _unshare(nodes, buffers, n)
            inputs += buffers
            grads = None
            if not self._no_grads:
                grads = self._grad_buffers(tensors, inputs)
            if entry.arrays:
                inputs += map(_array_buffer, entry.arrays)
            inputs += entry.captured
            if places.several and entry.device == "cpu":  # a GPU's program takes what is elsewhere itself
                inputs = places.on(inputs, "cpu")
            executable = self.executable
            if state.checked is not None:
                executable = eager.compiled(entry.graph, entry.donate, entry.device)
            outputs = executable.run(inputs)
            if replaced:
                for k in replaced:
                    _put(cells[k], buffers[k], nodes[k].type)
            if grads is not None:
                self._write_grads(tensors, grads)
            if entry.arg_writes:
                written = outputs[len(outputs) - len(entry.arg_writes) :]
                for k, buffer in zip(entry.arg_writes, written, strict=True):
                    _put(tensors[k], buffer, tensors[k]._node.type)
            if history is None and self._single is not None:
                return from_buffer(outputs[0], self._single)
            return self._result(tensors, outputs, history)

    def _gather(self, cell: Tensor) -> None:
        """Bring state that follows the computation (0-d Tensors, random state) to where the entry updates it."""
        if cell._node.data is None or cell._node.op != "param":
            eager.realize(cell)
        if cell._node.data.device != self.entry.device:
            moving.follow(cell, self.entry.device)

    def _result(self, tensors: Sequence[Tensor], outputs: list[Buffer], history: list[Node] | None) -> Any:
        entry = self.entry
        leaves = []
        made = {}
        for kind, what in entry.results:
            if kind == "output":
                out = from_buffer(outputs[what], entry.result_types[what])
                if history is not None and what in entry.differentiable:
                    node = history[entry.differentiable.index(what)]
                    node.data = eager.remember(node, outputs[what])
                    out._node = node
                leaves.append(made.setdefault(what, out))
            elif kind == "arg":
                leaves.append(tensors[what])
            else:
                leaves.append(what())
        return tree_unflatten(entry.treedef, leaves)

    def _history(self, tensors: Sequence[Tensor], inputs: list[Buffer], nodes: list[Node]) -> list[Node] | None:
        """Nodes that say what the differentiable results are of the inputs, for a `backward()` after this call."""
        entry = self.entry
        leaves = [tensors[k]._node for k in entry.arg_slots]
        numbers = entry.graph.params[len(leaves) : len(leaves) + len(entry.number_slots)]
        leaves += [eager.leaf(b, p.type) for b, p in zip(inputs[len(leaves) :], numbers, strict=True)]
        leaves += nodes
        if not any(leaf_cell(n) is not None for n in leaves):
            return None
        leaves += [t._grad._node for t in self._owners(tensors, entry.grads.held)]
        n_read, n_written = len(leaves), len(entry.grads.targets)
        tail = [*map(_array_buffer, entry.arrays), *entry.captured]
        rest = entry.graph.params[n_read + n_written :]
        leaves += [eager.leaf(b, p.type) for b, p in zip(tail, rest, strict=True)]
        if self._body is None:
            outputs = expand_nodes([entry.graph.outputs[k] for k in entry.differentiable])
            self._body = Graph([*entry.graph.params[:n_read], *rest], outputs, entry.name)
        bundle = make("checkpoint", leaves, here(), body=self._body)
        return [build.item(bundle, k) for k in range(len(entry.differentiable))]

    # --- gradients ---

    def _grad_buffers(self, tensors: Sequence[Tensor], inputs: list[Buffer]) -> tuple:
        """Add the Buffers of gradients to `inputs`; which of the held ones, and of the made ones, need a new home."""
        entry, grads = self.entry, self.entry.grads
        held = [t._grad for t in self._owners(tensors, grads.held)]
        for g in held:
            if g._node.data is None or g._node.op != "param":
                eager.realize(g)
        nodes = [g._node for g in held]
        buffers = [n.data for n in nodes]
        m = grads.n_assigned
        moved = _unshare(nodes, buffers, m) if m else []
        inputs += buffers
        # the made ones: into the buffer of the gradient that the last call made, if nobody else holds that
        fresh = []
        del nodes
        if grads.targets:
            old = [t._grad for t in self._owners(tensors, grads.targets)]
            try:
                old_nodes = [g._node for g in old]
                old_buffers = [n.data for n in old_nodes]
                clean = (
                    sum(map(getrefcount, old)) == self._free_targets
                    and sum(map(getrefcount, old_nodes)) == self._free_targets
                    and sum(map(getrefcount, old_buffers)) == self._free_target_buffers
                )
            except AttributeError:
                clean = False
            if clean:
                inputs += old_buffers
            else:
                fresh = [devices.allocate(t.nbytes, entry.device, f"gradients of {entry.name}") for t in grads.types]
                inputs += fresh
        return held, buffers, moved, fresh

    def _owners(self, tensors: Sequence[Tensor], owners: list[Owner]) -> list[Tensor]:
        if self._by_number:
            return [owner_of(tensors, o) for o in owners]
        return [o() for o in owners]  # type: ignore[operator]

    def _write_grads(self, tensors: Sequence[Tensor], grads: tuple) -> None:
        entry = self.entry
        held, buffers, moved, fresh = grads
        for k in moved:
            _put(held[k], buffers[k], held[k]._node.type)
        if fresh:
            owners = self._owners(tensors, entry.grads.targets)
            for owner, buffer, type_ in zip(owners, fresh, entry.grads.types, strict=True):
                owner._grad = from_buffer(buffer, type_)
        for owner in self._owners(tensors, entry.grads.clears):
            owner._grad = None
        for owner, value in entry.grads.sets:
            owner_of(tensors, owner)._grad = value()


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
