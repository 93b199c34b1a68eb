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
from typing import Any

from dlc.base.errors import DeviceError
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.trace import Cell, state
from dlc.ir.graph.graph import Node, make, topological
from dlc.runtime import devices
from dlc.runtime.cpu.memory import Buffer
from dlc.runtime.devices import CPU

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


def note(placeholder: Node, cell: Cell) -> None:
    """`placeholder` stands for the value of a Tensor from outside the trace."""
    _places[placeholder] = place_of(cell)


def note_all(placeholders: Iterable[Node], values: Iterable[Node]) -> None:
    """`placeholders` stand for parts of `values`, which are used together. Raises DeviceError."""
    where = meet(map(place, values))
    _places.update(dict.fromkeys(placeholders, where))


def place_of(cell: Cell) -> str:
    """The place of the value that a cell holds outside of all traces."""
    return FOLLOWS if cell.follows else place(cell._node)


def place_at(cell: Cell) -> str:
    """Where the value is, or will be computed: "cpu", "cuda:0", ..."""
    if not several:
        return CPU
    node = cell._node
    where = place(node)
    if where == FOLLOWS and node.op == "param" and node.data is not None:
        return node.data.device
    return settled(where)


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


