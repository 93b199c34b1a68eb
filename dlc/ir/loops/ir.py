"""The Loop IR: one small language for every kernel on every target.

A kernel is a list of buffers and one statement. Expressions are pure and hash-consed, so an equal subexpression is the
same object and is computed once where its axes allow. Everything a kernel does to memory is a `Store`.

Expressions (`Expr.op`; `dtype` is the result's):
    const(value)            axis(name, extent)      a loop variable, int64, 0 <= axis < extent
    load(buffer; index..., [predicate])             0 where the predicate is false; then the address is not touched
    any row of ir/scalar.py, and
    cast(x)  bitcast(x)  select(c, a, b)  fma(a, b, c)
    pair(low, high)         two bfloat16 as one uint32, the first in its low half
    dot2(a, b, c)           c + a.high * b.high + a.low * b.low of two pairs in float32, in this order, each sum
                            rounded once; a target's own instruction may round otherwise and take denormals for 0
    exp2(x)         2^x in float32, to a few units of the last place, 0 for less than 2^-126 (GPU)

Statements:
    Seq(body...)            in order
    For(axis, extent, body, kind, lanes)
        serial      in order
        unroll      in order, extent is a constant and every copy is written out
        vector      `lanes` iterations at a time, the last group masked; iterations must be independent, except that a
                    combining Store to a place that does not depend on the axis folds the lanes (horizontal reduction)
        parallel    iterations may run at the same time on different threads; outermost only, one per kernel
        grid        the blocks of a GPU kernel, in any order; outermost only
        lane        the threads of a block: each runs the body, together between Syncs and Folds
        warp, pipeline    reserved for the GPU
    If(cond, then, other)   under a vector axis the condition may differ by lane: it then masks the stores inside
    Alloc(buffer)           a buffer that lives until the enclosing Seq ends; contents undefined at first
    Store(buffer, index, value, combine, predicate)
                            combine: None to overwrite, or a scalar op (add mul max min and or): b = op(b, value)
    Prefetch(buffer, index) the element will be needed soon: bring it near. No meaning; the index may lie outside
    Sync(threads)           all threads of a block (GPU), or its first `threads`: what any of them wrote before is seen
                            by all of them afterwards
    AllReduce(buffer, index, value, combine, lanes)
                            in every lane: buffer[index] = the values of its group combined, where groups are `lanes`
                            consecutive threads of the block; every thread comes here; the buffer is in registers
    Mma(buffer, index, a, b, m, n, k, a_order, b_order, lanes, fresh)
                            a group of `lanes` (32 or 128) threads adds an m x n product of two shared tiles to the sums
                            it holds together. `a` and `b` load the tiles' first elements; order "mk" says that the last
                            two indices of `a` are row and inner position, "km" that its last three are row / 64, inner
                            position, row % 64 ("nk", "kn" of `b` alike). Thread l = 32*w + i of the group has in
                            buffer[index..., j, r] the sum of row 16*w + i/4 + 8*(r/2), column 8*j + 2*(i%4) + r%2.
                            With a_order "sums" `a` loads such a buffer of operands: the threads' registers hold its
                            tile as they hold sums. `fresh`: the sums start at 0, whatever stood there. Tiles are
                            halves, or float32 of which 32 threads multiply 11 bits (TF32, rounded to nearest): then
                            "km" and "kn" have inner position and row as last indices, and the sums of row 16*p + ...
                            are those of buffer[..., p, j, r]; but with "sums" `b` is in swizzled rows of 32, as halves
                            in rows of 64
    TileMma(buffer, index, a, b, k, a_stride, b_stride)
                            adds the product of two tiles of pairs (`pair`) to sums that a CPU's matrix unit holds:
                            sum[i, j] = dot2(a[i, p], b[p, j], sum[i, j]) for all i < m, j < n and p < k, where the last
                            two axes of the buffer are m and n. `a` and `b` load their first words; rows lie `a_stride`
                            and `b_stride` elements apart, the words of a row side by side. Of `a` a word may be two
                            neighbouring bfloat16
    StoreTile(buffer, index, source, at)
                            copies the sums source[at] to the rows of a shared buffer, from its element `index` on
    Async(body)             copies from global to shared memory that may take place later, at the latest at a Wait
    Wait(what, pending)     until all of this thread's Asyncs ("copy") or Mmas ("mma") but the last `pending` are done
    Arrive(gate, slot, of)  this thread arrives at a gate; the last of `of` arrivals completes a phase of it, when all
                            of the phase's TmaCopies are done too
    Await(gate, slot, phases)
                            until the gate has completed `phases` phases; it is not to be one further already
    TmaCopy(buffer, index, source, view, at, gate, slot)
                            this one thread starts a copy of a box of global memory to shared memory, row after row from
                            `index` on: `view.box` elements of a tensor in `source` from position `at`, zeros outside of
                            it. It may take place any time until the gate's phase completes
    SetMaxNReg(count)       from here on each thread may use `count` registers: groups of 128 threads with little to do
                            leave theirs to the others. All threads of a group come here, once

Buffers: `global` ones are the kernel's parameters, addressed by one flat element offset. `shared` (scratch of one
parallel iteration: a CPU thread's stack, a GPU block's shared memory) and `reg` have a shape and as many indices as
axes, row-major. `tile` ones are sums of a matrix unit, 0 at first, which only TileMma and StoreTile touch; their last
two axes are those of one tile, at most 16 x 16, and all of a kernel are alike. `gate` ones (of the block, beside shared
ones) have slots that count phases, from 0 on. A global buffer of extent RUNTIME has as many elements as the launch
gives it: such a kernel reads its size from a parameter and serves tensors of every size. Every index of a `reg` buffer
is a constant, an unrolled axis, or a vector axis that walks one whole dimension of extent `lanes` by itself: so a
target can keep it in registers. A vector load across the rows of a reg tile is a register transpose. On a GPU a block
allocates shared buffers outside its lane loop, and each thread its reg buffers inside; there a vector loop is written
out, and its axis may stand in any reg index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlc.base.lazy import cached_property
from dlc.ir import dtypes, quadrants
from dlc.ir.dtypes import DType
from dlc.ir.interning import Interned
from dlc.ir.loc import Loc
from dlc.ir.scalar import SCALAR_OPS

KINDS = ("serial", "unroll", "vector", "parallel", "grid", "warp", "lane", "pipeline")
SPACES = ("global", "shared", "reg", "tile", "gate")
TILE = 16  # most rows, columns and pairs of a tile of a CPU's matrix unit
RUNTIME = 1 << 40  # extent of a global buffer whose size is known only when the kernel runs
PAIRS = {"pair": (dtypes.bfloat16,) * 2, "dot2": (dtypes.uint32, dtypes.uint32, dtypes.float32)}
# operations of the Loop IR alone whose operands and result have one float type: how many operands they take
ALIKE = {"fma": 3, "exp2": 1, **dict.fromkeys(quadrants.PARTS, 3)}
COMBINES = ("add", "mul", "max", "min", "and", "or")


@dataclass(frozen=True, eq=False)
class Buffer:
    """Typed memory. `shape` counts elements; a global buffer is flat, of extent size."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    space: str = "global"
    note: str = ""  # what it holds, for the dump: '%x f32[100,784]'
    swizzled: bool = False  # shared, rows of 128 bytes: 16-byte piece p of row r stands at p ^ r % 8 (for the banks)

    @cached_property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class Expr:
    """A pure scalar expression (a vector of them under a vector axis)."""

    __slots__ = ("op", "args", "attr", "dtype", "axes", "bounds", "simple", "chain", "__weakref__")

    op: str
    args: tuple[Expr, ...]
    attr: Any  # const: value; axis: (name, extent, uid); load: Buffer
    dtype: DType
    axes: frozenset[Expr]  # the axes it depends on
    bounds: tuple[int, int] | None  # remembered by `ir/loops/index.py`, as is `simple`
    simple: Expr | str | None
    chain: int  # the longest chain of operations in it

    # arithmetic for writing index expressions and kernels by hand
    def __add__(self, other: Expr | int) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: int) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Expr | int) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: int) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Expr | int) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: int) -> Expr:
        return binary("mul", other, self)

    def __floordiv__(self, other: Expr | int) -> Expr:
        return binary("floordiv", self, other)

    def __mod__(self, other: Expr | int) -> Expr:
        return binary("mod", self, other)

    def __lt__(self, other: Expr | int) -> Expr:
        return binary("lt", self, other)

    def __le__(self, other: Expr | int) -> Expr:
        return binary("le", self, other)


