"""The Loop IR interpreter: hand-written kernels against NumPy, wrong kernels against its checks, whole programs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from dlc.base.errors import InterpError, VerifyError
from dlc.codegen.llvm.expr import EmitError
from dlc.codegen.llvm.kernel import emit_kernel
from dlc.ir import dtypes
from dlc.ir.dtypes import convert, float32, int64
from dlc.ir.graph.graph import TensorType
from dlc.ir.loops import instructions, traverse
from dlc.ir.loops import ir as loops
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.interp.values import evaluate_expr, fused, operation
from dlc.ir.loops.ir import Buffer, If, Kernel, Seq, Stmt, axis, const, load, loop, op, store
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from dlc.ir.program.program import Launch, Program, Ref, Repeat, Slot
from dlc.ir.scalar import SCALAR_OPS
from tests.ir import loops_examples as examples
from tests.targets import cpu

rng = np.random.default_rng(7)


def _normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_softmax():
    x, out = _normal(5, 48), np.empty(240, np.float32)
    run(examples.softmax(), [x.ravel(), out])
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(out.reshape(5, 48), e / e.sum(1, keepdims=True), rtol=1e-6)


def test_softmax_in_place():
    x = _normal(5, 48)
    e = np.exp(x - x.max(1, keepdims=True))
    flat = x.ravel()
    run(examples.softmax(), [flat, flat])
    np.testing.assert_allclose(flat.reshape(5, 48), e / e.sum(1, keepdims=True), rtol=1e-6)


def test_transpose_with_partial_tiles():
    x, out = _normal(19, 21), np.empty(19 * 21, np.float32)
    run(examples.transpose(), [x.ravel(), out])
    np.testing.assert_array_equal(out.reshape(21, 19), x.T)


def test_matmul_tile():
    a, b, bias, out = _normal(6, 7), _normal(7, 32), _normal(32), np.empty(192, np.float32)
    run(examples.matmul(), [a.ravel(), b.ravel(), bias, out])
    np.testing.assert_allclose(out.reshape(6, 32), np.maximum(a @ b + bias, 0), rtol=1e-5, atol=1e-6)


def test_the_printed_kernel_means_the_same():
    x, outs = _normal(240), [np.empty(240, np.float32), np.empty(240, np.float32)]
    run(examples.softmax(), [x, outs[0]])
    run(parse_kernel(print_kernel(examples.softmax())), [x, outs[1]])
    np.testing.assert_array_equal(*outs)


SPECIAL_FLOATS = [0.0, -0.0, 1.0, -1.5, 2.5, 1e30, -1e30, 1e-42, float("inf"), float("-inf"), float("nan"), 300.7]


def _operands(dtype, arity):
    if dtype.is_bool:
        values = [False, True]
    elif dtype.is_float:
        values = SPECIAL_FLOATS
    else:
        low, high = dtypes.limits(dtype)
        values = sorted({low, low + 1, high, high - 1, 0, 1, 2, 3, 7, 9, high // 3, max(low, -1), max(low, -7)})
    if arity == 4:
        values = values[::3]
    with np.errstate(over="ignore"):
        column = np.array(values).astype(dtype.np) if dtype.is_float else np.array(values, dtype.np)
    grids = np.meshgrid(*[column] * arity)
    return [np.ascontiguousarray(g.ravel()) for g in grids]


def _defined(name, dtype):
    if name in ("fma", "select"):
        return name == "select" or dtype.is_float
    return dtype.kind in SCALAR_OPS[name].kinds and (name != "threefry" or dtype is dtypes.uint32)


@pytest.mark.parametrize(("name", "dtype"), [
    pytest.param(name, dtype, id=f"{name}-{dtype.short}")
    for name in (*SCALAR_OPS, "fma", "select") for dtype in dtypes.ALL if _defined(name, dtype)
])  # fmt: skip
def test_every_operation_means_what_its_row_says(name, dtype):
    row = SCALAR_OPS.get(name)
    arrays = _operands(dtype, {"fma": 3, "select": 2}.get(name) or row.arity)
    if name in ("fma", "select"):
        arrays = [a[::7].copy() for a in arrays]
    i = axis("i", arrays[0].size)
    buffers = [Buffer(f"x{k}", dtype, (arrays[0].size,)) for k in range(len(arrays))]
    loads = [load(b, i) for b in buffers]
    e = op("select", op("lt", loads[0], loads[1]), *loads) if name == "select" else op(name, *loads)
    out = Buffer("out", e.dtype, (arrays[0].size,))
    got = np.empty(out.size, e.dtype.np)
    run(Kernel("k", (*buffers, out), frozenset({out}), loop(i, store(out, [i], e), "parallel")), [*arrays, got])
    with np.errstate(all="ignore"):
        if name == "select":
            want = np.where(arrays[0] < arrays[1], *arrays)
        else:
            want = operation(e, arrays)
    np.testing.assert_array_equal(got.astype(np.float64) if dtype.is_half else got,
                                  want.astype(np.float64) if dtype.is_half else want)
    env = dict(zip(loads, arrays, strict=True))
    np.testing.assert_array_equal(evaluate_expr(e, env).astype(e.dtype.np).view(np.uint8),
                                  np.asarray(want).astype(e.dtype.np).view(np.uint8))


@pytest.mark.parametrize("source", dtypes.ALL, ids=lambda d: d.short)
@pytest.mark.parametrize("target", dtypes.ALL, ids=lambda d: d.short)
def test_casts(source, target):
    (x,) = _operands(source, 1)
    i, b, out = axis("i", x.size), Buffer("x", source, (x.size,)), Buffer("out", target, (x.size,))
    got = np.empty(x.size, target.np)
    body = loop(i, store(out, [i], op("cast", load(b, i), dtype=target)))
    run(Kernel("k", (b, out), frozenset({out}), body), [x, got])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got.astype(np.float64), convert(x, target).astype(np.float64))


def test_integers_wrap_and_division_by_zero_is_zero():
    kernel = parse_kernel("kernel k(x: i8[1], o: i8[7] writes)\n  o[0] = x[0] + 1\n  o[1] = x[0] * x[0]\n"
                          "  o[2] = neg(x[0] + 1)\n  o[3] = x[0] // (x[0] - x[0])\n  o[4] = (x[0] + 1) // -1\n"
                          "  o[5] = x[0] << 1\n  o[6] = (x[0] + 1) >> 9\n")
    out = np.zeros(7, np.int8)
    run(kernel, [np.array([127], np.int8), out])
    assert out.tolist() == [-128, 1, -128, 0, -128, -2, -1]


def test_fma_rounds_once():
    a = np.float32(1 + 2**-12)
    assert fused(a, a, np.float32(-1)) == np.float32(2**-11 + 2**-24)
    b = 1 + 2.0**-30
    assert fused(np.float64(b), np.float64(b), np.float64(-1)) == 2.0**-29 + 2.0**-60
    with np.errstate(all="ignore"):
        assert fused(np.float64(1e300), np.float64(1e300), np.float64(0)) == np.inf
    big = rng.standard_normal(1000) * 1e3
    terms = zip(big, big[::-1], -big * big[::-1], strict=True)
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in terms]
    np.testing.assert_array_equal(fused(big, big[::-1], -big * big[::-1]), exact)


def test_order_dependence_shows():
    kernel = parse_kernel("kernel k(o: i32[1] writes)\n  for i in 9 parallel:\n    o[0] = i32(i)\n")
    seen = set()
    for seed in range(20):
        out = np.zeros(1, np.int32)
        run(kernel, [out], seed)
        seen.add(int(out[0]))
    assert len(seen) > 3


WRONG = {
    "past the end": ("o[i + 1] = x[i]", r"index 4 outside o of shape \[4\]\n    o\[i \+ 1\] = x\[i\]"),
    "before the start": ("o[i] = x[i - 1]", "index -1 outside x"),
    "a bad gather": ("o[i] = x[i64(x[i]) * 9]", "outside x"),
    "undefined": ("alloc r: reg f32[2]\n    o[i] = r[1]", "read of reg buffer r where nothing was written"),
    "undefined when combining": ("alloc r: shared f32[2]\n    r[0] += x[i]", "read of shared buffer r"),
    "extent": ("for j in i of 2:\n      o[j] = 0.0", "an extent of 3 exceeds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_raise(name):
    body, message = WRONG[name]
    kernel = parse_kernel(f"kernel k(x: f32[4], o: f32[4] writes)\n  for i in 4:\n    {body}\n")
    with pytest.raises(InterpError, match=message):
        run(kernel, [np.arange(1, 5, dtype=np.float32), np.zeros(4, np.float32)])


def test_predicates_guard_the_address():
    kernel = parse_kernel("kernel k(x: f32[4], o: f32[6] writes)\n"
                          "  for i in 6 vector(4):\n    o[i] = x[i - 1 if (0 < i) & (i <= 4)]\n"
                          "  for i in 6:\n    o[i + 3] = 9.0 if i < 1\n")
    out = np.zeros(6, np.float32)
    run(kernel, [np.arange(1, 5, dtype=np.float32), out])
    assert out.tolist() == [0, 1, 2, 9, 4, 0]


def test_memory_of_an_iteration_does_not_outlive_it():
    kernel = parse_kernel("kernel k(o: f32[4] writes)\n"
                          "  for i in 4:\n    alloc r: reg f32[1]\n    if i == 0:\n      r[0] = 1.0\n"
                          "    o[i] = r[0]\n")
    with pytest.raises(InterpError, match="nothing was written"):
        run(kernel, [np.zeros(4, np.float32)])


def test_arguments_are_checked():
    kernel = examples.softmax()
    with pytest.raises(InterpError, match="x is float32.240., got float64"):
        run(kernel, [np.zeros(240), np.zeros(240, np.float32)])
    with pytest.raises(InterpError, match="2 parameters, got 1"):
        run(kernel, [np.zeros(240, np.float32)])


def test_evaluate_expr_gathers():
    table, i = Buffer("table", int64, (4,)), axis("i", 8)
    e = load(table, i - 2, predicate=op("and", op("le", const(2), i), i < 6))
    assert evaluate_expr(e, {i: np.arange(8), table: np.array([5, 6, 7, 8])}).tolist() == [0, 0, 5, 6, 7, 8, 0, 0]
    with pytest.raises(InterpError, match="outside table"):
        evaluate_expr(load(table, i), {i: np.arange(8), table: np.array([5, 6, 7, 8])})


def _step(text):
    return parse_kernel(text)


def test_program_with_a_scan():
    """h = h * 0.5 + x[t] over four steps, keeping every h; h alternates nowhere: it is updated in place."""
    init = _step("kernel init(h: f32[3] writes)\n  for i in 3:\n    h[i] = 0.0\n")
    step = _step("kernel step(x: f32[3], h: f32[3] writes, ys: f32[3] writes)\n  for i in 3 parallel:\n"
                 "    h[i] = h[i] * 0.5 + x[i]\n    ys[i] = h[i]\n")
    x, ys = Slot("x", float32, 12, "input", 0), Slot("ys", float32, 12, "output", 0)
    h = Slot("h", float32, 3, "arena", offset=64)
    program = Program("scan", (x,), (ys,), (
        Launch(init, (Ref(h),)),
        Repeat(4, (Launch(step, (Ref(x, 9, (-3,)), Ref(h), Ref(ys, 0, (3,))), tasks=3),)),
    ), output_types=(TensorType(float32, (4, 3)),), slots=(x, ys, h), arena_bytes=128)  # fmt: skip
    value = _normal(4, 3)
    (got,) = run_program(program, [value])
    want, state = [], np.zeros(3, np.float32)
    for row in value[::-1]:
        state = state * np.float32(0.5) + row
        want.append(state)
    np.testing.assert_array_equal(got, np.array(want))


def test_program_poison_donation_and_bounds():
    bump = _step("kernel bump(x: f32[2] writes)\n  for i in 2:\n    x[i] += 1.0\n")
    x = Slot("x", float32, 2, "input", 0)
    out = Slot("out", float32, 2, "output", 0, alias=x)
    value = np.array([1, 2], np.float32)
    (got,) = run_program(Program("p", (x,), (out,), (Launch(bump, (Ref(out),)),)), [value])
    assert got.tolist() == [2, 3]
    assert value.tolist() == [1, 2]
    never = Slot("t", float32, 2, "arena", offset=0)
    read = _step("kernel copy(x: f32[2], o: f32[2] writes)\n  for i in 2:\n    o[i] = x[i]\n")
    o = Slot("o", float32, 2, "output", 0)
    (got,) = run_program(Program("p", (), (o,), (Launch(read, (Ref(never), Ref(o))),), arena_bytes=8), [])
    assert np.isnan(got).all()
    with pytest.raises(InterpError, match="takes elements 1 to 3 of slot o"):
        run_program(Program("p", (), (o,), (Launch(read, (Ref(never), Ref(o, 1))),), arena_bytes=8), [])
    with pytest.raises(InterpError, match="outside the arena"):
        run_program(Program("p", (), (o,), (Launch(read, (Ref(never), Ref(o))),), arena_bytes=4), [])


@pytest.fixture
def unknown(monkeypatch) -> type:
    """A statement that nobody knows."""

    class Unknown(Stmt):
        pass

    for table in (traverse._FIELDS, traverse._STMTS, traverse._EXPRS):
        monkeypatch.setitem(table, Unknown, ())
    return Unknown


@pytest.mark.parametrize("inside", [lambda s: s, lambda s: Seq((s,)), lambda s: loop(axis("i", 4), s),
                                    lambda s: If(const(True, dtypes.bool_), s), instructions.Async])
def test_statements_that_are_not_known_raise(unknown, inside):
    buffer = Buffer("x", float32, (4,))
    kernel = Kernel("odd", (buffer,), frozenset(), inside(unknown()))
    with pytest.raises(InterpError, match="kernel odd: a Unknown has no meaning here"):
        run(kernel, [np.zeros(4, np.float32)])
    with pytest.raises(VerifyError, match="no rules for a Unknown"):
        verify(kernel)
    if not isinstance(kernel.body, instructions.Async):
        with pytest.raises(EmitError, match="odd: no LLVM IR for a Unknown"):
            emit_kernel(kernel, cpu("avx2"))


@pytest.mark.parametrize("kind", ["warp", "pipeline", "whatever"])
def test_loops_that_are_not_known_raise(kind):
    x, i = Buffer("x", float32, (4,)), axis("i", 4)
    kernel = Kernel("odd", (x,), frozenset((x,)), loop(i, store(x, (i,), const(1, float32)), kind))
    with pytest.raises(InterpError, match=f"a loop of kind '{kind}' has no meaning here"):
        run(kernel, [np.zeros(4, np.float32)])


def test_what_a_statement_holds_is_found():
    with pytest.raises(TypeError, match=r"what a field of type list\[Expr\] holds"):
        loops.kind_of("list[Expr]")
