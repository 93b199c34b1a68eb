"""What a function may read besides its arguments, found without running it and without following its code.

*Names* are the names, attributes and identifier-like strings in the code of every user function reached. *Objects* are
what these names hold in the namespaces reached: globals, closures, modules, attributes of objects and of every class
in their MRO; elements of containers; what wrappers wrap. Names lead to objects, and objects to functions with more
names, until nothing new is found. How the code gets hold of an object does not matter: what it looks at under a name
anywhere counts as looked at on every object. Code of libraries (and of this package) is not read; what their objects
hold of the user's is.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import heapq
import inspect
import io
import operator
import os
import pickle
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dlc.base.errors import PACKAGE
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.jit.codenames import CALLED, READ, names_of, words
from dlc.frontend.jit.objects import (
    MAX_ELEMENTS,
    MISSING,
    SCALARS,
    ClosureCell,
    bases_of,
    dict_of,
    held_by,
    is_constant,
    is_container,
    is_data,
    is_installed,
    is_library,
    is_of_users,
    is_users,
    is_users_module,
    listing,
    same,
    table_of,
)

STREAMS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
# What reads attributes under names that it is given, and what reads all attributes of what it is given.
_BY_NAME = {"getattr", "hasattr", "getattr_static", "attrgetter", "methodcaller", "__getattribute__", "import_module"}
_ALL_OF = {"vars", "dir", "__dict__"}
_ALL_OF_ARGUMENT = {
    copy.copy, copy.deepcopy, getattr(copy, "replace", copy.copy), pickle.dumps, dataclasses.asdict,
    dataclasses.astuple, dataclasses.fields, dataclasses.replace, inspect.getmembers, inspect.getmembers_static,
}  # fmt: skip
_OF_TREES = {
    "grad", "value_and_grad", "vjp", "jvp", "vmap", "scan", "checkpoint", "tree_map", "tree_flatten", "tree_leaves",
    "tree_structure",
}  # fmt: skip
# Run by making an object, or a class: those that are there are past them.
_MAKING = ("__init__", "__new__", "__post_init__", "__init_subclass__")
_PASSED = {
    *_MAKING, "__del__", "__set_name__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__",
    "__subclasshook__", "__class__", "__doc__", "__module__", "__dict__",
}  # fmt: skip
# Methods that no name in the code mentions: operators, iteration, `with`, attribute access.
_SPECIAL = {
    n for t in (int, float, list, dict, set, str, property, io.IOBase, type(iter(()))) for n in dir(t)
    if n.startswith("__") and callable(getattr(t, n))
} | {"__bool__", "__call__", "__getattr__", "__missing__", "__matmul__", "__rmatmul__", "__imatmul__"}  # fmt: skip
_SPECIAL -= _PASSED
_COMPARING = {
    "==", "index", "count", "remove", "min", "max", "sort", "sorted", "groupby", "hash", "set", "frozenset", "fromkeys",
    "eq", "ne", "lt", "le", "gt", "ge", "contains", "indexOf", "countOf", "bisect", "bisect_left", "bisect_right",
    "insort", "insort_left", "insort_right", *heapq.__all__,
}  # fmt: skip
# What dataclasses generate reads all fields: only where the code compares anything, or makes it a string.
_GENERATED = {
    **dict.fromkeys(("__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"), _COMPARING),
    "__repr__": {"repr", "str", "format", "print"},
}


class Space:
    """A namespace, `table(owner())`, and what of it is looked at."""

    def __init__(self, owner: Callable[[], Any], table: Callable[[Any], Mapping], kind: str, what: str):
        self.owner, self.table, self.kind, self.what = owner, table, kind, what
        self.held = owner()  # strong: a Space lives as long as the search
        self.now = table(self.held)
        self.taken: dict[str, Any] = {}
        self.fixed: dict[str, Callable[[Any], Any]] = {}  # what is looked at besides, by what it is
        self.extra: set[str] = set()  # names that are looked at whatever the code says
        self.reports = False  # whether `trace.attribute_changed` is called when it changes
        self.at = 0  # the names up to here were looked for

    def key(self, name: str) -> Any:
        return os.environ.encodekey(name) if self.kind == "environ" else name  # type: ignore[attr-defined]

    def absent(self, names: dict[str, int]) -> tuple[frozenset[Any], list[str]]:
        """Keys that would be looked at if they were there; names that come to be there by being looked at."""
        if self.kind == "library":
            return frozenset(), []
        least = CALLED if self.kind == "class" else READ
        found = {n for n, level in names.items() if level >= least} | self.extra
        lazy: list[str] = []
        if self.kind == "object":
            members = [item for k in type(self.held).__mro__ for item in vars(k).items()]
            # a method, which an attribute of the object itself would hide
            found |= {n for n, _ in members if names.get(n) == CALLED}
            lazy = [n for n, v in members if type(v) is functools.cached_property and n in found - self.now.keys()]
        return frozenset(key for key in map(self.key, found) if key not in self.now).difference(lazy), lazy

    def release(self) -> None:
        """What is looked at is known: keep nothing of it."""
        self.held = self.now = None  # type: ignore[assignment]
        self.taken = {}


class Reach:
    """Everything that `roots` (functions and arguments) lead to. `weak(value)` gives a weak reference where it can."""

    def __init__(self, roots: Iterable[Any], weak: Callable[[Any], Callable[[], Any] | None]):
        self._weak = weak
        self.names: dict[str, int] = {}
        self.spaces: list[Space] = []
        self.contents: list[tuple[Callable[[], Any], Any, str, bool]] = []  # path, container, what it is, reported
        self.tensors: list[Tensor] = []
        self.arrays: list[np.ndarray] = []
        self.layers: list[type] = []  # classes of ours whose `forward` is run
        self.streams: list[Any] = []  # random generators
        self.caches: list[Any] = []  # of functools.lru_cache
        self.consumed = ""  # an iterator: to read it is to change it
        self._seen: dict[int, Any] = {}  # strong, so that an id stands for one object
        self._classes: dict[int, Space] = {}
        self._events: list[str] = []  # names in the order found; once more where the level rises
        self._strings: list[str] = []
        self._candidates: dict[str, None] = {}  # names of modules that the code may import
        owner = functools.partial(same, sys)
        self._imports = self._space(owner, operator.attrgetter("modules"), "library", "module {}")
        self._imports.at = sys.maxsize  # nothing but these is looked at
        self._all = self._trees = False
        for root in roots:
            if type(root) is types.MethodType:  # made for the call
                self._enter(root)
            else:
                self._value(root, weak(root) or functools.partial(same, root), "an argument", False)
        state = None
        while state != (state := (len(self._events), len(self._seen), self._all, self._trees)):
            for space in self.spaces:  # grows meanwhile
                while space.at < len(self._events):
                    space.at += 1
                    self._look(space, self._events[space.at - 1])
            self._look_beyond_names()
        self.unknown = [n for n in self._candidates if n not in sys.modules]

    # --- names ---

    def _name(self, name: str, level: int = READ) -> None:
        if self.names.get(name, -1) < level:
            self.names[name] = level
            self._events.append(name)
            self._all = self._all or level == READ and name in _ALL_OF
            self._import(name)

    def _import(self, name: str) -> None:
        """The function may import a module of this name itself."""
        self._candidates[name] = None
        if is_users_module(name) and name not in self._imports.taken:
            self._take(self._imports, name)

    def _look(self, space: Space, name: str) -> None:
        value = space.now.get(space.key(name), MISSING)
        if value is not MISSING and name not in space.taken:
            level = self.names[name]
            if level == READ or not is_data(value) and (level == CALLED or space.kind == "class"):
                self._take(space, name)

    def _take(self, space: Space, name: str) -> None:
        key = space.key(name)
        value = space.taken[name] = space.now[key]
        cls = type(space.held)
        reported = space.reports and (is_library(cls) or is_constant(value))
        reported = reported or name in getattr(cls, "reports_changes", ())
        self._value(value, lambda: space.table(space.owner())[key], space.what.format(name), reported)

    def _fix(self, space: Space, what: str, get: Callable[[Any], Any]) -> None:
        space.fixed[what] = get
        self._value(get(space.held), lambda: get(space.owner()), what, False)

    def _value(self, value: Any, path: Callable[[], Any], what: str, reported: bool) -> None:
        if is_container(value):
            self.contents.append((path, value, what, reported))
        self._enter(value, path)

    def _look_beyond_names(self) -> None:
        if not _BY_NAME.isdisjoint(self.names):
            for text in self._strings:
                for word in words(text):
                    self._name(word)
            self._strings.clear()
        for space in self.spaces:
            names: Iterable[str] = ()
            if space.kind == "class" and "__dataclass_fields__" in space.now:
                names = [n for n, by in _GENERATED.items() if n in space.now and not by.isdisjoint(self.names)]
            if self._all and space.kind in ("object", "class", "module") and not is_installed(type(space.held)):
                names = [n for n in space.now if not n.startswith("__")]
                if space.kind == "object":
                    space.fixed["the number of attributes"] = lambda o, table=space.table: len(table(o))
            elif type(space.held) is types.SimpleNamespace and not _COMPARING.isdisjoint(self.names):
                names = [*space.now]
                space.fixed["the number of attributes"] = lambda o, table=space.table: len(table(o))
            elif self._trees and dataclasses.is_dataclass(space.held):
                names = [f.name for f in dataclasses.fields(space.held) if f.name in space.now]
            for name in [n for n in names if n not in space.taken]:
                self._take(space, name)

    # --- objects ---

    def _enter(self, value: Any, path: Callable[[], Any] | None = None) -> None:
        cls = type(value)
        if issubclass(cls, SCALARS) and is_library(cls):
            if cls is str:
                self._strings.append(value)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if issubclass(cls, Tensor):
            self.tensors.append(value)
            self._class(cls, made=False)
            if getattr(value, "__dict__", None):
                self._instance(value, cls, path)
        elif issubclass(cls, np.ndarray):
            self.arrays.append(value)
        elif is_container(value):
            self._enter_all(value)
            if not is_library(cls):
                self._class(cls, made=False)
        elif cls is types.FunctionType:
            self._function(value)
        elif issubclass(cls, type):
            self._class(value, made=True)
        elif issubclass(cls, types.ModuleType):
            self._module(value)
        else:
            self._object(value, cls, path)

    def _enter_all(self, container: Any) -> None:
        parts = listing(type(container))(container)  # type: ignore[misc]
        if len(parts) <= 2 * MAX_ELEMENTS:
            for part in parts:
                self._enter(part)

    def _space(self, owner: Any, table: Callable[[Any], Mapping], kind: str, what: str) -> Space:
        self.spaces.append(Space(owner, table, kind, what))
        return self.spaces[-1]

    def _function(self, fn: types.FunctionType) -> None:
        code = fn.__code__
        if not is_users(code.co_filename):
            self._all = self._all or fn in _ALL_OF_ARGUMENT
            if fn is os.getenv:
                self._enter(os.environ)
            self._trees = self._trees or code.co_filename.startswith(PACKAGE) and fn.__name__ in _OF_TREES
            self._enter_held(fn)
            return
        names, variables = names_of(code)
        package = str(fn.__globals__.get("__package__") or "")
        for name, level in names.items():
            self._name(name, level)
            for k in range(package.count(".") + 1 if package else 0):  # `from .name import x`, `from . import name`
                self._import(f"{package.rsplit('.', k)[0]}.{name}".rstrip("."))
        space = self._space(self._weak(fn), dict_of, "function", f"'{{}}' of {fn.__name__}")
        space.fixed[f"the code of {fn.__name__}"] = operator.attrgetter("__code__")
        for name in ("defaults", "kwdefaults"):
            self._fix(space, f"the {name} of {fn.__name__}", operator.attrgetter(f"__{name}__"))
        for k, name in enumerate(code.co_freevars):
            get = ClosureCell(k)
            if name == "__class__":  # of super(): objects of the class are there, nobody makes one
                space.fixed[name] = get
            elif variables[name] == READ or variables[name] == CALLED and not is_data(get(fn)):
                self._fix(space, f"variable {name} (in {fn.__name__})", get)
        if id(fn.__globals__) not in self._seen:
            self._seen[id(fn.__globals__)] = fn.__globals__
            where = f"global {{}} (in {fn.__name__})"
            self._space(self._weak(fn), operator.attrgetter("__globals__"), "globals", where)

    def _class(self, cls: type, made: bool) -> None:
        """`made`: the code has the class itself, so it may make objects of it and match their fields."""
        for k in cls.__mro__:
            if is_library(k):
                continue
            table, space = vars(k), self._classes.get(id(k))
            if space is None:
                space = self._space(self._weak(k), dict_of, "class", f"'{{}}' of class {k.__name__}")
                self._classes[id(k)] = space
                space.fixed[f"the bases of class {k.__name__}"] = bases_of
                space.extra |= {n for n, v in table.items() if n[:2] == n[-2:] == "__" and callable(v)} - _PASSED
                space.extra |= _SPECIAL | _names_of_bases(k)
                if "__dataclass_fields__" in table:
                    space.extra -= _GENERATED.keys()
            if made:
                space.extra.update(_MAKING)
                for name in table.get("__match_args__", ()):
                    self._name(name)
            for name in [n for n in space.extra if n in table and n not in space.taken]:
                self._take(space, name)
        if not is_library(type(cls)):
            self._class(type(cls), made=False)

    def _module(self, module: types.ModuleType) -> None:
        users = is_of_users(module)
        kind = "module" if users else "library"
        self._space(self._weak(module), dict_of, kind, f"{{}} of {module.__name__}").extra.add("__getattr__")
        if users and "__getattr__" in vars(module):
            self._take(self.spaces[-1], "__getattr__")

    def _object(self, value: Any, cls: type, path: Callable[[], Any] | None) -> None:
        if issubclass(cls, STREAMS):
            self.streams.append(value)
        elif cls in (types.BuiltinFunctionType, types.MethodWrapperType):
            if not isinstance(value.__self__, types.ModuleType):
                self._enter(value.__self__)
            elif value.__name__ in _BY_NAME:
                self._name(value.__name__)
            self._all = self._all or value in _ALL_OF_ARGUMENT
        elif cls in weakref.ProxyTypes:
            self._enter(value.__repr__.__self__)
        elif cls in (operator.attrgetter, operator.methodcaller):
            for word in words(value.__reduce__()[1]):
                self._name(word)
        elif value is os.environ:
            self._space(lambda: os.environ, operator.attrgetter("_data"), "environ", "environment variable {}")
        elif is_library(cls) and hasattr(cls, "__next__") and not issubclass(cls, io.IOBase):
            self.consumed = self.consumed or f"a {cls.__name__}"
        else:
            self._instance(value, cls, path)

    def _instance(self, value: Any, cls: type, path: Callable[[], Any] | None) -> None:
        owner = self._weak(value) or path or functools.partial(same, value)
        library = is_library(cls)
        named = cls.__module__.startswith("dlc.") or not hasattr(cls, "__get__")
        if not library or named and type(getattr(value, "__dict__", None)) is dict:
            space = self._space(owner, table_of(cls), "object", f"'{{}}' of a {cls.__name__}")
            space.reports = hasattr(cls, "reports_changes") and cls.__setattr__ is not object.__setattr__
            space.fixed[f"the class of a {cls.__name__}"] = type
            if not library or cls.__module__.startswith(("dlc.nn.", "dlc.optim.", "dlc.data.")):
                space.extra |= _names_of_bases(cls)
            if hasattr(cls, "reports_changes"):  # layers get at their settings by name
                space.extra.update(w for v in space.now.values() for w in words(v))
                self.layers += [k for k in cls.__mro__ if is_library(k) and hasattr(k, "forward")]
                self._enter(getattr(cls, "forward", None))
            for name in [n for n in space.extra if n in space.now]:
                self._take(space, name)
        self._class(cls, made=False)
        if library:
            self._enter_held(value)
        elif listing(cls) is not None:  # a list or dict with attributes of its own
            self.contents.append((owner, value, f"a {cls.__name__}", False))
            self._enter_all(value)

    def _enter_held(self, value: Any) -> None:
        """Enter what an object of a library holds of the user's: functions that it wraps, objects in a closure."""
        if isinstance(value, functools._lru_cache_wrapper):
            self.caches.append(value)
        for part in held_by(value):
            cls = part if isinstance(part, type) else type(part)
            if not is_library(cls) or cls is not part and (callable(part) or hasattr(cls, "__get__")):
                self._enter(part)


# --- kinds of objects ---


def _names_of_bases(cls: type) -> frozenset[str]:
    """Names that code of libraries in the bases of `cls` (or of ours in `cls`) reads: the user's code has them not."""
    return frozenset[str]().union(*(_names_in_class(k) for k in cls.__mro__ if is_library(k)))


@functools.lru_cache(1024)
def _names_in_class(cls: type) -> frozenset[str]:
    out: set[str] = set()
    for member in vars(cls).values():
        member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        member = inspect.unwrap(member) if isinstance(member, types.FunctionType) else None
        if isinstance(member, types.FunctionType):
            out.update(n for n, level in names_of(member.__code__).names.items() if level == READ)
    return frozenset(out - _PASSED)