_table: Interned[Expr] = Interned()
_entries = _table.entries
_NONE: frozenset[Expr] = frozenset()


def make(op: str, args: tuple[Expr, ...], attr: Any, dtype: DType) -> Expr:
    # 0.0 and -0.0 are different constants; types differ with the dtype
    key = (op, args, repr(attr) if type(attr) is float else attr, dtype)
    entry = _entries.get(key)
    expr = None if entry is None else entry()
    if expr is None:
        expr = Expr()
        expr.op, expr.args, expr.attr, expr.dtype = op, args, attr, dtype
        expr.bounds = expr.simple = None
        axes, chain = _NONE, 0
        for a in args:
            if not a.axes <= axes:
                axes = axes | a.axes if axes else a.axes
            if a.chain > chain:
                chain = a.chain
        expr.chain = chain + 1
        expr.axes = axes if op != "axis" else frozenset((expr,))
        _table.add(key, expr)
    return expr


def const(value: Any, dtype: DType = dtypes.int64) -> Expr:
    value = float(value) if dtype.is_float else bool(value) if dtype.is_bool else int(value)
    return make("const", (), value, dtype)


_axis_serial = iter(range(1 << 62))


def axis(name: str, extent: int) -> Expr:
    """A new loop variable with 0 <= value < extent, distinct from all others of the same name."""
    return make("axis", (), (name, int(extent), next(_axis_serial)), dtypes.int64)


