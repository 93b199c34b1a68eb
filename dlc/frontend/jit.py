"""`jit`: trace a function once for each signature, compile the graph, and from then on run one executable a call.

A call computes its key (types of the arguments, static values), finds the entry compiled for it, checks the entry's
guards and runs it. An entry's inputs are the arguments, the Tensors that the function read otherwise (by reference:
read again at each call), and NumPy arrays it read. Its outputs are the result, and the new values of Tensors that it
assigned; these go into the Tensor's own buffer when nobody else holds the old value, and into a fresh one otherwise.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlc.frontend import eager, placement
from dlc.frontend import trace as tracing
from dlc.frontend.guards import Guards
from dlc.frontend.location import here
from dlc.frontend.tensor import Tensor, bare, from_buffer
from dlc.frontend.trace import UNSET, Trace, execution, leaf_cell, leaked, register_leaf, stand_in, state
from dlc.frontend.tree import TreeDef, node_of, paths, tree_flatten, tree_unflatten
from dlc.ir import build, dtypes
from dlc.ir.errors import DeviceError, TraceError
from dlc.ir.graph import Graph, Node, TensorType, make, param, substitute, topological
from dlc.passes.vjp import expand_nodes
from dlc.runtime import devices
from dlc.runtime.memory import Buffer, allocate, from_array

if TYPE_CHECKING:
    from dlc.frontend.lowered import Lowered

MAX_RETRACES = 8  # traces of one function before it warns
MAX_ENTRIES = 64  # compiled entries kept for one key: the oldest goes

_NUMBERS = (int, float)
_first = itertools.islice
_AUTOCAST = "dlc.autocast"  # part of the signature
_COROUTINES = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


class Static(NamedTuple):
    """A static argument: part of the key by value, and by type (1, 1.0 and True are different)."""

    type: type
    value: Any


class Call(NamedTuple):
    """One call's arguments, taken apart."""

    key: Any
    tensors: list[Tensor]
    numbers: list[Any]


_functions: weakref.WeakSet[JitFunction] = weakref.WeakSet()


