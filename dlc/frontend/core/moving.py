"""Values and cells from one device to another."""

from __future__ import annotations

from typing import Any

from dlc.base.errors import DeviceError
from dlc.frontend.core import eager, places
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.places import ANYWHERE, FOLLOWS, named, pinned, place, place_at, place_of, usable
from dlc.frontend.core.trace import Cell, state
from dlc.ir.graph.graph import Node
from dlc.runtime import devices


def moved_node(x: Cell, target: Any) -> Node | None:
    """A node with the value of `x` on another device; None if it is there."""
    target = usable(target)
    if not places.several:
        return None
    node = x._read()
    where = place_of(x) if x._owner is state.trace and state.trace is None else place(node)
    if where == target or where == FOLLOWS and place_at(x) == target:
        return None
    if where == ANYWHERE:
        return pinned(node, target)
    if state.trace is not None:
        if where == FOLLOWS:
            return None
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
        return eager.leaf(buffer, node.type)


def move(cell: Cell, target: str) -> None:
    """Move a cell itself: parameters and buffers of a module. Compiled functions that read it are compiled again."""
    if state.trace is not None:
        raise DeviceError(f"to: a module cannot move while a function is traced\n  at {here()}")
    eager.realize(cell)
    source = place_at(cell)
    if source != target:
        with tracing.execution:
            cell._node = eager.leaf(devices.copied(cell._node.data, target, f"parameters on {target}"), cell._node.type)
            if cell._requires_grad:
                tracing.register_leaf(cell._node, cell)
        tracing.flags_changed()
    if cell._grad is not None:
        move(cell._grad, target)


def follow(cell: Cell, target: str) -> None:
    """Bring a 0-d Tensor or random state to the device of the program that is about to update it."""
    cell._node = eager.leaf(devices.copied(cell._node.data, target), cell._node.type, follows=True)
    if cell._requires_grad:
        tracing.register_leaf(cell._node, cell)


def synchronize(device: Any = None) -> None:
    """Wait until everything that was started on `device` (if not given: on every device) has run: for timings."""
    name = None if device is None else named(device)
    eager.realize_pending()
    devices.synchronize(name)
