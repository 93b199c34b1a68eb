"""The reference meaning of the Graph IR: every operation in NumPy, for tests and as the oracle of every backend.

Half floats are computed in float32 and rounded after each elementwise operation. Reductions, contractions and running
sums of floats accumulate in float64 and are rounded once. Integers wrap. With `wide=True` every float type is computed
and kept in float64, which gives the value that an infinitely careful backend would approach.

`vjp` nodes have no meaning of their own here: expand them first (`dlc.passes.autodiff.vjp.expand`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType, convert
from dlc.ir.graph.graph import Graph, Node, TensorType
from dlc.ir.graph.ops import split_spec, window_count, window_steps
from dlc.ir.graph.table import OPS
from dlc.ir.scalar import SCALAR_OPS

Array = np.ndarray
F64 = np.dtype(np.float64)


class _Mode:
    """How element types are stored while evaluating: as they are, or every float as float64."""

    def __init__(self, wide: bool):
        self.wide = wide

    def store(self, dtype: DType) -> np.dtype:
        return F64 if self.wide and dtype.is_float else dtype.np

    def elementwise(self, dtype: DType) -> np.dtype:
        return F64 if self.wide and dtype.is_float else dtype.compute.np


def accumulator(dtype: DType) -> np.dtype:
    """The type in which sums of `dtype` are kept here."""
    return F64 if dtype.is_float else dtype.np


def _elementwise(node: Node, mode: _Mode, *ins: Array) -> Array:
    work = [x.astype(mode.elementwise(i.dtype)) for x, i in zip(ins, node.inputs, strict=True)]
    return SCALAR_OPS[node.op].numpy(*work)


def _iota(node: Node, mode: _Mode) -> Array:
    axis, shape = node.attrs["axis"], node.shape
    column = np.arange(shape[axis], dtype=np.int64).astype(mode.store(node.dtype))
    return np.broadcast_to(column.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)


def _bitcast(node: Node, mode: _Mode, x: Array) -> Array:
    exact = np.ascontiguousarray(x.astype(node.inputs[0].dtype.np)).reshape(x.shape)
    if node.dtype.is_bool:
        return exact.view(np.uint8) != 0
    return exact.view(node.dtype.np)


def _broadcast(node: Node, mode: _Mode, x: Array) -> Array:
    aligned = [1] * len(node.shape)
    for extent, axis in zip(x.shape, node.attrs["axes"], strict=True):
        aligned[axis] = extent
    return np.broadcast_to(x.reshape(aligned), node.shape)


def _pad(node: Node, mode: _Mode, x: Array) -> Array:
    a = node.attrs
    out = np.full(node.shape, a["value"], x.dtype)
    source, target = [], []
    for extent, size, low, gap in zip(x.shape, node.shape, a["low"], a["interior"], strict=True):
        position = low + np.arange(extent) * (gap + 1)
        keep = (position >= 0) & (position < size)
        source.append(np.nonzero(keep)[0])
        target.append(position[keep])
    if x.ndim:
        out[np.ix_(*target)] = x[np.ix_(*source)]
        return out
    return x


def _window(node: Node, mode: _Mode, x: Array) -> Array:
    a = node.attrs
    for axis, size, stride, dilation in zip(a["axes"], a["sizes"], a["strides"], a["dilations"], strict=True):
        count = window_count(x.shape[axis], size, stride, dilation)
        if count == 0:
            shape = (*x.shape[:axis], 0, *x.shape[axis + 1 :], size)
            x = np.zeros(shape, x.dtype)
            continue
        index = np.arange(count)[:, None] * stride + np.arange(size) * dilation
        x = np.moveaxis(np.take(x, index, axis), axis + 1, -1)
    return x


def _pair(node: Node, mode: _Mode, x: Array) -> Array:
    bits = np.moveaxis(x, node.attrs["axis"], -1).astype(dtypes.bfloat16.np).view(np.uint16).astype(np.uint32)
    return np.moveaxis(bits[..., ::2] | bits[..., 1::2] << np.uint32(16), -1, node.attrs["axis"])


def _halves(x: Array) -> tuple[Array, Array]:
    """The float64 values of the first and of the second parts of pairs."""
    return tuple(bits.view(np.float32).astype(F64) for bits in (x << np.uint32(16), x & np.uint32(0xFFFF0000)))


def _unwindow(node: Node, mode: _Mode, x: Array) -> Array:
    a = node.attrs
    out = np.zeros(node.shape, accumulator(node.dtype))
    counts = x.shape[: len(node.shape)]
    positions, steps = window_steps(a)
    for taps in itertools.product(*map(range, a["sizes"])):
        where = [slice(None)] * len(node.shape)
        for axis, step in positions.items():
            start = sum(tap * by for x, tap, by in zip(a["axes"], taps, steps, strict=True) if x == axis)
            where[axis] = slice(start, start + max(counts[axis] - 1, 0) * step + 1, step)
        if 0 not in counts:
            out[tuple(where)] += x[(..., *taps)]
    return out


_REDUCE: dict[str, Callable] = {
    "sum": lambda x, axes, t: np.sum(x, axes, dtype=t),
    "prod": lambda x, axes, t: np.prod(x, axes, dtype=t),
    "max": lambda x, axes, t: np.max(x, axes),
    "min": lambda x, axes, t: np.min(x, axes),
    "any": lambda x, axes, t: np.any(x, axes),
    "all": lambda x, axes, t: np.all(x, axes),
    "argmax": lambda x, axes, t: np.argmax(_rows(x, axes), -1),
    "argmin": lambda x, axes, t: np.argmin(_rows(x, axes), -1),
}


def _rows(x: Array, axes: tuple[int, ...]) -> Array:
    """The axes `axes` flattened in row-major order and put last."""
    kept = [a for a in range(x.ndim) if a not in axes]
    return x.transpose(*kept, *axes).reshape(*(x.shape[a] for a in kept), math.prod(x.shape[a] for a in axes))


def _reduce(node: Node, mode: _Mode, x: Array) -> Array:
    dtype = node.inputs[0].dtype
    if 0 in node.shape:  # NumPy refuses max over nothing even where nothing is asked
        return np.zeros(node.shape, mode.store(node.dtype))
    return _REDUCE[node.attrs["monoid"]](x.astype(accumulator(dtype)), node.attrs["axes"], accumulator(dtype))


def _contract(node: Node, mode: _Mode, a: Array, b: Array) -> Array:
    work = F64 if node.dtype.is_float or node.inputs[0].dtype.is_float else node.dtype.np
    left, right, out = split_spec(node.attrs["spec"])
    number = {label: k for k, label in enumerate(dict.fromkeys(left + right))}
    labels = [[number[c] for c in part] for part in (left, right, out)]
    if node.attrs.get("pairs"):
        halves = zip(_halves(a), _halves(b), strict=True)
        return sum(np.einsum(p, labels[0], q, labels[1], labels[2], optimize=True) for p, q in halves)
    return np.einsum(a.astype(work), labels[0], b.astype(work), labels[1], labels[2], optimize=True)


def _clamped(index: Array, extent: int) -> Array:
    return np.clip(index, 0, min(max(extent - 1, 0), np.iinfo(index.dtype).max)).astype(np.int64)


def _gather(node: Node, mode: _Mode, src: Array, index: Array) -> Array:
    axis = node.attrs["axis"]
    if 0 in node.shape:
        return np.zeros(node.shape, src.dtype)
    return np.take(src, _clamped(index, src.shape[axis]), axis)


_SCATTER = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(node: Node, mode: _Mode, base: Array, index: Array, updates: Array) -> Array:
    axis, combine = node.attrs["axis"], node.attrs["combine"]
    work = np.dtype(np.uint8) if node.dtype.is_bool else accumulator(node.dtype)
    out = np.moveaxis(base.astype(work), axis, 0).copy()
    rows = np.moveaxis(updates.astype(work), range(axis, axis + index.ndim), range(index.ndim))
    if updates.size == 0:
        return base
    where = _clamped(index, base.shape[axis])
    if combine == "set":
        for position in np.ndindex(index.shape):  # in order, so that the last of equal indices stays
            out[where[position]] = rows[position]
    else:
        _SCATTER[combine].at(out, where, rows)
    return np.moveaxis(out, 0, axis)


def _sort(node: Node, mode: _Mode, x: Array) -> tuple[Array, Array]:
    axis, descending = node.attrs["axis"], node.attrs["descending"]
    is_float = node.inputs[0].dtype.is_float
    key = x.astype(np.float64) if is_float else x
    nan = np.isnan(key) if is_float else np.zeros(key.shape, bool)
    key = np.where(nan, 0, key)
    if descending:  # reversing twice keeps equal elements in their order
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(key, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(key, axis, kind="stable")
    largest = np.take_along_axis(nan, order, axis)
    ends = np.argsort(~largest if descending else largest, axis, kind="stable")
    order = np.take_along_axis(order, ends, axis).astype(np.int64)
    return np.take_along_axis(x, order, axis), order


_CUMULATIVE = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def _cumulative(node: Node, mode: _Mode, x: Array) -> Array:
    axis, reverse = node.attrs["axis"], node.attrs["reverse"]
    work = x.astype(accumulator(node.dtype))
    work = np.flip(work, axis) if reverse else work
    out = _CUMULATIVE[node.attrs["monoid"]].accumulate(work, axis, dtype=work.dtype) if work.size else work
    return np.flip(out, axis) if reverse else out


def _scan(node: Node, mode: _Mode, *ins: Array) -> tuple[Array, ...]:
    a = node.attrs
    body, length = a["body"], a["length"]
    consts, carry = ins[: a["consts"]], list(ins[a["consts"] : a["consts"] + a["carry"]])
    xs = ins[a["consts"] + a["carry"] :]
    stacked: list[Array] = [np.zeros(t.shape, mode.store(t.dtype)) for t in node.type[a["carry"] :]]
    for t in reversed(range(length)) if a["reverse"] else range(length):
        outs = _run(body, [*consts, *carry, *(x[t] for x in xs)], mode)
        carry = outs[: a["carry"]]
        for y, value in zip(stacked, outs[a["carry"] :], strict=True):
            y[t] = value
    return (*carry, *stacked)


def _window_of(x: Array, p: Node, start: int) -> Array:
    """The window of x's memory for parameter p of the body of an `each`."""
    flat = np.lib.stride_tricks.as_strided(x, (start + 1,), (x.itemsize,))[start:]
    strides = p.attrs.get("strides") or tuple(math.prod(p.shape[k + 1 :]) for k in range(p.ndim))
    return np.lib.stride_tricks.as_strided(flat, p.shape, [x.itemsize * s for s in strides], writeable=False)


