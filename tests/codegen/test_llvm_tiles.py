"""Tiles of pairs as AMX instructions: what they compute (by the instructions' meaning, and by themselves where the
processor has them), and the assembly."""

from __future__ import annotations

import ctypes
import dataclasses
import re

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.llvm.expr import EmitError
from dlc.codegen.llvm.kernel import emit_module
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.verify import verify
from dlc.runtime.cpu.llvm import Library, assembly, compile_object
from tests import targets
from tests.codegen.amx import Unit, emulated
from tests.codegen.llvm_run import Compiled

UNIT, WITHOUT = targets.cpu("amx"), targets.cpu("avx512-bf16")
NEEDS_AVX512 = pytest.mark.skipif(not targets.runs(targets.cpu("avx512")), reason="the emulation runs AVX-512")
NEEDS_AMX = pytest.mark.skipif(not targets.runs(UNIT), reason="this processor has no amx-tile and amx-bf16")

# 2 x 2 tiles of 16 x 16 in 5 steps; the rows' operand as bfloat16, 32 of them apart from its neighbours in memory
SQUARE = """\
kernel square(x: bf16[6144], w: u32[2560], out: f32[1024] writes)
  alloc acc: tile f32[2,2,16,16]
  for k in 5:
    for u in 2 unroll:
      for t in 2 unroll:
        tilemma(16, 192, 32) acc[t, u, 0, 0] += x[t*3072 + k*32 + 7] * w[k*512 + u*16]
  alloc sums: shared f32[32,32]
  for u in 2 unroll:
    for t in 2 unroll:
      store_tile sums[t*16, u*16] = acc[t, u, 0, 0]
  for i in 32:
    for j in 32 vector(16):
      out[i*32 + j] = sums[i, j] + 1.0
"""
# one task a tile of 6 rows; of two inner loops one is outside
NARROW = """\
kernel narrow(x: u32[180], w: u32[140], out: f32[126] writes)
  for t in 3 parallel:
    alloc acc: tile f32[1,6,7]
    for r in 2:
      for k in 2:
        tilemma(5, 20, 7) acc[0, 0, 0] += x[min(t*60, 40) + r*10 + k*5] * w[r*70 + k*35]
    alloc sums: shared f32[8,7]
    store_tile sums[2, 0] = acc[0, 0, 0]
    for i in 6:
      for j in 7 vector(8):
        out[t*42 + i*7 + j] = sums[i + 2, j]
"""
# three tiles of columns pass by two of rows: there is room for one operand each
CROWDED = """\
kernel crowded(x: u32[512], w: u32[768], out: f32[1536] writes)
  alloc acc: tile f32[2,3,16,16]
  for u in 3 unroll:
    for t in 2 unroll:
      tilemma(16, 16, 48) acc[t, u, 0, 0] += x[t*256] * w[u*16]
  alloc sums: shared f32[32,48]
  for u in 3 unroll:
    for t in 2 unroll:
      store_tile sums[t*16, u*16] = acc[t, u, 0, 0]
  for i in 32:
    for j in 48 vector(16):
      out[i*48 + j] = sums[i, j]
"""


def arrays(kernel) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    made = []
    for p in kernel.params:
        half = rng.standard_normal(2 * p.size).astype(ml_dtypes.bfloat16)
        made.append(np.zeros(p.size, np.float32) if p in kernel.writes else half.view(p.dtype.np)[: p.size].copy())
    return made


def call(library: Library, kernel, given: list[np.ndarray], begin: int = 0, end: int | None = None) -> None:
    pointers = (ctypes.c_void_p * len(given))(*(a.ctypes.data for a in given))
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(library.address(kernel.name))
    entry(pointers, begin, kernel.tasks if end is None else end)


@NEEDS_AVX512
@pytest.mark.parametrize("text, loads", [(SQUARE, 20), (NARROW, 24), (CROWDED, 9)])
def test_instructions_compute_what_the_kernel_means(text, loads):
    kernel = parse_kernel(text)
    verify(kernel)
    want, got = arrays(kernel), arrays(kernel)
    run(kernel, want)
    unit = Unit()
    code = compile_object(emulated(emit_module([kernel], UNIT)), targets.cpu("avx512"), passes="none", opt_level=2)
    library = Library.load(code, unit.symbols())
    for t in range(kernel.tasks):
        call(library, kernel, got, t, t + 1)
    assert not unit.wrong
    np.testing.assert_array_equal(got[-1], want[-1])
    assert unit.count["tileloadd64"] == loads  # what two products share is loaded once where there is room
    assert unit.count["ldtilecfg"] == unit.count["tilerelease"] == kernel.tasks and not unit.shapes


@NEEDS_AMX
@pytest.mark.parametrize("text", [SQUARE, NARROW, CROWDED])
def test_on_this_processor(text):
    kernel = parse_kernel(text)
    want, got = arrays(kernel), arrays(kernel)
    run(kernel, want)
    Compiled(kernel, UNIT)(*got)
    np.testing.assert_allclose(got[-1], want[-1], rtol=1e-5, atol=1e-5)


def test_assembly():
    target = dataclasses.replace(UNIT, triple="x86_64-unknown-linux-gnu", cpu="sapphirerapids", features="")
    text = assembly(emit_module([parse_kernel(SQUARE)], target), target, opt_level=2, passes="none")
    lines = re.findall(r"^\s+(ldtilecfg|tile\w+|tdp\w+)", text, re.M)
    assert lines == ["ldtilecfg", *["tilezero"] * 4, "tileloadd", "tileloadd", "tdpbf16ps", "tileloadd", "tdpbf16ps",
                     "tileloadd", "tdpbf16ps", "tdpbf16ps", *["tilestored"] * 4, "tilerelease"]
    body = text[text.index("tileloadd"):text.rindex("tdpbf16ps")]
    assert "tmm" in body and "(%rsp" not in body  # nothing is spilled


def test_a_processor_without_a_matrix_unit():
    with pytest.raises(EmitError, match="square: this processor has no matrix unit"):
        emit_module([parse_kernel(SQUARE)], WITHOUT)
    few = SQUARE.replace("[2,2,16,16]", "[2,4,16,16]")
    with pytest.raises(EmitError, match="8 tiles of sums leave no registers for operands"):
        emit_module([parse_kernel(few)], UNIT)
