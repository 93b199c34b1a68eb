"""Kinds of objects, as guards tell them apart: the user's and libraries', data and containers, what they hold."""

from __future__ import annotations

import collections
import contextvars
import functools
import gc
import operator
import os
import re
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Mapping, MappingView, Sequence, Set
from typing import Any

import numpy as np

from dlc.base.errors import PACKAGE
from dlc.frontend.core.tensor import Tensor

MAX_ELEMENTS = 20000  # larger containers are not watched
MISSING = object()
SCALARS = (int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range, slice, np.generic)
_PLAIN = frozenset(SCALARS)
_LIBRARIES = tuple({os.path.join(p, "") for k, p in sysconfig.get_paths().items() if k.endswith(("stdlib", "lib"))})
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]")
_HEAP_TYPE = 1 << 9
_LINK = "_lru_list_elem"  # in the cache of functools.lru_cache
dict_of = operator.attrgetter("__dict__")
bases_of = operator.attrgetter("__bases__")


@functools.lru_cache(4096)
def is_users(filename: str) -> bool:
    """Whether code in this file is the user's own: not ours, and not an installed library's."""
    library = filename.startswith((PACKAGE, *_LIBRARIES, "<frozen ")) or _INSTALLED.search(filename)
    return bool(filename) and not library


def is_users_module(name: str) -> bool:
    """Whether a module of this name, of the user's own, has been imported."""
    module = sys.modules.get(name)
    return isinstance(module, types.ModuleType) and is_of_users(module)


