"""`grad`, `value_and_grad`, `vjp`, `jvp`, `stop_gradient`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, ShapeError, kind_of
from dlc.frontend.core import eager
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.core.trace import state
from dlc.frontend.core.tree import TreeDef, paths, tree_flatten, tree_map, tree_unflatten
from dlc.frontend.jit.calls import name_of
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, make, unique
from dlc.passes.autodiff import jvp as forward
from dlc.passes.autodiff.vjp import expand_nodes

Axes = Any


@contextlib.contextmanager
def _differentiating() -> Iterator[None]:
    """Inside, jitted functions are part of what is differentiated, and gradients are on."""
    saved = state.no_grad
    state.no_grad = False
    state.transforms += 1
    try:
        yield
    finally:
        state.transforms -= 1
        state.no_grad = saved


def check_callable(what: str, fn: Any) -> None:
    """Raise TypeError where a transform is given something else than a function."""
    if not callable(fn):
        raise TypeError(f"{what}: needs a function, got a {kind_of(fn)}\n  at {here()}")


def stop_gradient(tree: Any) -> Any:
    """The same values, with no gradient to what they came from."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def value_and_grad(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns (fn(...), gradients with respect to the arguments `argnums`).

    `fn` returns a float scalar, or (scalar, aux) with `has_aux`, and then the result is ((scalar, aux), gradients).
    Gradients have the tree, shapes and dtypes of the argument; for several argnums they come as a tuple.
    """
    check_callable("grad", fn)
    several = not isinstance(argnums, int)
    numbers = tuple(argnums) if several else (argnums,)  # type: ignore[arg-type]

    @functools.wraps(fn)
    @functools.partial(user_errors, name="grad")
    def value_and_grad(*args: Any, **kwargs: Any) -> Any:
        loc = here()
        args_list = list(args)
        with _differentiating():
            tags: list[Node] = []
            trees: list[TreeDef] = []
            for k in numbers:
                if not -len(args) <= k < len(args):
                    raise ShapeError(f"grad: {name_of(fn)} got {len(args)} positional arguments; argnums has {k}")
                args_list[k], treedef, new = _tagged(args[k], f"argument {k} of {name_of(fn)}")
                tags += new
                trees.append(treedef)
            out = fn(*args_list, **kwargs)
            value, aux = out if has_aux else (out, None)
            root = _scalar(value, fn)
            bundle = make("vjp", (root, build.like(root, 1, loc), *tags), loc, outputs=1)
            grads = [pending(build.item(bundle, k, loc)) for k in range(len(tags))]
        leaves = iter(grads)
        each = tuple(tree_unflatten(t, [next(leaves) for _ in range(t.size)]) for t in trees)
        value = pending(root)
        return (value, aux) if has_aux else value, each if several else each[0]

    return value_and_grad


def grad(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns the gradients of `fn` (see `value_and_grad`); (gradients, aux) with `has_aux`."""
    both = value_and_grad(fn, argnums, has_aux)

    @functools.wraps(fn)
    def grad(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return grad


@user_errors
def vjp(fn: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """(fn(*primals), pullback): `pullback(cotangents)`, of the tree of the result, gives a tuple with one entry a
    primal.

    With `has_aux`, `fn` returns (result, aux) and the answer is (result, pullback, aux).
    """
    tags, trees, inside = [], [], []
    with _differentiating():
        for k, primal in enumerate(primals):
            tree, treedef, new = _tagged(primal, f"argument {k} of {name_of(fn)}")
            inside.append(tree)
            tags += new
            trees.append(treedef)
        out = fn(*inside)
        out, aux = out if has_aux else (out, None)
        leaves, out_tree = tree_flatten(out)
        roots = [as_node(leaf) for leaf in leaves]

    @user_errors
    def pullback(cotangents: Any) -> tuple:
        loc = here()
        given, tree = tree_flatten(cotangents)
        if tree != out_tree:
            raise ShapeError(f"vjp: cotangents with the tree {show(tree)} for a result {show(out_tree)}")
        cts = [_like(ct, root, "cotangent") for ct, root in zip(given, roots, strict=True)]
        with _differentiating():
            bundle = make("vjp", (*roots, *cts, *tags), loc, outputs=len(roots))
            grads = iter([pending(build.item(bundle, k, loc)) for k in range(len(tags))])
        return tuple(tree_unflatten(t, [next(grads) for _ in range(t.size)]) for t in trees)

    result = tree_unflatten(out_tree, [pending(r) for r in roots])
    return (result, pullback, aux) if has_aux else (result, pullback)


@user_errors
def jvp(fn: Callable, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(fn(*primals), its derivative in the direction `tangents`): both have the tree of the result.

    `primals` and `tangents` are sequences with one entry an argument, of equal trees, shapes and float dtypes.
    """
    if len(primals) != len(tangents):
        raise ShapeError(f"jvp: {len(primals)} primals and {len(tangents)} tangents")
    tags, moves, inside = [], [], []
    with _differentiating():
        for k, (primal, tangent) in enumerate(zip(primals, tangents, strict=True)):
            tree, treedef, new = _tagged(primal, f"argument {k} of {name_of(fn)}")
            given, given_tree = tree_flatten(tangent)
            if given_tree != treedef:
                raise ShapeError(f"jvp: tangent {k} has the tree {show(given_tree)}, its primal {show(treedef)}")
            inside.append(tree)
            tags += new
            moves += [_like(t, tag, "tangent") for t, tag in zip(given, new, strict=True)]
        out = fn(*inside)
        leaves, out_tree = tree_flatten(out)
        roots = [as_node(leaf) for leaf in leaves]
        moved = forward.jvp(expand_nodes(roots), tags, moves)
        values, derivatives = [pending(r) for r in roots], [pending(m) for m in moved]
    return tree_unflatten(out_tree, values), tree_unflatten(out_tree, derivatives)


def _tagged(tree: Any, what: str) -> tuple[Any, TreeDef, list[Node]]:
    """`tree` with every leaf under a name of its own to differentiate at."""
    leaves, treedef = tree_flatten(tree)
    tags = []
    for path, leaf in zip(paths(treedef, what), leaves, strict=True):
        if not isinstance(leaf, (Tensor, np.ndarray, np.generic, int, float)) or isinstance(leaf, bool):
            raise DTypeError(
                f"grad: {path} is a {kind_of(leaf)}; gradients are for float Tensors and trees of them"
            )
        node = as_node(leaf)
        if not node.dtype.is_float:
            raise DTypeError(f"grad: {path} is {node.dtype.name}; only float tensors have gradients")
        tags.append(make("tag", (node,), here(), uid=unique()))
    return tree_unflatten(treedef, [wrap(t) for t in tags]), treedef, tags


def _scalar(value: Any, fn: Callable) -> Node:
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"grad: {name_of(fn)} must return a scalar Tensor, not {type(value).__name__} "
            "(has_aux=True allows (loss, aux))"
        )
    if value.shape != ():
        raise ShapeError(f"grad: {name_of(fn)} must return a scalar, not shape {value.shape}")
    if not value.dtype.is_float:
        raise DTypeError(f"grad: {name_of(fn)} returns {value.dtype.name}; only floats have gradients")
    return value.node


def _like(value: Any, like: Node, what: str) -> Node:
    node = as_node(value)
    if isinstance(value, (int, float)):
        node = build.cast(node, like.dtype)
    if node.shape != like.shape or node.dtype is not like.dtype:
        raise ShapeError(f"{what} {node.dtype.name} {node.shape} for a value {like.dtype.name} {like.shape}")
    return node


def pending(node: Node) -> Tensor:
    """A result that is computed with whatever is looked at first: its siblings share most of their work with it."""
    out = wrap(node)
    if state.trace is None:
        eager.mark_pending(out)
    return out


def show(treedef: TreeDef) -> str:
    if treedef.kind is None:
        return "*"
    return f"{treedef.kind.__name__}({', '.join(map(show, treedef.children))})"
