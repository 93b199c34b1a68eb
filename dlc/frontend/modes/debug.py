"""`dlc.debug()`: run everything one operation at a time, and stop at the first NaN or index out of range.

The reference interpreter does the work, so this is slow; the errors name the user's line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from dlc.base.errors import DlcError, IndexOutOfRange
from dlc.frontend.core.ranges import check_classes, check_positions
from dlc.frontend.core.trace import state
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.ir.graph.nodes import item


class NaNFound(DlcError, FloatingPointError):
    """An operation made a NaN from operands that had none."""


@contextlib.contextmanager
def debug() -> Iterator[None]:
    """Context: computations raise NaNFound where a NaN first appears, and IndexOutOfRange where a data-dependent index
    (which otherwise clamps) is outside its axis. Compiled functions are checked too."""
    saved, state.checked = state.checked, run_checked
    try:
        yield
    finally:
        state.checked = saved


def run_checked(graph: Graph, args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of `graph`; loops and checkpointed functions are entered, so that errors name lines inside them."""
    done: dict[Node, object] = dict(zip(graph.params, args, strict=True))
    for node in graph.nodes():
        if node in done:
            continue
        ins = [done[i] for i in node.inputs]
        if node.op == "item":
            done[node] = ins[0][node.attrs["index"]]  # type: ignore[index]
        elif node.op == "checkpoint":
            done[node] = run_checked(node.attrs["body"], ins)  # type: ignore[arg-type]
        elif node.op == "scan":
            done[node] = _scan(node, ins)  # type: ignore[arg-type]
        else:
            _check_indices(node, ins)
            done[node] = _one(node, ins)
            _check_nan(node, ins, done[node])
    return [done[o] for o in graph.outputs]  # type: ignore[misc]


def _one(node: Node, ins: list) -> object:
    from dlc.ir.graph.interp import evaluate  # `import dlc` need not pay for it

    params = [param(i.type) for i in node.inputs]
    alone = make(node.op, params, node.loc, **node.attrs)
    if isinstance(alone.type, TensorType):
        return evaluate(Graph(params, [alone]), ins)[0]
    return evaluate(Graph(params, [item(alone, k) for k in range(len(alone.type))]), ins)


def _scan(node: Node, ins: list[np.ndarray]) -> list[np.ndarray]:
    body, length, n, m = (node.attrs[k] for k in ("body", "length", "consts", "carry"))
    consts, carry, xs = ins[:n], list(ins[n : n + m]), ins[n + m :]
    stacked = [np.empty(t.shape, t.dtype.np) for t in node.type[m:]]
    for t in reversed(range(length)) if node.attrs["reverse"] else range(length):
        out = run_checked(body, [*consts, *carry, *(np.asarray(x[t]) for x in xs)])
        carry = out[:m]
        for all_rows, row in zip(stacked, out[m:], strict=True):
            all_rows[t] = row
    return [*carry, *stacked]


def _at(node: Node) -> str:
    return f"\n  at {node.loc}" + (f", in {node.loc.function}" if node.loc.function else "") if node.loc else ""


def _check_nan(node: Node, ins: list, value: object) -> None:
    values = value if isinstance(value, list) else [value]
    if not any(_has_nan(v) for v in values) or any(_has_nan(i) for i in ins):
        return
    if node.op == "const":
        return  # a NaN that the user wrote
    bad = next(v for v in values if _has_nan(v))
    where = tuple(int(k) for k in np.argwhere(np.isnan(bad.astype(np.float64)))[0])
    types = ", ".join(f"{i.dtype.name} {i.shape}" for i in node.inputs if isinstance(i.type, TensorType))
    raise NaNFound(
        f"{node.op} made a NaN at index {where} of its result, from operands without any ({types}){_at(node)}"
    )


def _has_nan(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind not in "biu" and bool(np.isnan(x.astype(np.float64)).any())


def _check_indices(node: Node, ins: list) -> None:
    """What the user gives as positions and class numbers is marked; what functions compute from them is theirs."""
    if node.op != "stop_gradient" or "below" not in node.attrs:
        return
    try:
        if "axis" in node.attrs:
            least, below, axis, of = (node.attrs[k] for k in ("least", "below", "axis", "of"))
            check_positions(ins[0], least, below, axis, of, after=_at(node))
        else:
            check_classes(ins[0], node.attrs["below"], node.attrs.get("but"), after=_at(node))
    except IndexOutOfRange as error:
        error.loc = node.loc  # it says its line: the operation that asked for the value is not at fault
        raise
