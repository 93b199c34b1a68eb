"""The fp32 matrix product's micro-kernel: right at every level, and nothing spilled where it has to be fast."""

import re

import numpy as np
import pytest

from dlc.codegen.llvm.kernel import OPT_LEVEL, PASSES, emit_module
from dlc.codegen.target.cpu import LEVELS
from dlc.ir.dtypes import float32
from dlc.ir.loops.ir import Alloc, If, Kernel, Seq, axis, const, load, loop, op, store
from dlc.runtime.cpu.llvm import assembly
from tests.codegen.llvm_run import Compiled, buffer, kernel, target

SHAPES = {"sse2": (4, 8, 4), "avx2": (6, 16, 8), "avx512": (14, 32, 16)}  # rows, columns, lanes of the register tile


def gemm(m: int, n: int, k: int, rows: int, cols: int, lanes: int, stride: int = 0) -> Kernel:
    """C = A @ B by register tiles. A is not packed (`stride` elements a row); the last columns are masked."""
    stride = stride or k
    a, b, c = buffer("a", "f32", m * stride), buffer("b", "f32", k * n), buffer("c", "f32", m * n)
    acc = buffer("acc", "f32", rows, cols // lanes, lanes, space="reg")
    across = -(-n // cols)
    t, i, j, v, s = (
        axis("t", m // rows * across),
        axis("i", rows),
        axis("j", cols // lanes),
        axis("v", lanes),
        axis("k", k),
    )
    row, left = t // across * rows + i, t % across * cols
    col = left + j * lanes + v

    def each(body):
        return loop(i, loop(j, loop(v, body, "vector", lanes=lanes), "unroll"), "unroll")

    def tile(inside):
        product = op("mul", load(a, row * stride + s), load(b, s * n + col, predicate=inside))
        return Seq(
            (
                Alloc(acc),
                each(store(acc, [i, j, v], const(0, float32))),
                loop(s, each(store(acc, [i, j, v], product, "add"))),
                each(store(c, [row * n + col], load(acc, i, j, v), None, inside)),
            )
        )

    body = tile(None) if n % cols == 0 else If(left + cols <= n, tile(None), tile(col < n))
    return kernel("gemm", [a, b, c], loop(t, body, "parallel"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [32, 37, 64, 100])
def test_product(n, level):
    rows, cols, lanes = SHAPES[level]
    m, k, rng = 2 * rows, 33, np.random.default_rng(0)
    a, b, c = rng.random((m, k + 7), np.float32), rng.random((k, n), np.float32), np.zeros((m, n), np.float32)
    Compiled(gemm(m, n, k, rows, cols, lanes, k + 7), target(level))(a.ravel(), b.ravel(), c.reshape(-1))
    assert np.allclose(c, a[:, :k] @ b, rtol=1e-5)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "sse2"])
def test_inner_loop_is_all_fma(level):
    """One fused multiply-add a tile register, no spills, at most one instruction besides for each load."""
    rows, cols, lanes = SHAPES[level]
    text = emit_module([gemm(2 * rows, 4 * cols, 64, rows, cols, lanes)], target(level))
    code = assembly(text, target(level), passes=PASSES, opt_level=OPT_LEVEL)
    loops = [body for body in re.split(r"^\.L\w+:$", code, flags=re.M) if "vfmadd" in body]
    assert len(loops) == 1
    inner = [
        line.split()[0] for line in loops[0][: re.search(r"\n\tj\w+\t", loops[0]).end()].splitlines() if line.strip()
    ]
    assert sum(op.startswith("vfmadd") for op in inner) == rows * cols // lanes
    assert len(inner) <= rows * cols // lanes + rows + cols // lanes + 6
    assert "(%rsp)" not in loops[0]
