"""Long sums in blocks: the rewrite of loops, and that every family's schedules have it on every target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.lower import long_sums
from dlc.codegen.lower.long_sums import in_blocks
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import sum_blocks
from dlc.ir.dtypes import bfloat16, float16, float32, float64
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import For, Kernel
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.traverse import walk
from dlc.ir.loops.verify import verify
from dlc.runtime.cpu import host
from tests.passes.programs import normalised, softmax, tensor

CPU = {level: host.detect().with_features(level).with_threads(threads)
       for level, threads in (("sse2", 1), ("avx2", 4), ("avx512", 2))}
CPU["bf16"] = replace(CPU["avx512"], has_avx512bf16=True)
CPU["amx"] = replace(CPU["bf16"], has_amx_bf16=True)
GPU = {arch: GpuTarget.of(arch) for arch in ("sm_80", "sm_90a")}
TARGETS = CPU | GPU


# ------------------------------------------------------------------------------------------------------ the rewrite


def blocked(text: str, contraction: bool = False) -> Kernel:
    kernel = parse_kernel(text)
    out = Kernel(kernel.name, kernel.params, kernel.writes, in_blocks(kernel.body, contraction))
    verify(out)
    return out


def body(kernel: Kernel) -> str:
    return "\n".join(print_kernel(kernel).splitlines()[1:])


COLUMN = """
kernel k(x: f32[{n}*4], y: f32[4] writes)
  alloc acc: reg f32[4]
  for l in 4 vector(4):
    acc[l] = 0.0
  for c in {n}:
    for l in 4 vector(4):
      acc[l] += x[c*4 + l]
  for l in 4 vector(4):
    y[l] = acc[l]
"""


def column(n: int) -> str:
    return COLUMN.replace("{n}*4", str(4 * n)).format(n=n)


def test_the_loops():
    assert body(blocked(column(640))) == """\
  alloc acc: reg f32[4]
  for l in 4 vector(4):
    acc[l] = 0.0
  scope:
    alloc acc_block: shared f32[4]
    for i in 4 vector(4):
      acc_block[i] = acc[i]
    for c_block in 10:
      for i in 4 vector(4):
        acc[i] = 0.0
      for c in 64:
        for l in 4 vector(4):
          acc[l] += x[l + c_block*256 + c*4]
      for i in 4 vector(4):
        acc_block[i] += acc[i]
    for i in 4 vector(4):
      acc[i] = acc_block[i]
  for l in 4 vector(4):
    y[l] = acc[l]"""


def test_many_blocks_are_compensated():
    text = body(blocked(column(64 * 1000)))
    assert "for c_block_total in 100:\n" in text and "for c_block in 10:\n" in text and "for c in 64:\n" in text
    assert "acc_block_rest[i] = select(" in text and text.count("acc[i] = acc_block[i]") == 1


@pytest.mark.parametrize("n", [96, 97, 100, 641, 1009, 4001, 64 * 64 + 1, 20011])
def test_no_term_is_lost(n):
    """Sums of small whole numbers are exact in any order."""
    x = np.random.default_rng(n).integers(-8, 9, 4 * n).astype(np.float32)
    kernel, y = blocked(column(n)), np.full(4, np.nan, np.float32)
    run(kernel, [x, y])
    np.testing.assert_array_equal(y, x.reshape(n, 4).sum(0))
    assert (len(kernel.body.body) == len(parse_kernel(column(n)).body.body)
            and ("c_block" in print_kernel(kernel)) == (n > 96))


@pytest.mark.parametrize("at, values, want", [
    ((3000,), (np.inf,), np.inf), ((0, 3000), (np.inf, np.inf), np.inf), ((0, 1, 2500), (np.nan, 1, 1), np.nan),
    ((5, 2900), (-np.inf, np.inf), np.nan), ((70, 140, 2900), (3e38, 3e38, -3e38), np.inf), ((1, 2), (3e38, -3e38), 0),
])  # fmt: skip
def test_what_is_not_finite(at, values, want):
    """Infinities stay, NaN stays, what overflows in one block stays infinite, and nothing else turns into NaN."""
    n = 4000
    x = np.zeros((n, 4), np.float32)
    for k, v in zip(at, values, strict=True):
        x[k] = v
    y = np.zeros(4, np.float32)
    with np.errstate(all="ignore"):
        run(blocked(column(n)), [x.ravel(), y])
    np.testing.assert_array_equal(y, np.float32(want))


def test_compensation_keeps_digits():
    """Blocks that hide in the total one by one, not together."""
    n = 64 * 16 * 200
    x = np.full((n, 4), 2.0**-12, np.float32)
    x[0] = 2.0**18
    y = np.zeros(4, np.float32)
    run(blocked(column(n)), [x.ravel(), y])
    want = x.astype(np.float64).sum(0)
    assert np.abs(y / want - 1).max() < 70 * 2**-24


NESTED = """
kernel k(x: f32[{size}], y: f32[1] writes)
  alloc acc: reg f32[1]
  acc[0] = 0.0
  for a in {a}:
    for b in {b}:
      if a < {b}:
        acc[0] += x[a*{b} + b]
    acc[0] += x[a]
  y[0] = acc[0]
