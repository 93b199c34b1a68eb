"""Linear algebra on `contract`: products of every kind accumulate in float32 or wider and keep the operands' dtype.

Under `autocast` what is a contraction takes its operands in the half type.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Sequence
from string import ascii_letters

from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import broadcast_shape, normalize_axes, normalize_axis, spread
from dlc.frontend.array.elementwise import multiply, subtract
from dlc.frontend.array.manipulation import matrix_transpose, roll
from dlc.frontend.array.operands import root_of_sum, wide
from dlc.frontend.array.reductions import fold
from dlc.frontend.array.reductions import sum as total
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_node, promote
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.modes.autocast import factors
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node

__all__ = [
    "bmm", "cross", "diag", "diagonal", "dot", "einsum", "inner", "kron", "matmul", "matrix_norm", "matrix_transpose",
    "norm", "outer", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip


def _numbers(name: str, *operands) -> list[Node]:
    return _not_bool(name, promote(*operands))


def _factors(name: str, *operands) -> list[Node]:
    return _not_bool(name, factors(*operands))


def _not_bool(name: str, nodes: list[Node]) -> list[Node]:
    if nodes[0].dtype.is_bool:
        raise DTypeError(f"{name}: not defined for bool; cast first")
    return nodes


def contract_labels(a: Node, la: str, c: Node, lc: str, out: str) -> Node:
    """The product of `a` and `c`, axes named by letters, summed over every letter that `out` lacks.

    A letter that only one operand has and `out` lacks is summed first; where an operand has extent 1 and the other
    more, the axis is dropped (broadcasting).
    """
    shared = set(la) & set(lc)
    uneven = {x for x in shared if a.shape[la.index(x)] != c.shape[lc.index(x)]}
    a, la = _drop(a, la, {x for x in uneven if a.shape[la.index(x)] == 1})
    c, lc = _drop(c, lc, {x for x in uneven if c.shape[lc.index(x)] == 1})
    a, la = _sum_out(a, la, set(la) - set(lc) - set(out))
    c, lc = _sum_out(c, lc, set(lc) - set(la) - set(out))
    return b.contract(a, c, f"{la},{lc}->{out}", None)


def _drop(x: Node, labels: str, gone: set[str]) -> tuple[Node, str]:
    keep = [k for k, letter in enumerate(labels) if letter not in gone]
    return b.reshape(x, [x.shape[k] for k in keep]), "".join(labels[k] for k in keep)


def _sum_out(x: Node, labels: str, gone: set[str]) -> tuple[Node, str]:
    axes = [k for k, letter in enumerate(labels) if letter in gone]
    return b.reduce(x, "sum", axes), "".join(letter for letter in labels if letter not in gone)


@user_errors
def matmul(x1, x2) -> Tensor:
    """The matrix product over the last two axes; leading axes broadcast; a 1-d operand is a row (x1) or column (x2).

    [..., m, k] x [..., k, n] -> [..., m, n]. Raises ShapeError for a scalar or where k differs.
    """
    a, c = _factors("matmul", x1, x2)
    if not a.ndim or not c.ndim:
        raise ShapeError(f"matmul: needs at least one dimension each, got shapes {a.shape} and {c.shape}")
    if a.shape[-1] != c.shape[-2 if c.ndim > 1 else 0]:
        raise ShapeError(f"matmul: shapes {a.shape} and {c.shape} do not fit: {a.shape[-1]} columns meet "
                         f"{c.shape[-2 if c.ndim > 1 else 0]} rows")  # fmt: skip
    batch = max(a.ndim, c.ndim) - 2
    broadcast_shape("matmul", a.shape[:-2], c.shape[:-2])
    names = ascii_letters[: max(batch, 0)]
    la = names[batch - (a.ndim - 2) :] + "YX" if a.ndim > 1 else "X"
    lc = names[batch - (c.ndim - 2) :] + "XZ" if c.ndim > 1 else "X"
    return wrap(contract_labels(a, la, c, lc, names + "Y" * (a.ndim > 1) + "Z" * (c.ndim > 1)))


@user_errors
def dot(x1, x2) -> Tensor:
    """NumPy's dot for scalars, vectors and matrices: the product, the inner product, the matrix product."""
    a, c = as_node(x1), as_node(x2)
    if not a.ndim or not c.ndim:
        return multiply(x1, x2)
    return matmul(x1, x2) if c.ndim <= 2 else tensordot(x1, x2, ((-1,), (-2,)))


@user_errors
def bmm(x1, x2) -> Tensor:
    """The products of two stacks of matrices: [b, m, k] x [b, k, n] -> [b, m, n]."""
    a, c = as_node(x1), as_node(x2)
    if a.ndim != 3 or c.ndim != 3 or a.shape[0] != c.shape[0]:
        raise ShapeError(f"bmm: needs [b, m, k] and [b, k, n], got shapes {a.shape} and {c.shape}")
    return matmul(x1, x2)


