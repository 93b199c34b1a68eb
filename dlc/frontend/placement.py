"""Where values live: the default device, the device of a node, and moving values.

A value that is computed from numbers alone (zeros, arange) has no device until it meets a tensor that has one; then it
is computed there. 0-d tensors in host memory, the state of random generators, and NumPy arrays that a traced function
reads follow what they meet, too. Everything else is on the device that it was made on, and stays there until `to`.
Creation functions outside a trace pin their result to their `device`, or to the default device if that is not the CPU.

As long as nothing but the CPU was ever named (`several`), nothing here is looked at.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dlc.frontend import trace as tracing
from dlc.frontend.location import here
from dlc.frontend.trace import state
from dlc.ir.errors import DeviceError
from dlc.ir.graph import Node, make, topological
from dlc.runtime import devices
from dlc.runtime.devices import CPU
from dlc.runtime.memory import Buffer

if TYPE_CHECKING:
    from dlc.frontend.tensor import Tensor

# places of values that have no device, and of host values that go where they are used
NOWHERE = ANYWHERE, FOLLOWS = "", "follows"

several = False  # whether any device but the CPU was named in this process

_default = CPU


class _Within(threading.local):
    device: str | None = None


_within = _Within()


def default() -> str:
    """The device of new tensors in this thread."""
    return _within.device or _default


def usable(device: Any) -> str:
    """The full name of a device that exists, for an operation that names itself in errors. Raises DeviceError."""
    global several
    name = devices.usable(device)
    if name != CPU and not several:
        several, tracing.lifted = True, note
    return name


def named(device: Any) -> str:
    """The full name of a device that exists. Raises DeviceError at the user's line."""
    try:
        return usable(device)
    except DeviceError as error:
        raise DeviceError(f"{error}\n  at {here()}") from None


def set_default_device(device: Any) -> None:
    """Make tensors on `device` ("cpu", "cuda", "cuda:1") from now on, where nothing else is asked for."""
    global _default
    _default = named(device)


def get_default_device() -> str:
    """The full name of the device that new tensors are made on."""
    return default()


class device:
    """`with dlc.device("cuda"):` makes tensors there inside, in this thread. Also taken wherever a name is."""

    def __init__(self, name: Any):
        self.name = named(name)
        self._saved: list[str | None] = []

    def __enter__(self) -> device:
        self._saved.append(_within.device)
        _within.device = self.name
        return self

    def __exit__(self, *exc: Any) -> None:
        _within.device = self._saved.pop()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"dlc.device({self.name!r})"


# --- places of nodes ---------------------------------------------------------------------------------------------

_places: weakref.WeakKeyDictionary[Node, str] = weakref.WeakKeyDictionary()


def place(node: Node) -> str:
    """The device of a value, or ANYWHERE or FOLLOWS. Raises DeviceError where operands are on different devices."""
    for n in topological([node], stop=lambda n: n.op == "param" or n in _places):
        if n.op != "param" and n not in _places:
            # whether it was computed before, and where, is no matter: equal values of numbers are one node
            _places[n] = meet([n.attrs.get("device", ANYWHERE), *map(_known, n.inputs)])
    return _known(node)


def _known(node: Node) -> str:
    data = node.data
    if data is None or node.op != "param":
        return _places.get(node, ANYWHERE)
    if "follows" in node.attrs or data.device == CPU and node.type.shape == ():
        return FOLLOWS
    return data.device


def meet(places: Iterable[str]) -> str:
    """Where values of these places are computed together. Raises DeviceError."""
    found = set(places)
    real = found - {ANYWHERE, FOLLOWS}
    if len(real) > 1:
        raise DeviceError(f"operands are on different devices, {' and '.join(sorted(real))}; move one with to()")
    return real.pop() if real else FOLLOWS if FOLLOWS in found else ANYWHERE


def note(placeholder: Node, cell: Tensor) -> None:
    """`placeholder` stands for the value of a Tensor from outside the trace."""
    _places[placeholder] = place_of(cell)


def note_all(placeholders: Iterable[Node], values: Iterable[Node]) -> None:
    """`placeholders` stand for parts of `values`, which are used together. Raises DeviceError."""
    where = meet(map(place, values))
    _places.update(dict.fromkeys(placeholders, where))


