"""`jit`: trace a function once for each signature, compile the graph, and from then on run one executable a call.

A call computes its key (types of the arguments, static values), finds the entry compiled for it, checks the entry's
guards and runs it. An entry's inputs are the arguments, the Tensors that the function read otherwise (by reference:
read again at each call), and NumPy arrays it read. Its outputs are the result, and the new values of Tensors that it
assigned; these go into the Tensor's own buffer when nobody else holds the old value, and into a fresh one otherwise.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import types
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.base import forks, settings
from dlc.base.errors import TraceError, is_foreign, no_operand, warn
from dlc.frontend.core import eager, places
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.precision import setting
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.core.trace import leaked, state
from dlc.frontend.core.tree import TreeDef, paths, tree_flatten
from dlc.frontend.jit import retraces
from dlc.frontend.jit.calls import (
    COROUTINES,
    Call,
    Signature,
    Static,
    check_static,
    is_leaf,
    is_number,
    name_of,
    of_array,
    static,
)
from dlc.frontend.jit.compiled import Compiled
from dlc.frontend.jit.entry import Entry, NeedsHistory
from dlc.frontend.jit.recorder import Recorder
from dlc.ir.graph.graph import Graph

if TYPE_CHECKING:
    from dlc.frontend.jit.lowered import Lowered

MAX_RETRACES = 8  # traces of one function before it warns
MAX_KEYS = 256  # signatures kept: the one that was not used for longest goes
MAX_ENTRIES = 64  # compiled entries kept for one signature, likewise


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
                f"jit: {name_of(fn)} is {kind}, which runs piece by piece; jit the function that computes one step"
                f"\n  at {here()}"
            )
        check_static(fn, static_argnums, static_argnames)
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.tune = tune
        self.name = name_of(fn)
        self.static_argnums = frozenset([static_argnums] if isinstance(static_argnums, int) else static_argnums)
        self.static_argnames = frozenset([static_argnames] if isinstance(static_argnames, str) else static_argnames)
        self._names = _parameter_names(fn)
        self.static_argnums |= {k for k, n in enumerate(self._names) if n in self.static_argnames}
        self.static_argnames |= {self._names[k] for k in self.static_argnums if 0 <= k < len(self._names)}
        self._simple = not self.static_argnums
        self._entries: dict[Any, list[Compiled]] = {}
        self._lock = forks.lock()
        self._traces = 0
        self._last: retraces.Description | None = None
        self._unkept = ""  # why the entry of the last trace was not kept

    def __get__(self, owner: Any, cls: type | None = None) -> Any:
        return self if owner is None else BoundJitFunction(self, owner)

    def __reduce__(self) -> Any:
        """Like a function: by its name where that finds it; else the same of a copy of the function."""
        found: Any = sys.modules.get(getattr(self.fn, "__module__", ""))
        for part in getattr(self.fn, "__qualname__", "<none>").split("."):
            found = getattr(found, part, None)
        if found is self:
            return self.fn.__qualname__
        return JitFunction, (self.fn, tuple(self.static_argnums), tuple(self.static_argnames), self.tune)

    def __getattr__(self, name: str) -> Any:
        """What the function has: parameters() of a module, attributes of a function."""
        if "fn" not in self.__dict__ or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.fn, name)

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
        try:
            compiled = self._find(call)
            if compiled is None:
                compiled = self._compile(call, args, kwargs)
            return compiled.run(call.tensors, call.numbers)
        except NeedsHistory:  # so has a Tensor that the function closes over
            return self.fn(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """What the function becomes for these arguments: `.text("fused")` and the other stages of `dlc dump`,
        `.kernels()`, `.profile()`. The function is traced, and nothing changes.
        """
        from dlc.frontend.jit.lowered import Lowered  # with the compiler, which a program from the cache does without

        return Lowered(self.name, self.fn, self.tuned, self._trace(args, kwargs), (args, kwargs))

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced Graph for these arguments, derivatives not yet expanded; compiles nothing and changes nothing."""
        return self._trace(args, kwargs)[0].graph

    def _trace(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Entry, Call]:
        """An entry that is neither compiled nor kept, and the arguments as `Compiled.run` takes them."""
        call = self._call(args, kwargs)
        if call is None:
            raise TraceError(f"{self.name}: the arguments carry gradient history; detach() them\n  at {here()}")
        try:
            return Recorder(self._signature(args, kwargs), call).record()[0], call
        except NeedsHistory:
            raise TraceError(
                f"{self.name}: a Tensor that it closes over carries gradient history; detach() it\n  at {here()}"
            ) from None

    def _signature(self, args: tuple, kwargs: dict[str, Any]) -> Signature:
        leaves, treedef = self._flatten(args, kwargs)
        return Signature(self.name, self.fn, leaves, treedef, self._leaf_paths(treedef))

    def clear(self) -> None:
        """Forget all compiled entries."""
        with self._lock:
            self._entries.clear()

    @property
    def tuned(self) -> bool:
        """Whether schedules are measured: asked for by `tune=True` or by `DLC_TUNE=1`."""
        return self.tune or settings.switch("DLC_TUNE")

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
        if places.several:
            key += [places.default(), *(places.place(a._node) for a in args)]
        if state.no_grad:
            key.append("no_grad")  # type: ignore[arg-type]
        if state.autocast[0] is not None:
            key.append(state.autocast[0])  # type: ignore[arg-type]
        if setting.tf32:
            key.append("high")  # type: ignore[arg-type]
        return Call(tuple(key), args, ())  # type: ignore[arg-type]

    def _call(self, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        leaves, treedef = self._flatten(args, kwargs)
        key: list[Any] = ["tree", treedef]
        tensors: list[Tensor] = []
        numbers: list[Any] = []
        for k, leaf in enumerate(leaves):
            if isinstance(leaf, (np.ndarray, np.generic)) and not isinstance(leaf, (float, bool)):
                leaf = of_array(leaf)
            if isinstance(leaf, Tensor):
                if leaf._owner is not None:
                    raise leaked(leaf)
                if leaf._node.op != "param":
                    if not leaf._requires_grad and tracing.differentiable(leaf._node) and not state.no_grad:
                        return None
                    eager.realize(leaf)
                key.append((leaf._node.type, type(leaf), leaf._weak, leaf._requires_grad))
                if places.several:
                    key.append(places.place(leaf._node))
                tensors.append(leaf)
            elif type(leaf) is Static:
                key.append(static(leaf.value))
            elif is_number(leaf):
                key.append(int if isinstance(leaf, int) else float)
                numbers.append(leaf)
            else:
                if isinstance(leaf, COROUTINES):
                    raise TypeError(
                        f"jit: {self._path(treedef, k)} of {self.name} is a {type(leaf).__name__}\n  at {here()}"
                    )
                if is_foreign(leaf):
                    raise TypeError(f"jit: {self._path(treedef, k)} of {self.name}: {no_operand(leaf)}\n  at {here()}")
                key.append(static(leaf))
        if len(set(map(id, tensors))) != len(tensors):
            first = {}
            key.append(tuple(first.setdefault(id(t), k) for k, t in enumerate(tensors)))
        if places.several:
            key.append(places.default())
        if state.no_grad:
            key.append("no_grad")
        if state.autocast[0] is not None:
            key.append(state.autocast[0])
        if setting.tf32:
            key.append("high")
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
        return tree_flatten((args, kwargs), is_leaf=is_leaf)

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

    def _find(self, call: Call) -> Compiled | None:
        found = self._entries.get(call.key)
        if found is None:
            return None
        for compiled in found:
            if compiled.entry.valid(call.tensors):
                compiled.used = time.monotonic()
                return compiled
        return None

    def _compile(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> Compiled:
        with self._lock:
            compiled = self._find(call)  # another thread may have been quicker
            if compiled is not None:
                return compiled
            reason = self._reason(call)
            entry, self._unkept = Recorder(self._signature(args, kwargs), call).record()
            self._warn_of_retraces(call, args, kwargs, reason)
            compiled = Compiled(entry, eager.compiled(entry.graph, entry.donate, entry.device, self.tuned))
            if not self._unkept:
                self._keep(call.key, compiled)
            return compiled

    def _keep(self, key: Any, compiled: Compiled) -> None:
        """Find `compiled` under `key` from now on, until something is gone that it depends on."""
        life = compiled.entry.guards.life
        life.ended = functools.partial(_forget, weakref.ref(self), key, weakref.ref(compiled))
        compiled.used = time.monotonic()
        # a new list: a thread that walks the old one is not disturbed
        kept = sorted(self._entries.get(key, []), key=lambda c: c.used, reverse=True)
        self._entries[key] = [compiled, *kept][:MAX_ENTRIES]
        if len(self._entries) > MAX_KEYS:
            last = {key: max(c.used for c in found) for key, found in [*self._entries.items()]}
            self._entries.pop(min(last, key=last.__getitem__), None)
        if life.over:
            life.ended()

    def _reason(self, call: Call) -> str:
        """Why no entry serves a call whose signature was traced before."""
        found = (c.entry.explain(call.tensors) for c in self._entries.get(call.key, []))
        return next(filter(None, found), "") or self._unkept

    def _warn_of_retraces(self, call: Call, args: tuple, kwargs: dict[str, Any], reason: str) -> None:
        leaves, treedef = self._flatten(args, kwargs)
        described = retraces.describe(self._leaf_paths(treedef), leaves)
        before = self._last
        self._traces += 1
        self._last = described
        over = self._traces - 1
        if before is None or over < MAX_RETRACES or over & (over - 1):  # at 8, 16, 32, ... retraces
            return
        reason = retraces.difference(before, described) or reason
        warn(
            f"{self.name} was traced {self._traces} times; the last time because "
            f"{reason or 'what was compiled for these arguments before was no longer kept'}. "
            f"Each trace costs time: pass changing numbers as Python numbers or Tensors, and pad to a fixed shape"
        )


def _forget(function: weakref.ref[JitFunction], key: Any, compiled: weakref.ref[Compiled]) -> None:
    """An object is gone that an entry depends on: nothing will match it again. Called by the garbage collector."""
    owner, gone = function(), compiled()
    if owner is not None:
        kept = [c for c in owner._entries.get(key, []) if c is not gone]
        if kept:
            owner._entries[key] = kept
        else:
            owner._entries.pop(key, None)


class BoundJitFunction:  # no docstring: it has the method's
    __slots__ = ("__func__", "__self__")

    def __init__(self, function: JitFunction, owner: Any):
        self.__func__, self.__self__ = function, owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """What the method becomes for these arguments: see `JitFunction.lower`."""
        return self.__func__.lower(self.__self__, *args, **kwargs)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced Graph for these arguments: see `JitFunction.graph`."""
        return self.__func__.graph(self.__self__, *args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__func__.__doc__

    @property
    def __wrapped__(self) -> Callable:
        return types.MethodType(self.__func__.fn, self.__self__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __eq__(self, other: Any) -> bool:
        same = type(other) is BoundJitFunction and self.__func__ is other.__func__
        return same and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __reduce__(self) -> Any:
        return getattr, (self.__self__, self.__func__.fn.__name__)

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"


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


def _parameter_names(fn: Callable) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