def load(buffer: Buffer, *index: Expr | int, predicate: Expr | None = None) -> Expr:
    args = tuple(as_expr(i) for i in index)
    assert len(args) == len(buffer.shape), (buffer.name, len(args), buffer.shape)
    return make("load", args if predicate is None else (*args, predicate), buffer, buffer.dtype)


def under_casts(expr: Expr) -> Expr:
    """The expression under a stack of casts."""
    while expr.op == "cast":
        expr = expr.args[0]
    return expr


def sums_products(expr: Expr) -> bool:
    """Is it the sum or difference of two products of floats? No target may round one of them and not the other
    (`a * b - b * a` is 0); a product added to anything else may be fused with the addition."""
    return expr.op in ("add", "sub") and expr.dtype.is_float and all(map(_is_product, expr.args))


def _is_product(expr: Expr) -> bool:
    """May a compiler take it for a product, at least under a mask (AVX-512 has additions that are only done where)?"""
    if expr.op == "select":
        return any(map(_is_product, expr.args[1:]))
    return expr.op == "mul" or expr.op == "neg" and _is_product(expr.args[0])


def load_parts(expr: Expr) -> tuple[Buffer, tuple[Expr, ...], Expr | None]:
    """(buffer, indices, predicate or None) of a load."""
    n = len(expr.attr.shape)
    return expr.attr, expr.args[:n], expr.args[n] if len(expr.args) > n else None


