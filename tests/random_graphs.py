"""Random well-typed graphs and arguments for them, for property tests on every floor.

`graphs()` is a hypothesis strategy for Graphs; `arguments(graph, seed)` makes arrays for its parameters. Values stay
moderate (no domain errors, hardly an overflow), so that results of different backends can be compared with tolerances.
`integer_graphs()` are exact: integers and booleans only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param

FLOATS = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)
INTS = (dtypes.int32, dtypes.int64, dtypes.int8, dtypes.uint8, dtypes.uint32)

_BOUNDED = ("sin", "cos", "tanh", "sigmoid", "erf", "atan", "neg", "abs", "floor", "round", "sign")
_BINARY_FLOAT = ("add", "sub", "mul", "max", "min", "atan2")
_BINARY_INT = ("add", "sub", "mul", "max", "min", "floordiv", "mod", "and", "or", "xor")
_COMPARE = ("eq", "ne", "lt", "le")


class _Maker:
    """Grows a graph: each step picks operands among the nodes so far and adds what fits them."""

    def __init__(self, draw, float_types: Sequence[DType], int_types: Sequence[DType], max_extent: int):
        self.draw = draw
        self.floats, self.ints, self.max_extent = float_types, int_types, max_extent
        self.nodes: list[Node] = []

    def pick(self, choices):
        return self.draw(st.sampled_from(list(choices)))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def extents(self, ndim: int) -> tuple[int, ...]:
        return tuple(self.number(0 if self.number(0, 15) == 0 else 1, self.max_extent) for _ in range(ndim))

    def any(self, want=lambda n: True) -> Node | None:
        fits = [n for n in self.nodes if want(n)]
        # recent nodes more often, so that graphs grow deep rather than wide
        return fits[-1 - min(self.number(0, len(fits) - 1), self.number(0, len(fits) - 1))] if fits else None

    def like(self, x: Node) -> Node:
        """Another node of the type of `x`, or one made to fit."""
        other = self.any(lambda n: n.type == x.type)
        row = self.any(lambda n: n.dtype is x.dtype and 0 < n.ndim < x.ndim and n.shape == x.shape[x.ndim - n.ndim :])
        if row is not None and self.number(0, 1):
            return B.broadcast_to(row, x.shape)
        return other if self.number(0, 3) else B.like(x, self.number(-2, 3))

    def step(self) -> None:
        x = self.any()
        rule = self.pick(_RULES)
        y = rule(self, x)
        if y is not None and y.type.size <= 4096:
            self.nodes.append(y)


def _unary(m: _Maker, x: Node) -> Node | None:
    if x.dtype.is_float:
        return B.op(m.pick(_BOUNDED), x)
    return B.op("not", x) if x.dtype.is_bool or m.number(0, 1) else B.op("neg", x)


def _binary(m: _Maker, x: Node) -> Node | None:
    if x.dtype.is_bool:
        return B.op(m.pick(("and", "or", "xor", "max", "min")), x, m.like(x))
    if x.dtype.is_int:
        return B.op(m.pick(_BINARY_INT), x, m.like(x))
    y = m.like(x)
    # bounded factors keep long products moderate
    return B.op(m.pick(_BINARY_FLOAT), x, B.op("tanh", y) if m.number(0, 1) else B.op("sin", y))


def _compare(m: _Maker, x: Node) -> Node:
    return B.op(m.pick(_COMPARE), x, m.like(x))


def _select(m: _Maker, x: Node) -> Node | None:
    cond = m.any(lambda n: n.dtype.is_bool and n.shape == x.shape) or B.op("lt", x, m.like(x))
    return B.select(cond, x, m.like(x))


def _cast(m: _Maker, x: Node) -> Node:
    return B.cast(x, m.pick((*m.floats, *m.ints, dtypes.bool_)))


def _reshape(m: _Maker, x: Node) -> Node:
    n = x.type.size
    splits = [k for k in range(1, n + 1) if n % k == 0] or [1]
    k = m.pick(splits)
    return B.reshape(x, m.pick([(n,), (k, n // k), (1, n), (n, 1)]))


def _permute(m: _Maker, x: Node) -> Node:
    return B.permute(x, m.draw(st.permutations(range(x.ndim))))


def _broadcast(m: _Maker, x: Node) -> Node | None:
    if x.ndim > 2:
        return None
    at = m.number(0, x.ndim)
    shape = (*x.shape[:at], m.number(1, m.max_extent), *x.shape[at:])
    return B.broadcast(x, shape, [a for a in range(x.ndim + 1) if a != at])


def _slice(m: _Maker, x: Node) -> Node:
    start = [m.number(0, d) for d in x.shape]
    stop = [m.number(lo, d) for lo, d in zip(start, x.shape, strict=True)]
    if m.number(0, 3):  # mostly not empty
        start = [min(lo, max(d - 1, 0)) for lo, d in zip(start, x.shape, strict=True)]
        stop = [max(hi, min(lo + 1, d)) for lo, hi, d in zip(start, stop, x.shape, strict=True)]
    return B.slice_(x, start, stop, [m.number(1, 2) for _ in x.shape])


def _flip(m: _Maker, x: Node) -> Node:
    return B.flip(x, [a for a in range(x.ndim) if m.number(0, 1)])


def _pad(m: _Maker, x: Node) -> Node | None:
    low, gap = [m.number(-1, 2) for _ in x.shape], [m.number(0, 1) for _ in x.shape]
    high = [m.number(-1, 2) for _ in x.shape]
    if any(lo + hi + d + max(d - 1, 0) * g < 0 for lo, hi, d, g in zip(low, high, x.shape, gap, strict=True)):
        return None
    return B.pad(x, low, high, gap, m.number(0, 1))


def _window(m: _Maker, x: Node) -> Node | None:
    if not 0 < x.ndim < 3:
        return None
    axis = m.number(0, x.ndim - 1)
    return B.window(x, (axis,), (m.number(1, 3),), (m.number(1, 3),), (m.number(1, 2),))


def _unwindow(m: _Maker, x: Node) -> Node | None:
    if x.dtype.is_bool:
        return None
    y = _window(m, x)
    if y is None:
        return None
    attrs = {k: v for k, v in y.attrs.items() if k != "uid"}
    return make("unwindow", (y,), shape=x.shape, **attrs)


def _reduce(m: _Maker, x: Node) -> Node | None:
    axes = [a for a in range(x.ndim) if m.number(0, 1)]
    if x.dtype.is_bool:
        return B.reduce(x, m.pick(("any", "all")), axes)
    if 0 in x.shape or (x.dtype.is_int and m.number(0, 1)):
        return B.reduce(x, "sum", axes)
    x = B.op("sin", x) if x.dtype.is_float else x
    return B.reduce(x, m.pick(("sum", "max", "min", "prod", "max")), axes)


def _contract(m: _Maker, x: Node) -> Node | None:
    if x.dtype.is_bool or not 1 <= x.ndim <= 3:
        return None
    y = m.any(lambda n: n.dtype is x.dtype and 1 <= n.ndim <= 3 and set(n.shape) & set(x.shape))
    if y is None:
        return None
    left, names = "abc"[: x.ndim], iter("defg")
    right = ""
    for d in y.shape:
        same = [c for c, e in zip(left, x.shape, strict=True) if e == d and c not in right]
        right += m.pick(same) if same and m.number(0, 2) else next(names)
    out = [c for c in dict.fromkeys(left + right) if not (c in left and c in right) or not m.number(0, 2)]
    out = m.draw(st.permutations(out)) if out else out
    x, y = (B.op("sin", v) if v.dtype.is_float else v for v in (x, y))
    return B.contract(x, y, f"{left},{right}->{''.join(out)}")


def _gather(m: _Maker, x: Node) -> Node | None:
    index = m.any(lambda n: n.dtype.is_int and n.ndim <= 2)
    axes = [a for a, d in enumerate(x.shape) if d]
    if index is None or not axes or x.ndim > 2:
        return None
    return make("gather", (x, index), axis=m.pick(axes))


def _scatter(m: _Maker, x: Node) -> Node | None:
    updates = _gather(m, x)
    if updates is None or x.dtype.is_bool:
        return None
    index, axis = updates.inputs[1], updates.attrs["axis"]
    combine = "add" if x.dtype.is_int else m.pick(("add", "max"))
    return make("scatter", (x, index, B.op("neg", updates)), axis=axis, combine=combine)


def _concat(m: _Maker, x: Node) -> Node | None:
    if not x.ndim or x.ndim > 3:
        return None
    return make("concat", (x, m.like(x)), axis=m.number(0, x.ndim - 1))


def _cumulative(m: _Maker, x: Node) -> Node | None:
    if not x.ndim or x.dtype.is_bool:
        return None
    monoid, reverse = m.pick(("sum", "max", "min")), bool(m.number(0, 1))
    return make("cumulative", (x,), monoid=monoid, axis=m.number(0, x.ndim - 1), reverse=reverse)


_RULES = (
    *[_unary] * 3, *[_binary] * 5, _compare, _select, _select, _cast, *[_reshape, _permute, _broadcast] * 2, _slice,
    _flip, _pad, _window, _unwindow, *[_reduce] * 3, *[_contract] * 2, _gather, _scatter, _concat, _cumulative,
)  # fmt: skip


def graphs(
    float_types: Sequence[DType] = FLOATS,
    int_types: Sequence[DType] = INTS,
    max_steps: int = 14,
    max_extent: int = 5,
) -> st.SearchStrategy[Graph]:
    """Graphs of up to `max_steps` operations on two to four parameters, one to three outputs."""

    @st.composite
    def strategy(draw) -> Graph:
        m = _Maker(draw, float_types, int_types, max_extent)
        types = (*float_types, *float_types, *int_types, dtypes.bool_)
        params = [param(TensorType(m.pick(types), m.extents(m.number(0, 3))), f"x{k}") for k in range(m.number(2, 4))]
        m.nodes += params
        for _ in range(m.number(1, max_steps)):
            m.step()
        made = [n for n in m.nodes if n.op != "param"] or m.nodes
        outputs = [made[-1], *(m.pick(made) for _ in range(m.number(0, 2)))]
        return Graph(params, outputs)

    return strategy()


def integer_graphs(max_steps: int = 14) -> st.SearchStrategy[Graph]:
    """Graphs without floats, whose results are exact on every backend."""
    return graphs(float_types=(), int_types=INTS, max_steps=max_steps)


def arguments(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    """Moderate values for the parameters of `graph`."""
    rng = np.random.default_rng(seed)
    out = []
    for p in graph.params:
        if p.dtype.is_float:
            out.append(np.asarray(rng.uniform(-2, 2, p.shape)).astype(p.dtype.np))
        elif p.dtype.is_bool:
            out.append(np.asarray(rng.random(p.shape) < 0.5))
        else:
            out.append(np.asarray(rng.integers(0 if p.dtype.kind == "u" else -6, 7, p.shape)).astype(p.dtype.np))
    return out