@user_errors
def tensordot(x1, x2, axes: int | Sequence = 2) -> Tensor:
    """The sum of products over `axes`: the last n of x1 with the first n of x2, or two sequences of axes.

    The result has the remaining axes of x1, then those of x2.
    """
    a, c = _factors("tensordot", x1, x2)
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, c.ndim):
            raise ShapeError(f"tensordot: cannot sum over {axes} axes of shapes {a.shape} and {c.shape}")
        axes = (tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes)))
    first, second = (normalize_axes("tensordot", s, n.ndim) for s, n in zip(axes, (a, c), strict=True))
    if [a.shape[k] for k in first] != [c.shape[k] for k in second]:
        raise ShapeError(f"tensordot: axes {first} of shape {a.shape} do not match axes {second} of shape {c.shape}")
    la = list(ascii_letters[: a.ndim])
    lc = list(ascii_letters[a.ndim : a.ndim + c.ndim])
    for i, j in zip(first, second, strict=True):
        lc[j] = la[i]
    out = [x for x in la if x not in lc] + [x for x in lc if x not in la]
    return wrap(contract_labels(a, "".join(la), c, "".join(lc), "".join(out)))


@user_errors
def vecdot(x1, x2, *, axis: int = -1) -> Tensor:
    """The inner products along `axis`; the other axes broadcast."""
    a, c = _factors("vecdot", x1, x2)
    if not a.ndim or not c.ndim:
        raise ShapeError(f"vecdot: needs at least one dimension each, got shapes {a.shape} and {c.shape}")
    ndim = max(a.ndim, c.ndim)
    k = normalize_axis("vecdot", axis, min(a.ndim, c.ndim)) - min(a.ndim, c.ndim)
    if a.shape[k] != c.shape[k]:
        raise ShapeError(f"vecdot: axis {axis} has extents {a.shape[k]} and {c.shape[k]} (shapes {a.shape}, {c.shape})")
    broadcast_shape("vecdot", a.shape, c.shape)
    names = ascii_letters[:ndim]
    return wrap(contract_labels(a, names[ndim - a.ndim :], c, names[ndim - c.ndim :], names.replace(names[k], "")))


inner = vecdot


@user_errors
def outer(x1, x2) -> Tensor:
    """All products of the elements of two vectors: [n], [m] -> [n, m]."""
    a, c = _numbers("outer", x1, x2)
    if a.ndim != 1 or c.ndim != 1:
        raise ShapeError(f"outer: needs two vectors, got shapes {a.shape} and {c.shape}")
    shape = (a.shape[0], c.shape[0])
    return wrap(b.broadcast(a, shape, (0,)) * b.broadcast(c, shape, (1,)))


# -- diagonals ------------------------------------------------------------------------------------------------------


def diagonal_node(x: Node, axis1: int, axis2: int, offset: int) -> Node:
    """The elements with position i on `axis1` and i + `offset` on `axis2`, as the last axis. Views only."""
    rest = [k for k in range(x.ndim) if k not in (axis1, axis2)]
    x = b.permute(x, (*rest, axis1, axis2))
    *lead, rows, columns = x.shape
    r0, c0 = max(-offset, 0), max(offset, 0)
    n = max(min(rows - r0, columns - c0), 0)
    if not n:
        return b.reshape(b.slice_(x, (0,) * x.ndim, (*lead, 0, 0), None), (*lead, 0))
    x = b.slice_(x, (*(0 for _ in lead), r0, c0), (*lead, r0 + n, c0 + n), None)
    flat = b.reshape(x, (*lead, n * n))
    return b.slice_(flat, (0,) * flat.ndim, flat.shape, (*(1 for _ in lead), n + 1))


