"""Making tensors. The default dtypes are float32 for floats, int64 for integers and bool for bools."""

from __future__ import annotations

import builtins
import math
import operator

import numpy as np

from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import broadcast_nodes, shape_tuple
from dlc.frontend.array.operands import host_array
from dlc.frontend.core import places
from dlc.frontend.core.location import Located, user_errors
from dlc.frontend.core.operands import as_dtype, as_node, promote, result_dtype
from dlc.frontend.core.ranges import class_numbers
from dlc.frontend.core.tensor import Tensor, moved, wrap
from dlc.frontend.io.dlpack import from_dlpack
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node, make


def _dtype(name: str, dtype, default: DType) -> DType:
    return default if dtype is None else as_dtype(name, dtype)


def made(node: Node, device) -> Tensor:
    """A new Tensor that is computed on `device`, or (None) on the default device."""
    if device is None and not places.several:
        return wrap(node)
    return wrap(places.pinned(node, places.wanted(device)))


@user_errors
def asarray(obj, dtype: DType | None = None, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor of a Tensor, a NumPy array, a (nested) list, a number, or anything with `__dlpack__`.

    Host arrays are copied (`from_dlpack` shares memory). `copy` has no effect on tensors: they are values. Tensors
    stay on their device unless `device` is given.
    """
    if dtype is not None:
        dtype = _dtype("asarray", dtype, dtypes.float32)
    if isinstance(obj, Tensor):
        obj = obj if device is None else moved(obj, device)
        return wrap(obj.node if dtype is None or dtype is obj.dtype else as_node(obj, dtype))
    if hasattr(obj, "__dlpack__") and not isinstance(obj, (Tensor, np.ndarray)):
        obj = from_dlpack(obj, copy=True)
        return asarray(obj, dtype, device=device)
    if device is None and not places.several:
        return wrap(as_node(obj, dtype))
    where = places.wanted(device)
    return wrap(places.pinned(as_node(obj, dtype, where), where))


@user_errors
def tensor(data, dtype: DType | None = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """PyTorch's name of `asarray`, with `requires_grad`."""
    out = asarray(data, dtype, device=device)
    if isinstance(data, Tensor):
        out = wrap(out.detach().node)
    if requires_grad:
        out.requires_grad = True
    return out


@user_errors
def full(shape, fill_value, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """A tensor filled with a number (or a scalar tensor), of that number's dtype unless given."""
    size = _extents("full", shape)
    value = as_node(fill_value, _dtype("full", dtype, None))
    if value.ndim:
        raise ShapeError(f"full: the value has shape {value.shape}, not ()")
    whole = make("const", (), **{**value.attrs, "shape": size}) if value.op == "const" else None
    return made(whole or b.broadcast_to(value, size), device)


def _extents(name: str, shape) -> tuple[int, ...]:
    size = shape_tuple(name, shape)
    if builtins.any(d < 0 for d in size):
        raise ShapeError(f"{name}: {size} has a negative extent")
    return size


def _filled(name: str, args: tuple, value, dtype: DType | None, device: str | None, requires_grad: bool) -> Tensor:
    if not args:
        raise ShapeError(f"{name}: needs a shape; () makes a scalar")
    shape = _extents(name, args[0] if len(args) == 1 else args)
    out = made(b.const(value, _dtype(name, dtype, dtypes.float32), shape), device)
    if requires_grad:
        out.requires_grad = True
    return out


@user_errors
def zeros(*shape, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape given as one sequence or as several integers."""
    return _filled("zeros", shape, 0, dtype, device, requires_grad)


@user_errors
def ones(*shape, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape given as one sequence or as several integers."""
    return _filled("ones", shape, 1, dtype, device, requires_grad)


@user_errors
def empty(*shape, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be filled later. Its elements are zeros: nothing in dlc is ever uninitialised."""
    return _filled("empty", shape, 0, dtype, device, requires_grad)


def _like(name: str, x, value, dtype: DType | None, device) -> Tensor:
    n = as_node(x)
    return made(b.const(value, _dtype(name, dtype, n.dtype), n.shape), device or _device_of(n))


def _device_of(node: Node) -> str | None:
    """The device of a tensor, where it has one."""
    where = places.place(node) if places.several else ""
    return where if where not in places.NOWHERE else None


@user_errors
def zeros_like(x, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """Zeros in the shape and dtype of `x`."""
    return _like("zeros_like", x, 0, dtype, device)


@user_errors
def ones_like(x, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """Ones in the shape and dtype of `x`."""
    return _like("ones_like", x, 1, dtype, device)


@user_errors
def empty_like(x, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """`empty` in the shape and dtype of `x`."""
    return _like("empty_like", x, 0, dtype, device)


@user_errors
def full_like(x, fill_value, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """A number (or scalar tensor) in the shape and dtype of `x`."""
    n = as_node(x)
    return full(n.shape, fill_value, dtype=_dtype("full_like", dtype, n.dtype), device=device or _device_of(n))


@user_errors
def arange(
    start: float, /, stop: float | None = None, step: float = 1, *, dtype: DType | None = None,
    device: str | None = None,
) -> Tensor:
    """Numbers from `start` (0 if it is the only argument) up to, not including, `stop`, `step` apart.

    int64 for integers, float32 otherwise. The bounds are Python numbers: they fix the shape.
    """
    start, stop = (0, start) if stop is None else (start, stop)
    start, stop, step = (v.item() if isinstance(v, (Tensor, np.generic)) else v for v in (start, stop, step))
    if not step:
        raise ShapeError("arange: the step is 0")
    whole = builtins.all(isinstance(v, int) for v in (start, stop, step))
    dtype = _dtype("arange", dtype, dtypes.int64 if whole else dtypes.float32)
    count = -((start - stop) // step) if whole else math.ceil((stop - start) / step)
    count = builtins.max(count, 0)
    # floats are laid out in float64, so that the last of many is as exact as the first
    work = dtype if dtype.is_int else dtypes.float64
    line = b.iota((count,), 0, work)
    line = line * step if step != 1 else line
    line = line + start if start else line
    return made(b.cast(line, dtype), device)


@user_errors
def linspace(start, stop, num: int, *, dtype: DType | None = None, endpoint: bool = True, device=None) -> Tensor:
    """`num` numbers evenly spaced from `start` to `stop`, the latter included unless `endpoint` is False."""
    num = operator.index(num)
    if num < 0:
        raise ShapeError(f"linspace: {num} numbers")
    dtype = _dtype("linspace", dtype, dtypes.float32)
    ends = [as_node(v, dtypes.float64) for v in (start, stop)]
    lo, hi = broadcast_nodes("linspace", *ends)
    shape, axes = (num, *lo.shape), range(1, lo.ndim + 1)
    lo, hi = b.broadcast(lo, shape, axes), b.broadcast(hi, shape, axes)
    gaps = builtins.max(num - 1 if endpoint else num, 1)
    line = b.iota(shape, 0, dtypes.float64)
    part = (hi - lo) * line / gaps
    out = lo + part
    if endpoint and num > 1:
        out = b.select(b.op("eq", line, b.like(line, num - 1)), hi, out)
    return made(b.cast(out, dtype), device)


@user_errors
def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: DType | None = None, device=None) -> Tensor:
    """Ones on the diagonal `k` (> 0 lies above the main one), zeros elsewhere."""
    shape = _extents("eye", (n_rows, n_rows if n_cols is None else n_cols))
    row, column = b.iota(shape, 0, dtypes.int64), b.iota(shape, 1, dtypes.int64)
    row = row + k if k else row
    return made(b.cast(b.op("eq", row, column), _dtype("eye", dtype, dtypes.float32)), device)


def _triangle(name: str, x, k: int, lower: bool) -> Tensor:
    n = as_node(x)
    if n.ndim < 2:
        raise ShapeError(f"{name}: needs at least two dimensions, got shape {n.shape}")
    row, column = b.iota(n.shape, n.ndim - 2, dtypes.int64), b.iota(n.shape, n.ndim - 1, dtypes.int64)
    edge = row + k if k else row
    keep = b.op("le", column, edge) if lower else b.op("le", edge, column)
    return wrap(b.select(keep, n, b.like(n, 0)))


@user_errors
def tril(x, *, k: int = 0) -> Tensor:
    """`x` with the elements above diagonal `k` of its matrices set to zero."""
    return _triangle("tril", x, k, True)


@user_errors
def triu(x, *, k: int = 0) -> Tensor:
    """`x` with the elements below diagonal `k` of its matrices set to zero."""
    return _triangle("triu", x, k, False)


@user_errors
def meshgrid(*arrays, indexing: str = "xy") -> list[Tensor]:
    """Coordinates of a grid from one vector for each axis; 'xy' swaps the first two axes, 'ij' does not."""
    if indexing not in ("xy", "ij"):
        raise ShapeError(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    nodes = promote(*arrays) if arrays else []
    for n in nodes:
        if n.ndim > 1:
            raise ShapeError(f"meshgrid: needs vectors, got shape {n.shape}")
    shape = [n.type.size for n in nodes]
    order = list(range(len(nodes)))
    if indexing == "xy" and len(nodes) > 1:
        order[:2] = 1, 0
    grid = [shape[k] for k in order]
    flat = [b.reshape(n, (n.type.size,)) for n in nodes]
    return [wrap(b.broadcast(n, grid, (order.index(k),))) for k, n in enumerate(flat)]


@user_errors
def one_hot(x, num_classes: int = -1, *, dtype: DType | None = None) -> Tensor:
    """int64 (or `dtype`) [..., num_classes]: 1 where the last position equals x, 0 elsewhere.

    Without `num_classes` the largest element decides, which only works on concrete tensors. A number that is no class
    raises IndexOutOfRange; where values are not at hand (under jit, on a GPU) it gives zeros, and raises under
    `dlc.debug()`.
    """
    if num_classes == -1:
        num_classes = int(host_array("one_hot", x, "the number of classes is not given").max(initial=-1)) + 1
    num_classes = operator.index(num_classes)
    n = class_numbers("one_hot", x, num_classes).node
    shape = (*n.shape, num_classes)
    wide = b.broadcast(b.cast(n, dtypes.int64), shape, range(n.ndim))
    same = b.op("eq", wide, b.iota(shape, n.ndim, dtypes.int64))
    return wrap(b.cast(same, _dtype("one_hot", dtype, dtypes.int64)))


# -- dtypes ---------------------------------------------------------------------------------------------------------


class finfo(Located):
    """Limits of a float dtype: bits, eps, max, min, smallest_normal, dtype."""

    def __init__(self, type):
        import ml_dtypes

        self.dtype = type.dtype if isinstance(type, Tensor) else as_dtype("finfo", type)
        if not self.dtype.is_float:
            raise DTypeError(f"finfo: {self.dtype!r} is not a float dtype")
        info = ml_dtypes.finfo(self.dtype.np)
        self.bits = self.dtype.bits
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.smallest_normal = self.tiny = float(info.smallest_normal)

    def __repr__(self) -> str:
        return f"finfo({self.dtype}, bits={self.bits}, eps={self.eps}, min={self.min}, max={self.max})"


class iinfo(Located):
    """Limits of an integer dtype: bits, max, min, dtype."""

    def __init__(self, type):
        self.dtype = type.dtype if isinstance(type, Tensor) else as_dtype("iinfo", type)
        if not self.dtype.is_int:
            raise DTypeError(f"iinfo: {self.dtype!r} is not an integer dtype")
        self.bits = self.dtype.bits
        self.min, self.max = dtypes.limits(self.dtype)

    def __repr__(self) -> str:
        return f"iinfo({self.dtype}, bits={self.bits}, min={self.min}, max={self.max})"


@user_errors
def result_type(*arrays_and_dtypes) -> DType:
    """The dtype that operands (tensors, dtypes, Python numbers) meet in."""
    if not arrays_and_dtypes:
        raise DTypeError("result_type: no operands")
    return result_dtype(*arrays_and_dtypes)


@user_errors
def can_cast(from_, to: DType) -> bool:
    """Whether promotion may turn the dtype (of the tensor) `from_` into `to`."""
    source = from_.dtype if isinstance(from_, Tensor) else from_
    return dtypes.promote(source, to) is to


_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "",
    "numeric": "iuf",
}


@user_errors
def isdtype(dtype: DType, kind) -> bool:
    """Whether a dtype is `kind`: a dtype, a kind of the array API ('integral', 'real floating', ...), or a tuple."""
    if isinstance(kind, tuple):
        return builtins.any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, DType):
        return dtype is kind
    if kind not in _KINDS:
        raise DTypeError(f"isdtype: unknown kind {kind!r}; choose from {', '.join(_KINDS)}")
    return dtype.kind in _KINDS[kind]
