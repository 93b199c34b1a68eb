"""What a compiled entry depends on outside its arguments, and whether that is still as it was at the trace.

The function's code is read (not run) for the names it uses: globals, closure variables, attributes of objects, and the
same again in the user's own functions, methods and modules' `forward` that it names. Each such object is remembered,
and compared by identity at every call; numbers, strings and None also by value. Containers are compared element by
element. Attributes of nn.Modules are not looked at here: they report their changes (`trace.structure_changed`).
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import operator
import os
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dlc.frontend.tensor import Tensor

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_MISSING = object()
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple({os.path.join(p, "") for k, p in sysconfig.get_paths().items() if k.endswith(("stdlib", "lib"))})
_TRANSPARENT = {"PUSH_NULL", "NOP", "CACHE", "RESUME", "COPY_FREE_VARS", "EXTENDED_ARG", "MAKE_CELL"}
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
_MAX_GUARDS = 5000
_MAX_ELEMENTS = 20000


class Ref(NamedTuple):
    """An object as the function reaches it."""

    value: Any
    get: Callable[[], Any] | None  # reads it again; None: part of the key already
    path: str


class Guards:
    """Everything that the trace of `fn` may have read besides its arguments. `statics`: static arguments by name."""

    def __init__(self, fn: Callable, statics: dict[str, Any]):
        self._paths: list[str] = []
        self._getters: list[Callable[[], Any]] = []
        self._values: list[Any] = []  # strong references: an id is never used twice
        self._containers: list[tuple[str, Any, list[Any]]] = []  # path, container, its elements then
        self._seen: set[Any] = set()
        self._scan_function(fn, {k: Ref(v, None, k) for k, v in statics.items()})
        self._ids = list(map(id, self._values))
        del self._seen

    # --- checking ---

    def hold(self) -> bool:
        """Whether everything is as it was."""
        try:
            ids = [id(get()) for get in self._getters]
        except Exception:  # a getter may run into anything once objects have changed
            return False
        if ids != self._ids and self._changed() is not None:
            return False
        for _, container, values in self._containers:
            now = container if type(container) is list else list(_elements(container))
            # identity, never ==: Tensors compare elementwise
            same = len(now) == len(values) and all(map(operator.is_, now, values))
            if not same and self._container_changed() is not None:
                return False
        return True

    def explain(self) -> str:
        """What has changed, in the user's names."""
        return self._changed() or self._container_changed() or ""

    def _changed(self) -> str | None:
        for k, get in enumerate(self._getters):
            try:
                now = get()
            except Exception:
                now = _MISSING
            was = self._values[k]
            if now is was:
                continue
            if _equal_scalars(now, was):
                self._values[k], self._ids[k] = now, id(now)
                continue
            return f"{self._paths[k]} changed from {_short(was)} to {_short(now)}"
        return None

    def _container_changed(self) -> str | None:
        for path, container, values in self._containers:
            now = list(_elements(container))
            if len(now) != len(values):
                return f"the number of elements of {path} changed"
            for k, (a, b) in enumerate(zip(now, values, strict=True)):
                if a is not b and not _equal_scalars(a, b):
                    return f"an element of {path} changed from {_short(b)} to {_short(a)}"
                values[k] = a
        return None

    # --- collecting ---

    def _add(self, ref: Ref, enter: bool = True) -> None:
        if len(self._values) < _MAX_GUARDS and ref.get is not None and ("path", ref.path) not in self._seen:
            self._seen.add(("path", ref.path))
            self._paths.append(ref.path)
            self._getters.append(ref.get)
            self._values.append(ref.value)
        if enter:
            self._enter(ref)

    def _enter(self, ref: Ref) -> None:
        """Look into an object that the function names."""
        value = ref.value
        if isinstance(value, (*_SCALARS, Tensor, types.ModuleType)) or ("object", id(value)) in self._seen:
            return
        self._seen.add(("object", id(value)))
        if isinstance(value, (list, tuple, dict, set, frozenset)):
            if len(value) <= _MAX_ELEMENTS:
                values = list(_elements(value))
                if not isinstance(value, (tuple, frozenset)):
                    self._containers.append((ref.path, value, values))
                for k, v in enumerate(values):
                    self._enter(Ref(v, None, f"{ref.path}[{k}]"))
            return
        if isinstance(value, functools.partial):
            self._enter(Ref(value.func, None, ref.path))
            for k, v in enumerate((*value.args, *value.keywords.values())):
                self._enter(Ref(v, None, f"{ref.path}[{k}]"))
            return
        wrapped = getattr(value, "__wrapped__", None) if not isinstance(value, type) else None
        if wrapped is not None:
            self._enter(Ref(wrapped, None, ref.path))
        if isinstance(value, types.MethodType):
            self._scan_method(value.__func__, Ref(value.__self__, None, ref.path))
        elif isinstance(value, types.FunctionType):
            self._scan_function(value, {})
        elif isinstance(value, type):
            init = value.__dict__.get("__init__")
            if isinstance(init, types.FunctionType):
                self._scan_function(init, {})
        else:
            for name in ("forward", "__call__"):
                method = inspect.getattr_static(type(value), name, None)
                if isinstance(method, types.FunctionType):
                    self._scan_method(method, Ref(value, None, ref.path))
            if _reports_changes(value):
                for k, child in enumerate(_children(value)):
                    self._enter(Ref(child, None, f"{ref.path}.<{k}>"))

    def _scan_method(self, fn: types.FunctionType, owner: Ref) -> None:
        names = fn.__code__.co_varnames
        self._scan_function(fn, {names[0]: owner} if fn.__code__.co_argcount and names else {})

    def _scan_function(self, fn: Callable, known: dict[str, Ref]) -> None:
        while isinstance(fn, functools.partial) or hasattr(fn, "__wrapped__"):
            fn = fn.func if isinstance(fn, functools.partial) else fn.__wrapped__
        if isinstance(fn, types.MethodType):
            return self._scan_method(fn.__func__, Ref(fn.__self__, None, fn.__name__))
        if not isinstance(fn, types.FunctionType):
            return self._enter(Ref(fn, None, getattr(fn, "__name__", type(fn).__name__)))
        key = ("code", fn, tuple(sorted((k, id(r.value)) for k, r in known.items())))
        if key in self._seen or not _is_users(fn.__code__.co_filename):
            return
        self._seen.add(key)
        free = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False))
        where = f" (in {fn.__name__})"
        if fn.__defaults__ or fn.__kwdefaults__:
            self._add(
                Ref(fn.__defaults__, functools.partial(getattr, fn, "__defaults__"), f"the defaults of {fn.__name__}")
            )
            for k, v in enumerate((*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values())):
                self._enter(Ref(v, None, f"default {k} of {fn.__name__}"))
        self._scan_code(fn.__code__, fn.__globals__, free, known, where)

    def _scan_code(self, code: types.CodeType, names: dict, free: dict, known: dict[str, Ref], where: str) -> None:
        here: Ref | None = None
        steps = [s for s in dis.get_instructions(code) if s.opname not in _TRANSPARENT]
        for step, after in itertools.zip_longest(steps, steps[1:]):
            op, name = step.opname, step.argval
            # `seen.append(...)` writes to a container without reading it
            written = after is not None and after.opname in _ATTRIBUTE and after.argval in ("append", "add", "extend")
            if op in ("LOAD_GLOBAL", "LOAD_NAME"):
                value = names.get(name, _MISSING)
                here = Ref(value, functools.partial(names.get, name, _MISSING), f"global {name}{where}")
                self._add(here, enter=not (written and isinstance(value, (list, set))))
            elif op in ("LOAD_DEREF", "LOAD_CLASSDEREF") and name in free:
                try:
                    here = Ref(
                        free[name].cell_contents, functools.partial(_contents, free[name]), f"variable {name}{where}"
                    )
                    self._add(here, enter=not (written and isinstance(here.value, (list, set))))
                except ValueError:  # a cell that is still empty: a function that names itself
                    here = None
            elif op in ("LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK") and name in known:
                here = known[name]
                self._enter(here)
            elif op in _ATTRIBUTE and here is not None:
                here = self._attribute(here, name)
            else:
                here = None
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                shadowed = set(inner.co_varnames[: inner.co_argcount + inner.co_kwonlyargcount])
                self._scan_code(inner, names, free, {k: r for k, r in known.items() if k not in shadowed}, where)

    def _attribute(self, ref: Ref, name: str) -> Ref | None:
        owner, (head, space, where) = ref.value, ref.path.partition(" (in ")
        path = f"{head}.{name}{space}{where}"
        if owner is _MISSING or isinstance(owner, (*_SCALARS, Tensor)):
            return None
        if isinstance(owner, types.ModuleType):
            if not _is_users(getattr(owner, "__file__", None) or ""):
                return None
            found = Ref(vars(owner).get(name, _MISSING), functools.partial(vars(owner).get, name, _MISSING), path)
            self._add(found)
            return found
        own = getattr(owner, "__dict__", {})
        if not isinstance(owner, type) and name in own:
            found = Ref(own[name], functools.partial(own.get, name, _MISSING), path)
            if _reports_changes(owner):
                found = found._replace(get=None)
                self._enter(found)
            else:
                self._add(found)
            return found
        static = inspect.getattr_static(owner, name, _MISSING)
        if isinstance(static, types.FunctionType):
            if isinstance(owner, type):
                self._scan_function(static, {})
            else:
                self._scan_method(static, ref)
            return None
        if isinstance(static, property):
            if static.fget is not None and isinstance(static.fget, types.FunctionType):
                self._scan_method(static.fget, ref)
            return None
        if isinstance(static, (classmethod, staticmethod)):
            self._enter(Ref(static.__func__, None, path))
            return None
        if static is _MISSING:
            return None
        plain = isinstance(static, types.MemberDescriptorType) or not hasattr(type(static), "__get__")
        if not plain:
            return None
        found = Ref(getattr(owner, name, _MISSING), functools.partial(getattr, owner, name, _MISSING), path)
        self._add(found)
        return found


_contents = operator.attrgetter("cell_contents")


def _is_users(filename: str) -> bool:
    """Whether code in this file is the user's own: not ours, and not an installed library's."""
    return bool(filename) and not filename.startswith(_PACKAGE) and not filename.startswith(_LIBRARIES)


def _reports_changes(value: Any) -> bool:
    """Whether the object's class tells us of attribute changes: nn.Module does."""
    setter = getattr(type(value), "__setattr__", None)
    return getattr(setter, "__module__", "").startswith("dlc.nn")


def _children(module: Any) -> Iterator[Any]:
    for name, value in list(vars(module).items()):
        if name == "_temporary_buffers":
            continue  # the names that a state_dict leaves out: nothing that is computed depends on them
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _elements(container: Any) -> Iterator[Any]:
    if isinstance(container, dict):
        for k, v in container.items():
            yield k
            yield v
    else:
        yield from container


def _equal_scalars(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, _SCALARS) and repr(a) == repr(b)


def _short(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a {value.dtype.name} {value.shape} Tensor"
    if isinstance(value, types.FunctionType):
        return f"function {value.__name__}"
    if isinstance(value, _SCALARS):
        text = repr(value)
        return text if len(text) < 60 else text[:57] + "..."
    return f"a {type(value).__name__}"
