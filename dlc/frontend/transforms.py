"""Function transforms: gradients, forward derivatives, batching, loops and recomputation. They compose in any nesting.

`grad`, `vjp` and `jvp` need no trace of their own: the inputs are wrapped in `tag` nodes, at which the result is then
differentiated. `vmap`, `scan` and `checkpoint` trace the function for one example or one step.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dlc.frontend import eager, placement
from dlc.frontend.calls import name_of
from dlc.frontend.location import here, kind_of, user_errors
from dlc.frontend.tensor import Tensor, as_node, bare, is_weak, wrap
from dlc.frontend.trace import Trace, state
from dlc.frontend.tree import LEAF, TreeDef, paths, tree_flatten, tree_map, tree_structure, tree_unflatten
from dlc.ir import build, dtypes
from dlc.ir.errors import DTypeError, ShapeError, TraceError
from dlc.ir.graph import Graph, Node, TensorType, make, param, substitute, topological, unique
from dlc.passes import jvp as forward
from dlc.passes import vmap as batching
from dlc.passes.vjp import expand_nodes

Axes = Any


class no_grad(contextlib.ContextDecorator):
    """Context and decorator: what is computed inside carries no gradients back."""

    _off = True

    def __new__(cls, function: Callable | None = None) -> Any:
        """With a function: `@no_grad` without parentheses."""
        return super().__new__(cls) if function is None else cls()(function)

    def __enter__(self) -> None:
        self._stack = [*getattr(self, "_stack", ()), state.no_grad]
        state.no_grad = self._off

    def __exit__(self, *exc) -> None:
        state.no_grad = self._stack.pop()


class enable_grad(no_grad):
    """Context and decorator: gradients again, inside `no_grad`."""

    _off = False


class inference_mode(no_grad):
    """PyTorch's other name of `no_grad`; `inference_mode(False)` is `enable_grad`."""

    def __new__(cls, mode: Callable | bool = True) -> Any:
        return super().__new__(cls, mode if callable(mode) else None)

    def __init__(self, mode: Callable | bool = True):
        self._off = mode is not False


def is_grad_enabled() -> bool:
    """Whether gradients are recorded here (no `no_grad` around)."""
    return not state.no_grad


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


# --- reverse mode ------------------------------------------------------------------------------------------------


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
            raise ShapeError(f"vjp: cotangents with the tree {_show(tree)} for a result {_show(out_tree)}")
        cts = [_like(ct, root, "cotangent") for ct, root in zip(given, roots, strict=True)]
        with _differentiating():
            bundle = make("vjp", (*roots, *cts, *tags), loc, outputs=len(roots))
            grads = iter([pending(build.item(bundle, k, loc)) for k in range(len(tags))])
        return tuple(tree_unflatten(t, [next(grads) for _ in range(t.size)]) for t in trees)

    result = tree_unflatten(out_tree, [pending(r) for r in roots])
    return (result, pullback, aux) if has_aux else (result, pullback)


# --- forward mode ------------------------------------------------------------------------------------------------


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
                raise ShapeError(f"jvp: tangent {k} has the tree {_show(given_tree)}, its primal {_show(treedef)}")
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


def _show(treedef: TreeDef) -> str:
    if treedef.kind is None:
        return "*"
    return f"{treedef.kind.__name__}({', '.join(map(_show, treedef.children))})"


# --- tracing a body ----------------------------------------------------------------------------------------------