def _each(node: Node, mode: _Mode, *ins: Array) -> tuple[Array, ...]:
    a = node.attrs
    body, extents = a["body"], a["extents"]
    results = [np.zeros(t.shape, mode.store(t.dtype)) for t in node.type]
    ins = tuple(x if x.base is not None and "strides" in i.attrs else np.ascontiguousarray(x)
                for x, i in zip(ins, node.inputs, strict=True))
    for at in np.ndindex(extents):
        starts = [s + sum(k * i for k, i in zip(steps, at, strict=True))
                  for s, steps in zip(a["starts"], a["steps"], strict=True)]
        outs = _run(body, [_window_of(x, p, s) for x, p, s in zip(ins, body.params, starts, strict=True)], mode)
        for result, value, axes in zip(results, outs, a["gives"], strict=True):
            place = [slice(None)] * value.ndim
            for i, axis in zip(at, axes, strict=True):
                if axis >= 0:
                    place[axis] = slice(i * value.shape[axis], (i + 1) * value.shape[axis])
            result[tuple(place)] += value
    return tuple(results)


def _vjp(node: Node, mode: _Mode, *ins: Array) -> Array:
    raise VerifyError("interpreter: the graph has a vjp node; expand it first (dlc.passes.autodiff.vjp.expand)")

