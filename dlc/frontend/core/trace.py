"""What a trace is: the thread's current trace, the cells it has read and written, and what modules report.

A `Trace` never touches the Tensors that exist outside it. Reading such a cell gives a placeholder (a `param` node, one
for each cell); writing one is remembered in the trace only. Whoever opened the trace decides at its end what the reads
and writes become: inputs and donated outputs of an executable (`jit`), constants and carries (`scan`), and so on. A
trace that fails therefore leaves everything as it was, and other threads never see a half-made value.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np

from dlc.base import forks
from dlc.base.errors import TraceError
from dlc.frontend.core.location import here
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, TensorType, param, topological
from dlc.ir.loc import Loc


class _State(threading.local):
    """This thread's modes."""

    trace: Trace | None = None
    no_grad: bool = False
    checked: Callable[..., Any] | None = None  # dlc.debug(): the interpreter that runs everything, and checks it
    autocast: tuple[DType | None, ...] = (None,)  # dlc.autocast's half types, the innermost first
    transforms: int = 0  # depth of grad, vjp and jvp being evaluated: a jitted function inlines inside them


state = _State()

# Held while anything runs or a buffer is looked up, so that no thread reads a buffer while another writes it in place.
execution = forks.lock()

# Called with each placeholder and its cell, once there are several devices (dlc.frontend.core.places).
lifted: Callable[[Node, Cell], None] | None = None


class Cell:
    """What a Cell holds: one node, and how it takes part in traces and gradients. A node's value never changes;
    assigning to a Cell rebinds its cell."""

    __slots__ = ("_node", "_owner", "_weak", "_requires_grad", "_grad", "__weakref__")
    follows = False  # whether a value in host memory goes where it is used: random state
    _copied_as: type[Cell] | None = None  # the class of copies, where it is not that of the original

    _node: Node
    _owner: Trace | None  # the trace that it was made in
    _weak: bool  # whether it takes its dtype from what it meets, like a Python number
    _requires_grad: bool
    _grad: Cell | None

    @property
    def _home(self) -> Cell:
        """The cell that holds the value: itself, but for the Tensors of a `state_dict()`."""
        return self

    @property
    def dtype(self) -> DType:
        """A number made weak by `jit` is float64 inside and float32 for whoever asks."""
        dtype = self._node.type.dtype
        return dtypes.float32 if self._weak and dtype is dtypes.float64 else dtype

    @property
    def node(self) -> Node:
        """The Graph IR node of the current value, as the current trace sees it."""
        node = self._read()
        return build.cast(node, self.dtype) if self._weak else node

    def _read(self) -> Node:
        trace = state.trace
        if self._owner is trace:
            return self._node
        if trace is None:
            raise leaked(self)
        return trace.read(self)


def make_cell(node: Node, owner: Trace | None, weak: bool = False) -> Cell:
    """A cell that is no Cell, with exactly this state."""
    cell = Cell()
    cell._node, cell._owner, cell._weak, cell._requires_grad, cell._grad = node, owner, weak, False, None
    return cell


class CellRead:
    """One Cell that exists outside the trace: its placeholder, and its value as the trace sees it now."""

    __slots__ = ("cell", "placeholder", "current", "source", "loc")

    def __init__(self, cell: Cell, placeholder: Node, source: Any, loc: Loc):
        self.cell = cell  # strong: its id is the key of the trace's dictionary
        self.placeholder = placeholder
        self.current = placeholder
        self.source = source  # None: the cell itself; ("arg", i); ("grad", id of the owner)
        self.loc = loc

    @property
    def assigned(self) -> bool:
        return self.current is not self.placeholder


class GradCell:
    """The `.grad` of one Cell that exists outside the trace."""

    __slots__ = ("cell", "read", "was_none", "current")

    def __init__(self, cell: Cell):
        self.cell = cell
        self.read = False  # whether the trace depended on what `.grad` was before
        self.was_none = True
        self.current: Any = UNSET


UNSET: Any = object()


class Trace:
    """One function being traced. `kind` is the name of the transform, for messages."""

    def __init__(self, kind: str, name: str = "", parent: Trace | None = None, pin_grads: bool = False):
        self.kind, self.name, self.parent = kind, name, parent
        self.cells: dict[int, CellRead] = {}
        self.grads: dict[int, GradCell] = {}
        self.arrays: list[tuple[np.ndarray, Node]] = []
        self.consumed: set[Node] = set()  # nodes that backward() went through: their history is spent
        self.pin_grads = pin_grads
        self.example: tuple[Node, int] | None = None  # in vmap: the example's number (uint64), and how many there are
        self.closed = False

    def __repr__(self) -> str:
        return f"<trace of {self.name or self.kind}>"

    def within(self, other: Trace | None) -> bool:
        """Whether `other` is this trace's parent, or the parent's parent, and so on (None: no trace at all)."""
        if other is None:
            return True
        trace = self.parent
        while trace is not None and trace is not other:
            trace = trace.parent
        return trace is other

    def lift(self, cell: Cell, source: Any = None, name: str = "") -> CellRead:
        """The record of a Cell from outside; a placeholder is made at its first use."""
        found = self.cells.get(id(cell))
        if found is None:
            if not self.within(cell._owner):
                raise leaked(cell)
            loc = here()
            placeholder = param(cell._node.type, name, loc)
            if lifted is not None:
                lifted(placeholder, cell)
            found = self.cells[id(cell)] = CellRead(cell, placeholder, source, loc)
            if cell._requires_grad and self.kind == "jit":
                register_leaf(placeholder, cell)
        return found

    def read(self, cell: Cell) -> Node:
        return self.lift(cell).current

    def write(self, cell: Cell, node: Node) -> None:
        self.lift(cell).current = node

    def _grad(self, cell: Cell) -> GradCell:
        if not self.within(cell._owner):
            raise leaked(cell)
        found = self.grads.get(id(cell))
        if found is None:
            found = self.grads[id(cell)] = GradCell(cell)
        return found

    def read_grad(self, cell: Cell) -> Cell | None:
        record = self._grad(cell)
        if record.current is UNSET:
            with within(self.parent):
                outer = cell.grad
            record.read, record.was_none, record.current = True, outer is None, outer
            if outer is not None and not self.pin_grads and self.kind == "jit":
                # A stand-in, so that the compiled entry finds the gradient through its owner: the Cell that holds it
                # is a new one after each zero_grad().
                record.current = stand_in(outer)
                self.lift(record.current, ("grad", id(cell)))
        return record.current

    def write_grad(self, cell: Cell, value: Cell | None) -> None:
        self._grad(cell).current = value

    def array(self, array: np.ndarray, type: TensorType) -> Node:
        """A NumPy array read in the trace: an input that is read again at each call, since its owner may change it."""
        node = param(type, loc=here())
        self.arrays.append((array, node))
        return node

    def __enter__(self) -> Trace:
        self._saved = state.trace, state.no_grad
        state.trace = self
        return self

    def __exit__(self, *exc) -> None:
        state.trace, state.no_grad = self._saved
        self.closed = True


