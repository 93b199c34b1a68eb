"""TODO"""

from __future__ import annotations

import builtins

from dlc.base.errors import DTypeError
from dlc.frontend.array.axes import broadcast_nodes
from dlc.frontend.core.operands import is_weak, promote
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node


def as_float(x: Node) -> Node:
    """`x`, an integer or bool tensor as float32."""
    return x if x.dtype.is_float else b.cast(x, dtypes.float32)


def wide(x: Node) -> Node:
    """`x` as a float in the type that kernels compute in: half types as float32, integers as float32."""
    x = as_float(x)
    return b.cast(x, x.dtype.compute)


def root_of_sum(x: Node) -> Node:
    """The square root of a sum of squares; its derivative at 0, where it has none, is 0, as for PyTorch's norms."""
    zero = b.op("eq", x, b.like(x, 0))
    return b.select(zero, b.like(x, 0), b.op("sqrt", b.select(zero, b.like(x, 1), x)))


def _all_weak(*operands) -> bool:
    return builtins.all(is_weak(x) for x in operands)


def _result(node: Node, *operands) -> Tensor:
    """A Tensor that is weakly typed if it came from Python numbers only."""
    return wrap(node, weak=not node.dtype.is_bool and _all_weak(*operands))


def operands(name: str, *args) -> list[Node]:
    """Promoted and broadcast nodes."""
    return broadcast_nodes(name, *promote(*args))


def _needs(name: str, kinds: str, what: str, *nodes: Node) -> None:
    for n in nodes:
        if n.dtype.kind not in kinds:
            got = ", ".join(f"{m.dtype.name}{list(m.shape)}" for m in nodes)
            raise DTypeError(f"{name}: needs {what}, got {got}")