def _by_row(node: Node, mode: Any, *ins: np.ndarray) -> Any:
    row = OPS[node.op]
    return row.evaluate(node, ins) if row.evaluate else tuple(_run(row.plain(node), ins, mode))  # type: ignore[misc]


MEANING: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(SCALAR_OPS, _elementwise),
    "const": lambda node, mode: np.full(node.shape, node.attrs["value"], mode.store(node.dtype)),
    "iota": _iota,
    "cast": lambda node, mode, x: convert(x, node.dtype, mode.store(node.dtype)),
    "bitcast": _bitcast,
    "select": lambda node, mode, cond, a, b: np.where(cond, a, b),
    "reshape": lambda node, mode, x: x.reshape(node.shape),
    "permute": lambda node, mode, x: x.transpose(node.attrs["axes"]),
    "broadcast": _broadcast,
    "slice": lambda node, mode, x: x[tuple(map(slice, *(node.attrs[k] for k in ("start", "stop", "step"))))],
    "flip": lambda node, mode, x: np.flip(x, node.attrs["axes"]),
    "pad": _pad,
    "window": _window,
    "unwindow": _unwindow,
    "pair": _pair,
    "reduce": _reduce,
    "contract": _contract,
    "gather": _gather,
    "scatter": _scatter,
    "concat": lambda node, mode, *ins: np.concatenate(ins, node.attrs["axis"]),
    "sort": _sort,
    "cumulative": _cumulative,
    "scan": _scan,
    "each": _each,
    "item": lambda node, mode, x: x[node.attrs["index"]],
    **dict.fromkeys(("stop_gradient", "tag", "barrier"), lambda node, mode, x: x),
    "vjp": _vjp,
    "checkpoint": lambda node, mode, *ins: tuple(_run(node.attrs["body"], ins, mode)),
    **{op: _by_row for op, row in OPS.items() if row.plain or row.evaluate},
}


