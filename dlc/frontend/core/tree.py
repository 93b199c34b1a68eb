"""Trees of values: dicts, lists, tuples, named tuples, dataclasses and registered classes, with anything else as
leaves.

None is a tree without leaves. A `TreeDef` is hashable and says how to put leaves back together.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from dlc.base.errors import ShapeError


class TreeDef(NamedTuple):
    """The shape of a tree: the class of its root, what else the root needs to be rebuilt, and the shapes of its
    children.
    """

    kind: type | None  # None: a leaf
    aux: Any = None
    children: tuple[TreeDef, ...] = ()

    @property
    def size(self) -> int:
        """How many leaves."""
        return 1 if self.kind is None else sum(c.size for c in self.children)


LEAF = TreeDef(None)

Flatten = Callable[[Any], tuple[Iterable[Any], Any]]
Unflatten = Callable[[Any, list[Any]], Any]

_registry: dict[type, tuple[Flatten, Unflatten]] = {
    list: (lambda x: (x, None), lambda aux, children: children),
    tuple: (lambda x: (x, None), lambda aux, children: tuple(children)),
    dict: (lambda x: (x.values(), tuple(x)), lambda aux, children: dict(zip(aux, children, strict=True))),
    OrderedDict: (lambda x: (x.values(), tuple(x)), lambda aux, children: OrderedDict(zip(aux, children, strict=True))),
    type(None): (lambda x: ((), None), lambda aux, children: None),
}


def register_tree(cls: type, flatten: Flatten, unflatten: Unflatten) -> None:
    """Make instances of `cls` trees: `flatten(x) -> (children, aux)` with a hashable aux; `unflatten(aux, children) ->
    x`.
    """
    _registry[cls] = (flatten, unflatten)


def node_of(cls: type) -> tuple[Flatten, Unflatten] | None:
    """How to take instances of `cls` apart, or None where they are leaves."""
    found = _registry.get(cls)
    if found is not None:
        return found
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        register_tree(cls, lambda x: (x, None), lambda aux, children: cls(*children))
    elif dataclasses.is_dataclass(cls):
        names = tuple(f.name for f in dataclasses.fields(cls))
        register_tree(cls, lambda x: ([getattr(x, n) for n in names], names), lambda aux, c: _rebuild(cls, aux, c))
    else:
        return None
    return _registry[cls]


def _rebuild(cls: type, names: tuple[str, ...], values: list[Any]) -> Any:
    out = object.__new__(cls)  # not __init__: it may check or convert, and the values may be anything (None, traced)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(out, name, value)
    return out


def tree_flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeDef]:
    """(leaves, TreeDef) of `tree`, leaves from left to right, dicts in their own order."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves, is_leaf)


def _flatten(tree: Any, leaves: list[Any], is_leaf: Callable[[Any], bool] | None) -> TreeDef:
    cls = type(tree)
    how = node_of(cls)
    if how is None or (is_leaf is not None and is_leaf(tree)):
        leaves.append(tree)
        return LEAF
    children, aux = how[0](tree)
    return TreeDef(cls, aux, tuple(_flatten(c, leaves, is_leaf) for c in children))


def tree_unflatten(treedef: TreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of `treedef` with `leaves`."""
    leaves = list(leaves)
    if len(leaves) != treedef.size:
        raise ShapeError(f"tree_unflatten: {len(leaves)} leaves for a tree of {treedef.size}")
    return _unflatten(treedef, iter(leaves))


def _unflatten(treedef: TreeDef, leaves: Any) -> Any:
    if treedef.kind is None:
        return next(leaves)
    children = [_unflatten(c, leaves) for c in treedef.children]
    return _registry[treedef.kind][1](treedef.aux, children)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of `tree`."""
    return tree_flatten(tree)[0]


def tree_structure(tree: Any) -> TreeDef:
    """The TreeDef of `tree`."""
    return tree_flatten(tree)[1]


def tree_map(fn: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """`fn` over the leaves of `tree`, together with the values at the same places of the trees `rest`.

    Trees in `rest` must have the structure of `tree` (dicts may have another order), and may go deeper.
    """
    leaves, treedef = tree_flatten(tree, is_leaf)
    columns = [leaves]
    for other in rest:
        column: list[Any] = []
        _flatten_up_to(treedef, other, column, "tree")
        columns.append(column)
    return tree_unflatten(treedef, [fn(*row) for row in zip(*columns, strict=True)])


def _flatten_up_to(treedef: TreeDef, tree: Any, out: list[Any], path: str) -> None:
    if treedef.kind is None:
        out.append(tree)
        return
    if type(tree) is not treedef.kind:
        raise ShapeError(f"tree_map: {path} is a {type(tree).__name__}, in the first tree a {treedef.kind.__name__}")
    children: Sequence[Any]
    if isinstance(tree, dict):
        if set(tree) != set(treedef.aux):
            raise ShapeError(f"tree_map: {path} has keys {list(tree)}, in the first tree {list(treedef.aux)}")
        names, children = treedef.aux, [tree[k] for k in treedef.aux]
    else:
        children = list(_registry[treedef.kind][0](tree)[0])
        names = range(len(children))
    if len(children) != len(treedef.children):
        raise ShapeError(f"tree_map: {path} has {len(children)} children, in the first tree {len(treedef.children)}")
    for name, child, sub in zip(names, children, treedef.children, strict=True):
        _flatten_up_to(sub, child, out, f"{path}[{name!r}]")


def paths(treedef: TreeDef, prefix: str) -> list[str]:
    """A name for each leaf: `batch['x'][0]`."""
    if treedef.kind is None:
        return [prefix]
    if treedef.kind in (dict, OrderedDict):
        names = [f"[{k!r}]" for k in treedef.aux]
    elif isinstance(treedef.aux, tuple) and len(treedef.aux) == len(treedef.children):
        names = [f".{k}" for k in treedef.aux]
    else:
        names = [f"[{i}]" for i in range(len(treedef.children))]
    return [p for name, child in zip(names, treedef.children, strict=True) for p in paths(child, prefix + name)]