@contextlib.contextmanager
def within(trace: Trace | None) -> Iterator[None]:
    """Look at values as `trace` sees them."""
    saved, state.trace = state.trace, trace
    try:
        yield
    finally:
        state.trace = saved


def stand_in(cell: Cell) -> Cell:
    """A Cell of the same class, type and flags as `cell`, and a different identity."""
    cls = cell._copied_as or type(cell)
    out = cls.__new__(cls)
    out._node, out._owner, out._weak, out._grad = cell._node, cell._owner, cell._weak, None
    out._requires_grad = cell._requires_grad
    if hasattr(cell, "__dict__"):
        out.__dict__.update(cell.__dict__)
    return out


def leaked(cell: Cell) -> TraceError:
    """The error for a traced value that is used where its trace does not exist."""
    owner, made = cell._owner, cell._node.loc
    where = f", made at {made}" if made else ""
    now = "after the trace ended" if owner.closed else "outside the trace"
    return TraceError(
        f"a {cell._node.dtype.name} {cell._node.shape} tensor{where} during {owner.kind} of "
        f"{owner.name or 'a function'}"
        f" was used {now}, at {here()}: it never had a value. Return it from the function, or keep it with "
        f"`state.assign(value)` in a Cell that exists before the call"
    )


# --- leaves that gradients are taken at --------------------------------------------------------------------------

_leaves: weakref.WeakKeyDictionary[Node, weakref.ref[Cell]] = weakref.WeakKeyDictionary()


def register_leaf(node: Node, cell: Cell) -> None:
    """`backward()` through `node` accumulates into `cell.grad`."""
    _leaves[node] = weakref.ref(cell)


def leaf_cell(node: Node) -> Cell | None:
    """The requires_grad Cell that `node` is (or was) the value of."""
    ref = _leaves.get(node)
    return ref() if ref is not None else None


def leaves_of(roots: list[Node]) -> list[Node]:
    """The registered leaves that a gradient of `roots` reaches, in a deterministic order."""
    walk = topological(roots, stop=lambda n: n.op == "stop_gradient" or n in _leaves)
    return [n for n in walk if n in _leaves and leaf_cell(n) is not None]


_differentiable: weakref.WeakKeyDictionary[Node, bool] = weakref.WeakKeyDictionary()


def differentiable(node: Node, spent: Collection[Node] = ()) -> bool:
    """Whether a gradient of `node` reaches a requires_grad Cell, not counting ways through nodes in `spent`.

    Known answers are kept for nodes that hold data, so that a long history is not walked again and again.
    """
    if not node.dtype.is_float:
        return False
    found: dict[Node, bool] = {}

    def known(n: Node) -> bool:
        return n.op in ("stop_gradient", "param", "const") or n in _leaves or n in _differentiable or n in spent

    for n in topological([node], stop=known):
        if n in spent:
            found[n] = False
        elif n in _leaves:
            found[n] = leaf_cell(n) is not None
        elif n in _differentiable:
            found[n] = _differentiable[n]
        elif n.op == "stop_gradient" or (isinstance(n.type, TensorType) and not n.type.dtype.is_float):
            found[n] = False
        else:
            found[n] = any(found[i] for i in n.inputs)
        if n.data is not None and n.op != "param" and not spent:
            _differentiable[n] = found[n]
    return found[node]


# --- changes of modules and optimizers ---------------------------------------------------------------------------

# These change with each change of an attribute that some trace may have read, of a module or of anything else that
# reports its changes, and of the flags of a Cell: only then do compiled functions look at them again.
attributes_version: int = 0
flags_version: int = 0
_versions = itertools.count(1)
_watched: set[str] = set()


def attribute_changed(name: str) -> None:
    """An attribute of this name has changed, or what is in it, of an object whose class says in `reports_changes` which
    of its containers it reports.
    """
    global attributes_version
    if name in _watched:
        attributes_version = next(_versions)


def flags_changed() -> None:
    """`requires_grad` or the device of a Cell has changed."""
    global flags_version
    flags_version = next(_versions)


def watch(*names: Iterable[str]) -> None:
    """A trace may read attributes of these names."""
    _watched.update(*names)