@user_errors
def diagonal(x, *, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
    """The diagonal of the matrices in two axes (the last two), as the last axis; `offset` > 0 lies above it."""
    n = as_node(x)
    i, j = normalize_axis("diagonal", axis1, n.ndim), normalize_axis("diagonal", axis2, n.ndim)
    if i == j:
        raise ShapeError(f"diagonal: axis {i} twice")
    return wrap(diagonal_node(n, i, j, operator.index(offset)))


@user_errors
def diag(x, offset: int = 0) -> Tensor:
    """A matrix's diagonal, or, of a vector, the matrix that has it as its diagonal."""
    n, offset = as_node(x), operator.index(offset)
    if n.ndim == 2:
        return diagonal(x, offset=offset)
    if n.ndim != 1:
        raise ShapeError(f"diag: needs a vector or a matrix, got shape {n.shape}")
    size, k = n.shape[0] + abs(offset), n.shape[0]
    # n + 1 apart in the flattened square: each element, then n zeros
    flat = b.pad(b.reshape(n, (k, 1)), (0, 0), (0, k), None, 0)
    square = b.reshape(b.slice_(b.reshape(flat, (k * (k + 1),)), (0,), (k * k,), None), (k, k))
    low = (max(-offset, 0), max(offset, 0))
    return wrap(b.pad(square, low, (size - k - low[0], size - k - low[1]), None, 0))


@user_errors
def trace(x, *, offset: int = 0, dtype=None) -> Tensor:
    """The sum of the diagonal of the matrices in the last two axes."""
    if as_node(x).ndim < 2:
        raise ShapeError(f"trace: needs at least two dimensions, got shape {as_node(x).shape}")
    return total(diagonal(x, offset=offset), -1, dtype=dtype)


# -- norms ----------------------------------------------------------------------------------------------------------


@user_errors
def vector_norm(x, *, axis=None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """The `ord`-norm over `axis` (all axes if None): any number, inf, -inf, or 0 for the count of non-zeros.

    The gradient at 0 is 0, and so is that with respect to an element that is 0.
    """
    n = as_node(x)
    axes = normalize_axes("vector_norm", axis, n.ndim)
    w = wide(n)
    result = n.dtype if n.dtype.is_float else w.dtype
    if not isinstance(ord, (int, float)):
        raise ShapeError(f"vector_norm: order {ord!r} is not a number")
    size = b.op("abs", w)
    if ord in (math.inf, -math.inf):
        if math.prod(n.shape[a] for a in axes) == 0:
            raise ShapeError(f"vector_norm: no elements to reduce over axes {axes} of shape {n.shape}")
        out = fold(size, "max" if ord > 0 else "min", axes, keepdims)
    elif ord == 0:
        out = fold(b.cast(b.op("ne", w, b.like(w, 0)), w.dtype), "sum", axes, keepdims)
    elif ord == 1:
        out = fold(size, "sum", axes, keepdims)
    elif ord == 2:
        out = root_of_sum(fold(w * w, "sum", axes, keepdims))
    else:
        total = fold(_power_from_zero(size, ord), "sum", axes, keepdims)
        out = _power_from_zero(total, 1 / ord)
    return wrap(b.cast(out, result))


def _power_from_zero(x: Node, exponent: float) -> Node:
    """x to the power `exponent`, which is not 0, for x >= 0. The derivative at 0 and infinity is 0."""
    ends = b.op("or", b.op("eq", x, b.like(x, 0)), b.op("eq", x, b.like(x, math.inf)))
    inside = b.select(ends, b.like(x, 1), x)
    at_end = x if exponent > 0 else b.like(x, 1) / x
    return b.select(ends, b.make("stop_gradient", (at_end,)), b.op("pow", inside, b.like(x, exponent)))


@user_errors
def matrix_norm(x, *, keepdims: bool = False, ord="fro") -> Tensor:
    """The norm of the matrices in the last two axes: 'fro', 1, -1, inf, -inf (largest or smallest line sum)."""
    n = as_node(x)
    if n.ndim < 2:
        raise ShapeError(f"matrix_norm: needs at least two dimensions, got shape {n.shape}")
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord not in (1, -1, math.inf, -math.inf):
        raise ShapeError(f"matrix_norm: order {ord!r} is not supported; choose from 'fro', 1, -1, inf, -inf")
    first, second = (n.ndim - 2, n.ndim - 1) if abs(ord) == 1 else (n.ndim - 1, n.ndim - 2)
    w = wide(n)
    sums = fold(b.op("abs", w), "sum", (first,), True)
    out = fold(sums, "max" if ord > 0 else "min", (second,), True)
    out = out if keepdims else b.reshape(out, n.shape[:-2])
    return wrap(b.cast(out, n.dtype if n.dtype.is_float else w.dtype))


@user_errors
def norm(x, ord=None, axis=None, keepdims: bool = False) -> Tensor:
    """The 2-norm of all elements or over `axis`; `ord` as in vector_norm, or 'fro' for matrices."""
    if ord == "fro":
        return vector_norm(x, axis=axis, keepdims=keepdims)
    return vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if ord is None else ord)


# -- einsum ---------------------------------------------------------------------------------------------------------


@user_errors
def einsum(subscripts: str, *operands) -> Tensor:
    """The sum of products that `subscripts` describes, as in NumPy: 'ij,jk->ik', 'i...,i...', 'ii->i', 'ij,jk'.

    Any number of operands, contracted pair by pair from the left; repeated letters take diagonals; '...' stands for
    axes that broadcast. Raises ShapeError where the letters do not fit the shapes.
    """
    if not operands:
        raise ShapeError("einsum: no operands")
    nodes = _factors("einsum", *operands)
    terms, out = _parse_einsum(subscripts, [n.shape for n in nodes])
    work = [_take_diagonals(n, t) for n, t in zip(nodes, terms, strict=True)]
    node, labels = work[0]
    for k, (other, other_labels) in enumerate(work[1:], 1):
        later = set(out).union(*(w[1] for w in work[k + 1 :]))
        union = labels + "".join(x for x in other_labels if x not in labels)
        keep = "".join(x for x in (out if k == len(work) - 1 else union) if x in later and x in union)
        node, labels = contract_labels(node, labels, other, other_labels, keep), keep
    node, labels = _sum_out(node, labels, set(labels) - set(out))
    return wrap(b.permute(node, [labels.index(x) for x in out]))


def _parse_einsum(text: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], str]:
    """One string of letters for each operand, and the result's; every '...' spelled out with letters of its own."""
    text = text.replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ShapeError(f"einsum '{text}': {len(terms)} terms for {len(shapes)} operands")
    used = {x for x in text if x.isalpha()}
    spare = [x for x in ascii_letters if x not in used]
    depth = 0
    for t, s in zip(terms, shapes, strict=True):
        letters = t.replace("...", "", 1)
        if not all(x.isalpha() and x.isascii() for x in letters):
            raise ShapeError(f"einsum '{text}': '{t}' is not made of letters and at most one '...'")
        if "..." in t:
            depth = max(depth, len(s) - len(letters))
        if len(s) < len(letters) or ("..." not in t and len(s) != len(letters)):
            raise ShapeError(f"einsum '{text}': '{t}' does not fit shape {s}")
    dots = "".join(spare[:depth])
    full = []
    for t, s in zip(terms, shapes, strict=True):
        n = len(s) - len(t.replace("...", ""))
        full.append(t.replace("...", dots[depth - n :] if n else ""))
    if not arrow:
        counts = Counter(x for t in terms for x in t if x.isalpha())
        out = "..." * ("..." in left) + "".join(sorted(x for x, c in counts.items() if c == 1))
    elif depth and "..." not in out:
        raise ShapeError(f"einsum '{text}': the result lacks the '...' of the operands")
    letters = out.replace("...", "", 1)
    if len(set(letters)) != len(letters) or not set(letters) <= {x for t in terms for x in t}:
        raise ShapeError(f"einsum '{text}': '{out}' repeats a letter or has one that no operand has")
    sizes: dict[str, int] = {}
    for t, s in zip(full, shapes, strict=True):
        for x, d in zip(t, s, strict=True):
            have = sizes.setdefault(x, d)
            if have != d and not (x in dots and 1 in (have, d)):
                raise ShapeError(f"einsum '{text}': '{x}' is {have} and {d} in shapes {', '.join(map(str, shapes))}")
            sizes[x] = d if have == 1 else have
    return full, out.replace("...", dots)