def is_of_users(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file or not hasattr(module, "__path__"):  # one without a file was made at run time
        return is_users(file) if file else module.__name__.partition(".")[0] not in sys.stdlib_module_names
    return any(is_users(os.path.join(path, "")) for path in module.__path__)  # a package that is only folders


def is_library(cls: type) -> bool:
    """Whether a class is ours or an installed library's."""
    if not cls.__flags__ & _HEAP_TYPE:
        return True
    if cls.__module__ == "builtins":  # made by `exec` in a namespace without a name
        return False
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file:
        return not is_users(file)
    return cls.__module__ in sys.stdlib_module_names


def is_installed(cls: type) -> bool:
    """Whether a class is ours or of an installed library, but not Python's own."""
    return is_library(cls) and cls.__module__.partition(".")[0] not in sys.stdlib_module_names


def is_data(value: Any) -> bool:
    """Whether it cannot be called and has no methods of the user's: a number, a string, a container."""
    return is_library(type(value)) and (isinstance(value, SCALARS) or is_container(value) and not callable(value))


def by_content(value: Any) -> bool:
    """Whether only the content of such an object is compared, not which object it is.

    No weak reference to it can be had, or one would say nothing.
    """
    cls = type(value)
    if not cls.__flags__ & _HEAP_TYPE or is_library(cls):
        return listing(cls) is not None
    return not cls.__weakrefoffset__ and not issubclass(cls, (*SCALARS, Tensor, type))


def is_container(value: Any) -> bool:
    """Whether it is looked into where it is compared."""
    return by_content(value) and listing(type(value)) is not None


def is_leaf(value: Any) -> bool:
    """Whether it is compared itself where it stands in a container, not what it holds."""
    return type(value) in _PLAIN or not is_container(value) or type(value) is tuple and is_constant(value)


def is_lasting(value: Any) -> bool:
    """Whether it is a module of a library, or a function or class that such a module holds under its name."""
    if isinstance(value, types.ModuleType):
        return sys.modules.get(value.__name__) is value and not is_of_users(value)
    if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return False
    module = sys.modules.get(value.__module__ or "")
    return getattr(module, value.__name__, None) is value and is_lasting(module)


def is_constant(value: Any) -> bool:
    return type(value) in (tuple, frozenset) and all(type(part) in SCALARS for part in value)


def listing(cls: type) -> Callable[[Any], Sequence[Any]] | None:
    """How to list what instances of a class of containers hold; None for other classes."""
    found = _LISTINGS.get(cls, MISSING)
    if found is MISSING:
        found = next((how for base, how in _LISTINGS.items() if issubclass(cls, base)), None)
        if found is None and is_library(cls) and not is_installed(cls) and cls is not type(os.environ):
            if issubclass(cls, Mapping):
                found = _pairs
            elif issubclass(cls, (MappingView, Sequence, Set)) and not issubclass(cls, (*SCALARS, memoryview)):
                found = tuple
        if is_library(cls):
            _LISTINGS[cls] = found
    return found


def _pairs(d: Any) -> tuple:
    return (*d, *d.values())


_LISTINGS: dict[type, Any] = {
    tuple: tuple,
    list: tuple,
    collections.OrderedDict: _pairs,
    collections.defaultdict: lambda d: (d.default_factory, *_pairs(d)),
    dict: lambda d: (*dict.keys(d), *dict.values(d)),
    set: lambda s: sorted(s, key=hash),
    frozenset: lambda s: sorted(s, key=hash),
    collections.deque: tuple,
    bytearray: lambda b: (bytes(b),),
    memoryview: lambda m: (bytes(m),),
    collections.UserString: lambda s: (s.data,),
    types.MethodType: lambda m: (m.__func__, m.__self__),
    functools.partial: lambda f: (f.func, *f.args, *_pairs(f.keywords)),
    weakref.ref: lambda r: (r(),),
    contextvars.ContextVar: lambda v: (v.get(MISSING),),
}


def flat(container: Any) -> list[Any]:
    """The class of a container and what it holds; containers in it likewise, in their places. One that was there
    before (containers may hold each other) is only a number.
    """
    out: list[Any] = [type(container)]
    seen: dict[int, tuple[int, Any]] = {id(container): (0, container)}  # kept, so that an id stands for one object
    left = [iter(listing(type(container))(container))]  # type: ignore[misc]
    while left:
        for part in left[-1]:
            if is_leaf(part):
                out.append(part)
            elif id(part) in seen:
                out.append(seen[id(part)][0])
            else:
                seen[id(part)] = len(seen), part
                out.append(type(part))
                left.append(iter(listing(type(part))(part)))  # type: ignore[misc]
                break
        else:
            left.pop()
    return out


def held_by(value: Any) -> list[Any]:
    """What an object holds, and the elements of containers that it holds."""
    if isinstance(value, types.FunctionType):
        found = [ClosureCell(k)(value) for k in range(len(value.__closure__ or ()))] + list(vars(value).values())
    else:
        found = gc.get_referents(value)
    for part in [*found]:
        how = listing(type(part))
        if how is not None and (not hasattr(part, "__len__") or len(part) <= MAX_ELEMENTS):
            found += how(part)
    return [p for part in found for p in (gc.get_referents(part) if type(part).__name__ == _LINK else (part,))]


def table_of(cls: type) -> Callable[[Any], Mapping]:
    """How to get at the attributes of an instance, without running code of its class."""
    slots = {n: v for k in cls.__mro__ for n, v in vars(k).items() if isinstance(v, types.MemberDescriptorType)}
    if is_library(cls) or not slots and cls.__getattribute__ is object.__getattribute__:
        return dict_of

    def table(value: Any) -> dict[str, Any]:
        out = dict(_raw_dict(value))
        for name, slot in slots.items():
            try:
                out[name] = slot.__get__(value, cls)
            except AttributeError:  # not set
                pass
        return out

    return table


def _raw_dict(value: Any) -> Mapping:
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}


def same(value: Any) -> Any:
    return value


class ClosureCell:
    """What variable `k` of those that a function closes over holds."""

    def __init__(self, k: int):
        self.k = k

    def __call__(self, fn: types.FunctionType) -> Any:
        try:
            return fn.__closure__[self.k].cell_contents  # type: ignore[index]
        except ValueError:  # still empty: a function that names itself
            return MISSING
