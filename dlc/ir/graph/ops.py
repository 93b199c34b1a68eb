"""The operations of the Graph IR, one row each: name and the rule that gives the result's type.

The other columns of the table live on their own floors, keyed by the same name: the NumPy meaning in
`interp.py`, derivatives in `passes/autodiff/vjp.py` and `jvp.py`, batching in `vmap.py` beside them.

Elementwise operations (every row of `ir/scalar.py`) need operands of equal shape: broadcasting is an explicit node.

    const   value                        a tensor filled with one number (attrs dtype, shape)
    iota    axis, shape, dtype           the index along `axis`
    cast    dtype                        conversion; float to int truncates and saturates, NaN -> 0; to bool is != 0
    bitcast dtype                        same bits, equal width, not of bool
    select  (cond, a, b)                 cond ? a : b, elementwise
    reshape shape / permute axes (output axis k is input axis axes[k])
    broadcast shape, axes                input axis k becomes output axis axes[k]; input extents equal output's, or 1
    slice   start, stop, step            per axis; 0 <= start, stop <= extent, step >= 1
    flip    axes
    pad     low, high, interior, value   per axis; low and high may be negative (cropping)
    window  axes, sizes, strides, dilations    sliding view: the axes become window counts, taps are appended last
    unwindow shape, axes, sizes, strides, dilations   the transpose of window: overlapping taps are added up
    reduce  monoid, axes                 reduced axes vanish; sum prod max min any all; argmax argmin give int64
                                         positions in the reduced axes' row-major order, the first on ties
    pair    axis                         two bfloat16 neighbours along `axis` as one uint32, the first in its low half
    contract spec, dtype                 einsum of two operands, e.g. 'bik,bkj->bij'; accumulates in float32 or wider;
                                         with `pairs` the operands are `pair`s, along a label that is summed over
    gather  (src, index), axis           out[p, i, s] = src[p, clamp(index[i]), s]
    scatter (base, index, updates), axis, combine    the adjoint addressing: set add mul max min
    concat  axis
    sort    axis, descending             -> (values, int64 positions), stable, NaN the largest
    cumulative monoid, axis, reverse     running sum prod max min
    scan    body, length, consts, carry, reverse     see `infer_scan`
    each    body, extents, starts, steps, gives, parallel    see `infer_each`
    item    index                        one result of an operation with several
    stop_gradient / tag uid / barrier uid            identity; no derivative / a name to differentiate at /
                                         not merged with equal computations (dlc.checkpoint)
    vjp     outputs                      (outputs..., cotangents..., wrt...) -> gradients for wrt; see `autodiff/vjp.py`
    checkpoint body                      inlined going forward, recomputed going backward

Files of their own add rows for what is an operation only somewhere: `call` (a kernel of the user's), `attention`.
"""

from __future__ import annotations

import functools
import math

from dlc.base.errors import DTypeError, ShapeError
from dlc.ir import dtypes
from dlc.ir.graph.graph import TensorType
from dlc.ir.graph.table import Attrs, Op, Types, register
from dlc.ir.scalar import SCALAR_OPS, scalar_result

MONOIDS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")
COMBINES = ("set", "add", "mul", "max", "min")
CALL_RULES = ("vjp", "jvp", "batching")  # attributes of `call` that matter only until derivatives are expanded


def _same_shape(op: str, ins: Types) -> tuple[int, ...]:
    shape = ins[0].shape
    for t in ins:
        if t.shape != shape:
            raise ShapeError(f"{op}: operands have shapes {', '.join(str(t.shape) for t in ins)}")
    return shape


def _infer_elementwise(op: str):
    def infer(ins: Types, attrs: Attrs) -> TensorType:
        shape = _same_shape(op, ins)
        try:
            dtype = scalar_result(op, tuple([t.dtype for t in ins]))
        except TypeError as e:
            raise DTypeError(str(e)) from None
        return ins[0] if dtype is ins[0].dtype else TensorType(dtype, shape)

    return infer


def _infer_select(ins: Types, attrs: Attrs) -> TensorType:
    cond, a, b = ins
    _same_shape("select", ins)
    if not cond.dtype.is_bool or a.dtype is not b.dtype:
        raise DTypeError(f"select: needs (bool, T, T), got ({', '.join(t.dtype.name for t in ins)})")
    return a


def _infer_bitcast(ins: Types, attrs: Attrs) -> TensorType:
    if ins[0].dtype.is_bool or attrs["dtype"].is_bool:
        raise DTypeError(f"bitcast: {ins[0].dtype.name} cannot be read as {attrs['dtype'].name}: a bool has no bits")
    if ins[0].dtype.itemsize != attrs["dtype"].itemsize:
        raise DTypeError(f"bitcast: {ins[0].dtype.name} and {attrs['dtype'].name} differ in width")
    return TensorType(attrs["dtype"], ins[0].shape)


