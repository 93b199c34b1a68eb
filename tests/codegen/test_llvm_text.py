"""The emitted text of small kernels, word for word, and what the emitter refuses.

`DLC_UPDATE_GOLDEN=1 pytest tests/codegen/test_llvm_text.py` rewrites the files in llvm_golden/.
"""

import gc
import os
import weakref
from pathlib import Path

import pytest

from dlc.codegen.llvm.expr import EmitError
from dlc.codegen.llvm.kernel import KernelEmitter, emit_kernel, emit_module
from dlc.ir.dtypes import float32
from dlc.ir.loc import Loc
from dlc.ir.loops.ir import Alloc, If, Kernel, Seq, axis, cast, const, load, loop, op, seq, store
from tests.codegen.llvm_run import buffer, kernel, target

GOLDEN = Path(__file__).with_name("llvm_golden")


def pointwise() -> Kernel:
    """relu(2x + b) over 20 elements: one group of lanes and a masked rest; `b` is loaded once, outside."""
    x, b, y, i = buffer("x", "f32", 20), buffer("b", "f32", 1), buffer("y", "f32", 20), axis("i", 20)
    value = op("add", op("mul", load(x, i), const(2, float32)), load(b, const(0)))
    k = kernel("pointwise", [x, b, y], loop(i, store(y, [i], op("max", value, const(0, float32))), "vector", lanes=16))
    return Kernel(k.name, k.params, k.writes, k.body, {"lanes": 16}, (Loc("net.py", 7),))


def row_sum() -> Kernel:
    """Rows in parallel; 40 columns fold into a vector, then into one number."""
    x, y, r, i = buffer("x", "f32", 400), buffer("y", "f32", 10), axis("r", 10), axis("i", 40)
    body = seq(store(y, [r], const(0, float32)), loop(i, store(y, [r], load(x, r * 40 + i), "add"), "vector", lanes=16))
    return kernel("row_sum", [x, y], loop(r, body, "parallel"))


def register_tile() -> Kernel:
    """A 2x8 tile of a matrix product: two phis, one load of b and two of a in each iteration."""
    a, b, c = buffer("a", "f32", 2 * 5), buffer("b", "f32", 5 * 8), buffer("c", "f32", 16)
    acc, u, k, v = buffer("acc", "f32", 2, 8, space="reg"), axis("u", 2), axis("k", 5), axis("v", 8)
    product = op("mul", load(a, u * 5 + k), load(b, k * 8 + v))

    def rows(body):
        return loop(u, loop(v, body, "vector", lanes=8), "unroll")

    return kernel(
        "register_tile",
        [a, b, c],
        Seq(
            (
                Alloc(acc),
                rows(store(acc, [u, v], const(0, float32))),
                loop(k, rows(store(acc, [u, v], product, "add"))),
                rows(store(c, [u * 8 + v], load(acc, u, v))),
            )
        ),
    )


def branches() -> Kernel:
    """A masked branch under a vector axis and a scalar one that changes a register."""
    x, y, s = buffer("x", "f32", 16), buffer("y", "f32", 16), buffer("s", "f32", 1, space="reg")
    i, j = axis("i", 8), axis("j", 4)
    zero = const(0, float32)
    return kernel(
        "branches",
        [x, y],
        Seq(
            (
                Alloc(s),
                store(s, [0], zero),
                loop(j, If(op("lt", load(x, j), zero), store(s, [0], load(x, j), "add"))),
                loop(i, If(op("lt", load(s, 0), load(x, i)), store(y, [i], cast(i, float32))), "vector", lanes=8),
            )
        ),
    )


def clamped_rows() -> Kernel:
    """Ten rows in tiles of four: only the last two rows of a tile can be beyond the end, others share a pointer. The
    inner loop counts in rows' lengths, the outer one multiplies."""
    x, y = buffer("x", "f32", 10 * 96), buffer("y", "f32", 12 * 8)
    t, i, k, v = axis("t", 3), axis("i", 4), axis("k", 12), axis("v", 8)
    row = op("min", t * 4 + i, const(9))
    step = loop(v, store(y, [(t * 4 + i) * 8 + v], load(x, row * 96 + k * 8 + v), "add"), "vector", lanes=8)
    return kernel("clamped_rows", [x, y], loop(t, loop(k, loop(i, step, "unroll"))))


def test_what_cannot_be_beyond_the_end_is_not_clamped():
    text = emit_kernel(clamped_rows(), target("avx2"))
    assert text.count("call i64 @llvm.smin") == 2
    assert text.count("phi i64") == 3  # two counters, and 8 k


CASES = [pointwise, row_sum, register_tile, branches, clamped_rows]


@pytest.mark.parametrize("make", CASES, ids=lambda f: f.__name__)
def test_golden(make):
    text = emit_module([make()], target("avx2"))
    path = GOLDEN / f"{make.__name__}.ll"
    if os.environ.get("DLC_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_the_same_text_every_time():
    assert emit_kernel(register_tile(), target("avx2")) == emit_kernel(register_tile(), target("avx2"))


@pytest.mark.parametrize("make", CASES, ids=lambda f: f.__name__)
def test_an_emitter_is_gone_with_its_text(make):
    """No cycles among its parts: the compiler runs without the collector."""
    gc.collect()
    gc.disable()
    try:
        emitter = KernelEmitter(make(), target("avx2"))
        emitter.function()
        parts = [weakref.ref(x) for x in (emitter, emitter.b, emitter.env, emitter.memory, emitter.folds)]
        del emitter
        assert [part() for part in parts] == [None] * len(parts)
    finally:
        gc.enable()


def refused(body) -> str:
    x = buffer("x", "f32", 64)
    with pytest.raises(EmitError) as error:
        emit_kernel(kernel("k", [x], body(x)), target("avx2"))
    return str(error.value)


def test_errors():
    i, j = axis("i", 64), axis("j", 16)
    one = const(1, float32)
    assert "must combine" in refused(lambda x: loop(i, store(x, [3], one), "vector", lanes=8))
    assert "inside another" in refused(
        lambda x: loop(i, loop(j, store(x, [j], one), "vector", lanes=8), "vector", lanes=8)
    )
    assert "power of two" in refused(lambda x: loop(i, store(x, [i], one), "vector", lanes=6))
    assert "outside its loop" in refused(lambda x: store(x, [i], one))
    assert "constant extent" in refused(
        lambda x: loop(i, store(x, [i], one), "unroll", cast(cast(load(x, const(0)), float32), i.dtype))
    )
    assert "for GPUs" in refused(lambda x: loop(i, store(x, [i], one), "warp"))
    assert "expanded" in refused(lambda x: loop(i, store(x, [i], op("exp", load(x, i)))))
    assert "outside its Alloc" in refused(lambda x: store(buffer("r", "f32", 1, space="reg"), [0], one))
