"""Graph nodes as scalar expressions: the value of one element of a tensor, as a Loop IR expression of its index.

`Elements.value(node, index)` pulls the expression through views (index maps), elementwise operations and predicates
down to the tensors that live in memory, which become loads. This is where fusion happens: whatever is not in memory is
computed on the spot.

Half floats are computed in float32. An operation's result is rounded to its type where somebody could tell: where it is
stored, where another kernel or another part of this one reads it, where it is cast, and where an operation that jumps
(a comparison, a rounding, a remainder) takes it. Between continuous operations it may keep its digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlc.ir import dtypes
from dlc.ir.graph.graph import Node
from dlc.ir.graph.ops import window_steps
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import both, flatten, simplify, unflatten, weighted
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Buffer, Expr
from dlc.ir.scalar import SCALAR_OPS

Index = tuple[Expr, ...]


class Elements:
    """Pulls element expressions; `memory(node)` gives the buffer of a node that is in memory, else None.

    `accesses` remembers for every load which node it reads and at which (logical) index.
    """

    def __init__(self, memory: Callable[[Node], Buffer | None], layout: dict[Node, tuple[int, ...]] | None = None):
        """`layout` has the strides of nodes whose elements do not lie one after the other."""
        self._memory = memory
        self._layout = layout or {}
        self._memo: dict[tuple, Expr] = {}
        self.accesses: dict[Expr, tuple[Node, Index]] = {}

    def value(self, node: Node, index: Index, guard: Expr | None = None) -> Expr:
        """The element of `node` at `index`, in the compute type of its dtype; loads happen only where `guard` holds."""
        key = (node, index, guard)
        found = self._memo.get(key)
        if found is None:
            buffer = self._memory(node)
            found = self._load(node, buffer, index, guard) if buffer is not None else self._rule(node, index, guard)
            self._memo[key] = found
        return found

    def compute(self, node: Node, index: Index) -> Expr:
        """Like `value`, but `node` itself is computed even if it is in memory."""
        return self._rule(node, index, None)

    def inside(self, node: Node, index: Index, guard: Expr) -> Expr:
        """`value` where `index` lies in `node` if `guard` holds, and elsewhere does not matter. Then nothing on the way
        to memory needs to know where it would lead from outside: reshapes divide nothing."""
        at: dict[Expr, Expr] = {}
        known = []
        for i, d in zip(index, node.shape, strict=True):
            low, high = interval(i)
            if low < 0 or high >= d > 0:
                if d > 1:
                    at[place := loops.axis("x", d)] = i
                known.append(place if d > 1 else loops.const(0))
            else:
                known.append(i)
        value = self.value(node, tuple(known), guard)
        if not at:
            return value
        memo = dict(at)

        def rule(e: Expr, args: tuple[Expr, ...]) -> Expr | None:
            if e.op != "load":
                return None
            owner, places = self.accesses[e]
            new = loops.load(e.attr, simplify(args[0]), predicate=simplify(args[1]) if len(args) > 1 else None)
            self.accesses[new] = owner, tuple(simplify(traverse.map_expr(i, rule, memo)) for i in places)
            return new

        return traverse.map_expr(value, rule, memo)

    def offset(self, node: Node, index: Index) -> Expr:
        """The element offset of `index` in the memory of `node`."""
        strides = self._layout.get(node) or strides_in_memory(node)
        if strides is None:
            return flatten(index, node.shape)
        return weighted(index, strides)

    def _load(self, node: Node, buffer: Buffer, index: Index, guard: Expr | None) -> Expr:
        raw = loops.load(buffer, self.offset(node, index), predicate=guard)
        self.accesses[raw] = (node, index)
        return loops.cast(raw, node.dtype.compute)

    def exact(self, node: Node, index: Index, guard: Expr | None) -> Expr:
        """`value`, rounded to the node's type."""
        value = self.value(node, index, guard)
        return rounded(value, node.dtype) if node.dtype.is_half else value

    def _rule(self, node: Node, index: Index, guard: Expr | None) -> Expr:
        if node.op in SCALAR_OPS:
            value = self.exact if node.op in JUMPS else self.value
            return loops.op(node.op, *(value(i, index, guard) for i in node.inputs))
        return _RULES[node.op](self, node, index, guard)


