"""The element expressions of an `attention` or `attention_grad`: operands, and the pointwise bodies between them."""

from __future__ import annotations

from typing import NamedTuple

from dlc.ir import dtypes
from dlc.ir.graph.attention import GRAD_INPUTS, INPUTS, labels_of, sizes_of
from dlc.ir.graph.graph import Graph, Node
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.ir import Buffer, Expr
from dlc.passes.fuse.materialize import UNITS
from dlc.passes.fuse.unit import Realization
from dlc.passes.views.elements import Elements, Index
from dlc.passes.views.views import fresh_index

# What a body is a function of: its place is taken by values in registers.
SCORE, WEIGHT, DX, DW = (loops.load(Buffer(n, dtypes.float32, (), "reg")) for n in ("score", "weight", "dx", "dw"))


class Roles(NamedTuple):
    """`Realization.values` of an attention: one element each; the bodies in terms of SCORE, WEIGHT, DX and DW."""

    q: Expr
    k: Expr
    v: Expr
    score: Expr
    weights: Expr
    dout: Expr | None = None
    lse: Expr | None = None
    delta: Expr | None = None
    score_grad: Expr | None = None
    weights_grad: Expr | None = None


def attention_unit(node: Node, elements: Elements) -> Realization:
    """The unit over all labels: batch, query, key, inner, value."""
    labels = labels_of(node.attrs)
    sizes = sizes_of(labels, *(i.type for i in node.inputs[:INPUTS]))
    order = labels.batch + labels.query + labels.key + labels.inner + labels.value
    index = fresh_index([sizes[x] for x in order], order)
    at = dict(zip(order, index, strict=True))
    inputs = node.inputs
    extras = inputs[INPUTS if node.op == "attention" else GRAD_INPUTS :]
    place = tuple(at[x] for x in labels.s)

    def operand(x: Node, own: str) -> Expr:
        return elements.value(x, tuple(at[c] for c in own))

    def body(name: str, *held: Expr) -> Expr:
        graph: Graph = node.attrs[name]
        known: dict[Node, Expr | Node] = dict(zip(graph.params, (*held, *extras), strict=True))
        return unrounded(_Body(elements, known, place).value(graph.outputs[0], place))

    values = [operand(x, own) for x, own in zip(inputs, (labels.q, labels.k, labels.v), strict=False)]
    values += [body("score", SCORE), body("weights", WEIGHT)]
    if node.op == "attention_grad":
        more = zip(inputs[INPUTS:], (labels.out, labels.row, labels.row), strict=False)
        values += [operand(x, own) for x, own in more]
        values += [body("score_grad", SCORE, DX), body("weights_grad", DW)]
    return Realization(node, node.op, index, tuple(sizes[x] for x in order), tuple(values), labels=order)


class _Body(Elements):
    """Elements of a body at one place of the scores: its parameters are values in registers and outer nodes."""

    def __init__(self, outer: Elements, known: dict[Node, Expr | Node], place: Index):
        super().__init__(lambda node: None)
        self.outer, self.known, self.place = outer, known, place

    def value(self, node: Node, index: Index, guard: Expr | None = None) -> Expr:
        found = self.known.get(node)
        if found is None:
            return super().value(node, index, guard)
        if isinstance(found, Node):
            return self.outer.value(found, index, guard)
        if index != self.place:
            raise AssertionError("a body of an attention reads scores at another place")
        return found


def unrounded(e: Expr) -> Expr:
    """`e` without roundings to half floats on the way."""

    def rule(old: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if old.op == "cast" and old.dtype is dtypes.float32 and args[0].op == "cast" and args[0].dtype.is_half:
            inner = args[0].args[0]
            return inner if inner.dtype is dtypes.float32 else None
        return None

    return traverse.map_expr(e, rule, {})


UNITS["attention"] = UNITS["attention_grad"] = attention_unit