"""


@pytest.mark.parametrize("a, b, loop", [
    (20, 60, "for a in 20:"), (30, 40, "for a_total in 2:"), (7, 500, "for b_block in"), (500, 7, "for a_block in"),
])  # fmt: skip
def test_nested_loops_are_cut_where_a_block_fits(a, b, loop):
    kernel = blocked(NESTED.format(a=a, b=b, size=a * b))
    x, y = np.random.default_rng(a).integers(-8, 9, a * b).astype(np.float32), np.zeros(1, np.float32)
    run(kernel, [x, y])
    rows = x.reshape(a, b)
    assert y[0] == rows[:b].sum() + x[:a].sum()
    assert loop in print_kernel(kernel)


@pytest.mark.parametrize("n", [300, 64 * 500])
@pytest.mark.parametrize("stray", ["", "    acc[0] += 2.0\n"])
def test_what_else_is_added_and_what_stood_there_before(n, stray):
    """Blocks start at 0 only where nothing is added between them; the register's first value counts in any case."""
    text = f"""
kernel k(x: f32[{2 * n}], y: f32[1] writes)
  alloc acc: reg f32[1]
  acc[0] = 5.0
  for a in 2:
{stray}    for b in {n}:
      acc[0] += x[a*{n} + b]
{stray}  y[0] = acc[0]
"""
    x, y = np.random.default_rng(n).integers(-8, 9, 2 * n).astype(np.float32), np.zeros(1, np.float32)
    run(blocked(text), [x, y])
    assert y[0] == 5 + x.sum() + (8 if stray else 0)


def test_a_loop_of_unknown_length():
    text = """
kernel k(n: i64[1], x: f32[5000], y: f32[1] writes)
  alloc acc: reg f32[1]
  acc[0] = 0.0
  for c in min(5000, n[0]) of 5000:
    acc[0] += x[c]
  y[0] = acc[0]
"""
    kernel = blocked(text)
    assert "c_block" in print_kernel(kernel)
    x = np.random.default_rng(0).integers(-8, 9, 5000).astype(np.float32)
    for n in (0, 1, 63, 64, 65, 1024, 4999, 5000):
        y = np.full(1, np.nan, np.float32)
        run(kernel, [np.array([n]), x, y])
        assert y[0] == x[:n].sum(), n


@pytest.mark.parametrize("line", [
    "acc[0] *= x[c]", "acc[0] max= x[c]", "acc[0] = acc[0] + x[c]*acc[0]", "acc[0] += x[c] - acc[0]", "acc[0] = x[c]",
])
def test_what_is_no_sum_stays(line):
    text = f"kernel k(x: f32[5000], y: f32[1] writes)\n  alloc acc: reg f32[1]\n  acc[0] = 1.0\n  for c in 5000:\n" \
           f"    {line}\n  y[0] = acc[0]\n"
    assert body(blocked(text)) == body(parse_kernel(text))


def test_whole_numbers_stay():
    text = "kernel k(x: i64[5000], y: i64[1] writes)\n  alloc acc: reg i64[1]\n  acc[0] = 0\n  for c in 5000:\n" \
           "    acc[0] += x[c]\n  y[0] = acc[0]\n"
    assert body(blocked(text)) == body(parse_kernel(text))


# ------------------------------------------------------------------------------------------ every family's schedules


