"""TODO"""

from __future__ import annotations

from typing import Any

from dlc.base.errors import DeviceError
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.location import here
from dlc.frontend.core.places import ANYWHERE, FOLLOWS, named, pinned, place, place_of, several, usable
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.core.trace import state
from dlc.runtime import devices


def moved(x: Tensor, target: Any) -> Tensor:
    """A Tensor with the value of `x` on another device; `x` itself if it is there."""
    from dlc.frontend.core import eager
    from dlc.frontend.core.tensor import bare, wrap

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
    from dlc.frontend.core import eager

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
    from dlc.frontend.core import eager

    cell._node = eager.leaf(devices.copied(cell._node.data, target), cell._node.type)
    cell._node.attrs["follows"] = True
    if cell._requires_grad:
        tracing.register_leaf(cell._node, cell)


def synchronize(device: Any = None) -> None:
    """Wait until everything that was started on `device` (if not given: on every device) has run: for timings."""
    from dlc.frontend.core import eager

    name = None if device is None else named(device)
    eager.realize_pending()
    devices.synchronize(name)
