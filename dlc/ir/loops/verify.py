"""The rules of the Loop IR, checked: `verify(kernel, where)` raises VerifyError with the statement that breaks one.

- every axis and buffer is in scope; an axis is bound once on a path, a buffer allocated once and inside a Seq
- operand and result dtypes agree, as the rows of `ir/scalar.py` say
- at most one parallel loop, outermost; no vector loop in another; unroll extents constant
- every index of a `reg` buffer is known after unrolling, or is a vector axis that walks one whole dimension by itself
- global buffers are parameters, and those stored to are in `writes`
- grid and lane loops do not nest in their own kind; shared buffers are allocated outside the lane loop; a AllReduce is
  inside one, into registers, over a group that divides the block
- sums in tiles are touched by TileMma and StoreTile alone, outside vector loops; what these do to other buffers
  is inside them
- in a vector loop, a place that does not depend on the axis is only combined into, and not read
- indices are inside their dimension, as far as intervals decide it: an index that is never inside is an error
  anywhere, one that can be outside is an error where no condition guards it
"""

from __future__ import annotations

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import linear_interval, whole_linear
from dlc.ir.loops.instructions import Arrive, Async, Await, Mma, SetMaxNReg, StoreTile, TileMma, TmaCopy, Wait
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import (
    COMBINES,
    KINDS,
    PAIRS,
    SPACES,
    TILE,
    Alloc,
    AllReduce,
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    load_parts,
)
from dlc.ir.loops.text import print_expr, print_stmt
from dlc.ir.loops.traverse import exprs, subexpressions, walk
from dlc.ir.quadrants import PARTS
from dlc.ir.scalar import SCALAR_OPS

KNOWN = (For, If, Store, Prefetch, Sync, AllReduce, Mma, TileMma, StoreTile, Async, Wait, Arrive, Await, TmaCopy,
         SetMaxNReg)


def verify(kernel: Kernel, where: str = "") -> None:
    """Check every rule; `where` names the pass that made the kernel. Raises VerifyError."""
    _Verifier(kernel, where).run()


# ---------------------------------------------------------------- the rules


