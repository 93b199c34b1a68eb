"""Updates in place: what they mean for gradients, as in PyTorch.

A Tensor with `requires_grad` is a leaf, and stays one: under `no_grad` it takes a new value and trains on, elsewhere an
update in place is an error. A Tensor that was computed may be updated anywhere: where gradients are recorded, they flow
through the update; under `no_grad` the value changes, and its gradient is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dlc.base.errors import GradientError
from dlc.frontend.core import eager
from dlc.frontend.core.location import here
from dlc.frontend.core.trace import Cell, leaf_cell, register_leaf, state, within
from dlc.ir.dtypes import bool_
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node, TensorType, make, unique


def check(x: Cell, what: str) -> None:
    """Raise GradientError where a leaf that gradients are taken at would be changed while they are recorded."""
    if x._requires_grad and not state.no_grad:
        loc = here()
        raise GradientError(
            f"{what}: a leaf Tensor that requires grad is being used in an in-place operation; do it under "
            f"dlc.no_grad(), or write x.assign(value), which stops the gradient"
            f"\n  at {loc}" + (f", in {loc.function}" if loc.function else "")
        )


def stopped(node: Node) -> Node:
    """The value of `node` with no gradient to what it came from; a value at hand becomes a leaf without history."""
    if node.data is not None:
        return eager.leaf(node.data, node.type, "follows" in node.attrs)
    return node if node.op == "stop_gradient" else make("stop_gradient", (node,), here())


def own_leaf(node: Node, cell: Cell) -> Node:
    """The value of `node` under a name of its own, at which gradients for `cell` end."""
    node = stopped(node)
    if node.data is None:
        node = make("tag", (node,), here(), uid=unique())
    register_leaf(node, cell)
    return node


def without_recording(new: Node, old: Node) -> Node:
    """What a computed value `old` becomes when it is updated under `no_grad` to `new`: the new value, the old gradient.

    new - (stopped(old) - old): what is subtracted is 0, but for a value that is infinite or NaN, which has no gradient.
    """
    if not old.dtype.is_float or not may_differentiate(old):
        return stopped(new)
    if old.op == "sub" and old.inputs[0].op == "stop_gradient" and _is_nothing(old.inputs[1]):
        nothing = old.inputs[1]  # of the update before: however many there are, the way back is as long as after one
    else:
        nothing = _nothing(old)
    return b.op("sub", stopped(new), nothing, loc=here())


def _nothing(old: Node) -> Node:
    """Zeros whose gradient is that of -old."""
    zero = b.op("sub", stopped(old), old, loc=here())
    return b.select(b.op("eq", zero, zero), zero, b.like(old, 0))


def _is_nothing(node: Node) -> bool:
    zero = node.inputs[1] if node.op == "select" else node
    return zero.op == "sub" and zero.inputs[0] is stopped(zero.inputs[1]) and node is _nothing(zero.inputs[1])


def recorded(new: Node, old: Node) -> Node:
    """What a computed value `old` becomes when it is updated to `new`: gradients of that reach what `old` came from.

    They are zeros where `new` doesn't depend on `old` (`y.zero_()`): then a choice that is never made keeps the way.
    """
    if not old.dtype.is_float or _depends(new, old) or not may_differentiate(old):
        return new
    always = b.const(True, bool_, old.shape)
    while old.op == "select" and old.inputs[0] is always and not may_differentiate(old.inputs[1]):
        old = old.inputs[2]  # such an update, too: to what was put there no gradient goes
    return b.select(always, new, old, loc=here())


def _depends(new: Node, old: Node) -> bool:
    """Whether gradients of `new` go through `old`. What was made before `old` is not looked at: this costs what the
    update costs, however long the past."""
    return any(n is old for n in _nearest(new, lambda n: n.serial >= old.serial))


def may_differentiate(node: Node) -> bool:
    """Whether a gradient of `node` may be asked for: it reaches a leaf, or what a transform differentiates.

    The nearest nodes come first: of a value that a loop adds to, the last step says it, not the whole past.
    """
    trace = state.trace
    own = {} if trace is None or trace.kind == "jit" else {r.placeholder: r.cell for r in trace.cells.values()}
    for n in _nearest(node):
        if isinstance(n.type, TensorType) and not n.dtype.is_float:
            continue
        if n.op == "tag" or leaf_cell(n) is not None:
            return True
        if n.op == "param" and n.data is None and trace is not None and trace.kind != "jit":
            if n not in own:  # one example, one step, the carry
                return True
            with within(trace.parent):
                if own[n].requires_grad:
                    return True
    return False


def _nearest(root: Node, wanted: Callable[[Node], bool] = lambda n: True) -> Iterator[Node]:
    """The nodes that a gradient of `root` passes through, and those where it ends, by their distance."""
    seen, row = {root}, [root]
    while row:
        yield from row
        inputs = dict.fromkeys(i for n in row if not _ends(n) for i in n.inputs)
        row = [i for i in inputs if i not in seen and wanted(i)]
        seen.update(row)


def _ends(node: Node) -> bool:
    """Whether no gradient goes on from here."""
    one = isinstance(node.type, TensorType)  # of several results, each `item` has a dtype
    return node.op == "stop_gradient" or leaf_cell(node) is not None or one and not node.dtype.is_float
