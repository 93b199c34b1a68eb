"""Running outside jit: pending values are computed when somebody looks, by executables cached by graph structure.

A value that has been computed stays on its node (`node.data`), so that graphs built on it earlier find it. A Tensor
whose value has no gradient to anything lets go of its history then: its node becomes a fresh leaf.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.base import forks
from dlc.base.errors import TraceError
from dlc.frontend.core import places
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.numbers import changing_as_inputs
from dlc.frontend.core.precision import setting
from dlc.frontend.core.trace import Cell, execution, leaf_cell, leaked, register_leaf, state
from dlc.ir import dtypes
from dlc.ir.graph.graph import Graph, Node, TensorType, param, structure, substitute, topological
from dlc.runtime import devices, programs
from dlc.runtime.cpu.memory import Buffer

if TYPE_CHECKING:
    from dlc.runtime.cpu.executable import Executable

MAX_PENDING = 2000  # operations: a longer pending graph is run even if nobody looks
CACHED_EXECUTABLES = 512  # 0.1 to 0.3 MB of Python objects each, besides their code

# Cells assigned or differentiated, not yet computed: id -> weak reference. They are computed with the next value that
# anybody looks at, so that a training loop which prints only its loss does not drag its whole past along.
_pending: dict[int, weakref.ref[Cell]] = {}
# Tensors made since anything was computed, in order. That is all that decides when a graph is too long: a loop which
# does the same between two looks is cut at the same places each time, and its pieces are found in the cache.
_recent: list[weakref.ref[Cell]] = []


def leaf(buffer: Buffer, type: TensorType, follows: bool = False) -> Node:
    """A leaf node whose value is in `buffer`. `follows`: it is brought to where it is computed with."""
    attrs: dict[str, Any] = {"follows": True} if follows else {}
    if buffer.owner is not None:
        # Memory that belongs to somebody else. This second reference keeps it from ever looking exclusively ours, so
        # that it is never written in place.
        attrs["borrowed"] = buffer
    return param(type, data=buffer, **attrs)


def array_node(array: np.ndarray, shared: bool, device: str | None = None) -> Node:
    """A leaf with the content of `array`: copied now, or, for a shared array in a trace, read at every call.

    It is on `device`, or the default device; in a trace it is in host memory and follows what it meets.
    """
    type = TensorType(dtypes.from_numpy(array.dtype), array.shape)
    if state.trace is not None and shared:
        trace = state.trace
        while trace.kind != "jit" and trace.parent is not None:
            trace = trace.parent
        if trace.kind == "jit":
            return trace.array(array, type)
    if not places.several:
        return leaf(array_buffer(array), type)
    if state.trace is not None:
        return following(array)
    return leaf(array_buffer(array, device or places.default()), type)


def array_buffer(array: np.ndarray, device: str = "cpu") -> Buffer:
    """A Buffer of our own with the content of `array`. Raises DTypeError where that is no array of numbers."""
    dtypes.from_numpy(array.dtype)
    buffer = devices.allocate(array.nbytes, device, f"{array.dtype}{list(array.shape)} from an array")
    devices.write(buffer, array)
    return buffer


def following(array: np.ndarray) -> Node:
    """A leaf with a copy of `array` in host memory, which is computed with wherever the rest of the operands is."""
    return leaf(array_buffer(array), TensorType(dtypes.from_numpy(array.dtype), array.shape), follows=True)


def mark_pending(cell: Cell) -> None:
    """`cell` holds a value that must not stay pending for long."""
    if cell._node.data is None:
        _pending[id(cell)] = weakref.ref(cell)


def count(cell: Cell) -> None:
    """Called for each Tensor made outside a trace: run the pending graph if it has grown too long."""
    if state.checked is not None and not state.transforms:  # what is wrong inside `with dlc.debug():` is found inside
        realize(cell)
        return
    _recent.append(weakref.ref(cell))
    if len(_recent) >= MAX_PENDING:
        alive = [c for c in (ref() for ref in _recent) if c is not None]
        _recent.clear()
        if len(topological([c._node for c in alive], stop=_known)) >= MAX_PENDING // 2:
            realize(*alive)


def _known(node: Node) -> bool:
    return node.data is not None


def history(root: Node) -> list[Node]:
    """The nodes that a gradient of `root` passes through."""
    return topological([root], stop=lambda n: n.op == "stop_gradient" or leaf_cell(n) is not None)


def realize(*tensors: Cell) -> None:
    """Compute the values of `tensors`, all at once, together with all assigned Tensors that are still pending."""
    if state.trace is not None:
        return
    for t in tensors:
        if t._owner is not None:
            raise leaked(t)
    with execution:
        cells = {id(t._home): t._home for t in tensors if t._node.op != "param" or t._node.data is None}
        if any(t._node.data is None for t in cells.values()):
            for ref in list(_pending.values()):
                cell = ref()
                if cell is not None and cell._node.data is None:
                    cells[id(cell)] = cell
            _pending.clear()
            _recent.clear()
            for group in _by_device([c for c in cells.values() if c._node.data is None]):
                compute([c._node for c in group])
        # also cells whose node an equal expression had computed before
        kept = _being_differentiated([c._node for c in cells.values()]) if state.transforms else ()
        for cell in cells.values():
            if cell._node not in kept:
                settle(cell)


def _being_differentiated(roots: list[Node]) -> set[Node]:
    """The nodes below `roots` through which a derivative goes that a transform is about to take."""
    found: set[Node] = set()
    for n in topological(roots, stop=lambda n: n.op == "stop_gradient" or leaf_cell(n) is not None):
        marked = n.op == "tag" and leaf_cell(n) is None
        if marked or n.op != "stop_gradient" and any(i in found for i in n.inputs):
            found.add(n)
    return found


def realize_pending() -> None:
    """Compute all assigned Tensors that are still pending."""
    realize(*(cell for cell in (ref() for ref in list(_pending.values())) if cell is not None))


def _by_device(cells: list[Cell]) -> list[list[Cell]]:
    """The cells whose values are computed together."""
    if not places.several:
        return [cells]
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(places.settled(places.place_of(cell)), []).append(cell)
    return list(groups.values())


def settle(cell: Cell) -> None:
    """After its value was computed: let go of the history, unless a gradient may still be asked through it."""
    node = cell._node
    if node.op == "param":
        return
    if cell._requires_grad and leaf_cell(node) is cell:
        cell._node = leaf(node.data, node.type)
        register_leaf(cell._node, cell)
    elif not tracing.differentiable(node):
        cell._node = leaf(node.data, node.type, follows=places.floats(node) and node.data.device == "cpu")


# A second reference to the Buffer of each computed node that is not a leaf: such a Buffer never looks exclusively
# owned, so it is never written in place. The node is an expression, and must keep the value that the expression has.
_memo: weakref.WeakKeyDictionary[Node, Buffer] = weakref.WeakKeyDictionary()


def remember(node: Node, buffer: Buffer) -> Buffer:
    _memo[node] = buffer
    return buffer


def compute(roots: list[Node]) -> None:
    """Fill in `data` of `roots`."""
    roots = [r for r in dict.fromkeys(roots) if r.data is None]
    if not roots:
        return
    device = places.resolve(roots)
    outputs = expanded(roots)
    graph, buffers = cut(outputs, device)
    if state.checked is None and _found(_key(graph, (), device)) is None:
        changed = changing_as_inputs(graph, device)
        if changed is not None:
            graph, values = changed
            buffers += map(array_buffer, values)
    executable = compiled(graph, (), device)
    if places.several:
        buffers = places.on(buffers, device)
    results = executable.run(buffers)
    for root, buffer in zip(roots, results, strict=True):
        root.data = remember(root, buffer)


def expanded(roots: list[Node]) -> list[Node]:
    """`roots` without `vjp` nodes. Derivatives need the history, computed values included: this comes first. They end
    at leaves, so the history of a parameter that was computed (the last update) is not walked again."""
    if not any(n.op == "vjp" for n in topological(roots, stop=_known)):
        return roots
    from dlc.passes.autodiff.vjp import expand  # `import dlc` need not pay for it

    def ends(node: Node) -> bool:
        return node.data is not None and node.op != "param" and leaf_cell(node) is not None

    computed = {n: leaf(n.data, n.type) for n in topological(roots, stop=ends) if ends(n)}
    if computed:
        roots = substitute(roots, computed)
    params = [n for n in topological(roots) if n.op == "param"]
    return list(expand(Graph(params, roots)).outputs)


def cut(outputs: list[Node], device: str = "cpu") -> tuple[Graph, list[Buffer]]:
    """The graph from known values to `outputs`, and the Buffers of its parameters.

    What was computed from numbers alone, and on another device, is computed again.
    """
    mapping: dict[Node, Node] = {}
    params: list[Node] = []
    buffers: list[Buffer] = []

    def known(node: Node) -> bool:
        return node.data is not None and (node.op == "param" or node.data.device == device)

    for node in topological(outputs, stop=known):
        if known(node):
            mapping[node] = param(node.type)
            params.append(mapping[node])
            buffers.append(node.data)
        elif node.op == "param":
            raise TraceError(f"a traced value was used after its trace, at {here()}")
    return Graph(params, substitute(outputs, mapping), "eager"), buffers


_executables: OrderedDict[tuple, Executable] = OrderedDict()
_cache_lock = forks.lock()


def _key(graph: Graph, donate: tuple[tuple[int, int], ...], device: str, tune: bool = False) -> tuple:
    return structure(graph), donate, device, tune, setting.tf32


def _found(key: tuple) -> Executable | None:
    with _cache_lock:
        found = _executables.get(key)
        if found is not None:
            _executables.move_to_end(key)
        return found


def compiled(
    graph: Graph, donate: tuple[tuple[int, int], ...] = (), device: str = "cpu", tune: bool = False
) -> Executable:
    """The executable of `graph` on `device`, from the cache if an equal graph was compiled before."""
    if state.checked is not None:
        from dlc.runtime.interpreted import Interpreted  # few programs need it

        return Interpreted(graph, donate, device, state.checked)
    key = _key(graph, donate, device, tune)
    found = _found(key)
    if found is not None:
        return found
    found = programs.compile_graph(graph, donate, graph.name, device=device, tune=tune, tf32=setting.tf32)
    with _cache_lock:
        found = _executables.setdefault(key, found)
        while len(_executables) > CACHED_EXECUTABLES:
            _executables.popitem(last=False)
    return found


def view(tensor: Cell, what: str) -> np.ndarray:
    """A NumPy view of the value (from a GPU: a copy). In a trace this is an error, unless it depends on no input."""
    trace = state.trace
    if trace is not None:
        node = constant(tensor, what)
    else:
        realize(tensor)
        node = None
    with execution:  # the view is taken under the lock: from then on the Buffer is visibly in use
        node = node or tensor._node
        return devices.read(node.data, node.shape, tensor._node.dtype.np)


def may_leave(tensor: Cell, what: str) -> None:
    """Raise TraceError where a derivative that is being taken would end unnoticed: the value becomes an array."""
    if state.transforms and state.trace is None:
        if any(n.op == "tag" and leaf_cell(n) is None for n in history(tensor._read())):
            raise TraceError(
                f"{what}: derivatives do not pass through an array, and this {tensor.dtype.name} {tensor.shape} tensor "
                f"depends on what is being differentiated; detach() it first to treat it as a constant\n  at {here()}"
            )


def at_hand(tensor: Cell, what: str) -> None:
    """Compute the value, to be looked at where it is. In a trace this is an error."""
    if state.trace is not None:
        constant(tensor, what)
    realize(tensor)


_INSTEAD = {
    "bool()": "use dlc.where (or dlc.scan for a loop), or pass the condition as a Python bool or in static_argnums",
    "repr()": "return it",
}
_DEFAULT_INSTEAD = "return it and look at it outside the function, or pass it as a static argument (static_argnums)"


def constant(tensor: Cell, what: str) -> Node:
    node = tensor._read()
    walk = topological([node])
    if any(n.op == "param" and n.data is None or n.op in ("tag", "vjp") for n in walk):
        trace: Any = state.trace
        raise TraceError(
            f"{what} needs a value, but this {tensor.dtype.name} {tensor.shape} tensor has none while "
            f"{trace.name or 'the function'} is being traced by {trace.kind}: "
            f"{_INSTEAD.get(what, _DEFAULT_INSTEAD)}\n  at {here()}"
        )
    saved, state.trace = state.trace, None
    try:
        with execution:
            compute([node])
    finally:
        state.trace = saved
    return node