class _Verifier:
    def __init__(self, kernel: Kernel, where: str):
        self.kernel, self.where = kernel, where
        self.stmt: Stmt | None = None
        self.checked: set[Expr] = set()  # dtypes are a matter of the expression alone

    def fail(self, message: str) -> VerifyError:
        try:
            text = "" if self.stmt is None else "\n    " + print_stmt(self.stmt).split("\n", 1)[0].strip()
        except (AssertionError, AttributeError, TypeError):  # too broken to print
            text = f"\n    {type(self.stmt).__name__}"
        after = f" after {self.where}" if self.where else ""
        if (line := self.kernel.lines.get(self.stmt)) is not None:
            text += f"  # line {line}"
        return VerifyError(f"kernel {self.kernel.name}{after}: {message}{text}")

    def run(self) -> None:
        for b in self.kernel.params:
            if b.space != "global" or len(b.shape) != 1:
                raise self.fail(f"parameter {b.name} must be a global buffer of one dimension, is {b.space} {b.shape}")
        if len(set(self.kernel.params)) != len(self.kernel.params):
            raise self.fail("the same buffer is a parameter twice")
        for b in self.kernel.writes - set(self.kernel.params):
            raise self.fail(f"{b.name} is in writes but not a parameter")
        for b in self.kernel.streams - self.kernel.writes:
            raise self.fail(f"{b.name} is in streams but not in writes")
        for b in self.kernel.aliased - set(self.kernel.params):
            raise self.fail(f"{b.name} is in aliased but not a parameter")
        self.outermost = self.kernel.parallel
        self.allocated: set[Buffer] = set()
        self.visit(self.kernel.body, {}, set(self.kernel.params), guarded=False)

    def visit(self, stmt: Stmt, axes: dict[Expr, For], buffers: set[Buffer], guarded: bool) -> None:
        self.stmt = stmt
        if isinstance(stmt, Seq):
            inner = set(buffers)
            for s in stmt.body:
                if isinstance(s, Alloc):
                    self.stmt = s
                    if s.buffer.space in ("shared", "gate") and any(f.kind == "lane" for f in axes.values()):
                        name = f"{s.buffer.space} buffer {s.buffer.name}"
                        raise self.fail(f"{name} is allocated by every thread of its block")
                    self.alloc(s.buffer, inner)
                else:
                    self.visit(s, axes, inner, guarded)
            return
        if isinstance(stmt, Alloc):
            raise self.fail("an Alloc must stand in a Seq, which ends its life")
        if not isinstance(stmt, KNOWN):
            raise self.fail(f"no rules for a {type(stmt).__name__}")
        live = guarded
        if isinstance(stmt, Store):
            live = live or stmt.predicate is not None
            self.store(stmt, axes, buffers, live)
        if isinstance(stmt, Prefetch) and (stmt.buffer not in buffers or stmt.buffer.space != "global"):
            raise self.fail(f"a prefetch of {stmt.buffer.name}, which is no parameter")
        if isinstance(stmt, AllReduce):
            self.fold(stmt, axes, buffers)
        if isinstance(stmt, Mma):
            self.mma(stmt, axes, buffers)
        if isinstance(stmt, (TileMma, StoreTile)):
            self.tiles(stmt, axes, buffers, guarded)
        if isinstance(stmt, (Arrive, Await, TmaCopy)):
            self.gate(stmt, axes, buffers)
        if isinstance(stmt, SetMaxNReg) and (stmt.count % 8 or not 24 <= stmt.count <= 256
                                            or not any(f.kind == "lane" for f in axes.values())):
            raise self.fail(f"{stmt.count} registers: a thread has 24 to 256, in steps of 8")
        for e in exprs(stmt):
            self.expression(e, axes, buffers, live)
        if isinstance(stmt, For):
            self.loop(stmt, axes)
            exact = stmt.extent.op == "const" and stmt.extent.attr == stmt.axis.attr[1] > 0
            self.visit(stmt.body, {**axes, stmt.axis: stmt}, buffers, guarded or not exact)
        elif isinstance(stmt, Async):
            self.visit(stmt.body, axes, buffers, guarded)
        elif isinstance(stmt, If):
            if stmt.cond.dtype is not dtypes.bool_:
                raise self.fail(f"the condition is {stmt.cond.dtype.name}, not bool")
            self.visit(stmt.then, axes, buffers, True)
            if stmt.other is not None:
                self.visit(stmt.other, axes, buffers, True)

    def alloc(self, b: Buffer, buffers: set[Buffer]) -> None:
        if b.space not in SPACES or b.space == "global":
            raise self.fail(f"cannot allocate a {b.space} buffer in a kernel")
        if b in self.allocated:
            raise self.fail(f"{b.name} is allocated twice")
        if b.space == "tile":
            shape = b.shape[-2:]
            if b.dtype is not dtypes.float32 or len(shape) < 2 or not 0 < min(shape) <= max(shape) <= TILE:
                raise self.fail(f"{b.name} is no tile of at most {TILE} x {TILE} float32")
            others = (x for x in self.allocated if x.space == "tile")
            if any(x.shape[-2:] != shape for x in others):
                raise self.fail("tiles of different shapes in one kernel")
        self.allocated.add(b)
        buffers.add(b)

    def loop(self, stmt: For, axes: dict[Expr, For]) -> None:
        if stmt.kind not in KINDS:
            raise self.fail(f"no loop kind {stmt.kind!r}")
        if stmt.axis.op != "axis":
            raise self.fail("the loop variable is not an axis")
        if stmt.axis in axes:
            raise self.fail(f"axis {stmt.axis.attr[0]} is already bound by an enclosing loop")
        if stmt.extent.dtype is not dtypes.int64:
            raise self.fail(f"the extent is {stmt.extent.dtype.name}, not int64")
        low, _ = interval(stmt.extent)
        if low > stmt.axis.attr[1]:
            raise self.fail(f"the extent exceeds the axis' own, {stmt.axis.attr[1]}")
        if stmt.kind == "unroll" and stmt.extent.op != "const":
            raise self.fail(f"the extent of a loop of kind {stmt.kind} must be a constant")
        if stmt.kind == "parallel" and stmt is not self.outermost:
            raise self.fail("a parallel loop must be the outermost statement, and the only one")
        if stmt.kind in ("grid", "lane") and any(f.kind == stmt.kind for f in axes.values()):
            raise self.fail(f"a {stmt.kind} loop inside another")
        if stmt.kind == "vector":
            if stmt.lanes < 1:
                raise self.fail("a vector loop needs a number of lanes")
            if any(f.kind == "vector" for f in axes.values()):
                raise self.fail("a vector loop inside another")
            self.lanes_are_independent(stmt)
            self.stmt = stmt

    def lanes_are_independent(self, loop: For) -> None:
        inside = {s.buffer for s in walk(loop.body) if isinstance(s, Alloc)}
        folded: dict[Buffer, Store] = {}
        for s in walk(loop.body):
            if isinstance(s, Store) and s.buffer not in inside:
                inner = frozenset(f.axis for f in walk(loop.body) if isinstance(f, For))
                if any((i.axes - inner) & {loop.axis} or i.axes & inner for i in s.index):
                    continue
                if s.combine is None and not (s.predicate is not None and loop.axis in s.predicate.axes):
                    if not self.under_lane_condition(s, loop):
                        self.stmt = s
                        raise self.fail(f"every lane of {loop.axis.attr[0]} overwrites the same place")
                elif s.combine is not None:
                    folded[s.buffer] = s
        for s in walk(loop.body):
            for e in exprs(s):
                for sub in subexpressions(e):
                    if sub.op == "load" and sub.attr in folded:
                        place = folded[sub.attr].index
                        if load_parts(sub)[1] == place:
                            self.stmt = s
                            raise self.fail(f"reads {sub.attr.name} in the vector loop that folds its lanes into it")

    def under_lane_condition(self, store: Store, loop: For) -> bool:
        return any(isinstance(s, If) and loop.axis in s.cond.axes and any(x is store for x in walk(s))
                   for s in walk(loop.body))

    def store(self, stmt: Store, axes: dict[Expr, For], buffers: set[Buffer], guarded: bool) -> None:
        b = stmt.buffer
        if b not in buffers:
            raise self.fail(f"{b.name} is not in scope")
        if b.space == "tile":
            raise self.fail(f"{b.name} holds sums of a matrix unit, which a Store cannot reach")
        if b.space == "global" and b not in self.kernel.writes:
            raise self.fail(f"{b.name} is written but not declared in writes")
        if stmt.value.dtype is not b.dtype:
            raise self.fail(f"a {stmt.value.dtype.name} is stored into {b.name}, which holds {b.dtype.name}")
        if stmt.combine is not None:
            if stmt.combine not in COMBINES:
                raise self.fail(f"cannot combine with {stmt.combine!r}")
            if b.dtype.kind not in SCALAR_OPS[stmt.combine].kinds:
                raise self.fail(f"{stmt.combine} is not defined for {b.dtype.name}")
        if stmt.predicate is not None and stmt.predicate.dtype is not dtypes.bool_:
            raise self.fail(f"the predicate is {stmt.predicate.dtype.name}, not bool")
        self.place(b, stmt.index, axes, guarded)

    def fold(self, stmt: AllReduce, axes: dict[Expr, For], buffers: set[Buffer]) -> None:
        threads = next((f.extent for f in axes.values() if f.kind == "lane"), None)
        if threads is None or threads.op != "const":
            raise self.fail("a AllReduce outside a lane loop of constant extent")
        if stmt.buffer.space != "reg":
            raise self.fail(f"a AllReduce into {stmt.buffer.space} buffer {stmt.buffer.name}")
        if stmt.lanes < 1 or threads.attr % stmt.lanes or (stmt.lanes < 32 and stmt.lanes & (stmt.lanes - 1)):
            raise self.fail(f"groups of {stmt.lanes} in a block of {threads.attr} threads")
        self.store(Store(stmt.buffer, stmt.index, stmt.value, stmt.combine), axes, buffers, False)

    def mma(self, stmt: Mma, axes: dict[Expr, For], buffers: set[Buffer]) -> None:
        if not any(f.kind == "lane" for f in axes.values()):
            raise self.fail("an Mma outside a lane loop")
        if stmt.buffer.space != "reg" or stmt.buffer.shape[-2:] != (stmt.n // 8, 4):
            raise self.fail(f"an Mma of {stmt.n} columns into {stmt.buffer.space} {stmt.buffer.shape}")
        tf32 = stmt.a.dtype is dtypes.float32
        known = (stmt.lanes, stmt.m) in ((32, 16), (128, 64))
        if tf32:
            held = stmt.a_order == "sums"
            columns = stmt.b_order == "kn" and stmt.b.op == "load" and stmt.b.attr.swizzled
            known = stmt.lanes == 32 and stmt.m == 16 * (1 if held else stmt.buffer.shape[-3]) and not stmt.n % 16
            known = known and held == columns
        if not known or stmt.n % 8 or stmt.k % 16:
            raise self.fail(f"no Mma of {stmt.m}x{stmt.n}x{stmt.k} by {stmt.lanes} threads")
        for e, order, orders in ((stmt.a, stmt.a_order, ("mk", "km", "sums")), (stmt.b, stmt.b_order, ("nk", "kn"))):
            space = "reg" if order == "sums" else "shared"
            if e.op != "load" or e.attr.space != space or order not in orders:
                raise self.fail("the operands of an Mma are shared tiles, the first perhaps in registers")
            if not e.dtype.is_half and not tf32:
                raise self.fail(f"an Mma of {e.dtype.name} in {space} memory")
        if stmt.a_order == "sums":
            first, r = load_parts(stmt.a)[1][-2:]
            whole = r.op == first.op == "const" and r.attr == 0 and first.attr % 2 == 0
            if not whole or stmt.a.attr.shape[-1] != 4 or first.attr + stmt.k // 8 > stmt.a.attr.shape[-2]:
                raise self.fail(f"an Mma over {stmt.k} of a tile in registers of shape {stmt.a.attr.shape}")
        if stmt.a.dtype is not stmt.b.dtype:
            raise self.fail(f"an Mma of {stmt.a.dtype.name} and {stmt.b.dtype.name}")
        self.store(Store(stmt.buffer, stmt.index, loops.const(0, stmt.buffer.dtype), "add"), axes, buffers, False)

    def tiles(self, stmt: TileMma | StoreTile, axes: dict[Expr, For], buffers: set[Buffer], guarded: bool) -> None:
        sums, at = (stmt.source, stmt.at) if isinstance(stmt, StoreTile) else (stmt.buffer, stmt.index)
        if sums not in buffers or sums.space != "tile" or any(f.kind == "vector" for f in axes.values()):
            raise self.fail(f"{sums.name} is no tile in scope, or in a vector loop")
        self.place(sums, at, axes, guarded)
        if any(e.op != "const" or e.attr for e in at[-2:]):
            raise self.fail("the last two indices of a tile are 0")
        m, n = sums.shape[-2:]
        if isinstance(stmt, StoreTile):
            if stmt.buffer not in buffers or stmt.buffer.space != "shared" or stmt.buffer.dtype is not sums.dtype:
                raise self.fail(f"a StoreTile of {sums.name} to {stmt.buffer.space} {stmt.buffer.name}")
            if len(stmt.index) < 2:
                raise self.fail(f"a StoreTile to {stmt.buffer.name}, which has no rows")
            for r, c in ((0, 0), (m - 1, n - 1)):
                *lead, row, column = stmt.index
                self.place(stmt.buffer, (*lead, row + r, column + c), axes, guarded)
            return
        if not 0 < stmt.k <= TILE:
            raise self.fail(f"tiles of {stmt.k} pairs")
        for e, types, rows, last in ((stmt.a, (dtypes.uint32, dtypes.bfloat16), m, stmt.k - 1),
                                     (stmt.b, (dtypes.uint32,), stmt.k, n - 1)):
            if e.op != "load" or e.dtype not in types or e.attr.space not in ("global", "shared"):
                raise self.fail("a TileMma multiplies tiles of words in memory, the first perhaps pairs of bfloat16")
            buffer, index, predicate = load_parts(e)
            stride = stmt.a_stride if e is stmt.a else stmt.b_stride
            if predicate is not None or len(index) != 1 or stride < 0:
                raise self.fail("a tile in memory begins at one offset, without a condition")
            reach = (rows - 1) * stride + (last if e.dtype is dtypes.uint32 else 2 * last + 1)
            self.place(buffer, (index[0] + reach,), axes, guarded)

    def gate(self, stmt: Arrive | Await | TmaCopy, axes: dict[Expr, For], buffers: set[Buffer]) -> None:
        name = type(stmt).__name__
        if not any(f.kind == "lane" for f in axes.values()):
            raise self.fail(f"{name} outside a lane loop")
        if stmt.gate not in buffers or stmt.gate.space != "gate" or len(stmt.gate.shape) != 1:
            raise self.fail(f"{stmt.gate.name} is no gate in scope")
        self.place(stmt.gate, (stmt.slot,), axes, True)
        if isinstance(stmt, Arrive) and not 0 < stmt.of < 1 << 20:
            raise self.fail(f"a phase of {stmt.of} arrivals")
        if isinstance(stmt, TmaCopy):
            v, b = stmt.view, stmt.buffer
            rank = len(v.sizes)
            if b not in buffers or b.space != "shared" or stmt.source not in self.kernel.params:
                raise self.fail("a TmaCopy goes from a parameter to shared memory")
            if b.dtype is not stmt.source.dtype or not rank == len(v.strides) == len(v.box) == len(stmt.at) <= 5:
                raise self.fail("a TmaCopy of another type or with an unequal number of axes")
            last = v.start + sum((n - 1) * k for n, k in zip(v.sizes, v.strides, strict=True))
            if min(v.sizes) < 1 or min(v.strides) < 0 or v.strides[-1] != 1 or v.start < 0 or last >= stmt.source.size:
                raise self.fail(f"the view is not inside {stmt.source.name}")
            if b.swizzled and v.box[-1] != b.shape[-1]:
                raise self.fail("a box into swizzled rows has whole rows")
            self.place(b, stmt.index, axes, True)

    def expression(self, e: Expr, axes: dict[Expr, For], buffers: set[Buffer], guarded: bool) -> None:
        loose = e.axes - axes.keys()
        if loose:
            raise self.fail(f"axis {min(a.attr[0] for a in loose)} is not in scope")
        for sub in subexpressions(e):
            if sub not in self.checked:
                self.dtypes(sub)
                self.checked.add(sub)
            if sub.op == "load":
                b, index, predicate = load_parts(sub)
                if b not in buffers:
                    raise self.fail(f"{b.name} is not in scope")
                if b.space == "tile":
                    raise self.fail(f"{b.name} holds sums of a matrix unit, which must be drained to be read")
                self.place(b, index, axes, guarded or predicate is not None)

    def dtypes(self, e: Expr) -> None:
        types = [a.dtype for a in e.args]
        if e.op in ("const", "axis", "cast"):
            wrong = e.op == "axis" and e.dtype is not dtypes.int64
        elif e.op == "load":
            _, index, predicate = load_parts(e)
            wrong = any(i.dtype is not dtypes.int64 for i in index) or e.dtype is not e.attr.dtype
            wrong = wrong or (predicate is not None and predicate.dtype is not dtypes.bool_)
        elif e.op == "bitcast":
            wrong = types[0].itemsize != e.dtype.itemsize
        elif e.op == "select":
            wrong = len(types) != 3 or types[0] is not dtypes.bool_ or not types[1] is types[2] is e.dtype
        elif e.op == "fma":
            wrong = len(types) != 3 or any(t is not e.dtype for t in types) or not e.dtype.is_float
        elif e.op in PARTS:
            wrong = len(types) != 3 or any(t is not dtypes.float64 for t in (*types, e.dtype))
        elif e.op in PAIRS:
            wrong = tuple(types) != PAIRS[e.op] or e.dtype is not (
                dtypes.uint32 if e.op == "pair" else dtypes.float32)
        elif e.op == "exp2":
            wrong = len(types) != 1 or not types[0] is e.dtype is dtypes.float32
        elif e.op in SCALAR_OPS:
            row = SCALAR_OPS[e.op]
            wrong = len(types) != row.arity or any(t is not types[0] or t.kind not in row.kinds for t in types)
            wrong = wrong or e.dtype is not (types[0] if row.result == "same" else dtypes.by_name(row.result))
            wrong = wrong or (e.op == "threefry" and types[0] is not dtypes.uint32)
        else:
            raise self.fail(f"no operation {e.op!r}")
        if wrong:
            names = ", ".join(t.name for t in types)
            raise self.fail(f"{e.op} of ({names}) giving {e.dtype.name} is not typed right, in {print_expr(e)[:200]}")

    def place(self, b: Buffer, index: tuple[Expr, ...], axes: dict[Expr, For], guarded: bool) -> None:
        if len(index) != len(b.shape):
            raise self.fail(f"{b.name} has {len(b.shape)} dimensions, got {len(index)} indices")
        for e, size in zip(index, b.shape, strict=True):
            if e.dtype is not dtypes.int64:
                raise self.fail(f"an index of {b.name} is {e.dtype.name}, not int64")
            if b.space in ("reg", "tile"):
                self.reg_index(b, e, size, axes)
            if any(f.extent.op == "const" and f.extent.attr == 0 for f in axes.values()):
                continue  # never runs
            low, high = interval(e)
            never = low >= size or high < 0
            if not never and not guarded:
                terms, constant = whole_linear(e)
                if all(atom.op == "axis" for atom in terms):  # then every value of the interval is reached
                    low, high = linear_interval(terms, constant)
                    never = not 0 <= low <= high < size
            if never:
                raise self.fail(f"index {print_expr(e)} of {b.name} runs from {low} to {high}, outside 0..{size - 1}")

    def reg_index(self, b: Buffer, e: Expr, size: int, axes: dict[Expr, For]) -> None:
        kinds = {axes[a].kind for a in e.axes if a in axes}
        if any(f.kind == "lane" for f in axes.values()):
            kinds -= {"vector"}  # written out
        if e.op == "axis" and kinds == {"vector"}:
            loop = axes[e]
            if loop.lanes != size or e.attr[1] != size:
                raise self.fail(f"vector axis {e.attr[0]} of {e.attr[1]} in {loop.lanes} lanes does not walk the whole "
                                f"dimension of {size} of reg buffer {b.name}")
        elif kinds - {"unroll"} or any(s.op == "load" for s in subexpressions(e)):
            raise self.fail(f"index {print_expr(e)} of {b.space} buffer {b.name} is neither constant after unrolling "
                            "nor a vector axis by itself")
