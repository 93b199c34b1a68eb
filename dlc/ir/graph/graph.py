"""The Graph IR: immutable, hash-consed nodes over whole tensors.

A `Node` is one operation on tensors. Nodes are unique: building the same operation on the same inputs twice gives the
same object, so common subexpressions never exist. `loc` (the user's source line) is not part of a node's identity.
Leaves are `param` nodes, each with an identity of its own. A `Graph` names the parameters and the outputs.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dlc.base.errors import ShapeError
from dlc.ir.dtypes import DType
from dlc.ir.graph.table import OPS
from dlc.ir.interning import Interned
from dlc.ir.loc import Loc

MAX_SIZE = 1 << 60  # elements of a tensor: their offsets in bytes fit 64 bits


class TensorType(NamedTuple):
    """Element type and static shape."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.short}[{','.join(map(str, self.shape))}]"


def check_size(name: str, shape: tuple[int, ...]) -> None:
    """Raise ShapeError for a shape that no memory has addresses for."""
    if math.prod(shape) >= MAX_SIZE:
        raise ShapeError(f"{name}: a tensor of shape {shape} would have {math.prod(shape):.3g} elements")


class Node:
    """One operation. `type` is a TensorType, or a tuple of them for operations with several results (see `item`)."""

    __slots__ = ("op", "inputs", "attrs", "type", "dtype", "shape", "loc", "data", "serial", "_attrs_key",
                 "__weakref__")

    op: str
    inputs: tuple[Node, ...]
    attrs: dict[str, Any]
    type: Any
    dtype: DType  # those of `type`, of an operation with one result
    shape: tuple[int, ...]
    loc: Loc | None
    data: Any  # payload of a param outside any graph (the frontend's buffer or cell); never part of the IR
    serial: int  # creation order: inputs always have smaller numbers
    _attrs_key: tuple  # the attributes as part of the node's identity

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<{self.op} {self.type}>"

    # arithmetic for formulas, of nodes of one type, and of numbers in that type; no broadcasting, no promotion
    def __reduce__(self):
        raise TypeError("Graph IR nodes are not picklable; print and parse the graph instead")


_table: Interned[Node] = Interned()
_serials = itertools.count()


class _Here(threading.local):
    loc: Loc | None = None


_here = _Here()


class located:  # noqa: N801 (used like a function)
    """Nodes made inside without a `loc` get this one: a pass uses it to keep the user's line on what it derives."""

    __slots__ = ("before", "loc")

    def __init__(self, loc: Loc | None):
        self.loc = loc

    def __enter__(self) -> None:
        self.before = _here.loc
        _here.loc = self.loc

    def __exit__(self, *error: object) -> None:
        _here.loc = self.before


def _key_of(value: Any) -> Any:
    # 1 == 1.0 == True and 0.0 == -0.0 in Python, but they are different attributes
    kind = type(value)
    if kind is float:
        return ("float", repr(value))
    if kind is bool:
        return ("bool", value)
    if kind is tuple:
        return tuple(map(_key_of, value))
    return value


def make(op: str, inputs: Sequence[Node] = (), loc: Loc | None = None, **attrs: Any) -> Node:
    """The node `op(inputs, **attrs)`; its type comes from the operation's row. Raises ShapeError or DTypeError."""
    attrs_key = tuple([(k, _key_of(attrs[k])) for k in sorted(attrs)])
    return _made(op, tuple(inputs), loc, attrs, attrs_key)


def remade(node: Node, inputs: Sequence[Node]) -> Node:
    """The same operation on `inputs`: `node` itself where these are its own."""
    inputs = tuple(inputs)
    if inputs == node.inputs:
        return node
    return _made(node.op, inputs, node.loc, node.attrs, node._attrs_key)


def _made(op: str, inputs: tuple[Node, ...], loc: Loc | None, attrs: dict[str, Any], attrs_key: tuple) -> Node:
    key = (op, inputs, attrs_key)
    node = _table.get(key)
    if node is not None:
        return node
    infer = OPS[op].infer
    node = Node()
    node.op, node.inputs, node.attrs, node.data, node._attrs_key = op, inputs, attrs, None, attrs_key
    node.loc = loc if loc is not None else _here.loc
    node.type = infer(tuple([i.type for i in inputs]), attrs)
    if isinstance(node.type, TensorType):
        node.dtype, node.shape = node.type
        check_size(op, node.shape)
    node.serial = next(_serials)
    _table.add(key, node)
    return node


def param(type: TensorType, name: str = "", loc: Loc | None = None, data: Any = None, **attrs: Any) -> Node:
    """A new leaf with an identity of its own."""
    node = Node()
    node.op, node.inputs, node.type, node.loc, node.data = "param", (), type, loc, data
    node.dtype, node.shape = type
    node.attrs = {"name": name, **attrs}
    node.serial = next(_serials)
    return node


def rename(parameter: Node, name: str) -> None:
    """Call a parameter otherwise: for people, and no part of what it is. All else of a node stays as it was made."""
    parameter.attrs["name"] = name


