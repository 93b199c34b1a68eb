"""Statistical functions. Those that reduce plainly live in `reductions`; here are the ones that sort or compare."""

from __future__ import annotations

import math
import operator

import numpy as np

from dlc.base.errors import ShapeError
from dlc.frontend.array.axes import cut, expand_axes, normalize_axes
from dlc.frontend.array.elementwise import divide, multiply, subtract
from dlc.frontend.array.linalg import diagonal, matmul, outer
from dlc.frontend.array.manipulation import broadcast_to, matrix_transpose
from dlc.frontend.array.operands import wide
from dlc.frontend.array.reductions import max, mean, min, prod, std, sum, var
from dlc.frontend.array.unary import sqrt
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.ranges import marked_positions
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.modes.autocast import autocast
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node

__all__ = [
    "average", "bincount", "corrcoef", "cov", "max", "mean", "median", "min", "prod", "quantile", "std", "sum", "var",
]  # fmt: skip


def _in_order(name: str, x: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """(float values with `axes` merged into the last one and sorted, bool: whether a NaN is among them)."""
    rest = [k for k in range(x.ndim) if k not in axes]
    count = math.prod(x.shape[a] for a in axes)
    if not count:
        raise ShapeError(f"{name}: no elements to reduce over axes {axes} of shape {x.shape}")
    lead = [x.shape[k] for k in rest]
    w = b.reshape(b.permute(wide(x), (*rest, *axes)), (*lead, count))
    nan = b.reduce(b.op("ne", w, w), "any", (len(lead),))
    return b.item(b.make("sort", (w,), axis=len(lead), descending=False), 0), nan


def _at_quantile(ordered: Node, nan: Node, q: float) -> Node:
    axis = ordered.ndim - 1
    place = q * (ordered.shape[axis] - 1)
    low, part = math.floor(place), place - math.floor(place)
    value = b.reshape(cut(ordered, axis, low, low + 1), nan.shape)
    if part:
        above = b.reshape(cut(ordered, axis, low + 1, low + 2), nan.shape)
        # weights, not a difference, which would be NaN between infinities of one sign
        same = b.op("eq", value, above)
        mixed = value * (1 - part) + above * part
        value = b.select(same, value, mixed)
    return b.select(nan, b.like(value, math.nan), value)


@user_errors
def median(x, axis=None, *, keepdims: bool = False) -> Tensor:
    """The middle value, of an even number the mean of the two (NumPy's rule); NaN if there is one."""
    return quantile(x, 0.5, axis, keepdims=keepdims)


@user_errors
def quantile(x, q, axis=None, *, keepdims: bool = False) -> Tensor:
    """The value below which a share `q` of the elements lies, interpolated linearly; NaN if there is one.

    `q` is a number in [0, 1] or a sequence of them, which becomes the first axis. Raises ShapeError over no elements.
    """
    n = as_node(x)
    axes = normalize_axes("quantile", axis, n.ndim)
    shares = np.asarray(q.numpy() if isinstance(q, Tensor) else q, np.float64)
    if not ((shares >= 0) & (shares <= 1)).all() or shares.ndim > 1:
        raise ShapeError(f"quantile: shares are numbers in [0, 1], not {q!r}")
    ordered, nan = _in_order("quantile", n, axes)
    result = n.dtype if n.dtype.is_float else dtypes.float32
    found = [b.cast(_at_quantile(ordered, nan, float(s)), result) for s in shares.reshape(-1)]
    if keepdims:
        found = [expand_axes(f, axes) for f in found]
    if not shares.ndim:
        return wrap(found[0])
    rows = [b.reshape(f, (1, *f.shape)) for f in found]
    return wrap(b.make("concat", tuple(rows), axis=0) if len(rows) > 1 else rows[0])


@user_errors
def average(x, axis=None, weights=None, *, keepdims: bool = False) -> Tensor:
    """The mean weighted by `weights`, which broadcast to x."""
    if weights is None:
        return mean(x, axis, keepdims=keepdims)
    w = broadcast_to(weights, as_node(x).shape)
    return divide(sum(multiply(x, w), axis, keepdims=keepdims), sum(w, axis, keepdims=keepdims))


@user_errors
def cov(x, *, correction: float = 1.0) -> Tensor:
    """The covariance matrix [n, n] of n variables, given as the rows of [n, observations]."""
    n = as_node(x)
    if n.ndim != 2:
        raise ShapeError(f"cov: needs [variables, observations], got shape {n.shape}")
    off = subtract(x, mean(x, 1, keepdims=True))
    with autocast(enabled=False):
        products = matmul(off, matrix_transpose(off))
    count = n.shape[1] - correction
    return divide(products, count if count > 0 else 0)


@user_errors
def corrcoef(x) -> Tensor:
    """The correlation matrix [n, n] of n variables, given as the rows of [n, observations]."""
    c = cov(x)
    d = sqrt(diagonal(c))
    return divide(c, outer(d, d))


@user_errors
def bincount(x, minlength: int) -> Tensor:
    """int64 [minlength]: how often each integer from 0 on occurs in a vector; others are clamped to these.

    The length must be given, because it is the result's shape.
    """
    n, minlength = as_node(x), operator.index(minlength)
    if n.ndim != 1 or not n.dtype.is_int or minlength < 1:
        got = f"{n.dtype.name} {n.shape} and {minlength}"
        raise ShapeError(f"bincount: needs a vector of integers and a length, got {got}")
    base = b.const(0, dtypes.int64, (minlength,))
    ones = b.const(1, dtypes.int64, n.shape)
    at = marked_positions(n, minlength, 0, (minlength,), least=0)
    return wrap(b.make("scatter", (base, at, ones), axis=0, combine="add"))