def _after_fork() -> None:
    for function in _functions:
        function._lock = threading.RLock()  # a thread of the parent may have been tracing


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class JitFunction:
    """A function compiled by `dlc.jit`. Calling it is calling the function; `fn` is the original."""

    def __init__(
        self, fn: Callable, static_argnums: Sequence[int] = (), static_argnames: Sequence[str] = (), tune: bool = False
    ):
        if not callable(fn):
            raise TypeError(f"jit: {fn!r} is not callable")
        call = fn if isinstance(fn, (types.FunctionType, types.MethodType, functools.partial)) else type(fn).__call__
        if inspect.isgeneratorfunction(call) or inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
            kind = "a generator" if inspect.isgeneratorfunction(call) else "an async function"
            raise TypeError(
                f"jit: {_name(fn)} is {kind}, which runs piece by piece; jit the function that computes one step"
                f"\n  at {here()}"
            )
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.tune = tune
        self.name = _name(fn)
        self.static_argnums = frozenset([static_argnums] if isinstance(static_argnums, int) else static_argnums)
        self.static_argnames = frozenset([static_argnames] if isinstance(static_argnames, str) else static_argnames)
        self._names = _parameter_names(fn)
        self.static_argnums |= {k for k, n in enumerate(self._names) if n in self.static_argnames}
        self.static_argnames |= {self._names[k] for k in self.static_argnums if 0 <= k < len(self._names)}
        self._simple = not self.static_argnums
        self._entries: dict[Any, list[Entry]] = {}
        self._lock = threading.RLock()
        _functions.add(self)
        self._traces = 0
        self._last: list[tuple[str, str]] | None = None

    def __get__(self, owner: Any, cls: type | None = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)

    def __repr__(self) -> str:
        return f"<dlc.jit of {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or state.transforms:
            return self.fn(*args, **kwargs)  # a traced function inside another trace is part of it
        call = self._simple_call(args) if self._simple and not kwargs else None
        if call is None:
            call = self._call(args, kwargs)
        if call is None:  # an argument with a history that gradients are still wanted through
            return self.fn(*args, **kwargs)
        entry = self._find(call)
        if entry is None:
            entry = self._compile(call, args, kwargs)
        return entry.run(call.tensors, call.numbers)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """What the function becomes for these arguments: `.text("fused")` and the other stages of `dlc dump`,
        `.kernels()`, `.profile()`. The function is traced, and nothing changes.
        """
        from dlc.frontend.lowered import Lowered  # programs that only run need no printers

        return Lowered(self, args, kwargs)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced Graph for these arguments, derivatives not yet expanded; compiles nothing and changes nothing."""
        return self._trace(args, kwargs)[0].graph

    def _trace(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Entry, Call]:
        """An entry that is neither compiled nor kept, and the arguments as its `run` takes them."""
        call = self._call(args, kwargs)
        if call is None:
            raise TraceError(f"{self.name}: the arguments carry gradient history; detach() them\n  at {here()}")
        return Recorder(self, call, args, kwargs).record(), call

    def clear(self) -> None:
        """Forget all compiled entries."""
        with self._lock:
            self._entries.clear()

    @property
    def tuned(self) -> bool:
        """Whether schedules are measured: asked for by `tune=True` or by `DLC_TUNE=1`."""
        return self.tune or os.environ.get("DLC_TUNE") == "1"

    @property
    def traces(self) -> int:
        """How many times the function was traced."""
        return self._traces

    # --- the key ---

    def _simple_call(self, args: tuple) -> Call | None:
        """The key of positional Tensors without more ado, or None where an argument is anything else."""
        key = []
        for a in args:
            if type(a) is not Tensor:
                return None
            node = a._node
            if node.op != "param" or a._requires_grad or a._weak or a._owner is not None:
                return None
            key.append(node.type)
        if len(args) > 1 and len(set(map(id, args))) != len(args):
            return None
        if placement.several:
            key += [placement.default(), *(placement.place(a._node) for a in args)]
        if state.autocast[0] is not None:
            key.append(state.autocast[0])  # type: ignore[arg-type]
        return Call(tuple(key), args, ())  # type: ignore[arg-type]

    def _call(self, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        leaves, treedef = self._flatten(args, kwargs)
        key: list[Any] = ["tree", treedef]
        tensors: list[Tensor] = []
        numbers: list[Any] = []
        for k, leaf in enumerate(leaves):
            if isinstance(leaf, (np.ndarray, np.generic)) and not isinstance(leaf, (float, bool)):
                leaf = _of_array(leaf)
            if isinstance(leaf, Tensor):
                if leaf._owner is not None:
                    raise leaked(leaf)
                if leaf._node.op != "param":
                    if not leaf._requires_grad and tracing.differentiable(leaf._node) and not state.no_grad:
                        return None
                    eager.realize(leaf)
                key.append((leaf._node.type, type(leaf), leaf._weak, leaf._requires_grad))
                if placement.several:
                    key.append(placement.place(leaf._node))
                tensors.append(leaf)
            elif type(leaf) is Static:
                key.append(leaf)
            elif isinstance(leaf, _NUMBERS) and not isinstance(leaf, bool):
                key.append(int if isinstance(leaf, int) else float)
                numbers.append(leaf)
            else:
                if isinstance(leaf, _COROUTINES):
                    raise TypeError(
                        f"jit: {self._path(treedef, k)} of {self.name} is a {type(leaf).__name__}\n  at {here()}"
                    )
                key.append(Static(type(leaf), leaf))
        if len(set(map(id, tensors))) != len(tensors):
            first = {}
            key.append(tuple(first.setdefault(id(t), k) for k, t in enumerate(tensors)))
        if placement.several:
            key.append(placement.default())
        if state.autocast[0] is not None:
            key.append(state.autocast[0])
        if self._simple and not kwargs and len(tensors) == len(args) == len(leaves):
            call = self._simple_call(tuple(tensors))
            if call is not None and all(c.kind is None for c in treedef.children[0].children):
                return call  # the same key whether or not the arguments were pending
        out = tuple(key)
        try:
            hash(out)
        except TypeError:
            self._complain_unhashable(leaves, treedef)
        return Call(out, tensors, numbers)

    def _flatten(self, args: tuple, kwargs: dict[str, Any]) -> tuple[list[Any], TreeDef]:
        if not self._simple:
            static = {k % len(args) if args and k < 0 else k for k in self.static_argnums}
            args = tuple(Static(type(a), a) if k in static else a for k, a in enumerate(args))
            kwargs = {k: Static(type(v), v) if k in self.static_argnames else v for k, v in kwargs.items()}
        if kwargs:
            kwargs = dict(sorted(kwargs.items()))
        return tree_flatten((args, kwargs), is_leaf=_is_leaf)

    def _complain_unhashable(self, leaves: list[Any], treedef: TreeDef) -> None:
        for k, leaf in enumerate(leaves):
            value = leaf.value if type(leaf) is Static else leaf
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"jit: {self._path(treedef, k)} of {self.name} is a {type(value).__name__}, which is neither made "
                    "of Tensors nor hashable, so it cannot be a static argument either (dlc.register_tree makes a "
                    f"class a tree)\n  at {here()}"
                ) from None

    def _path(self, treedef: TreeDef, k: int) -> str:
        return f"argument '{self._leaf_paths(treedef)[k]}'"

    def _leaf_paths(self, treedef: TreeDef) -> list[str]:
        positional, keywords = treedef.children
        out = []
        for k, child in enumerate(positional.children):
            out += paths(child, self._names[k] if k < len(self._names) else f"args[{k}]")
        for name, child in zip(keywords.aux, keywords.children, strict=True):
            out += paths(child, name)
        return out

    # --- entries ---

    def _find(self, call: Call) -> Entry | None:
        entries = self._entries.get(call.key)
        if entries is None:
            return None
        version = tracing.structure_version
        for entry in entries:
            if entry.version == version and entry.valid(call.tensors):
                return entry
        return None

    def _compile(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> Entry:
        with self._lock:
            entry = self._find(call)  # another thread may have been quicker
            if entry is not None:
                return entry
            self._warn_of_retraces(call, args, kwargs)
            entry = Recorder(self, call, args, kwargs).record()
            entry.executable = eager.compiled(entry.graph, entry.donate, entry.device, self.tuned)
            # a new list: a thread that walks the old one is not disturbed
            kept = self._entries.get(call.key, [])
            # entries of this structure whose guards failed would only fail again, unless a value goes back
            self._entries[call.key] = [entry, *kept][:MAX_ENTRIES]
            return entry

    def _warn_of_retraces(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> None:
        described = self._describe(args, kwargs)
        before = self._last
        self._traces += 1
        self._last = described
        over = self._traces - 1
        if before is None or over < MAX_RETRACES or over & (over - 1):  # at 8, 16, 32, ... retraces
            return
        reason = self._difference(before, described)
        if not reason:
            entries = self._entries.get(call.key, [])
            reason = next(filter(None, (e.explain(call.tensors) for e in entries)), "an attribute of a module changed")
        warnings.warn(
            f"{self.name} was traced {self._traces} times; the last time because {reason}. "
            f"Each trace costs time: pass changing numbers as Python numbers or Tensors, and pad to a fixed shape",
            RuntimeWarning,
            stacklevel=4,
        )

    def _describe(self, args: tuple, kwargs: dict[str, Any]) -> list[tuple[str, str]]:
        leaves, treedef = self._flatten(args, kwargs)
        out = list(zip(self._leaf_paths(treedef), map(_describe, leaves), strict=True))
        return [*out, (_AUTOCAST, getattr(state.autocast[0], "name", "off"))]

    @staticmethod
    def _difference(before: list[tuple[str, str]], now: list[tuple[str, str]]) -> str:
        old = dict(before)
        changed = [(p if p == _AUTOCAST else f"argument '{p}'", old[p], d) for p, d in now if p in old and old[p] != d]
        changes = [f"{p} changed from {a} to {d}" for p, a, d in changed]
        changes += [f"argument '{p}' ({d}) is new" for p, d in now if p not in old]
        changes += [f"argument '{p}' ({d}) is missing" for p, d in before if p not in dict(now)]
        return "; ".join(changes[:3])


def jit(
    fn: Callable | None = None,
    *,
    static_argnums: Sequence[int] | int = (),
    static_argnames: Sequence[str] | str = (),
    tune: bool = False,
) -> Any:
    """Compile `fn`: trace it once for each signature, and run generated code from then on.

    Arguments may be Tensors, NumPy arrays, Python numbers and trees of them. Numbers are inputs: changing them does not
    trace again. bool, str, None and other hashable objects are static: part of the signature by value, as are the
    arguments that `static_argnums` and `static_argnames` name. Tensors that `fn` reads in other ways are inputs by
    reference, and keep what it assigns to them. `tune` tries several schedules for each kernel at the first call.
    """
    if fn is None:
        return functools.partial(jit, static_argnums=static_argnums, static_argnames=static_argnames, tune=tune)
    return JitFunction(fn, static_argnums, static_argnames, tune)  # type: ignore[arg-type]


def _name(fn: Any) -> str:
    return getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", None) or type(fn).__name__


def _parameter_names(fn: Callable) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _is_leaf(x: Any) -> bool:
    return type(x) is Static


def _describe(leaf: Any) -> str:
    if isinstance(leaf, (Tensor, np.ndarray)):
        flags = ", requires_grad" if isinstance(leaf, Tensor) and leaf._requires_grad else ""
        return f"{getattr(leaf.dtype, 'name', leaf.dtype)} {tuple(leaf.shape)}{flags}"
    if type(leaf) is Static:
        leaf = leaf.value
    elif isinstance(leaf, _NUMBERS) and not isinstance(leaf, bool):
        return type(leaf).__name__
    text = repr(leaf)
    return text if len(text) < 60 else text[:57] + "..."


# --- recording ---------------------------------------------------------------------------------------------------


class _Conflict(Exception):
    """The trace met one Tensor in two ways, one of them an assignment: trace again, seeing it as one."""

    def __init__(self, pinned: frozenset[int], pin_grads: bool):
        self.pinned, self.pin_grads = pinned, pin_grads


class Recorder:
    """Traces a JitFunction for one call."""

    def __init__(self, function: JitFunction, call: Call, args: tuple, kwargs: dict[str, Any]):
        self.function, self.call, self.args, self.kwargs = function, call, args, kwargs

    def record(self) -> Entry:
        """Trace, and make the entry (not yet compiled)."""
        pinned, pin_grads = frozenset[int](), False
        for _ in range(4):
            try:
                return self._record(pinned, pin_grads)
            except _Conflict as conflict:
                pinned, pin_grads = pinned | conflict.pinned, pin_grads or conflict.pin_grads
        raise AssertionError("a Tensor is still seen in two ways after pinning")

    def _record(self, pinned: frozenset[int], pin_grads: bool) -> Entry:
        function, call = self.function, self.call
        self.pinned = pinned
        version = tracing.observe()
        trace = self.trace = Trace("jit", function.name, pin_grads=pin_grads)
        with trace:
            args, kwargs = self._arguments()
            guards = Guards(function.fn, self._statics())
            result = function.fn(*args, **kwargs)
            leaves, treedef = tree_flatten(result)
            entry = Entry(function.name, version, guards)
            self._check_conflicts()
            self._build(entry, leaves, treedef)
        entry.pinned = [(k, call.tensors[k]) for k in sorted(pinned)]
        return entry

    def _arguments(self) -> tuple[tuple, dict[str, Any]]:
        """The arguments with a stand-in for each Tensor and number, and their placeholders."""
        function, trace = self.function, self.trace
        leaves, treedef = function._flatten(self.args, self.kwargs)
        names = function._leaf_paths(treedef)
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
                if inside is None and k not in self.pinned:
                    inside = stand_in(original)
                    inside._grad = original._grad
                    record = trace.lift(inside, ("arg", k))
                    record.placeholder.attrs["name"] = name
                    self.tensor_params.append(record.placeholder)
                else:  # the same Tensor again, or one that the function also reaches in another way
                    inside = inside if inside is not None else original
                    self.tensor_params.append(None)
                made[id(original)] = inside
                self.stand_ins.append(inside)
                out.append(inside)
            elif type(leaf) is Static:
                out.append(leaf.value)
            elif isinstance(leaf, _NUMBERS) and not isinstance(leaf, bool):
                dtype = dtypes.int64 if isinstance(leaf, int) else dtypes.float64
                node = param(TensorType(dtype, ()), name, here())
                self.number_params.append(node)
                out.append(bare(node, trace, weak=True))
            else:
                out.append(leaf)
        args, kwargs = _unflatten_call(treedef, out)
        return args, kwargs

    def _statics(self) -> dict[str, Any]:
        """Arguments that are objects: the function may read their attributes."""
        out = dict(zip(self.function._names, self.args, strict=False)) | self.kwargs
        scalars = (Tensor, np.ndarray, int, float, str, type(None))
        return {k: v for k, v in out.items() if not isinstance(v, scalars) and node_of(type(v)) is None}

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

    def _build(self, entry: Entry, leaves: list[Any], treedef: TreeDef) -> None:
        trace = self.trace
        records = list(trace.cells.values())
        direct = [r for r in records if r.source is None]
        by_grad = [r for r in records if r.source is not None and r.source[0] == "grad"]
        results = self._results(entry, leaves)

        # what each touched .grad is after the call
        grad_values: list[tuple[Tensor, Node]] = []
        for record in trace.grads.values():
            owner = self._place(record.cell)
            if record.read:
                entry.grad_reads.append((owner, record.was_none, record.cell._grad if trace.pin_grads else UNSET))
            self._final_grad(entry, record, owner, grad_values)

        assigned = [r for r in direct if r.assigned]
        assigned_grads = [r for r in by_grad if r.assigned]
        assigned_args = [r for r in records if r.source is not None and r.source[0] == "arg" and r.assigned]
        outputs = [
            *results,
            *(r.current for r in assigned),
            *(r.current for r in assigned_grads),
            *(node for _, node in grad_values),
            *(r.current for r in assigned_args),
        ]
        used = set(topological(outputs))
        read = [r for r in direct if not r.assigned and r.placeholder in used]
        read_grads = [r for r in by_grad if not r.assigned and r.placeholder in used]
        arrays = [(a, n) for a, n in trace.arrays if n in used]
        for array, node in [*arrays]:
            # nobody but the trace holds it (list, tuples, loop): it was made in the function, and cannot change
            if array.base is None and getrefcount(array) <= _ARRAY_FREE:
                node.data = eager.array_buffer(array)
                arrays = [(a, n) for a, n in arrays if n is not node]
        targets = [param(node.type, "grad") for _, node in grad_values]

        entry.arg_slots = [k for k, p in enumerate(self.tensor_params) if p is not None and (p in used)]
        entry.number_slots = [k for k, p in enumerate(self.number_params) if p in used]
        entry.number_dtypes = [self.number_params[k].dtype.np for k in entry.number_slots]
        params: list[Node] = [self.tensor_params[k] for k in entry.arg_slots]  # type: ignore[misc]
        params += [self.number_params[k] for k in entry.number_slots]
        entry.cells = [r.cell for r in (*assigned, *read)]
        first_cell = len(params)
        params += [r.placeholder for r in (*assigned, *read)]
        entry.held_grads = [self._place(trace.grads[r.source[1]].cell) for r in (*assigned_grads, *read_grads)]
        first_grad = len(params)
        params += [r.placeholder for r in (*assigned_grads, *read_grads)]
        first_target = len(params)
        params += targets
        params += [n for _, n in arrays]
        known = set(params)
        captured = []
        for node in topological(outputs):
            if node.op == "param" and node not in known:
                if node.data is None:
                    raise TraceError(f"jit: a value of another trace was used in {self.function.name}\n  at {here()}")
                captured.append(node)
        # constants made in the trace: same values at every call
        params += [param(n.type, "constant") for n in captured]
        replace = dict(zip(captured, params[len(params) - len(captured) :], strict=True))
        if replace:
            outputs = substitute(outputs, replace)
        if placement.several:
            self._place_entry(entry, [*params, *captured, *outputs])
        entry.graph = Graph(params, outputs, self.function.name)

        entry.n_results = len(results)
        entry.n_assigned, entry.n_assigned_grads = len(assigned), len(assigned_grads)
        entry.donate = (
            *((first_cell + k, len(results) + k) for k in range(len(assigned))),
            *((first_grad + k, len(results) + len(assigned) + k) for k in range(len(assigned_grads))),
            *((first_target + k, len(results) + len(assigned) + len(assigned_grads) + k) for k in range(len(targets))),
        )
        entry.grad_targets = [place for place, _ in grad_values]
        entry.grad_types = [node.type for _, node in grad_values]
        entry.arg_writes = [r.source[1] for r in assigned_args]
        entry.arrays = [a for a, _ in arrays]
        entry.captured = [n.data if n.data.device == entry.device else devices.copied(n.data, entry.device)
                          for n in captured]
        entry.treedef = treedef
        everything = bool(assigned_args) or any(t._requires_grad for t in self.call.tensors)
        seen_as_one = {id(self.call.tensors[k]) for k in self.pinned}
        entry.conflicts = frozenset(id(r.cell) for r in direct if r.assigned or everything) - seen_as_one
        entry.finish()
        self._keep_history(entry, results)

    def _place_entry(self, entry: Entry, nodes: list[Node]) -> None:
        """Say where the entry runs."""
        try:
            entry.device = placement.resolve(nodes)
        except DeviceError:
            found = sorted({placement.place(n) for n in nodes} - {placement.ANYWHERE, placement.FOLLOWS})
            raise DeviceError(
                f"jit: {self.function.name} uses tensors on {' and '.join(found)}, and a compiled function runs on one "
                f"device: move them with to(), or modules with Module.to\n  at {here()}"
            ) from None

    def _results(self, entry: Entry, leaves: list[Any]) -> list[Node]:
        """Say how each leaf of the result is made at a call; the nodes that must be computed for them."""
        trace = self.trace
        nodes: dict[Node, int] = {}
        for leaf in leaves:
            if isinstance(leaf, _COROUTINES) or inspect.isawaitable(leaf):
                raise TypeError(
                    f"jit: {self.function.name} returned a {type(leaf).__name__}; return Tensors\n  at {here()}"
                )
            if not isinstance(leaf, Tensor):
                entry.results.append(("static", leaf))
                continue
            record = trace.cells.get(id(leaf))
            if record is None and leaf._owner is not trace:
                record = trace.lift(leaf)
            if record is not None:  # a Tensor from outside, returned as it is
                if record.source is None:
                    entry.results.append(("object", leaf))
                    continue
                if record.source[0] == "arg":
                    entry.results.append(("arg", record.source[1]))
                    continue
            node = leaf.node
            entry.results.append(("output", nodes.setdefault(node, len(nodes))))
        entry.result_types = [n.type for n in nodes]
        return list(nodes)

    def _place(self, cell: Tensor) -> Any:
        """How the entry finds, at a call, what the trace knows as `cell`: itself, or the number of an argument."""
        for k, inside in enumerate(self.stand_ins):
            if inside is cell and k not in self.pinned:
                return k
        return cell

    def _final_grad(self, entry: Entry, record: Any, owner: Any, values: list) -> None:
        current = record.current
        if current is UNSET:
            return
        if current is None:
            if not (record.read and record.was_none):
                entry.grad_clears.append(owner)
            return
        seen = self.trace.cells.get(id(current))
        if seen is not None and seen.source == ("grad", id(record.cell)):
            return  # the gradient that was there, perhaps with a new value
        if current._owner is not self.trace:
            entry.grad_sets.append((owner, current))
            return
        values.append((owner, current.node))

    def _keep_history(self, entry: Entry, results: list[Node]) -> None:
        """Note which results a later `backward()` may still go through."""
        entry.differentiable = [
            k for k, node in enumerate(results) if tracing.differentiable(node, self.trace.consumed)
        ]


def _unflatten_call(treedef: TreeDef, leaves: list[Any]) -> tuple[tuple, dict[str, Any]]:
    return tree_unflatten(treedef, leaves)


# --- entries -----------------------------------------------------------------------------------------------------


def _counts() -> tuple[int, int]:
    """What getrefcount says, as Entry.run asks it, of a node that only its cell holds, and of its Buffer."""

    class Cell:
        __slots__ = ("_node",)

    cell = Cell()
    cell._node = param(TensorType(dtypes.float32, ()), data=allocate(4))
    nodes = [c._node for c in (cell,)]
    buffers = [n.data for n in nodes]
    return next(map(getrefcount, nodes)), next(map(getrefcount, buffers))


def _array_count() -> int:
    kept = [(np.zeros(1), None)]
    arrays = [(a, n) for a, n in kept]
    for array, _ in [*arrays]:
        return getrefcount(array)
    return 0


_NODE_FREE, _BUFFER_FREE = _counts()
_ARRAY_FREE = _array_count()


class Entry:
    """One compiled signature of a jitted function."""

    def __init__(self, name: str, version: int, guards: Guards):
        self.name, self.version, self.guards = name, version, guards
        self.graph: Graph
        self.executable: Any = None
        self.device = "cpu"
        self.donate: tuple[tuple[int, int], ...] = ()
        self.cells: list[Tensor] = []  # assigned ones first
        self.held_grads: list[Any] = []  # owners of gradients read, assigned ones first; an int is an argument
        self.grad_targets: list[Any] = []  # owners of gradients that are made anew at each call
        self.grad_reads: list[tuple[Any, bool, Any]] = []
        self.grad_clears: list[Any] = []
        self.grad_sets: list[tuple[Any, Tensor]] = []
        self.results: list[tuple[str, Any]] = []
        self.differentiable: list[int] = []
        self.pinned: list[tuple[int, Tensor]] = []

    def finish(self) -> None:
        """Prepare what `run` needs at every call."""
        n = self.n_assigned
        self.assigned = self.cells[:n]
        self.followers = [c for c in self.assigned if placement.several and placement.place_of(c) in placement.NOWHERE]
        self.free_nodes, self.free_buffers = [_NODE_FREE] * n, [_BUFFER_FREE] * n
        # every argument is an input, in order, if there are this many
        self.all_args = len(self.arg_slots) if self.arg_slots == list(range(len(self.arg_slots))) else -1
        self.no_grads = not (self.held_grads or self.grad_targets or self.grad_clears or self.grad_sets)
        # an owner and a list hold a gradient, as a cell and a list hold a node: the same count
        m = len(self.grad_targets)
        self.grads_of_args = any(type(o) is int for o in self.grad_targets)
        self.free_targets, self.free_target_buffers = [_NODE_FREE] * m, [_BUFFER_FREE] * m
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
            if tensors[k] is not cell:
                return False
        for owner, was_none, grad in self.grad_reads:
            now = (tensors[owner] if type(owner) is int else owner)._grad
            if (now is None) != was_none or grad is not UNSET and now is not grad:
                return False
        return True

    def explain(self, tensors: Sequence[Tensor]) -> str:
        reason = self.guards.explain()
        if not reason and self.version != tracing.structure_version:
            reason = "an attribute of a module changed (train/eval, a replaced layer or parameter, requires_grad)"
        if not reason and any(
            ((tensors[o] if type(o) is int else o)._grad is None) != none for o, none, _ in self.grad_reads
        ):
            reason = "a gradient that the function reads was None before and is not now, or the other way round"
        return reason

    # --- running ---

    def run(self, tensors: Sequence[Tensor], numbers: Sequence[Any]) -> Any:
        """Run on these arguments: write what the function assigns, and return its result."""
        with execution:
            for cell in self.followers:
                self._gather(cell)
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
            nodes = [c._node for c in self.cells]
            buffers = [n.data for n in nodes]
            if None in buffers:
                eager.realize(*self.cells)
                nodes = [c._node for c in self.cells]
                buffers = [n.data for n in nodes]
            history = None
            if self.differentiable and not state.no_grad:
                history = self._history(tensors, inputs, nodes)
            replaced = None
            n = self.n_assigned
            if n and not (
                list(map(getrefcount, _first(nodes, n))) == self.free_nodes
                and list(map(getrefcount, _first(buffers, n))) == self.free_buffers
            ):
                replaced = _unshare(nodes, buffers, n)
            inputs += buffers
            grads = None
            if not self.no_grads:
                grads = self._grad_buffers(tensors, inputs)
            if self.arrays:
                inputs += map(_array_buffer, self.arrays)
            inputs += self.captured
            if placement.several and self.device == "cpu":  # a GPU's program takes what is elsewhere itself
                inputs = placement.on(inputs, "cpu")
            executable = self.executable
            if state.debug:
                executable = eager.compiled(self.graph, self.donate, self.device)
            outputs = executable.run(inputs)
            if replaced:
                for k in replaced:
                    _put(self.cells[k], buffers[k], nodes[k].type)
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
            placement.follow(cell, self.device)

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
                leaves.append(what)
        return tree_unflatten(self.treedef, leaves)

    def _history(self, tensors: Sequence[Tensor], inputs: list[Buffer], nodes: list[Node]) -> list[Node] | None:
        """Nodes that say what the differentiable results are of the inputs, for a `backward()` after this call."""
        leaves = [tensors[k]._node for k in self.arg_slots]
        leaves += [eager.leaf(b, p.type) for b, p in zip(inputs[len(leaves) :], self._number_params, strict=True)]
        leaves += nodes
        if not any(leaf_cell(n) is not None for n in leaves):
            return None
        leaves += [(tensors[o] if type(o) is int else o)._grad._node for o in self.held_grads]
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
        held = [(tensors[o] if type(o) is int else o)._grad for o in self.held_grads]
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
            owners = self.grad_targets
            if self.grads_of_args:
                owners = [tensors[o] if type(o) is int else o for o in owners]
            old = [o._grad for o in owners]
            try:
                old_nodes = [g._node for g in old]
                old_buffers = [n.data for n in old_nodes]
                clean = (
                    list(map(getrefcount, old)) == self.free_targets
                    and list(map(getrefcount, old_nodes)) == self.free_targets
                    and list(map(getrefcount, old_buffers)) == self.free_target_buffers
                )
            except AttributeError:
                clean = False
            if clean:
                inputs += old_buffers
            else:
                fresh = [devices.allocate(t.nbytes, self.device, f"gradients of {self.name}") for t in self.grad_types]
                inputs += fresh
        return held, buffers, moved, fresh

    def _write_grads(self, tensors: Sequence[Tensor], grads: tuple) -> None:
        held, buffers, moved, fresh = grads
        for k in moved:
            _put(held[k], buffers[k], held[k]._node.type)
        if fresh:
            for owner, buffer, type_ in zip(self.grad_targets, fresh, self.grad_types, strict=True):
                (tensors[owner] if type(owner) is int else owner)._grad = from_buffer(buffer, type_)
        for owner in self.grad_clears:
            (tensors[owner] if type(owner) is int else owner)._grad = None
        for owner, value in self.grad_sets:
            (tensors[owner] if type(owner) is int else owner)._grad = value


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
    follows = "follows" in cell._node.attrs
    cell._node = eager.leaf(buffer, type_)
    if follows:
        cell._node.attrs["follows"] = True
    if cell._requires_grad:
        register_leaf(cell._node, cell)


def _of_array(array: Any) -> Tensor:
    """An array given as an argument: it goes where the function runs."""
    if not placement.several:
        return Tensor(array)
    return bare(eager.following(np.asarray(array)), state.trace)


def _array_buffer(array: np.ndarray) -> Buffer:
    return from_array(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))
