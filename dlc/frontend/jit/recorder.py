"""Tracing a jitted function for one signature: what it read and assigned becomes an `Entry`'s inputs and outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from sys import getrefcount
from typing import Any, NamedTuple

import numpy as np

from dlc.base.errors import DeviceError, TraceError
from dlc.frontend.core import eager, places
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.tensor import Tensor, bare
from dlc.frontend.core.trace import UNSET, Trace, stand_in, state
from dlc.frontend.core.tree import TreeDef, tree_flatten, tree_unflatten
from dlc.frontend.jit.calls import COROUTINES, Call, Signature, Static, is_number
from dlc.frontend.jit.entry import Entry, Gradients, NeedsHistory, Owner, Ref, computed
from dlc.frontend.jit.guards import Guards
from dlc.ir import dtypes
from dlc.ir.graph.graph import Graph, Node, TensorType, param, substitute, topological
from dlc.runtime import devices


def _array_count() -> int:
    kept = [(np.zeros(1), None)]
    arrays = [(a, n) for a, n in kept]
    for array, _ in [*arrays]:
        return getrefcount(array)
    return 0


_ARRAY_FREE = _array_count()


class _Conflict(Exception):
    """The trace met one Tensor in two ways, one of them an assignment: trace again, seeing it as one."""

    def __init__(self, pinned: frozenset[int], pin_grads: bool):
        self.pinned, self.pin_grads = pinned, pin_grads


class _FinalGrads(NamedTuple):
    """What a trace did to `.grad`s, by their owners."""

    reads: list[tuple[Owner, bool, Ref | None]]
    clears: list[Owner]
    sets: list[tuple[Owner, Ref]]
    values: list[tuple[Owner, Node]]  # made in the trace


class Recorder:
    """Traces a JitFunction for one call."""

    def __init__(self, function: Signature, call: Call):
        self.function, self.call = function, call

    def record(self) -> tuple[Entry, str]:
        """Trace, and make the entry (not yet compiled); why it serves the call that it was traced for only, or ''."""
        pinned, pin_grads = frozenset[int](), False
        for _ in range(4):
            try:
                return self._record(pinned, pin_grads)
            except _Conflict as conflict:
                pinned, pin_grads = pinned | conflict.pinned, pin_grads or conflict.pin_grads
        raise AssertionError("a Tensor is still seen in two ways after pinning")

    def _record(self, pinned: frozenset[int], pin_grads: bool) -> tuple[Entry, str]:
        function = self.function
        self.pinned = pinned
        trace = self.trace = Trace("jit", function.name, pin_grads=pin_grads)
        with trace:
            args, kwargs = self._arguments()
            guards = self.guards = Guards(function.fn, self._objects())
            result = function.fn(*args, **kwargs)
            leaves, treedef = tree_flatten(result)
            for record in trace.cells.values():
                if record.source is None and (record.assigned or not state.no_grad) and computed(record.cell):
                    raise NeedsHistory
            self._check_conflicts()
            entry = self._entry(leaves, treedef)
        read = [r.cell for r in trace.cells.values() if r.source is None]
        return entry, guards.finish(read, [a for a, _ in trace.arrays])

    def _arguments(self) -> tuple[tuple, dict[str, Any]]:
        """The arguments with a stand-in for each Tensor and number, and their placeholders."""
        function, trace = self.function, self.trace
        leaves, treedef, names = function.leaves, function.treedef, function.paths
        self.tensor_params: list[Node | None] = []
        self.number_params: list[Node] = []
        self.stand_ins: list[Tensor] = []
        made: dict[int, Tensor] = {}
        tensors = iter(self.call.tensors)
        out = []
        for name, leaf in zip(names, leaves, strict=True):
            if isinstance(leaf, (Tensor, np.ndarray, np.generic)) and not isinstance(leaf, (float, bool)):
                k, original = len(self.stand_ins), next(tensors)
                inside = made.get(id(original))
                if inside is None and k not in self.pinned and original._home is original:
                    inside = stand_in(original)
                    inside._grad = original._grad
                    record = trace.lift(inside, ("arg", k), name)
                    self.tensor_params.append(record.placeholder)
                else:  # the same Tensor again, or one that is another's cell or reached in another way, too
                    inside = inside if inside is not None else original
                    self.tensor_params.append(None)
                made[id(original)] = inside
                self.stand_ins.append(inside)
                out.append(inside)
            elif type(leaf) is Static:
                out.append(leaf.value)
            elif is_number(leaf):
                dtype = dtypes.int64 if isinstance(leaf, int) else dtypes.float64
                node = param(TensorType(dtype, ()), name, here())
                self.number_params.append(node)
                out.append(bare(node, trace, weak=True))
            else:
                out.append(leaf)
        args, kwargs = _unflatten_call(treedef, out)
        return args, kwargs

    def _objects(self) -> list[Any]:
        """Arguments that are objects, and the classes of the others: the function may read their attributes."""
        leaves, treedef = self.function.leaves, self.function.treedef
        leaves = [leaf.value if type(leaf) is Static else leaf for leaf in leaves]
        data = (Tensor, np.ndarray, int, float)
        nodes = [treedef]
        for node in nodes:
            nodes += node.children
        return [
            *(type(leaf) if isinstance(leaf, data) else leaf for leaf in leaves),
            *(part for node in nodes for part in (node.kind, node.aux)),
        ]

    def _ref(self, value: Any) -> Callable[[], Any]:
        """How the entry keeps hold of `value`: weakly, unless it was made in the trace."""
        ref = self.guards.weak(value) if isinstance(value, Tensor) or self.guards.knows(value) else None
        return ref or (lambda: value)

    def _check_conflicts(self) -> None:
        """No Tensor may be an argument (or somebody's `.grad`) and a cell of its own, if either is assigned."""
        cells = self.trace.cells
        pins = set()
        for k, (original, inside) in enumerate(zip(self.call.tensors, self.stand_ins, strict=True)):
            direct, arg = cells.get(id(original)), cells.get(id(inside))
            if original is not inside and direct is not None and arg is not None:
                grads = id(original) in self.trace.grads or id(inside) in self.trace.grads
                if direct.assigned or arg.assigned or grads or original._requires_grad:
                    pins.add(k)
        grads = False
        for record in list(cells.values()):
            if isinstance(record.source, tuple) and record.source[0] == "grad":
                owner = self.trace.grads[record.source[1]].cell
                direct = cells.get(id(owner._grad))
                grads = grads or direct is not None and (direct.assigned or record.assigned)
        if pins or grads:
            raise _Conflict(frozenset(pins), grads)

    def _entry(self, leaves: list[Any], treedef: TreeDef) -> Entry:
        trace = self.trace
        records = list(trace.cells.values())
        direct = [r for r in records if r.source is None]
        by_grad = [r for r in records if r.source is not None and r.source[0] == "grad"]
        made, results = self._results(leaves)
        finals = self._final_grads()

        assigned = [r for r in direct if r.assigned]
        assigned_grads = [r for r in by_grad if r.assigned]
        assigned_args = [r for r in records if r.source is not None and r.source[0] == "arg" and r.assigned]
        outputs = [
            *results,
            *(r.current for r in assigned),
            *(r.current for r in assigned_grads),
            *(node for _, node in finals.values),
            *(r.current for r in assigned_args),
        ]
        used = set(topological(outputs))
        read = [r for r in direct if not r.assigned and r.placeholder in used]
        read_grads = [r for r in by_grad if not r.assigned and r.placeholder in used]
        outputs, arrays = self._arrays(outputs, used)

        arg_slots = [k for k, p in enumerate(self.tensor_params) if p is not None and (p in used)]
        number_slots = [k for k, p in enumerate(self.number_params) if p in used]
        params: list[Node] = [self.tensor_params[k] for k in arg_slots]  # type: ignore[misc]
        params += [self.number_params[k] for k in number_slots]
        first_cell = len(params)
        params += [r.placeholder for r in (*assigned, *read)]
        first_grad = len(params)
        params += [r.placeholder for r in (*assigned_grads, *read_grads)]
        first_target = len(params)
        params += [param(node.type, "grad") for _, node in finals.values]
        params += [n for _, n in arrays]
        captured = self._captured(params, outputs)
        # constants made in the trace: same values at every call
        constants = [param(n.type, "constant") for n in captured]
        params += constants
        if captured:
            outputs = substitute(outputs, dict(zip(captured, constants, strict=True)))
        device = self._device([*params, *captured, *outputs]) if places.several else "cpu"

        in_place = [first_cell + k for k in range(len(assigned))]
        in_place += [first_grad + k for k in range(len(assigned_grads))]
        in_place += [first_target + k for k in range(len(finals.values))]
        homes = [(k, t._home) for k, t in enumerate(self.call.tensors) if k in self.pinned or t._home is not t]
        everything = bool(assigned_args) or any(t._requires_grad for t in self.call.tensors)
        seen_as_one = {id(self.call.tensors[k]) for k in self.pinned}
        return Entry(
            name=self.function.name,
            guards=self.guards,
            graph=Graph(params, outputs, self.function.name),
            device=device,
            donate=tuple((place, len(results) + k) for k, place in enumerate(in_place)),
            arg_slots=arg_slots,
            number_slots=number_slots,
            number_dtypes=[self.number_params[k].dtype.np for k in number_slots],
            cells=[self._ref(r.cell) for r in (*assigned, *read)],
            n_assigned=len(assigned),
            arg_writes=[r.source[1] for r in assigned_args],
            grads=Gradients(
                held=[self._place(trace.grads[r.source[1]].cell) for r in (*assigned_grads, *read_grads)],
                n_assigned=len(assigned_grads),
                targets=[place for place, _ in finals.values],
                types=[node.type for _, node in finals.values],
                reads=finals.reads,
                clears=finals.clears,
                sets=finals.sets,
            ),
            arrays=[self._ref(a) for a, _ in arrays],
            captured=[n.data if n.data.device == device else devices.copied(n.data, device) for n in captured],
            treedef=treedef,
            results=made,
            result_types=[n.type for n in results],
            differentiable=[k for k, n in enumerate(results) if tracing.differentiable(n, trace.consumed)],
            pinned=[(k, self._ref(home)) for k, home in homes],
            conflicts=frozenset(id(r.cell) for r in direct if r.assigned or everything) - seen_as_one,
        )

    def _arrays(self, outputs: list[Node], used: set[Node]) -> tuple[list[Node], list[tuple[np.ndarray, Node]]]:
        """The NumPy arrays that are read again at each call, and the outputs with the others as constants."""
        arrays = [(a, n) for a, n in self.trace.arrays if n in used]
        made: dict[Node, Node] = {}
        for array, node in [*arrays]:
            # nobody but the trace holds it (list, tuples, loop): it was made in the function, and cannot change
            if array.base is None and getrefcount(array) <= _ARRAY_FREE:
                made[node] = eager.leaf(eager.array_buffer(array), node.type, follows=True)
        if not made:
            return outputs, arrays
        return substitute(outputs, made), [(a, n) for a, n in arrays if n not in made]

    def _captured(self, params: list[Node], outputs: list[Node]) -> list[Node]:
        """Leaves of the outputs that are no parameters."""
        known = set(params)
        captured = [node for node in topological(outputs) if node.op == "param" and node not in known]
        if any(node.data is None for node in captured):
            raise TraceError(f"jit: a value of another trace was used in {self.function.name}\n  at {here()}")
        return captured

    def _device(self, nodes: list[Node]) -> str:
        """Where the entry runs."""
        try:
            return places.resolve(nodes)
        except DeviceError:
            found = sorted({places.place(n) for n in nodes} - {places.ANYWHERE, places.FOLLOWS})
            raise DeviceError(
                f"jit: {self.function.name} uses tensors on {' and '.join(found)}, and a compiled function runs on one "
                f"device: move them with to(), or modules with Module.to\n  at {here()}"
            ) from None

    def _results(self, leaves: list[Any]) -> tuple[list[tuple[str, Any]], list[Node]]:
        """How each leaf of the result is made at a call; the nodes that must be computed for them."""
        trace = self.trace
        results: list[tuple[str, Any]] = []
        nodes: dict[Node, int] = {}
        for leaf in leaves:
            if isinstance(leaf, COROUTINES) or inspect.isawaitable(leaf):
                raise TypeError(
                    f"jit: {self.function.name} returned a {type(leaf).__name__}; return Tensors\n  at {here()}"
                )
            if not isinstance(leaf, Tensor):
                results.append(("static", self._ref(leaf)))
                continue
            record = trace.cells.get(id(leaf))
            if record is None and leaf._owner is not trace:
                record = trace.lift(leaf)
            if record is not None:  # a Tensor from outside, returned as it is
                if record.source is None:
                    results.append(("object", self._ref(leaf)))
                    continue
                if record.source[0] == "arg":
                    results.append(("arg", record.source[1]))
                    continue
            node = leaf.node
            results.append(("output", nodes.setdefault(node, len(nodes))))
        return results, list(nodes)

    def _place(self, cell: Tensor) -> Any:
        """How the entry finds, at a call, what the trace knows as `cell`: weakly, or as the number of an argument."""
        for k, inside in enumerate(self.stand_ins):
            if inside is cell and k not in self.pinned:
                return k
        return self._ref(cell)

    def _final_grads(self) -> _FinalGrads:
        """What each touched `.grad` is after the call."""
        finals = _FinalGrads([], [], [], [])
        for record in self.trace.grads.values():
            owner = self._place(record.cell)
            if record.read:
                grad = record.cell._grad
                pin = self._ref(grad) if self.trace.pin_grads and grad is not None else None
                finals.reads.append((owner, record.was_none, pin))
            self._final_grad(record, owner, finals)
        return finals

    def _final_grad(self, record: Any, owner: Owner, finals: _FinalGrads) -> None:
        current = record.current
        if current is UNSET:
            return
        if current is None:
            if not (record.read and record.was_none):
                finals.clears.append(owner)
            return
        seen = self.trace.cells.get(id(current))
        if seen is not None and seen.source == ("grad", id(record.cell)):
            return  # the gradient that was there, perhaps with a new value
        if current._owner is not self.trace:
            finals.sets.append((owner, self._ref(current)))
        else:
            finals.values.append((owner, current.node))


def _unflatten_call(treedef: TreeDef, leaves: list[Any]) -> tuple[tuple, dict[str, Any]]:
    return tree_unflatten(treedef, leaves)
