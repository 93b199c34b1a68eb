"""What array functions do with operands before they compute: dtypes, nodes, values on the host."""

from __future__ import annotations

import builtins
import math

import numpy as np

from dlc.base.errors import DTypeError, TraceError, is_foreign, no_operand
from dlc.frontend.array.axes import broadcast_nodes
from dlc.frontend.core import eager, places
from dlc.frontend.core.location import here
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


def wrap_result(node: Node, *operands) -> Tensor:
    """A Tensor that is weakly typed if it came from Python numbers only."""
    return wrap(node, weak=not node.dtype.is_bool and _all_weak(*operands))


def operands(name: str, *args) -> list[Node]:
    """Promoted and broadcast nodes."""
    return broadcast_nodes(name, *promote(*args))


def needs(name: str, kinds: str, what: str, *nodes: Node) -> None:
    for n in nodes:
        if n.dtype.kind not in kinds:
            got = ", ".join(f"{m.dtype.name}{list(m.shape)}" for m in nodes)
            raise DTypeError(f"{name}: needs {what}, got {got}")


def host_constant(array: np.ndarray) -> Node:
    """A leaf with the content of a host array, which is copied: it never changes, in a trace either.

    It follows the operands that it meets to their device.
    """
    return eager.following(np.asarray(array)) if places.several else eager.array_node(np.asarray(array), False)


def checked_array(name: str, x) -> np.ndarray:
    """`x`, which is no Tensor, as an array of NumPy's. Raises DTypeError where it is no operand."""
    if is_foreign(x):
        raise DTypeError(no_operand(x))
    try:
        array = np.asarray(x)
        dtypes.from_numpy(array.dtype)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{name}: {error}") from None
    return array


def host_array(name: str, x, why: str) -> np.ndarray:
    """The values of `x`. Raises TraceError where it is traced, saying `why` values are needed."""
    if not isinstance(x, Tensor):
        return checked_array(name, x)
    try:
        return x.numpy()
    except TraceError:
        text = f"{name}: cannot run on a traced {x.dtype.name} {x.shape} tensor, because {why}"
        raise TraceError(f"{text}: call it outside, or use dlc.where\n  at {here()}") from None


BITS = {8: dtypes.int8, 16: dtypes.int16, 32: dtypes.int32, 64: dtypes.int64}


def signbit_of(x: Node) -> Node:
    if x.dtype.is_float:
        x = b.make("bitcast", (x,), dtype=BITS[x.dtype.bits])
    if x.dtype.kind != "i":
        return b.const(False, dtypes.bool_, x.shape)
    return b.op("lt", x, b.like(x, 0))


def finite_of(n: Node) -> Node:
    if not n.dtype.is_float:
        return b.const(True, dtypes.bool_, n.shape)
    return b.op("lt", b.op("abs", n), b.like(n, math.inf))
