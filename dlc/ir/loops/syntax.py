"""The syntax of Loop IR as text, which `text.py` prints and `parse.py` reads: what is printed parses back.

    kernel softmax_0(x: f32[64], out: f32[64] writes)  # schedule: RowReduce(lanes=16); flops: 320; at train.py:12
      # x: %x f32[4,16]
      for r in 4 parallel:
        alloc m: reg f32[1]
        m[0] = -inf
        for c in min(n, 16) of 16:           # an extent that is not the axis' own
          m[0] max= x[r*16 + c]
        if r < 3:
          out[r] = exp(m[0]) if r != 1       # a predicated store
        else:
          out[r] = x[r + 1 if r < 9]         # a predicated load

A parameter that `streams` is written, past the cache; those that are `aliased` may be one memory.

`fold(32) m[0] max= x` is an AllReduce over groups of 32 threads,
`mma(64x8x16 of 128, mk, nk) acc[0, 0] += a[0, 0] * b[0, 0]` an Mma by groups of 128 (with `=` a fresh one),
`tilemma(16, 512, 32) acc[0, 0] += x[i*512] * w[j]` a TileMma over 16 pairs with rows 512 and 32 elements apart,
`store_tile sums[0, 0] = acc[0, 0]` a StoreTile, `prefetch x[i]` a Prefetch, `async:` an Async, `wait copy 2` a Wait,
`arrive(8) free[s]` an Arrive, `await free[s] 2` an Await,
`tma_copy full[s] tile[s, 0, 0] = x(0; 8 of 20:64, 64 of 64:1) at r, 0` a TmaCopy: box, size and stride of each axis,
`setmaxnreg 40` a SetMaxNReg.

Rows of `ir/scalar.py` with a symbol are infix, with Python's precedences; the others are calls, `f32(x)` is a cast and
`bitcast(x, f32)` a bitcast. A constant carries its type (`1.5:f64`) only where its surroundings do not tell it; alone,
an integer is int64 and a float is float32. Names are unique among those in scope. Subexpressions that a large
statement uses more than once are named by `let` lines before it: they share by identity, so they parse as they were.
`scope:` is a nested Seq that bounds the life of its Allocs. Not printed: `unaligned`, `blocks_per_sm`,
`custom`, `lines`, and the function of a Loc.

Read but not printed, for kernels written by hand: `-x`, `a > b`, `a >= b`, any deeper indentation, `# comments`. What
is wrong with a text is said with line and column.
"""

from __future__ import annotations

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loops.ir import ALIKE, COMBINES, KINDS, PAIRS
from dlc.ir.scalar import SCALAR_OPS

COMPARE = 0
LEVELS = (("==", "!=", "<", "<="), ("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*", "/", "//", "%"))
PRECEDENCE = {symbol: level for level, symbols in enumerate(LEVELS) for symbol in symbols}
BY_SYMBOL = {row.symbol: row.name for row in SCALAR_OPS.values() if row.symbol}
ATOM = len(LEVELS)
TYPES = {d.short: d for d in dtypes.ALL}
RESERVED = {*TYPES, *SCALAR_OPS, *KINDS, *PAIRS, *ALIKE, "cast", "bitcast", "select", "inf", "nan", "true",
             "false", "if", "else", "for", "in", "of", "alloc", "let", "scope", "pass", "sync", "fold", "mma",
             "tilemma", "store_tile", "async", "wait", "kernel"}
COMBINE_SIGN = {name: (SCALAR_OPS[name].symbol or name) + "=" for name in COMBINES}


class Quoted(str):
    """A schedule read back from text: prints as it was written."""

    def __repr__(self) -> str:
        return str(self)


def operand_types(name: str, expected: DType | None, told: list[DType | None]) -> list[DType | None]:
    """The type that each operand's surroundings tell: the result's, a sibling's, or the one the operation fixes."""
    if name == "threefry":
        return [dtypes.uint32] * 4
    if name in PAIRS:
        return list(PAIRS[name])
    head: list[DType | None] = []
    if name == "select":
        head, told = [dtypes.bool_], told[1:]
    if name != "select" and name not in ALIKE and SCALAR_OPS[name].result != "same":
        expected = None  # a comparison's operands have a type of their own
    if expected is None:
        expected = next((t for t in told if t is not None), None)
    return head + [expected] * len(told)
