"""The labels of a contraction: batch, rows, columns, inner; which of them are one run of memory."""

from __future__ import annotations

from dataclasses import dataclass

from dlc.ir.graph.graph import Node
from dlc.ir.graph.ops import split_spec
from dlc.passes.views.strides import strides_of


@dataclass(frozen=True)
class Parts:
    """The label groups of a contraction, without labels of extent 1, in the order of the result, then the operands."""

    batch: str
    rows: str
    columns: str
    inner: str


def parts_of(spec: str, sizes: dict[str, int], swap: bool) -> Parts:
    a, b, out = split_spec(spec)
    if swap:
        a, b = b, a
    wide = [x for x in dict.fromkeys(out + a + b) if sizes[x] != 1]
    return Parts(
        "".join(x for x in wide if x in a and x in b and x in out),
        "".join(x for x in wide if x in a and x not in b),
        "".join(x for x in wide if x in b and x not in a),
        "".join(x for x in wide if x in a and x in b and x not in out),
    )


def label_sizes(node: Node) -> dict[str, int]:
    a, b, _ = split_spec(node.attrs["spec"])
    return dict(zip(a + b, node.inputs[0].shape + node.inputs[1].shape, strict=True))


def runs_along_inner(node: Node, swap: bool) -> bool:
    """Do both operands lie contiguous along the same inner label?"""
    spec = split_spec(node.attrs["spec"])
    parts = parts_of(node.attrs["spec"], label_sizes(node), swap)
    if not parts.inner:
        return False
    return all(
        strides_of(x)[own.index(parts.inner[-1])] == 1 for x, own in zip(node.inputs, spec, strict=False)
    )


def column_run(node: Node, swap: bool) -> str:
    """The column labels that are one range of the result's memory: the vectors run along all of them."""
    sizes = label_sizes(node)
    columns = parts_of(node.attrs["spec"], sizes, swap).columns
    out = [x for x in split_spec(node.attrs["spec"])[2] if sizes[x] != 1]
    k = len(columns)
    while k and columns[k - 1 :] == "".join(out[len(out) - len(columns) + k - 1 :]):
        k -= 1
    return columns[min(k, len(columns) - 1) :]


def row_run(node: Node, swap: bool) -> int:
    """How many rows, counted over the last row labels, lie at one stride in the row operand (0: all of them)."""
    spec = split_spec(node.attrs["spec"])
    operand, own = (node.inputs[1], spec[1]) if swap else (node.inputs[0], spec[0])
    sizes = label_sizes(node)
    rows = parts_of(node.attrs["spec"], sizes, swap).rows
    strides = strides_of(operand)
    total = 1
    for k in range(len(rows) - 1, -1, -1):
        own_stride = strides[own.index(rows[k])]
        if own_stride is None:
            return 0
        if k < len(rows) - 1 and own_stride != strides[own.index(rows[k + 1])] * sizes[rows[k + 1]]:
            return total
        total *= sizes[rows[k]]
    return 0
