"""`Detached`: another Tensor's cell without its gradients, which is what `state_dict()` is made of."""

from __future__ import annotations

from dlc.base.errors import GradientError
from dlc.frontend.core.in_place import stopped
from dlc.frontend.core.location import here
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.core.trace import Trace, register_leaf
from dlc.ir.graph.graph import Node


class Detached(Tensor):
    """A Tensor that shares the cell of another one: it reads what that holds, and what it is assigned that holds.

    It requires no gradient and passes none on. Copies of it (`clone()`, `copy.deepcopy`, pickles) are Tensors of their
    own. Given to a jitted function it is state, as the Tensor itself is where the function closes over it.
    """

    __slots__ = ("_cell",)
    _copied_as = Tensor

    def __init__(self, cell: Tensor):
        self._cell: Tensor = cell._home
        self._weak, self._requires_grad, self._grad = False, False, None

    @property
    def _home(self) -> Tensor:
        return self._cell

    @property
    def follows(self) -> bool:  # type: ignore[override]
        return self._cell.follows

    @property
    def _owner(self) -> Trace | None:  # type: ignore[override]
        return self._cell._owner

    @property
    def _node(self) -> Node:  # type: ignore[override]
        node = self._cell._node
        return node if node.op == "param" and not self._cell._requires_grad else stopped(node)

    @_node.setter
    def _node(self, node: Node) -> None:
        self._cell._node = node
        if self._cell._requires_grad:
            register_leaf(node, self._cell)

    def _read(self) -> Node:
        return stopped(self._cell._read())

    def _write(self, node: Node) -> None:
        self._cell._write(stopped(node))

    def _set_requires_grad(self, on: bool) -> None:
        if on:
            raise GradientError(
                f"requires_grad: this tensor of a state_dict() is its module's own; clone() it first\n  at {here()}"
            )

    requires_grad = Tensor.requires_grad.setter(_set_requires_grad)