def _stored(value: Array, type: TensorType, mode: _Mode) -> Array:
    value = np.asarray(value)
    store = mode.store(type.dtype)
    return value if value.dtype == store else convert(value, type.dtype, store)


def _run(graph: Graph, args: Sequence[Array], mode: _Mode) -> list[Array]:
    values: dict[Node, Any] = dict(zip(graph.params, args, strict=True))
    for node in graph.nodes():
        if node in values:
            continue
        got = MEANING[node.op](node, mode, *(values[i] for i in node.inputs))
        if isinstance(got, tuple):
            values[node] = tuple(_stored(v, t, mode) for v, t in zip(got, node.type, strict=True))
        else:
            values[node] = _stored(got, node.type, mode)
    return [values[o] for o in graph.outputs]


def evaluate(graph: Graph, args: Sequence[Array], wide: bool = False) -> list[Array]:
    """The outputs of `graph` on `args` (one array a parameter, of its dtype and shape, or any float when `wide`).

    `wide` computes every float type in float64 and returns float64. Raises VerifyError for `vjp` nodes and for
    arguments whose shapes or dtypes are not the parameters'.
    """
    mode = _Mode(wide)
    ready = []
    for p, arg in zip(graph.params, args, strict=True):
        array = np.asarray(arg)
        if array.shape != p.shape or (array.dtype != p.dtype.np and not (wide and p.dtype.is_float)):
            raise VerifyError(f"interpreter: parameter {p.type} given an array {array.dtype}{array.shape}")
        ready.append(array.astype(mode.store(p.dtype)))
    with np.errstate(all="ignore"):
        return [np.array(v) for v in _run(graph, ready, mode)]
