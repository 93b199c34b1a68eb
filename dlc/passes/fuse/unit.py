"""`Realization`: a node that gets memory of its own, with the scalar expression of one element."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dlc.base.lazy import cached_property
from dlc.ir.graph.graph import Node
from dlc.ir.loops.ir import Expr
from dlc.passes.views.elements import Index


@dataclass(eq=False)
class Realization:
    """One tensor to compute. `axes` span its iteration domain: the result's axes for a map, the operand's for a
    reduction, one per label for a contraction; an axis of extent 1 is the constant 0 (its place in `index`)."""

    node: Node
    kind: str  # map reduce contract scatter sort cumulative scan call each attention attention_grad
    index: Index  # the domain's index, one entry per axis
    extents: tuple[int, ...]
    values: tuple[Expr, ...]  # contract: the two operands; scatter: (index, update); attention: `Roles`; else one
    loads: dict[Expr, tuple[Node, Index]] = field(default_factory=dict)
    base: tuple[Index, Expr] | None = None  # of a scatter: an index of the result and the base's value there
    labels: str = ""  # of a contraction, in the order of `index`

    @cached_property
    def axes(self) -> tuple[Expr, ...]:
        """The axes of extent above 1."""
        return tuple(i for i in self.index if i.op == "axis")

    @cached_property
    def kept(self) -> tuple[Expr, ...]:
        """A reduction's axes that survive."""
        gone = self.node.attrs["axes"]
        return tuple(i for k, i in enumerate(self.index) if k not in gone and i.op == "axis")

    @cached_property
    def size(self) -> int:
        return math.prod(self.extents)

    @cached_property
    def chain(self) -> int:
        """The longest chain of operations in its expressions."""
        return max([v.chain for v in self.values], default=0)

    def __repr__(self) -> str:
        return f"<unit {self.node.op} {self.node.type}>"