_unique = itertools.count()


def unique() -> int:
    """A number never given before: makes a `tag` or `barrier` node distinct from all others."""
    return next(_unique)


class Graph:
    """A function from `params` to `outputs`. Every leaf reached from the outputs is in `params`."""

    __slots__ = ("params", "outputs", "name", "_nodes", "_structure", "__weakref__")

    def __init__(self, params: Sequence[Node], outputs: Sequence[Node], name: str = "main"):
        self.params = tuple(params)
        self.outputs = tuple(outputs)
        self.name = name
        self._nodes: tuple[Node, ...] | None = None
        self._structure: tuple | None = None

    def nodes(self) -> tuple[Node, ...]:
        """All nodes the outputs need, inputs first, in a deterministic order."""
        if self._nodes is None:
            self._nodes = tuple(topological(self.outputs))
        return self._nodes

    def with_outputs(self, outputs: Sequence[Node]) -> Graph:
        """The graph with other outputs: itself, which knows its nodes, where they are its own."""
        outputs = tuple(outputs)
        return self if outputs == self.outputs else Graph(self.params, outputs, self.name)


def topological(roots: Iterable[Node], stop: Callable[[Node], bool] | None = None) -> list[Node]:
    """Nodes reachable from `roots`, inputs before users. Nodes for which `stop` holds are listed but not entered."""
    out: list[Node] = []
    seen: set[Node] = set()
    path: list[tuple[Node, Iterator[Node]]] = []  # nodes that are entered, and what is left to do beside each
    ahead = iter(roots)
    while True:
        for node in ahead:
            if node not in seen:
                seen.add(node)
                if node.inputs and (stop is None or not stop(node)):
                    path.append((node, ahead))
                    ahead = iter(node.inputs)
                    break
                out.append(node)
        else:
            if not path:
                return out
            node, ahead = path.pop()
            out.append(node)


def substitute(roots: Sequence[Node], mapping: dict[Node, Node]) -> list[Node]:
    """`roots` rebuilt with the nodes of `mapping` replaced. Bodies in attributes are closed and stay as they are."""
    done: dict[Node, Node] = dict(mapping)
    for node in topological(roots, stop=lambda n: n in mapping):
        if node not in done:
            done[node] = remade(node, [done[i] for i in node.inputs])
    return [done[r] for r in roots]


def inline(graph: Graph, args: Sequence[Node]) -> list[Node]:
    """The outputs of `graph` applied to `args`."""
    return substitute(graph.outputs, dict(zip(graph.params, args, strict=True)))


def rewrite(graph: Graph, rule: Callable[[Node, tuple[Node, ...]], Node | None]) -> Graph:
    """One walk, inputs first: `rule(node, new_inputs)` gives the replacement, or None to rebuild the node as it is."""
    done: dict[Node, Node] = {p: p for p in graph.params}
    for node in graph.nodes():
        if node in done:
            continue
        ins = tuple(done[i] for i in node.inputs)
        new = rule(node, ins)
        done[node] = remade(node, ins) if new is None else new
    return graph.with_outputs([done[o] for o in graph.outputs])


def structure(graph: Graph, numbers: bool = True) -> tuple:
    """A hashable description of the graph up to the identity of its nodes: equal for equal programs; without `numbers`
    also for those that differ in the values of constants only."""
    if numbers and graph._structure is not None:
        return graph._structure
    number: dict[Node, int] = {p: i for i, p in enumerate(graph.params)}
    rows: list[tuple] = [(p.type, p.attrs.get("strides")) for p in graph.params]
    for node in graph.nodes():
        if node in number:
            continue
        own = settings(node) if numbers or node.op != "const" else ()
        rows.append((node.op, tuple([number[i] for i in node.inputs]), own, node.type))
        number[node] = len(number)
    found = (len(graph.params), tuple(rows), tuple(number[o] for o in graph.outputs))
    if numbers:
        graph._structure = found
    return found


def settings(node: Node) -> tuple:
    """The attributes as something that compares, without those that only tell nodes apart."""
    return tuple([
        (k, structure(v) if isinstance(v, Graph) else _key_of(v))
        for k, v in sorted(node.attrs.items()) if k not in ("uid", "batching")
    ])


def map_bodies(graph: Graph, transform: Callable[[Graph], Graph]) -> Graph:
    """`graph` with `transform` applied to the body of every node that has one."""
    if not any("body" in node.attrs for node in graph.nodes()):
        return graph
    changed: dict[Graph, Graph] = {}

    def rule(node: Node, ins: tuple[Node, ...]) -> Node | None:
        body = node.attrs.get("body")
        if body is None:
            return None
        if body not in changed:
            new = transform(body)
            same = new.params == body.params and new.outputs == body.outputs
            changed[body] = body if same else new
        return None if changed[body] is body else make(node.op, ins, node.loc, **{**node.attrs, "body": changed[body]})

    return rewrite(graph, rule)