def _infer_reshape(ins: Types, attrs: Attrs) -> TensorType:
    if math.prod(attrs["shape"]) != ins[0].size:
        raise ShapeError(f"reshape: cannot view shape {ins[0].shape} as {attrs['shape']}")
    return TensorType(ins[0].dtype, attrs["shape"])


def _infer_permute(ins: Types, attrs: Attrs) -> TensorType:
    axes = attrs["axes"]
    if sorted(axes) != list(range(len(ins[0].shape))):
        raise ShapeError(f"permute: axes {axes} do not permute shape {ins[0].shape}")
    return TensorType(ins[0].dtype, tuple(ins[0].shape[a] for a in axes))


def _infer_broadcast(ins: Types, attrs: Attrs) -> TensorType:
    shape, axes, src = attrs["shape"], attrs["axes"], ins[0].shape
    ok = len(axes) == len(src) and list(axes) == sorted(set(axes)) and all(0 <= a < len(shape) for a in axes)
    if not ok or any(s not in (1, shape[a]) for s, a in zip(src, axes, strict=True)):
        raise ShapeError(f"broadcast: shape {src} does not broadcast to {shape} along axes {axes}")
    return TensorType(ins[0].dtype, shape)


def _infer_slice(ins: Types, attrs: Attrs) -> TensorType:
    shape = ins[0].shape
    out = []
    for d, lo, hi, st in zip(shape, attrs["start"], attrs["stop"], attrs["step"], strict=True):
        if not (0 <= lo <= d and 0 <= hi <= d and st >= 1):
            raise ShapeError(f"slice: {attrs['start']}:{attrs['stop']}:{attrs['step']} outside shape {shape}")
        out.append(max(0, -(-(hi - lo) // st)))
    return TensorType(ins[0].dtype, tuple(out))


def _infer_pad(ins: Types, attrs: Attrs) -> TensorType:
    out = []
    for d, lo, hi, gap in zip(ins[0].shape, attrs["low"], attrs["high"], attrs["interior"], strict=True):
        n = lo + hi + d + max(d - 1, 0) * gap
        if n < 0 or gap < 0:
            raise ShapeError(f"pad: low {attrs['low']}, high {attrs['high']} crop more than shape {ins[0].shape}")
        out.append(n)
    return TensorType(ins[0].dtype, tuple(out))


def window_count(extent: int, size: int, stride: int, dilation: int) -> int:
    """How many windows of `size` taps fit in `extent`."""
    return max(0, (extent - dilation * (size - 1) - 1) // stride + 1) if extent > 0 else 0


def window_steps(attrs: Attrs) -> tuple[dict[int, int], list[int]]:
    """How far along their axis a window's positions (by axis) and its taps move. An axis that is named again has
    windows over the positions of the windows before."""
    positions: dict[int, int] = {}
    taps: list[int] = []
    for axis, stride, dilation in zip(attrs["axes"], attrs["strides"], attrs["dilations"], strict=True):
        step = positions.get(axis, 1)
        taps.append(step * dilation)
        positions[axis] = step * stride
    return positions, taps


def _infer_window(ins: Types, attrs: Attrs) -> TensorType:
    shape = list(ins[0].shape)
    for a, k, s, d in zip(attrs["axes"], attrs["sizes"], attrs["strides"], attrs["dilations"], strict=True):
        if not 0 <= a < len(shape) or k < 1 or s < 1 or d < 1:
            raise ShapeError(f"window: bad axis, size, stride or dilation for shape {ins[0].shape}")
        shape[a] = window_count(shape[a], k, s, d)
    return TensorType(ins[0].dtype, (*shape, *attrs["sizes"]))


def _infer_unwindow(ins: Types, attrs: Attrs) -> TensorType:
    base = TensorType(ins[0].dtype, attrs["shape"])
    if _infer_window((base,), attrs).shape != ins[0].shape:
        raise ShapeError(f"unwindow: shape {ins[0].shape} is not a window of {attrs['shape']}")
    return base


def _infer_pair(ins: Types, attrs: Attrs) -> TensorType:
    axis, (t,) = attrs["axis"], ins
    if t.dtype is not dtypes.bfloat16:
        raise DTypeError(f"pair: {t.dtype.name} is not bfloat16")
    if not 0 <= axis < len(t.shape) or t.shape[axis] % 2:
        raise ShapeError(f"pair: axis {axis} of shape {t.shape} has no even extent")
    return TensorType(dtypes.uint32, (*t.shape[:axis], t.shape[axis] // 2, *t.shape[axis + 1 :]))


def _infer_reduce(ins: Types, attrs: Attrs) -> TensorType:
    monoid, axes, t = attrs["monoid"], attrs["axes"], ins[0]
    if monoid not in MONOIDS:
        raise ShapeError(f"reduce: unknown monoid {monoid}")
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < len(t.shape) for a in axes):
        raise ShapeError(f"reduce: axes {axes} do not fit shape {t.shape}")
    if monoid in ("any", "all") and not t.dtype.is_bool:
        raise DTypeError(f"reduce: {monoid} needs bool, got {t.dtype.name}")
    if monoid in ("sum", "prod") and t.dtype.is_bool:
        raise DTypeError(f"reduce: {monoid} of bool; cast first")
    if monoid not in ("sum", "prod", "any", "all") and math.prod(t.shape[a] for a in axes) == 0:
        raise ShapeError(f"reduce: {monoid} over no elements has no value (shape {t.shape}, axes {axes})")
    dtype = dtypes.int64 if monoid.startswith("arg") else t.dtype
    return TensorType(dtype, tuple(d for a, d in enumerate(t.shape) if a not in axes))


@functools.lru_cache(4096)
def split_spec(spec: str) -> tuple[str, str, str]:
    """'ik,kj->ij' -> ('ik', 'kj', 'ij')."""
    operands, out = spec.split("->")
    a, b = operands.split(",")
    return a, b, out


def _infer_contract(ins: Types, attrs: Attrs) -> TensorType:
    a, b, out = split_spec(attrs["spec"])
    sizes: dict[str, int] = {}
    for labels, t in ((a, ins[0]), (b, ins[1])):
        if len(labels) != len(t.shape) or len(set(labels)) != len(labels):
            raise ShapeError(f"contract: spec {attrs['spec']} does not fit shapes {ins[0].shape} and {ins[1].shape}")
        for label, d in zip(labels, t.shape, strict=True):
            if sizes.setdefault(label, d) != d:
                raise ShapeError(f"contract {attrs['spec']}: shapes {ins[0].shape} and {ins[1].shape} do not match")
    lonely = (set(a) ^ set(b)) - set(out)
    if lonely or not set(out) <= set(sizes) or len(set(out)) != len(out):
        raise ShapeError(f"contract: bad spec {attrs['spec']}")
    if ins[0].dtype is not ins[1].dtype:
        raise DTypeError(f"contract: operand dtypes {ins[0].dtype.name} and {ins[1].dtype.name} differ")
    if attrs.get("pairs") and (ins[0].dtype is not dtypes.uint32 or not attrs["dtype"].is_float):
        raise DTypeError(f"contract: pairs are uint32 and give floats, not {ins[0].dtype.name}, {attrs['dtype'].name}")
    return TensorType(attrs["dtype"], tuple(sizes[x] for x in out))


def _infer_gather(ins: Types, attrs: Attrs) -> TensorType:
    src, index = ins
    axis = attrs["axis"]
    if not index.dtype.is_int:
        raise DTypeError(f"gather: index dtype is {index.dtype.name}, not an integer")
    if not 0 <= axis < len(src.shape) or (src.shape[axis] == 0 and index.size):
        raise ShapeError(f"gather: no element to take on axis {axis} of shape {src.shape}")
    return TensorType(src.dtype, src.shape[:axis] + index.shape + src.shape[axis + 1 :])


def _infer_scatter(ins: Types, attrs: Attrs) -> TensorType:
    base, index, updates = ins
    want = _infer_gather((base, index), attrs)
    if updates != want:
        raise ShapeError(f"scatter: updates are {updates}, expected {want}")
    if attrs["combine"] not in COMBINES:
        raise ShapeError(f"scatter: unknown combine {attrs['combine']}")
    return base


def _infer_concat(ins: Types, attrs: Attrs) -> TensorType:
    axis, first = attrs["axis"], ins[0]
    for t in ins:
        rest = [d for k, d in enumerate(t.shape) if k != axis]
        if len(t.shape) != len(first.shape) or rest != [d for k, d in enumerate(first.shape) if k != axis]:
            raise ShapeError(f"concat: shapes {', '.join(str(t.shape) for t in ins)} differ outside axis {axis}")
        if t.dtype is not first.dtype:
            raise DTypeError(f"concat: dtypes {', '.join(t.dtype.name for t in ins)} differ")
    shape = list(first.shape)
    shape[axis] = sum(t.shape[axis] for t in ins)
    return TensorType(first.dtype, tuple(shape))


def _infer_sort(ins: Types, attrs: Attrs) -> tuple[TensorType, TensorType]:
    return ins[0], TensorType(dtypes.int64, ins[0].shape)


def infer_scan(ins: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Inputs are (consts..., initial carry..., xs...); body maps (consts, carry, x slices) to (carry, y slices).

    attrs: `body` Graph, `length`, `consts` and `carry` (how many of each), `reverse`. Results: carry..., stacked ys...
    An x or y of step t is row t of its stacked tensor; with `reverse` the steps run from the last row to the first.
    """
    body, length, n_const, n_carry = attrs["body"], attrs["length"], attrs["consts"], attrs["carry"]
    want = list(ins[: n_const + n_carry])
    for t in ins[n_const + n_carry :]:
        if not t.shape or t.shape[0] != length:
            raise ShapeError(f"scan: an input of shape {t.shape} is scanned over {length} steps")
        want.append(TensorType(t.dtype, t.shape[1:]))
    got = [p.type for p in body.params]
    if got != want:
        raise ShapeError(f"scan: body takes {', '.join(map(str, got))}, given {', '.join(map(str, want))}")
    outs = [o.type for o in body.outputs]
    carry = list(ins[n_const : n_const + n_carry])
    if outs[:n_carry] != carry:
        raise ShapeError(
            f"scan: the carry changes from {', '.join(map(str, carry))} to {', '.join(map(str, outs[:n_carry]))}"
        )
    return (*carry, *(TensorType(t.dtype, (length, *t.shape)) for t in outs[n_carry:]))


def infer_each(ins: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """The body once for every index of `extents`, in any order (and, if `parallel`, at the same time).

    Inputs are memory: parameter k of the body is a window of the flat memory of input k that begins at `starts[k]` +
    the sum of `steps[k]` * index elements; its attribute `strides`, where it has one, says how it lies there (else it
    is contiguous). Output k of one iteration is a block of result k: `gives[k]` has for every counter the axis that
    it cuts in blocks, or -1, over which the results are added up.
    """
    body, extents = attrs["body"], attrs["extents"]
    if len(attrs["starts"]) != len(ins) or len(attrs["steps"]) != len(ins) or len(body.params) != len(ins):
        raise ShapeError(f"each: {len(ins)} inputs for {len(body.params)} parameters of the body")
    for given, p, start, steps in zip(ins, body.params, attrs["starts"], attrs["steps"], strict=True):
        if given.dtype is not p.dtype:
            raise DTypeError(f"each: body takes {p.type}, given {given}")
        if start < 0 or any(s < 0 for s in steps):
            raise ShapeError(f"each: a window {p.type} of {given} at {start} with steps {steps}")
    results = []
    for o, axes in zip(body.outputs, attrs["gives"], strict=True):
        shape = list(o.shape)
        for axis, n in zip(axes, extents, strict=True):
            if axis >= 0:
                shape[axis] *= n
            elif attrs["parallel"]:
                raise ShapeError("each: parallel iterations do not add up")
        results.append(TensorType(o.dtype, tuple(shape)))
    return tuple(results)


def _infer_vjp(ins: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    n = attrs["outputs"]
    for out, ct in zip(ins[:n], ins[n : 2 * n], strict=True):
        if out != ct:
            raise ShapeError(f"vjp: cotangent {ct} for an output {out}")
    return tuple(ins[2 * n :])


def _first(ins: Types, attrs: Attrs) -> TensorType:
    return ins[0]


def _typed(ins: Types, attrs: Attrs) -> TensorType:
    return TensorType(attrs["dtype"], attrs["shape"])


def _infer_cumulative(ins: Types, attrs: Attrs) -> TensorType:
    if not 0 <= attrs["axis"] < len(ins[0].shape):
        raise ShapeError(f"cumulative: axis {attrs['axis']} outside shape {ins[0].shape}")
    return ins[0]


register(
    *(Op(name, _infer_elementwise(name), elementwise=True) for name in SCALAR_OPS),
    Op("const", _typed),
    Op("iota", _typed),
    Op("cast", lambda ins, attrs: TensorType(attrs["dtype"], ins[0].shape), elementwise=True),
    Op("bitcast", _infer_bitcast, elementwise=True),
    Op("select", _infer_select, elementwise=True),
    Op("reshape", _infer_reshape, view=True),
    Op("permute", _infer_permute, view=True),
    Op("broadcast", _infer_broadcast, view=True),
    Op("slice", _infer_slice, view=True),
    Op("flip", _first, view=True),
    Op("pad", _infer_pad, view=True),
    Op("window", _infer_window, view=True),
    Op("unwindow", _infer_unwindow),
    Op("pair", _infer_pair, view=True),
    Op("reduce", _infer_reduce),
    Op("contract", _infer_contract),
    Op("gather", _infer_gather),
    Op("scatter", _infer_scatter),
    Op("concat", _infer_concat),
    Op("sort", _infer_sort),
    Op("cumulative", _infer_cumulative),
    Op("scan", infer_scan),
    Op("each", infer_each),
    Op("item", lambda ins, attrs: ins[0][attrs["index"]]),
    Op("stop_gradient", _first),
    Op("tag", _first),
    Op("barrier", _first),
    Op("vjp", _infer_vjp),
    Op("checkpoint", lambda ins, attrs: tuple(o.type for o in attrs["body"].outputs)),
)