def op(name: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """A scalar operation; `dtype` only for cast and bitcast. No simplification: see `ir/loops/index.py`."""
    row = SCALAR_OPS.get(name)
    if row is not None:
        result = args[0].dtype if row.result == "same" else dtypes.by_name(row.result)
    elif name in ("cast", "bitcast"):
        if args[0].dtype is dtype:
            return args[0]
        result = dtype
    elif name == "select":
        result = args[1].dtype
    elif name in PAIRS:
        result = dtypes.uint32 if name == "pair" else dtypes.float32
    elif name in ALIKE:
        result = args[0].dtype
    else:
        raise KeyError(name)
    return make(name, args, None, result)


def cast(x: Expr, dtype: DType) -> Expr:
    return op("cast", x, dtype=dtype)


def as_expr(value: Expr | int) -> Expr:
    return value if isinstance(value, Expr) else const(value)


def binary(name: str, a: Expr | float, b: Expr | float) -> Expr:
    """`op` that turns a Python number into a constant of the other operand's type."""
    if not isinstance(a, Expr):
        a = const(a, b.dtype)
    if not isinstance(b, Expr):
        b = const(b, a.dtype)
    return op(name, a, b)


class Stmt:
    """Base of the statements."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Seq(Stmt):
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class For(Stmt):
    axis: Expr
    extent: Expr  # usually a constant; at most the axis' own extent
    body: Stmt
    kind: str = "serial"
    lanes: int = 0  # for vector loops


@dataclass(frozen=True, eq=False)
class If(Stmt):
    cond: Expr
    then: Stmt
    other: Stmt | None = None


@dataclass(frozen=True, eq=False)
class Alloc(Stmt):
    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Store(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr
    combine: str | None = None
    predicate: Expr | None = None


@dataclass(frozen=True, eq=False)
class Prefetch(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Sync(Stmt):
    threads: int = 0


@dataclass(frozen=True, eq=False)
class AllReduce(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr
    combine: str
    lanes: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """One generated function. `params` are global buffers in argument order; those in `writes` are written. Those in
    `streams`, some of these, would have left the cache before anybody reads them: they are written past it. Those in
    `aliased` may be one memory, of which the kernel's text reads each element before it writes it; all others are
    apart, or what is written over an element is computed from it. Those in `unaligned` may start off the boundary that
    a GPU's vector accesses want. `blocks_per_sm` is how many blocks of a GPU are to be resident at once (0: as they
    fit). `tuned`: a measurement chose the schedule. `custom`: the user wrote it. `lines`: where the parser read its
    statements."""

    name: str
    params: tuple[Buffer, ...]
    writes: frozenset[Buffer]
    body: Stmt
    schedule: Any = None
    locs: tuple[Loc, ...] = ()
    flops: int = 0
    bytes: int = 0
    streams: frozenset[Buffer] = frozenset()
    aliased: frozenset[Buffer] = frozenset()
    unaligned: frozenset[Buffer] = frozenset()
    blocks_per_sm: int = 0
    tuned: bool = False
    custom: bool = False
    lines: Mapping[Stmt, int] = field(default_factory=dict)

    @property
    def scheduled(self) -> str:
        """The schedule in a header."""
        return f"{self.schedule!r}{' tuned' * self.tuned}"

    @property
    def parallel(self) -> For | None:
        """The outermost parallel loop, if any."""
        stmt = self.body
        while isinstance(stmt, Seq) and len(stmt.body) == 1:
            stmt = stmt.body[0]
        return stmt if isinstance(stmt, For) and stmt.kind == "parallel" else None

    @property
    def tasks(self) -> int:
        """The extent of the parallel loop: 1 without one, or where it depends on a run-time size."""
        loop = self.parallel
        return int(loop.extent.attr) if loop is not None and loop.extent.op == "const" else 1


def seq(*stmts: Stmt) -> Stmt:
    """A Seq with nested Seqs flattened; one statement stands for itself. (A Seq with an Alloc keeps its scope.)"""
    flat: list[Stmt] = []
    for s in stmts:
        if isinstance(s, Seq) and not any(isinstance(x, Alloc) for x in s.body):
            flat.extend(s.body)
        else:
            flat.append(s)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def loop(axis_: Expr, body: Stmt, kind: str = "serial", extent: Expr | int | None = None, lanes: int = 0) -> For:
    """A For over the whole axis, or over `extent` of it."""
    return For(axis_, as_expr(axis_.attr[1] if extent is None else extent), body, kind, lanes)


def store(buffer: Buffer, index: Sequence[Expr | int], value: Expr, combine: str | None = None,
          predicate: Expr | None = None) -> Store:
    return Store(buffer, tuple(as_expr(i) for i in index), value, combine, predicate)


def kind_of(annotation: str) -> tuple[str, bool]:
    """What a field holds, and whether several of it: ("Expr", True) for `tuple[Expr, ...]`."""
    several = annotation.startswith("tuple[")
    held = annotation.removeprefix("tuple[").removesuffix(", ...]").removesuffix(" | None")
    if held not in ("Expr", "Stmt", "Buffer", "View", "str", "int", "bool"):
        raise TypeError(f"what a field of type {annotation} holds would not be found in a statement")
    return held, several
