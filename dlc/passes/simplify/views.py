"""Simplification rules for views, reductions, contractions and data movement. See `simplify` for what a rule is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Node, make
from dlc.ir.graph.ops import split_spec
from dlc.passes.autodiff.vjp_rules import inverse
from dlc.passes.simplify.scalars import is_value

Rule = Callable[[Node], Node | None]


def _of_constant(node: Node) -> Node | None:
    """A view of a uniform tensor is uniform."""
    x = node.inputs[0]
    return B.const(x.attrs["value"], node.dtype, node.shape) if x.op == "const" else None


def _unchanged(node: Node) -> Node | None:
    x = node.inputs[0]
    return x if x.type == node.type else None


def _reshape(node: Node) -> Node | None:
    x = node.inputs[0]
    if x.op == "reshape" or (x.op == "broadcast" and x.type.size == x.inputs[0].type.size):
        return B.reshape(x.inputs[0], node.shape)
    if x.op == "permute" and _moves_only_ones(x):
        return B.reshape(x.inputs[0], node.shape)
    return _unchanged(node)


def _moves_only_ones(permute: Node) -> bool:
    """Whether a permute keeps the order of all axes longer than 1, and so the order of elements."""
    real = [a for a in permute.attrs["axes"] if permute.inputs[0].shape[a] != 1]
    return real == sorted(real)


def _permute(node: Node) -> Node | None:
    x, axes = node.inputs[0], node.attrs["axes"]
    if axes == tuple(range(x.ndim)):
        return x
    if x.op == "permute":
        return B.permute(x.inputs[0], [x.attrs["axes"][a] for a in axes])
    if x.op == "cast" and x.inputs[0].op == "contract":  # which can give its result in any order
        return B.cast(B.permute(x.inputs[0], axes), x.dtype, x.loc)
    if x.op == "contract":
        left, right, out = split_spec(x.attrs["spec"])
        return B.contract(*x.inputs, f"{left},{right}->{''.join(out[a] for a in axes)}", x.dtype, x.loc)
    if x.op == "broadcast":
        # the axes of the broadcast's input keep their order unless the permute crosses them
        new = [axes.index(a) for a in x.attrs["axes"]]
        if new == sorted(new):
            return B.broadcast(x.inputs[0], node.shape, new)
    return None


def _broadcast(node: Node) -> Node | None:
    x, axes = node.inputs[0], node.attrs["axes"]
    if x.op == "broadcast":
        return B.broadcast(x.inputs[0], node.shape, [axes[a] for a in x.attrs["axes"]])
    if x.type == node.type:
        return x
    return B.reshape(x, node.shape) if x.type.size == node.type.size else None


def _slice(node: Node) -> Node | None:
    x, a = node.inputs[0], node.attrs
    start, stop, step = a["start"], a["stop"], a["step"]
    if x.type == node.type:
        return x
    if x.op == "slice" and node.type.size:
        first = x.attrs["start"]
        wide = x.attrs["step"]
        start = [lo + s * st for lo, s, st in zip(first, start, wide, strict=True)]
        step = [s * st for s, st in zip(step, wide, strict=True)]
        stop = [lo + (n - 1) * st + 1 for lo, n, st in zip(start, node.shape, step, strict=True)]
        return B.slice_(x.inputs[0], start, stop, step)
    if x.op == "pad" and not any(x.attrs["interior"]):
        low = x.attrs["low"]
        start = [s - lo for s, lo in zip(start, low, strict=True)]
        stop = [e - lo for e, lo in zip(stop, low, strict=True)]
        inside = zip(start, stop, x.inputs[0].shape, strict=True)
        if all(0 <= s < e <= d for s, e, d in inside):
            return B.slice_(x.inputs[0], start, stop, step)
    if x.op == "concat" and node.type.size:
        return _slice_of_concat(node, x)
    if x.op == "broadcast" and node.type.size:
        return _slice_of_broadcast(node, x)
    return None


def _slice_of_concat(node: Node, x: Node) -> Node | None:
    axis, at = x.attrs["axis"], 0
    start, stop, step = (list(node.attrs[k]) for k in ("start", "stop", "step"))
    for part in x.inputs:
        end = at + part.shape[axis]
        if at <= start[axis] and stop[axis] <= end:
            start[axis] -= at
            stop[axis] -= at
            return B.slice_(part, start, stop, step)
        at = end
    return None


def _slice_of_broadcast(node: Node, x: Node) -> Node:
    """Slices only what is there to slice, then repeats."""
    src, axes = x.inputs[0], x.attrs["axes"]
    whole = [(0, 1, 1)] * src.ndim
    for k, a in enumerate(axes):
        if src.shape[k] != 1:
            whole[k] = tuple(node.attrs[name][a] for name in ("start", "stop", "step"))
    start, stop, step = zip(*whole, strict=True) if whole else ((), (), ())
    return B.broadcast(B.slice_(src, start, stop, step), node.shape, axes)


def _flip(node: Node) -> Node | None:
    x = node.inputs[0]
    axes = {a for a in node.attrs["axes"] if x.shape[a] > 1}
    if x.op == "flip":
        return B.flip(x.inputs[0], axes ^ set(x.attrs["axes"]))
    return B.flip(x, axes) if axes != set(node.attrs["axes"]) else None


def _pad(node: Node) -> Node | None:
    x, a = node.inputs[0], node.attrs
    low, high, interior = a["low"], a["high"], a["interior"]
    if x.op == "const" and is_value(x, a["value"]):
        return B.like(x, a["value"]) if x.type == node.type else B.const(a["value"], x.dtype, node.shape)
    if not any(low) and not any(high) and not any(interior):
        return x
    if not any(interior) and max(*low, *high) <= 0:
        stop = [d + hi for d, hi in zip(x.shape, high, strict=True)]
        return B.slice_(x, [-lo for lo in low], stop) if node.type.size else None
    if x.op == "pad" and not any(interior) and repr(a["value"]) == repr(x.attrs["value"]):
        sides = [(x.attrs["low"], low), (x.attrs["high"], high)]
        if all(not (inner < 0 < outer) for one, two in sides for inner, outer in zip(one, two, strict=True)):
            low, high = ([p + q for p, q in zip(one, two, strict=True)] for one, two in sides)
            return B.pad(x.inputs[0], low, high, x.attrs["interior"], a["value"])
    return None


# ------------------------------------------------------------------------------------------------------ reductions


def _reduce_constant(node: Node) -> Node | None:
    x, monoid = node.inputs[0], node.attrs["monoid"]
    if x.op != "const":
        return None
    count = math.prod(x.shape[a] for a in node.attrs["axes"])
    if monoid.startswith("arg"):
        return B.like(node, 0)
    if monoid in ("max", "min") or (monoid in ("any", "all") and count):
        return B.like(node, x.attrs["value"])
    return B.like(node, x.attrs["value"] * count) if monoid == "sum" and count else None


def _reduce(node: Node) -> Node | None:
    x, monoid, axes = node.inputs[0], node.attrs["monoid"], node.attrs["axes"]
    if monoid.startswith("arg"):
        return None
    ones = [a for a in axes if x.shape[a] == 1]
    if ones:
        kept = [a for a in range(x.ndim) if a not in ones]
        new = [kept.index(a) for a in axes if a not in ones]
        return B.reduce(B.reshape(x, [x.shape[a] for a in kept]), monoid, new)
    if x.op == "reduce" and x.attrs["monoid"] == monoid:
        left = [a for a in range(x.inputs[0].ndim) if a not in x.attrs["axes"]]
        return B.reduce(x.inputs[0], monoid, [*x.attrs["axes"], *(left[a] for a in axes)])
    if x.op == "permute":
        order = x.attrs["axes"]
        gone = {order[a] for a in axes}
        left = [a for a in range(x.ndim) if a not in gone]
        return B.permute(
            B.reduce(x.inputs[0], monoid, gone), [left.index(order[a]) for a in range(x.ndim) if a not in axes]
        )
    if x.op == "broadcast" and monoid != "prod":
        return _reduce_broadcast(node, x)
    if x.op == "contract" and monoid == "sum":
        return _reduce_contract(node, x)
    return None


def _reduce_broadcast(node: Node, x: Node) -> Node | None:
    """Reduces only the axes that are really there; a sum over copies is a product."""
    src, axes, placed = x.inputs[0], node.attrs["axes"], x.attrs["axes"]
    real = [k for k, a in enumerate(placed) if a in axes and src.shape[k] == x.shape[a]]
    copies = math.prod(x.shape[a] for a in axes) // max(1, math.prod(src.shape[k] for k in real))
    if 0 in x.shape or len(real) == len(axes):
        return None
    ones = [k for k, a in enumerate(placed) if a in axes and k not in real]
    small = B.reduce(src, node.attrs["monoid"], real)
    kept = [k for k in range(src.ndim) if k not in real and k not in ones]
    small = B.reshape(small, [src.shape[k] for k in kept])
    out_axes = [a for a in range(x.ndim) if a not in axes]
    if node.attrs["monoid"] == "sum":
        wide = B.cast(small, node.dtype.compute)  # the count may be no number of a half type
        small = B.cast(make("mul", (wide, B.like(wide, copies))), node.dtype)
    return B.broadcast(small, node.shape, [out_axes.index(placed[k]) for k in kept])


def _reduce_contract(node: Node, x: Node) -> Node | None:
    """The sum over an output axis that both operands have makes it a contracted axis."""
    left, right, out = split_spec(x.attrs["spec"])
    summed = [out[a] for a in node.attrs["axes"]]
    if not all(c in left and c in right for c in summed):
        return None
    return B.contract(*x.inputs, f"{left},{right}->{''.join(c for c in out if c not in summed)}", x.dtype, x.loc)


# ---------------------------------------------------------------------------------------------------- contractions


def _contract_permuted(node: Node) -> Node | None:
    """Transposed operands: the spec says the same without the permute."""
    left, right, out = split_spec(node.attrs["spec"])
    ins, labels = list(node.inputs), [left, right]
    for k in (0, 1):
        while ins[k].op == "permute":
            labels[k] = "".join(labels[k][a] for a in inverse(ins[k].attrs["axes"]))
            ins[k] = ins[k].inputs[0]
    if ins == list(node.inputs):
        return None
    return B.contract(*ins, f"{labels[0]},{labels[1]}->{out}", node.dtype)


def _without(x: Node, labels: str, gone: Sequence[str]) -> tuple[Node, str]:
    """`x` without its axes of extent 1 named in `gone`."""
    shape = [d for c, d in zip(labels, x.shape, strict=True) if c not in gone]
    return B.reshape(x, shape), "".join(c for c in labels if c not in gone)


def _contract_ones(node: Node) -> Node | None:
    """Contracted axes of extent 1 are no axes."""
    left, right, out = split_spec(node.attrs["spec"])
    extent = dict(zip(left, node.inputs[0].shape, strict=True))
    gone = [c for c in left if c in right and c not in out and extent[c] == 1]
    if not gone:
        return None
    a, left = _without(node.inputs[0], left, gone)
    b, right = _without(node.inputs[1], right, gone)
    return B.contract(a, b, f"{left},{right}->{out}", node.dtype)


def _contract_broadcast(node: Node) -> Node | None:
    """A repeated operand: repeat the result instead, or add up the other operand first."""
    for k in (0, 1):
        x = node.inputs[k]
        if x.op != "broadcast" or 0 in x.shape:
            continue
        labels = list(split_spec(node.attrs["spec"])[:2])
        out = split_spec(node.attrs["spec"])[2]
        src, placed = x.inputs[0], x.attrs["axes"]
        real = [j for j, a in enumerate(placed) if src.shape[j] == x.shape[a]]
        copied = [labels[k][a] for a in range(x.ndim) if a not in {placed[j] for j in real}]
        small = B.reshape(src, [src.shape[j] for j in real])
        mine = "".join(labels[k][placed[j]] for j in real)
        other, theirs = node.inputs[1 - k], labels[1 - k]
        summed = [c for c in copied if c in theirs and c not in out]
        if summed:
            other = B.sum_(other, [theirs.index(c) for c in summed])
            theirs = "".join(c for c in theirs if c not in summed)
        kept = "".join(c for c in out if c in mine or c in theirs)
        pair = (small, other) if k == 0 else (other, small)
        spec = f"{mine},{theirs}->{kept}" if k == 0 else f"{theirs},{mine}->{kept}"
        return B.broadcast(B.contract(*pair, spec, node.dtype), node.shape, [out.index(c) for c in kept])
    return None


def _contract_constant(node: Node) -> Node | None:
    """A product with ones is a sum."""
    for k in (0, 1):
        if not is_value(node.inputs[k], 1) or 0 in node.inputs[k].shape:
            continue
        labels = split_spec(node.attrs["spec"])
        x, mine, ones, out = node.inputs[1 - k], labels[1 - k], labels[k], labels[2]
        if node.dtype.bits > x.dtype.bits or node.dtype.kind != x.dtype.kind:
            x = B.cast(x, node.dtype)
        summed = B.sum_(x, [a for a, c in enumerate(mine) if c in ones and c not in out])
        left = [c for c in mine if c in out]
        ordered = [c for c in out if c in left]
        summed = B.cast(B.permute(summed, [left.index(c) for c in ordered]), node.dtype)
        return B.broadcast(summed, node.shape, [out.index(c) for c in ordered])
    return None


# ---------------------------------------------------------------------------------------------------- data movement


def _concat(node: Node) -> Node | None:
    axis = node.attrs["axis"]
    parts = [x for x in node.inputs if x.shape[axis]]
    if len(parts) <= 1:
        return parts[0] if parts else node.inputs[0]
    first = parts[0]
    if all(p.op == "const" and is_value(first, p.attrs["value"]) for p in parts):
        return B.const(first.attrs["value"], node.dtype, node.shape)
    return make("concat", parts, axis=axis) if len(parts) < len(node.inputs) else None


def _cumulative(node: Node) -> Node | None:
    return node.inputs[0] if node.shape[node.attrs["axis"]] <= 1 else None


VIEW_RULES: dict[str, tuple[Rule, ...]] = {
    "reshape": (_of_constant, _reshape),
    "permute": (_of_constant, _permute),
    "broadcast": (_of_constant, _broadcast),
    "slice": (_of_constant, _slice),
    "flip": (_of_constant, _flip),
    "pad": (_pad,),
    "window": (_of_constant,),
    "gather": (_of_constant,),
    "reduce": (_reduce_constant, _reduce),
    "contract": (_contract_permuted, _contract_ones, _contract_broadcast, _contract_constant),
    "concat": (_concat,),
    "cumulative": (_cumulative,),
}