def _take_diagonals(x: Node, labels: str) -> tuple[Node, str]:
    while len(set(labels)) < len(labels):
        letter = next(c for c in labels if labels.count(c) > 1)
        i = labels.index(letter)
        j = labels.index(letter, i + 1)
        x = diagonal_node(x, i, j, 0)
        labels = "".join(c for k, c in enumerate(labels) if k not in (i, j)) + letter
    return x, labels


@user_errors
def kron(x1, x2) -> Tensor:
    """The Kronecker product of two tensors of the same number of dimensions."""
    a, c = _numbers("kron", x1, x2)
    if a.ndim != c.ndim:
        raise ShapeError(f"kron: shapes {a.shape} and {c.shape} differ in the number of dimensions")
    shape = [d for pair in zip(a.shape, c.shape, strict=True) for d in pair]
    left = b.broadcast(a, shape, range(0, 2 * a.ndim, 2))
    right = b.broadcast(c, shape, range(1, 2 * a.ndim, 2))
    whole = [m * n for m, n in zip(a.shape, c.shape, strict=True)]
    return wrap(b.reshape(left * right, whole))


@user_errors
def cross(x1, x2, *, axis: int = -1) -> Tensor:
    """The cross product of vectors of three elements along `axis`; the other axes broadcast."""
    a, c = _numbers("cross", x1, x2)
    shape = broadcast_shape("cross", a.shape, c.shape)
    k = normalize_axis("cross", axis, len(shape))
    if a.shape[k - len(shape)] != 3 or c.shape[k - len(shape)] != 3:
        raise ShapeError(f"cross: axis {axis} of shapes {a.shape} and {c.shape} does not have three elements")
    p, q = wrap(spread(a, shape)), wrap(spread(c, shape))
    return subtract(multiply(roll(p, -1, k), roll(q, 1, k)), multiply(roll(p, 1, k), roll(q, -1, k)))