def place_of(cell: Tensor) -> str:
    """The place of the value that a cell holds outside of all traces."""
    return FOLLOWS if cell.follows else place(cell._node)


def floats(node: Node) -> bool:
    """Whether a value has no device of its own."""
    return several and place(node) in NOWHERE


def resolve(nodes: Iterable[Node]) -> str:
    """The device that nodes are computed on together. Raises DeviceError."""
    return settled(meet(map(place, nodes))) if several else CPU


def settled(where: str) -> str:
    """The device that a place means, where nothing else is met."""
    return CPU if where == FOLLOWS else where or default()


# --- pinning and moving ------------------------------------------------------------------------------------------


def wanted(device: Any) -> str | None:
    """The device that a creation function must pin its result to, or None where it may float."""
    if device is not None:
        name = usable(device)
        return name if several else None
    return default() if several and state.trace is None and default() != CPU else None


def pinned(node: Node, device: str | None) -> Node:
    """`node` to be computed on `device`. It must not depend on values that are elsewhere."""
    if device is None:
        return node
    done: dict[Node, Node] = {}
    for n in topological([node]):
        if n.op == "param":
            done[n] = n
        elif n.inputs:
            done[n] = make(n.op, [done[i] for i in n.inputs], n.loc, **n.attrs)
        else:
            done[n] = make(n.op, (), n.loc, **{**n.attrs, "device": device})
    place(done[node])
    return done[node]


def on(buffers: list[Buffer], device: str) -> list[Buffer]:
    """Buffers with the same content where a program on `device` takes them: there, or (for a GPU) in host memory."""
    if all([b.device == device for b in buffers]):
        return buffers
    return [b if b.device in (device, CPU) else devices.copied(b, device) for b in buffers]


def moved(x: Tensor, target: Any) -> Tensor:
    """A Tensor with the value of `x` on another device; `x` itself if it is there."""
    from dlc.frontend import eager
    from dlc.frontend.tensor import bare, wrap

    target = usable(target)
    if not several:
        return x
    node = x._read()
    where = place_of(x) if x._owner is state.trace and state.trace is None else place(node)
    if where == target or where == FOLLOWS and x.device == target:
        return x
    if where == ANYWHERE:
        return wrap(pinned(node, target), weak=x._weak)
    if state.trace is not None:
        if where == FOLLOWS:
            return x
        raise DeviceError(
            f"a value cannot move from {where} to {target} while {state.trace.name or 'the function'} is traced by "
            f"{state.trace.kind}: a compiled function runs on one device; move it before the call"
        )
    if tracing.differentiable(node) and not state.no_grad:
        raise DeviceError(
            f"gradients do not flow from {target} back to {where}; detach() the tensor, or move it before it is "
            f"given requires_grad (modules move by Module.to)"
        )
    eager.realize(x)
    with tracing.execution:
        buffer = devices.copied(x._node.data, target, label=f"{node.dtype.name}{list(node.shape)} moved to {target}")
        return bare(eager.leaf(buffer, node.type), None, x._weak)


def move(cell: Tensor, target: str) -> None:
    """Move a cell itself: parameters and buffers of a module. Compiled functions that read it are compiled again."""
    from dlc.frontend import eager

    if state.trace is not None:
        raise DeviceError(f"to: a module cannot move while a function is traced\n  at {here()}")
    eager.realize(cell)
    source = cell.device
    if source != target:
        with tracing.execution:
            cell._node = eager.leaf(devices.copied(cell._node.data, target, f"parameters on {target}"), cell._node.type)
            if cell._requires_grad:
                tracing.register_leaf(cell._node, cell)
        tracing.flags_changed()
    if cell._grad is not None:
        move(cell._grad, target)


def follow(cell: Tensor, target: str) -> None:
    """Bring a 0-d Tensor or random state to the device of the program that is about to update it."""
    from dlc.frontend import eager

    cell._node = eager.leaf(devices.copied(cell._node.data, target), cell._node.type)
    cell._node.attrs["follows"] = True
    if cell._requires_grad:
        tracing.register_leaf(cell._node, cell)


def synchronize(device: Any = None) -> None:
    """Wait until everything that was started on `device` (if not given: on every device) has run: for timings."""
    from dlc.frontend import eager

    name = None if device is None else named(device)
    eager.realize_pending()
    devices.synchronize(name)