def longest(kernel: Kernel) -> int:
    """The most float terms that any loop in order adds to one register before that is read or cleared."""
    terms, sums = [0], long_sums.Sums()
    for s in walk(kernel.body):
        if isinstance(s, For) and s.kind == "serial":
            terms += [adds.terms for b, adds in sums(s).items() if b.space == "reg" and b.dtype.is_float]
    return max(terms)


def programs() -> dict[str, Graph]:
    def reduction(shape, axes, dtype=float32):
        x = tensor("x", *shape, dtype=dtype)
        return Graph((x,), [B.reduce(x, "sum", axes)])

    def product(spec, a, b, dtype=float32):
        x, y = tensor("x", *a, dtype=dtype), tensor("y", *b, dtype=dtype)
        return Graph((x, y), [B.contract(x, y, spec)])

    x, w = tensor("x", 640, 400), tensor("w", 400)
    norm = Graph((x, w), [B.op("mul", normalised(x, (0,)), B.broadcast_to(w, x.shape))])
    long_rows = tensor("x", 3, 100000)
    shapes = [((2**18, 64), [0]), ((100003, 3), [0]), ((4, 300000), [1]), ((10**7,), [0]), ((300, 5, 700), [0, 2]),
              ((4099, 257), [0]), ((20, 100, 300, 2), [0, 2]), ((9000, 40), [0])]
    out = {f"sum{s}{a}".replace(" ", ""): reduction(s, a) for s, a in shapes}
    out |= {f"sum {d.name}": reduction((50000, 48), [0], d) for d in (float64, bfloat16, float16)}
    products = [
        ("mk,kn->mn", (300, 5000), (5000, 300)), ("mk,nk->mn", (300, 5000), (300, 5000)),
        ("mk,nk->mn", (100, 50000), (100, 50000)),
        ("km,kn->mn", (5000, 30), (5000, 20)), ("mk,kn->mn", (1, 10**6), (10**6, 4)),
        ("mk,nk->mn", (7, 10**6), (9, 10**6)), ("bmk,bkn->bmn", (9, 2, 20011), (9, 20011, 2)),
        ("k,k->", (10**6,), (10**6,)), ("mk,kn->mn", (1000, 3001), (3001, 1000)),
    ]
    out |= {f"{spec} {a}".replace(" ", ""): product(spec, a, b) for spec, a, b in products}
    out |= {f"product {d.name}": product("mk,kn->mn", (100, 9000), (9000, 100), d)
            for d in (float64, float16, bfloat16)}
    out |= {"normalised": norm, "softmax": softmax((2, 400000)), "softmax columns": softmax((5000, 64), 0),
            "long rows": Graph((long_rows,), [normalised(long_rows, (1,))])}
    return out


PROGRAMS = programs()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_kernel_has_a_long_sum(name, target):
    machine = TARGETS[target]
    kernels = list(build_program(target_layout(PROGRAMS[name], machine), (), machine, "main").kernels())
    for kernel in kernels:
        verify(kernel)
        on_gpu = not isinstance(machine, CpuTarget)
        contraction = "contract" in kernel.name
        most = (sum_blocks.GPU_WHOLE if on_gpu else 384) if contraction else 96
        assert longest(kernel) <= most, print_kernel(kernel)
    if target == "sse2":  # with the fewest threads and lanes, all of them were longer
        assert any("_block" in print_kernel(k) for k in kernels)


@pytest.mark.parametrize("target, piece", [("amx", 1 << 17), ("sm_80", 1 << 17), ("sm_90a", 1 << 17)])
def test_matrix_units_get_pieces(target, piece):
    """Whose results are many: nothing but the length of the sums asks for it."""
    x, y = (tensor(n, 1 << 18, 1 << 16, dtype=bfloat16) for n in "xy")
    graph = target_layout(Graph((x, y), [B.contract(x, y, "km,kn->mn")]), TARGETS[target])
    (product,) = (n for n in graph.nodes() if n.op == "contract")
    own = product.attrs["spec"].split(",")[0]
    out = product.attrs["spec"].split("->")[1]
    sizes = dict(zip(own, product.inputs[0].shape, strict=True))
    pairs = 2 if product.attrs.get("pairs") else 1
    summed = pairs * np.prod([n for c, n in sizes.items() if c not in out])
    assert summed <= piece
