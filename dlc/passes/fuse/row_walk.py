"""In which order the threads that share a row walk it, and whether they should: what lies together in memory decides.

A row's inner axes are counted as one range of n positions. Where that range was made by a reshape of permuted axes
(the channels of a group and the pixels, with channels last in memory), neighbours of the range lie far apart. Then it
is walked turned: as hi * d + lo with hi the fastest, for a d that the offsets divide by.
"""

from __future__ import annotations

from collections.abc import Iterable

from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import coefficient, simplify
from dlc.ir.loops.ir import Expr
from dlc.passes.fuse.access import Grouped, GroupScope, contiguous, inner_axes, offsets, product_of, spread
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization

Fixed = dict[Realization, dict[Expr, Expr]]  # where the row axes of each unit stand


def turn_of(body: Grouped, group: Group, fixed: Fixed, n: int, lanes: int) -> int:
    """The d by which a range of n positions is walked turned, 0 for as it is."""
    return _best(_accesses(body, group, fixed, n), n, lanes)[0]


def walked(at: Expr, n: int, turn: int) -> Expr:
    """The position in the range that comes number `at`."""
    if not turn:
        return at
    wide = n // turn
    return simplify((at % wide) * turn + at // wide)


def row_axis(fused: Fused, group: Group) -> tuple[bool, int]:
    """(True, k): neighbouring threads on neighbours of row axis k; (False, 0): on neighbours inside a row."""
    body = GroupScope(fused, group)
    rows = [loops.axis("q", e) for e in group.rows or ()]
    fixed: Fixed = {u: dict(zip(group.row_axes[u], rows, strict=True)) for u in group.units}
    sizes = {product_of(a.attr[1] for a in inner_axes(group, u)) for u in group.units} - {1}
    inside = sum(_best(_accesses(body, group, fixed, n), n, 1)[1] for n in sizes)
    best, best_score = (False, 0), max(inside, 0) if sizes else inside
    for k, q in enumerate(rows):
        score = contiguous(body, group.units, fixed, q)
        if score > best_score:
            best, best_score = (True, k), score
    return best


_Access = tuple[int, Expr, Expr]  # (how often, offset, the range's axis in it)


def _accesses(body: Grouped, group: Group, fixed: Fixed, n: int) -> list[_Access]:
    """What units with n inner positions read and write at offsets that depend on the position."""
    out: list[_Access] = []
    q = loops.axis("q", n)
    for u in group.units:
        own = inner_axes(group, u)
        if product_of(a.attr[1] for a in own) == n > 1:
            for off in offsets(body, u, fixed[u] | spread(own, [(q, n)])):
                if not off.dtype.is_bool and q in off.axes:
                    out.append((u.size, off, q))
    return out


def _best(accesses: list[_Access], n: int, lanes: int) -> tuple[int, int]:
    """(turn, score): elements accessed next to each other less those that are not."""
    turns = {d for _, off, q in accesses for d in _divisors(off, q) if n % d == 0 and 1 < d < n}
    split = {d: [_split(off, q, n, d) for _, off, q in accesses] for d in turns}
    weights = [size for size, *_ in accesses]
    straight = [coefficient(off, q) == 1 or any(split[d][k][0] == 1 for d in turns)
                for k, (_, off, q) in enumerate(accesses)]
    best = 0, _score(weights, straight)
    for d in sorted(turns):
        score = _score(weights, [hi == 1 for _, hi in split[d]])
        if score > best[1] and n // d % lanes == 0:
            best = d, score
    return best


def _score(weights: list[int], good: Iterable[bool]) -> int:
    return sum(w if g else -w for w, g in zip(weights, good, strict=True))


def _split(off: Expr, q: Expr, n: int, d: int) -> tuple[int | None, int | None]:
    """The strides of an offset along q % d and q // d."""
    lo, hi = loops.axis("lo", d), loops.axis("hi", n // d)
    cut = simplify(traverse.map_expr(off, lambda *_: None, {q: hi * d + lo}))
    return coefficient(cut, lo), coefficient(cut, hi)


def _divisors(e: Expr, q: Expr) -> set[int]:
    """The constants by which an expression divides q itself."""
    found: set[int] = set()
    stack, seen = [e], set()
    while stack:
        x = stack.pop()
        if x in seen or q not in x.axes:
            continue
        seen.add(x)
        if x.op in ("floordiv", "mod") and x.args[1].op == "const" and x.args[0] is q:
            found.add(int(x.args[1].attr))
        stack.extend(x.args)
    return found
