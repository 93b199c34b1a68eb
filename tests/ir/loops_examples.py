"""Hand-written Loop IR kernels that the tests of the text, the verifier and the interpreter share."""

from __future__ import annotations

from typing import NamedTuple

from dlc.ir import dtypes
from dlc.ir.dtypes import float32, int64
from dlc.ir.loc import Loc
from dlc.ir.loops.ir import Alloc, Buffer, If, Kernel, Seq, axis, const, load, loop, op, seq, store


def softmax(rows: int = 5, cols: int = 48, lanes: int = 16) -> Kernel:
    """Row softmax: a vector maximum, a vector sum by a folding Store, a division."""
    x, out = Buffer("x", float32, (rows * cols,), note=f"%x f32[{rows},{cols}]"), Buffer("out", float32, (rows * cols,))
    m, total = Buffer("m", float32, (), "reg"), Buffer("s", float32, (), "reg")
    acc = Buffer("acc", float32, (lanes,), "reg")
    r, c, v = axis("r", rows), axis("c", cols // lanes), axis("l", lanes)

    def vector(body):
        return loop(v, body, "vector", lanes=lanes)

    at = r * cols + c * lanes + v
    body = Seq((
        Alloc(m), Alloc(acc), Alloc(total),
        store(m, (), const(float("-inf"), float32)),
        vector(store(acc, [v], const(float("-inf"), float32))),
        loop(c, vector(store(acc, [v], load(x, at), "max"))),
        vector(store(m, (), load(acc, v), "max")),
        store(total, (), const(0, float32)),
        loop(c, vector(seq(
            store(out, [at], op("exp", op("sub", load(x, at), load(m)))),
            store(total, (), load(out, at), "add"),
        ))),
        loop(c, vector(store(out, [at], op("div", load(out, at), load(total))))),
    ))  # fmt: skip
    return Kernel("softmax_0", (x, out), frozenset({out}), loop(r, body, "parallel"), schedule=None,
                  locs=(Loc("train.py", 12), Loc("net.py", 3)), flops=5 * rows * cols, bytes=8 * rows * cols)


def transpose(rows: int = 19, cols: int = 21, tile: int = 8) -> Kernel:
    """Transpose by tiles through shared memory, with partial tiles at the edges."""
    x, out = Buffer("x", float32, (rows * cols,)), Buffer("out", float32, (rows * cols,))
    part = Buffer("tile", float32, (tile, tile), "shared")
    down, across = -(-rows // tile), -(-cols // tile)
    t, i, j = axis("t", down * across), axis("i", tile), axis("j", tile)
    row, col = t // across * tile, t % across * tile
    inside = op("and", row + i < rows, col + j < cols)
    body = Seq((
        Alloc(part),
        loop(i, loop(j, store(part, (i, j), load(x, (row + i) * cols + col + j, predicate=inside)), "vector", lanes=8)),
        loop(j, loop(i, store(out, [(col + j) * rows + row + i], load(part, i, j), None, inside), "vector", lanes=8)),
    ))
    return Kernel("transpose", (x, out), frozenset({out}), loop(t, body, "parallel"))


def matmul(m: int = 6, n: int = 32, k: int = 7, lanes: int = 8) -> Kernel:
    """One register tile of a matrix product, accumulated with fma and written with a bias and a relu."""
    a, b, bias, out = (Buffer(name, float32, (size,)) for name, size in
                       (("a", m * k), ("b", k * n), ("bias", n), ("out", m * n)))
    acc = Buffer("acc", float32, (m, n // lanes, lanes), "reg")
    i, u, v, s = axis("i", m), axis("u", n // lanes), axis("l", lanes), axis("k", k)

    def tile(body):
        return loop(i, loop(u, loop(v, body, "vector", lanes=lanes), "unroll"), "unroll")

    column = u * lanes + v
    old = load(acc, i, u, v)
    body = Seq((
        Alloc(acc),
        tile(store(acc, (i, u, v), const(0, float32))),
        loop(s, tile(store(acc, (i, u, v), op("fma", load(a, i * k + s), load(b, s * n + column), old)))),
        tile(store(out, [i * n + column], op("max", op("add", old, load(bias, column)), const(0, float32)))),
    ))
    return Kernel("matmul", (a, b, bias, out), frozenset({out}), body)


class Tile(NamedTuple):
    """A schedule to print."""

    rows: int
    cols: int

    def __repr__(self) -> str:
        return f"Tile({self.rows}, {self.cols})"


def mixed() -> Kernel:
    """A bit of everything that text must carry: types, casts, predicates, partial loops, branches, nested scopes."""
    f64, u32, i32, half = dtypes.float64, dtypes.uint32, dtypes.int32, dtypes.bfloat16
    x, keys, n = Buffer("x", half, (64,)), Buffer("if", u32, (4,)), Buffer("n", i32, (1,))
    out, flags = Buffer("out", f64, (64,)), Buffer("flags", dtypes.bool_, (64,))
    i, j = axis("i", 64), axis("i", 4)
    t, t2 = Buffer("t", f64, (2,), "reg", note="a pair"), Buffer("t", f64, (1,), "shared")
    wide = op("cast", load(x, i), dtype=f64)
    bits = op("threefry", *(load(keys, const(k)) for k in range(4)))
    count = op("cast", load(n, const(0)), dtype=int64)
    body = Seq((
        Alloc(t),
        store(t, [0], const(1.5, f64)),
        store(t, [1], op("select", op("lt", wide, const(-0.25, f64)), const(float("inf"), f64), const(-1e-300, f64))),
        Seq((Alloc(t2), store(t2, [0], op("mul", load(t, 0), op("sub", load(t, 1), op("add", wide, const(2, f64))))),
             store(out, [i], load(t2, 0)))),
        store(out, [i], op("cast", op("shr", bits, const(40, dtypes.uint64)), dtype=f64), "add",
              op("and", i < 5, op("eq", i % 2, const(1)))),
        If(op("le", count, i), store(flags, [i], op("lt", op("add", const(1, u32), const(2, u32)), const(4, u32))),
           Seq((store(flags, [i], const(False, dtypes.bool_)),
                loop(j, store(out, [j], op("neg", op("fma", wide, wide, const(float("nan"), f64))), "max"),
                     extent=op("min", const(3), op("max", count, const(0))))))),
        If(op("ne", op("bitcast", load(x, i), dtype=dtypes.uint16), const(0, dtypes.uint16)), Seq(())),
    ))  # fmt: skip
    return Kernel("mixed", (x, keys, n, out, flags), frozenset({out, flags}), loop(i, body, "parallel"),
                  schedule=Tile(1, 2))


ALL = {"softmax": softmax, "transpose": transpose, "matmul": matmul, "mixed": mixed}
