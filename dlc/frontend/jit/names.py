"""Names for the parameters of a traced graph: how the function reaches each Tensor, as `model.0.weight`.

Tensors are searched in the arguments, in closure variables, in the globals that the function names and in the modules
beside it; attributes and containers are followed, and the tables that objects keep for themselves (`_parameters`) leave
no mark on a name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dlc.frontend import random
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.jit.entry import Entry
from dlc.ir.graph.graph import rename

MAX_DEPTH = 12


def name_parameters(entry: Entry, function: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
    """Put names on the parameters of `entry.graph`, traced from function(*args, **kwargs), that have none."""
    names = _Names()
    # modules first: a parameter's own name is better than its place in an optimizer
    for name, value in sorted(_roots(function, args, kwargs), key=lambda root: not _is_module(root[1])):
        names.visit(value, (name,), 0)
    params = entry.graph.params
    start = len(entry.arg_slots) + len(entry.number_slots)
    for node, ref in zip(params[start:], entry.cells, strict=False):
        cell = ref()
        if id(cell) in names.of and not node.attrs.get("name"):
            rename(node, names.of[id(cell)])
    start += len(entry.cells)
    for node, ref in zip(params[start:], (*entry.grads.held, *entry.grads.targets), strict=False):
        owner = ref if isinstance(ref, int) else ref()
        if id(owner) in names.of:
            rename(node, f"{names.of[id(owner)]}.grad")


def _is_module(value: Any) -> bool:
    return hasattr(value, "forward") and not inspect.isclass(value)


def _roots(function: Any, args: tuple, kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
        yield from bound.arguments.items()
        seen = inspect.getclosurevars(function)
        yield from seen.nonlocals.items()
        yield from ((k, v) for k, v in seen.globals.items() if not inspect.ismodule(v))
        yield from ((k, v) for k, v in function.__globals__.items() if _is_module(v))
    except (TypeError, ValueError, AttributeError):
        pass  # a callable without a signature or without code: its parameters keep their numbers
    yield "random", random.default_generator


class _Names:
    """Tensor id -> the first name that it was reached by."""

    def __init__(self) -> None:
        self.of: dict[int, str] = {}
        self.seen: set[int] = set()

    def visit(self, value: Any, path: tuple[str, ...], depth: int) -> None:
        if isinstance(value, Tensor):
            self.of.setdefault(id(value), ".".join(path))
            return
        if id(value) in self.seen or depth > MAX_DEPTH or inspect.ismodule(value):
            return
        if isinstance(value, Mapping):
            items = [(self.word(k), v) for k, v in value.items()]
        elif isinstance(value, (list, tuple)):
            items = [(str(k), v) for k, v in enumerate(value)]
        elif not callable(value) or hasattr(value, "forward"):
            items = []
        else:
            return
        if hasattr(value, "__dict__") and not inspect.isclass(value):
            items += list(vars(value).items())
        self.seen.add(id(value))
        for word, item in items:
            self.visit(item, path if word.startswith("_") else (*path, word), depth + 1)

    def word(self, key: Any) -> str:
        return self.of.get(id(key), "_") if isinstance(key, Tensor) else str(key)
