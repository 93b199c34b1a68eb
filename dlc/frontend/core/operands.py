"""What users give as operands: their nodes, and the dtype in which they meet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, ShapeError, is_foreign, no_operand
from dlc.frontend.core import eager, foreign, moving, places
from dlc.frontend.core.location import here, number_text, user_errors
from dlc.frontend.core.trace import Cell, make_cell, state
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, make

_PYTHON_DEFAULT = {"b": dtypes.bool_, "i": dtypes.int64, "f": dtypes.float32}
_TOO_LARGE = (1 << 1024) - (1 << 970)  # Python makes no float of an integer from here on
_RANK = {"b": 0, "i": 1, "u": 1, "f": 2}


def as_dtype(name: str, dtype: Any) -> DType:
    """A dlc dtype, given as such or as NumPy's. Raises DTypeError for others (Python's float has no one width)."""
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, np.dtype) or (isinstance(dtype, type) and issubclass(dtype, np.generic)):
        try:
            return dtypes.from_numpy(dtype)
        except TypeError as e:
            raise DTypeError(f"{name}: {e}") from None
    raise DTypeError(f"{name}: {dtype!r} is not a dtype such as dlc.float32")


def as_node(x: Any, dtype: DType | None = None, device: str | None = None) -> Node:
    """The node of an operand: a Tensor, a Python number, a NumPy array or scalar, or a nested list of these.

    Python floats become float32, integers int64. Arrays are copied, to `device` (not given: the default device; in a
    trace they follow what they meet). Raises DTypeError for what dlc has no dtype of.
    """
    if isinstance(x, Cell):
        if dtype is not None:
            return build.cast(x._read(), dtype, here())
        return x.node
    if isinstance(x, (bool, int, float)):
        dtype = dtype or _PYTHON_DEFAULT[_kind(x)]
        return _number(x, dtype)
    if isinstance(x, (list, tuple)) and _holds_tensor(x):
        parts = [as_node(v, dtype) for v in x]
        common = dtypes.promote(*(p.dtype for p in parts))
        if any(p.shape != parts[0].shape for p in parts):
            raise ShapeError(f"tensor: elements have shapes {', '.join(str(p.shape) for p in parts)}")
        rows = [build.reshape(build.cast(p, common), (1, *p.shape)) for p in parts]
        return make("concat", rows, here(), axis=0)
    if is_foreign(x):
        raise DTypeError(no_operand(x))
    array = _as_array(x, dtype)
    # The array of a caller may change later: a trace reads it again at every call.
    return eager.array_node(array, x is array or array.base is not None, device)


@user_errors
def tensor(x: Any, dtype: DType | None, device: Any = None) -> Node:
    dtype = None if dtype is None else as_dtype("tensor", dtype)
    if is_foreign(x):
        x = foreign.adopt(x, copy=True)
        x = make_cell(x, state.trace) if isinstance(x, Node) else x
    if device is None and not places.several:
        return as_node(x, dtype)
    where = places.wanted(device)
    if where is not None and isinstance(x, Cell):
        node = moving.moved_node(x, where) if device is not None else None
        return as_node(x if node is None else make_cell(node, state.trace, x._weak), dtype)
    return places.pinned(as_node(x, dtype, where), where)


def _as_array(x: Any, dtype: DType | None) -> np.ndarray:
    if isinstance(x, (np.ndarray, np.generic)):
        array = np.asarray(x)
    else:
        try:
            array = np.array(x)
        except (ValueError, TypeError) as e:
            raise ShapeError(f"tensor: {e}") from None
        # Python numbers in lists take the defaults; what came with a dtype (an object with __array__) keeps it
        if isinstance(x, (list, tuple)) and not _holds_numpy(x):
            if array.dtype.kind in "iu" and array.size:
                for worst in (int(array.min()), int(array.max())):
                    _check_fits(worst, dtype or dtypes.int64)
            if dtype is None and array.dtype == np.float64:
                array = array.astype(np.float32)
            elif dtype is None and array.dtype.kind in "iu":
                array = array.astype(np.int64)
    if dtype is not None and array.dtype != dtype.np:
        try:
            dtypes.from_numpy(array.dtype)
        except TypeError:
            raise DTypeError(f"tensor: cannot make {dtype.name} from {array.dtype}") from None
        with np.errstate(invalid="ignore"):  # a NaN or infinity as an integer: NumPy's choice
            return array.astype(dtype.np)
    try:
        dtypes.from_numpy(array.dtype)
    except TypeError as e:
        raise DTypeError(f"tensor: {e}") from None
    return array


def _holds_tensor(x: Any) -> bool:
    return any(isinstance(v, Cell) or isinstance(v, (list, tuple)) and _holds_tensor(v) for v in x)


def _holds_numpy(x: Any) -> bool:
    # the first element speaks for a list: a long list of numbers must not be walked twice
    while isinstance(x, (list, tuple)) and x:
        x = x[0]
    return isinstance(x, (np.ndarray, np.generic)) and not isinstance(x, float)


def _kind(x: Any) -> str:
    return "b" if isinstance(x, bool) else "i" if isinstance(x, int) else "f"


def _check_fits(x: int, dtype: DType) -> None:
    if dtype.is_int:
        low, high = dtypes.limits(dtype)
        fits = low <= x <= high
    else:
        fits = -_TOO_LARGE < x < _TOO_LARGE
    if not fits:
        raise DTypeError(f"tensor: the number {number_text(x)} does not fit {dtype.name}")


def _number(x: Any, dtype: DType) -> Node:
    if not isinstance(x, float):
        _check_fits(x, dtype)
    if dtype.is_int and isinstance(x, float) and not math.isfinite(x):
        raise DTypeError(f"tensor: the number {x} does not fit {dtype.name}")
    return build.const(x, dtype, (), here())


def is_weak(x: Any) -> bool:
    """Whether an operand takes its dtype from what it meets: a Python number, or a Tensor made from one by `jit`."""
    return x._weak if isinstance(x, Cell) else isinstance(x, (bool, int, float))


def result_dtype(*operands: Any) -> DType:
    """The dtype in which `operands` meet: the array API's lattice, int with float giving that float, and Python numbers
    giving way to any tensor of their kind or a higher one."""
    strong, weak = [], ""
    for x in operands:
        if isinstance(x, DType):
            strong.append(x)
        elif isinstance(x, Cell):
            if x._weak:
                weak = max(weak, x.dtype.kind, key=lambda k: _RANK.get(k, -1))
            else:
                strong.append(x._node.type.dtype)
        elif isinstance(x, (bool, int, float)):
            weak = max(weak, _kind(x), key=lambda k: _RANK.get(k, -1))
        elif isinstance(x, Node):
            strong.append(x.dtype)
        else:
            strong.append(as_node(x).dtype)
    if not strong:
        return _PYTHON_DEFAULT["i" if weak == "u" else weak]
    out = dtypes.promote(*strong)
    if weak and _RANK[weak] > _RANK[out.kind]:
        return _PYTHON_DEFAULT["i" if weak == "u" else weak]
    return out


def promote(*operands: Any) -> list[Node]:
    """The operands' nodes, cast to their common dtype. Shapes stay as they are."""
    operands = tuple(x if isinstance(x, (Cell, bool, int, float, Node)) else as_node(x) for x in operands)
    dtype, out = result_dtype(*operands), []
    for x in operands:
        if isinstance(x, Cell):
            node = x._read()
        elif isinstance(x, Node):
            node = x
        else:
            out.append(_number(x, dtype))
            continue
        out.append(node if node.type.dtype is dtype else build.cast(node, dtype, here()))
    return out