def strides_in_memory(node: Node) -> tuple[int, ...] | None:
    """The strides of a parameter whose elements do not lie one after the other (a window in the body of `each`)."""
    return node.attrs.get("strides") if node.op == "param" else None


def reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements of memory there are from the first to the last one."""
    return 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True)) if 0 not in shape else 0


def rounded(value: Expr, dtype: dtypes.DType) -> Expr:
    """`value` rounded to `dtype`, in the compute type of `dtype`."""
    if value.op == "const" and dtype.is_half and value.dtype.is_float:
        return _number(value.attr, dtype)
    return value if _is_rounded(value, dtype) else loops.cast(loops.cast(value, dtype), dtype.compute)


def _is_rounded(value: Expr, dtype: dtypes.DType) -> bool:
    """Is it a number of `dtype`, in its compute type, for certain?"""
    if value.dtype is not dtype.compute:
        return False
    if value.op == "const":
        return not dtype.is_half or _number(value.attr, dtype) is value
    if value.op in _KEEPS:
        return all(_is_rounded(a, dtype) for a in value.args[_KEEPS[value.op]:])
    return value.op == "cast" and value.args[0].dtype is dtype


def _const(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    return loops.const(n.attrs["value"], n.dtype.compute)


def _number(value: float, dtype: dtypes.DType) -> Expr:
    """A number of `dtype` in its compute type."""
    with np.errstate(over="ignore"):
        return loops.const(float(dtype.np.type(value)) if dtype.is_half else value, dtype.compute)


def _iota(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    return rounded(index[n.attrs["axis"]], n.dtype) if n.dtype.is_half else loops.cast(
        index[n.attrs["axis"]], n.dtype)


def _cast(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    x = els.exact(n.inputs[0], index, guard)
    if n.dtype.is_bool:
        return loops.op("ne", x, loops.const(0, x.dtype)) if not x.dtype.is_bool else x
    return rounded(x, n.dtype)


def _bitcast(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    x = loops.cast(els.value(n.inputs[0], index, guard), n.inputs[0].dtype)
    return loops.cast(loops.op("bitcast", x, dtype=n.dtype), n.dtype.compute)


def _select(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    cond, a, b = (els.value(i, index, guard) for i in n.inputs)
    return loops.op("select", cond, a, b)


def _reshape(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    return els.value(n.inputs[0], unflatten(flatten(index, n.shape), n.inputs[0].shape), guard)


def _permute(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    inner: list[Expr] = [loops.const(0)] * n.ndim
    for k, a in enumerate(n.attrs["axes"]):
        inner[a] = index[k]
    return els.value(n.inputs[0], tuple(inner), guard)


def _broadcast(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    src = n.inputs[0]
    inner = tuple(
        index[a] if d != 1 else loops.const(0) for a, d in zip(n.attrs["axes"], src.shape, strict=True)
    )
    return els.value(src, inner, guard)


def _slice(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    inner = tuple(
        simplify(i * st + lo) for i, lo, st in zip(index, n.attrs["start"], n.attrs["step"], strict=True)
    )
    return els.value(n.inputs[0], inner, guard)


def _flip(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    inner = tuple(
        simplify(n.shape[a] - 1 - i) if a in n.attrs["axes"] else i for a, i in enumerate(index)
    )
    return els.value(n.inputs[0], inner, guard)


def _pad(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    src = n.inputs[0]
    inside: Expr | None = None
    inner = []
    for i, d, lo, gap in zip(index, src.shape, n.attrs["low"], n.attrs["interior"], strict=True):
        at = simplify(i - lo)
        step = gap + 1
        inside = both(inside, simplify(loops.op("le", loops.const(0), at)))
        inside = both(inside, simplify(loops.op("lt", at, loops.const((d - 1) * step + 1))))
        if step > 1:
            inside = both(inside, simplify(loops.op("eq", at % step, loops.const(0))))
            at = simplify(at // step)
        inner.append(at)
    fill = loops.const(n.attrs["value"], n.dtype.compute)
    if inside is None or (inside.op == "const" and inside.attr):
        return els.value(src, tuple(inner), guard)
    if inside.op == "const":
        return fill
    return loops.op("select", inside, els.inside(src, tuple(inner), both(guard, inside)), fill)


def _window(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    src, axes = n.inputs[0], n.attrs["axes"]
    positions, steps = window_steps(n.attrs)
    inner = [i * positions.get(a, 1) for a, i in enumerate(index[: src.ndim])]
    for a, tap, step in zip(axes, index[src.ndim :], steps, strict=True):
        inner[a] = simplify(inner[a] + tap * step)
    return els.value(src, tuple(inner), guard)


def _pair(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    axis = n.attrs["axis"]

    def half(k: int) -> Expr:
        at = (*index[:axis], simplify(index[axis] * 2 + k), *index[axis + 1 :])
        x = els.value(n.inputs[0], at, guard)
        stored = x.op == "cast" and x.args[0].dtype is dtypes.bfloat16
        return x.args[0] if stored else loops.cast(x, dtypes.bfloat16)

    return loops.op("pair", half(0), half(1))


def _gather(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    src, idx = n.inputs
    axis = n.attrs["axis"]
    picked = els.value(idx, index[axis : axis + idx.ndim], guard)
    at = clamped(picked, src.shape[axis])
    return els.value(src, (*index[:axis], at, *index[axis + idx.ndim :]), guard)


def clamped(index: Expr, extent: int) -> Expr:
    """An integer expression of any type as an index that cannot leave 0..extent-1."""
    if index.dtype is dtypes.uint64:  # large values must not turn negative
        index = loops.op("min", index, loops.const(max(extent - 1, 0), dtypes.uint64))
    wide = loops.cast(index, dtypes.int64)
    low = loops.op("max", wide, loops.const(0))
    return simplify(loops.op("min", low, loops.const(extent - 1)))


def _concat(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    axis = n.attrs["axis"]
    at, start, pieces = index[axis], 0, []
    for part in n.inputs:
        if part.shape[axis]:
            pieces.append((start, part))
            start += part.shape[axis]
    out: Expr | None = None
    for start, part in reversed(pieces):
        here = simplify(at - start)
        own = simplify(loops.op("lt", at, loops.const(start + part.shape[axis])))
        low = simplify(loops.op("le", loops.const(start), at))
        inside = both(guard, both(low, own))
        if inside is not None and inside.op == "const" and inside.attr:
            inside = None
        if inside is not None and inside.op == "const":
            continue
        place = (*index[:axis], here, *index[axis + 1 :])
        value = els.value(part, place) if inside is None else els.inside(part, place, inside)
        out = value if out is None else loops.op("select", own, value, out)
    return loops.const(0, n.dtype.compute) if out is None else out  # None: there is no element


def _through(els: Elements, n: Node, index: Index, guard: Expr | None) -> Expr:
    return els.value(n.inputs[0], index, guard)


_RULES = {
    "const": _const, "iota": _iota, "cast": _cast, "bitcast": _bitcast, "select": _select, "reshape": _reshape,
    "permute": _permute, "broadcast": _broadcast, "slice": _slice, "flip": _flip, "pad": _pad, "window": _window,
    "pair": _pair,
    "gather": _gather, "concat": _concat, "stop_gradient": _through, "tag": _through, "barrier": _through,
}

JUMPS = frozenset(("eq", "ne", "lt", "le", "sign", "floor", "ceil", "trunc", "round", "floordiv", "mod"))
# their results are operands, from this one on, or the negatives of these
_KEEPS = {"neg": 0, "abs": 0, "max": 0, "min": 0, "select": 1}
INLINE = frozenset(_RULES) | frozenset(SCALAR_OPS)  # operations whose elements can be computed on the spot