class Body:
    """A function traced on placeholders, for vmap, scan and checkpoint."""

    def __init__(self, kind: str, fn: Callable):
        self.kind, self.fn = kind, fn
        self.scope = Trace(kind, name_of(fn), state.trace)

    def run(
        self, leaves: list[tuple[TensorType, str]], call: Callable[[list[Tensor]], Any], values: Iterable[Node] = ()
    ) -> tuple[list[Node], TreeDef]:
        """Call with a Tensor for each of `leaves`; the nodes and the tree of the result.

        `values` are what the leaves stand for: they say on which device.
        """
        loc = here()
        self.params = [param(t, name, loc) for t, name in leaves]
        if placement.several:
            placement.note_all(self.params, values)
        with self.scope:
            result = call([bare(p, self.scope) for p in self.params])
            out, treedef = tree_flatten(result)
            nodes = [as_node(leaf) for leaf in out]
        for record in self.scope.grads.values():
            if record.current is not None and not record.read:
                raise TraceError(
                    f"`.grad` was set inside {self.kind} of {name_of(self.fn)}: return the gradient instead\n  at {loc}"
                )
        records = list(self.scope.cells.values())
        self.assigned = [r for r in records if r.assigned]
        self.read = [r for r in records if not r.assigned]
        return nodes, treedef

    def consts(self, outputs: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """(leaves of the body that are neither its parameters nor assigned, their values outside)."""
        inside = {n for n in topological(outputs) if n.op == "param"}
        known = {*self.params, *(r.placeholder for r in self.assigned)}
        leaves = [r.placeholder for r in self.read if r.placeholder in inside]
        values = [r.cell._read() for r in self.read if r.placeholder in inside]
        known.update(leaves)
        for node in topological(outputs):  # arrays and numbers that the enclosing trace holds as leaves
            if node.op == "param" and node not in known:
                leaves.append(node)
                values.append(node)
        return leaves, values


def _with(fn: Callable, treedef: TreeDef, leaves: list[Any], places: list[int]) -> Callable[[list[Tensor]], Any]:
    """`fn` of the arguments that `treedef` and `leaves` make, as a function of the leaves at some places."""

    def call(tensors: list[Tensor]) -> Any:
        inside = list(leaves)
        for k, t in zip(places, tensors, strict=True):
            inside[k] = t
        args, kwargs = tree_unflatten(treedef, inside)
        return fn(*args, **kwargs)

    return call


def closed(params: Sequence[Node], outputs: Sequence[Node], name: str) -> Graph:
    """A closed graph with parameters of its own, derivatives expanded."""
    fresh = [param(p.type, p.attrs["name"], p.loc) for p in params]
    outputs = expand_nodes(list(outputs))
    return Graph(fresh, substitute(outputs, dict(zip(params, fresh, strict=True))), name)


# --- vmap --------------------------------------------------------------------------------------------------------


def vmap(fn: Callable, in_axes: Axes = 0, out_axes: Axes = 0) -> Callable:
    """`fn` for one example, made to work on a batch of them.

    `in_axes`: the batch axis of each argument (an int, None for "the same for all", or a tree prefix); `out_axes`
    likewise for the result. Random numbers drawn inside from a generator are different for each example; those drawn
    with `key=` are what the key says, so equal keys give equal numbers. Tensors assigned inside must not depend on the
    example.
    """
    check_callable("vmap", fn)

    @functools.wraps(fn)
    @functools.partial(user_errors, name="vmap")
    def vmap(*args: Any, **kwargs: Any) -> Any:
        axes = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ShapeError(f"vmap: in_axes has {len(axes)} entries for {len(args)} arguments of {name_of(fn)}")
        leaves, treedef = tree_flatten((args, kwargs))
        flat_axes = _spread(tuple(axes), treedef.children[0], "in_axes") + [0] * treedef.children[1].size
        names = paths(treedef.children[0], "arguments") + paths(treedef.children[1], "keywords")
        mapped: list[tuple[Node, int]] = []
        types: list[tuple[TensorType, str]] = []
        places: list[int] = []
        size = None
        for k, (leaf, axis, path) in enumerate(zip(leaves, flat_axes, names, strict=True)):
            if axis is None:
                continue
            node = as_node(leaf)
            if not -node.ndim <= axis < node.ndim:
                raise ShapeError(
                    f"vmap: {path} has shape {node.shape}, with no axis {axis} to map (None leaves it as it is)"
                )
            axis %= node.ndim
            if size is None:
                size, first = node.shape[axis], path
            if node.shape[axis] != size:
                raise ShapeError(f"vmap: {path} has {node.shape[axis]} examples, {first} has {size}")
            mapped.append((node, axis))
            types.append((TensorType(node.dtype, node.shape[:axis] + node.shape[axis + 1 :]), path))
            places.append(k)
        if size is None:
            raise ShapeError(f"vmap: no argument of {name_of(fn)} is mapped")
        body = Body("vmap", fn)
        number, numbers = param(TensorType(dtypes.uint64, ()), "example"), build.iota((size,), 0, dtypes.uint64)
        body.scope.example = number, size
        if placement.several:
            placement.note_all([number], [numbers])

        nodes, out_tree = body.run(types, _with(fn, treedef, leaves, places), [n for n, _ in mapped])
        roots = [*nodes, *(r.current for r in body.assigned)]
        outside = {r.placeholder: r.cell._read() for r in (*body.read, *body.assigned)}
        roots = substitute(expand_nodes(roots), outside)
        lanes = {
            p: batching.Lane(_front(node, axis), True) for p, (node, axis) in zip(body.params, mapped, strict=True)
        }
        lanes[number] = batching.Lane(numbers, True)
        done = batching.batch_nodes(roots, lanes, size)
        for record, lane in zip(body.assigned, done[len(nodes) :], strict=True):
            if lane.batched:
                raise TraceError(
                    f"vmap: {name_of(fn)} assigns a Tensor (read at {record.loc}) a value that is different for each "
                    "example; return it instead"
                )
            record.cell._write(lane.node)
        out_axes_flat = _spread(out_axes, out_tree, "out_axes")
        results = []
        for lane, axis in zip(done[: len(nodes)], out_axes_flat, strict=True):
            if axis is None:
                if lane.batched:
                    raise ShapeError("vmap: out_axes is None for a result that is different for each example")
                results.append(wrap(lane.node))
                continue
            whole = batching.lift(lane.node, lane.batched, size)
            if not -whole.ndim <= axis < whole.ndim:
                raise ShapeError(f"vmap: out_axes {axis} for a result of shape {whole.shape[1:]}")
            order = list(range(1, whole.ndim))
            order.insert(axis % whole.ndim, 0)
            results.append(wrap(build.permute(whole, order)))
        return tree_unflatten(out_tree, results)

    return vmap


def _front(node: Node, axis: int) -> Node:
    return build.permute(node, (axis, *(a for a in range(node.ndim) if a != axis)))


def _spread(axes: Axes, treedef: TreeDef, what: str) -> list[int | None]:
    """`axes`, a prefix of the tree, as one entry a leaf."""
    if axes is None or isinstance(axes, int):
        return [axes] * treedef.size
    children: Sequence[Any]
    if isinstance(axes, dict):
        children = [axes[k] for k in treedef.aux] if treedef.aux and set(axes) == set(treedef.aux) else ()
    else:
        children = tuple(axes)
    if treedef == LEAF or len(children) != len(treedef.children):
        raise ShapeError(f"vmap: {what} {axes} does not fit {_show(treedef)}")
    return [a for axis, child in zip(children, treedef.children, strict=True) for a in _spread(axis, child, what)]


# --- scan --------------------------------------------------------------------------------------------------------


@user_errors
def scan(fn: Callable, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """A loop whose compiled size does not depend on its length: `carry, y = fn(carry, x)` over the first axis of `xs`.

    Returns (last carry, ys stacked along a new first axis). `init` and `xs` are trees; the carry keeps its tree, shapes
    and dtypes. Without `xs`, `length` says how many steps; `reverse` runs from the last row to the first (row t of ys
    belongs to row t of xs). Tensors that `fn` assigns are carried along.
    """
    loc, name = here(), name_of(fn)
    init_leaves, init_tree = tree_flatten(init)
    xs_leaves, xs_tree = tree_flatten(xs)
    start = [as_node(leaf) for leaf in init_leaves]
    rows = [as_node(leaf) for leaf in xs_leaves]
    for row, path in zip(rows, paths(xs_tree, "xs"), strict=True):
        if not row.shape:
            raise ShapeError(f"scan: {path} is a scalar; it needs a first axis to step along")
        if length is None:
            length = row.shape[0]
        if row.shape[0] != length:
            raise ShapeError(f"scan: {path} has {row.shape[0]} rows for {length} steps")
    if length is None:
        raise ShapeError("scan: give xs or length")
    length = operator.index(length)
    if length < 0:
        raise ShapeError(f"scan: {length} steps")
    types = [(n.type, p) for n, p in zip(start, paths(init_tree, "carry"), strict=True)]
    types += [(TensorType(r.dtype, r.shape[1:]), p) for r, p in zip(rows, paths(xs_tree, "x"), strict=True)]
    body = Body("scan", fn)
    ys_tree = LEAF

    def call(tensors: list[Tensor]) -> Any:
        nonlocal ys_tree
        carry = tree_unflatten(init_tree, tensors[: len(start)])
        out = fn(carry, tree_unflatten(xs_tree, tensors[len(start) :]))
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise ShapeError(f"scan: {name} must return (carry, y); it returned a {type(out).__name__}")
        got = tree_structure(out[0])
        if got != init_tree:
            raise ShapeError(f"scan: the carry has the tree {_show(init_tree)} and {name} returns {_show(got)}")
        ys_tree = tree_structure(out[1])
        return tuple(out)

    nodes, _ = body.run(types, call, [*start, *rows])
    carry, ys = nodes[: len(start)], nodes[len(start) :]
    for k, ((want, path), node) in enumerate(zip(types, carry, strict=False)):
        if node.type == want:
            continue
        # a carry that starts as a Python number takes its kind, not its width, from that
        if node.shape != want.shape or node.dtype.kind != want.dtype.kind or not is_weak(init_leaves[k]):
            got = f"{node.dtype.name} {node.shape}"
            raise ShapeError(f"scan: {path} is {want.dtype.name} {want.shape} and {name} returns {got} for it")
        carry[k] = build.cast(node, want.dtype)
    outputs = [*carry, *(r.current for r in body.assigned), *ys]
    const_params, consts = body.consts(outputs)
    cells = [r.placeholder for r in body.assigned]
    before = [r.cell._read() for r in body.assigned]
    n = len(start)
    graph = closed([*const_params, *body.params[:n], *cells, *body.params[n:]], outputs, name)
    n_carry = n + len(cells)
    bundle = make(
        "scan", (*consts, *start, *before, *rows), loc,
        body=graph, length=length, consts=len(consts), carry=n_carry, reverse=reverse,
    )  # fmt: skip
    results = [build.item(bundle, k, loc) for k in range(len(outputs))]
    for record, node in zip(body.assigned, results[n:n_carry], strict=True):
        record.cell._write(node)
    last = tree_unflatten(init_tree, [pending(r) for r in results[:n]])
    return last, tree_unflatten(ys_tree, [pending(r) for r in results[n_carry:]])


# --- checkpoint --------------------------------------------------------------------------------------------------


def checkpoint(fn: Callable) -> Callable:
    """`fn`, with nothing kept for its gradient but its inputs: going backward it is computed again, which saves
    memory.
    """
    check_callable("checkpoint", fn)

    @functools.wraps(fn)
    @functools.partial(user_errors, name="checkpoint")
    def checkpoint(*args: Any, **kwargs: Any) -> Any:
        loc = here()
        leaves, treedef = tree_flatten((args, kwargs))
        # a number keeps giving way to the dtypes that it meets: the body reads it as something that it closes over
        places = [k for k, x in enumerate(leaves) if isinstance(x, (Tensor, np.ndarray)) and not is_weak(x)]
        nodes_in = [as_node(leaves[k]) for k in places]
        names = paths(treedef.children[0], "arguments") + paths(treedef.children[1], "keywords")
        body = Body("checkpoint", fn)

        types = [(n.type, names[k]) for k, n in zip(places, nodes_in, strict=True)]
        nodes, out_tree = body.run(types, _with(fn, treedef, leaves, places), nodes_in)
        outputs = [*nodes, *(r.current for r in body.assigned)]
        const_params, consts = body.consts(outputs)
        cells = [r.placeholder for r in body.assigned]
        graph = closed([*body.params, *const_params, *cells], outputs, name_of(fn))
        before = [r.cell._read() for r in body.assigned]
        bundle = make("checkpoint", (*nodes_in, *consts, *before), loc, body=graph)
        results = [build.item(bundle, k, loc) for k in range(len(outputs))]
        for record, node in zip(body.assigned, results[len(nodes) :], strict=True):
            record.cell._write(node)
        return tree_unflatten(out_tree, [wrap(r) for r in results[: len(nodes)]])

    return checkpoint
