"""Kernels that the user wrote, as operations: two realistic ones in every setting, and what is refused."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import dlc
from dlc.base.errors import DeviceError, DlcError, DTypeError, ParseError, ShapeError, TraceError, VerifyError
from dlc.ir.graph.custom import kernel_of
from dlc.ir.graph.graph import structure
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify
from dlc.ir.loops import ir as loops
from dlc.runtime import programs
from tests import fake_gpu


def rng(seed=0):
    return np.random.default_rng(seed)


def f32(*shape, seed=0):
    return dlc.Tensor(rng(seed).standard_normal(shape).astype(np.float32))


def close(a, b, tol=2e-5):
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tol, atol=tol)


# ---------------------------------------------------------------- a fused swiglu


def swiglu_text(a, b):
    n = a.shape[0] * a.shape[1]
    return f"""
        kernel swiglu(a: f32[{n}], b: f32[{n}], out: f32[{n}] writes)
            for r in {-(-n // 256)} parallel:
                for i in min(256, {n} - r*256) of 256 vector(16):
                    let x = a[r*256 + i]   # read once
                    out[r*256 + i] = x / (1.0 + exp(-x)) * b[r*256 + i]
    """


def swiglu_vjp(inputs, out, ct):
    a, b = inputs
    s = dlc.sigmoid(a)
    return ct * b * s * (1 + a * (1 - s)), ct * a * s


swiglu = dlc.custom_kernel(swiglu_text, lambda a, b: a, vjp=swiglu_vjp)


def plain_swiglu(a, b):
    return a * dlc.sigmoid(a) * b


# ---------------------------------------------------------------- a row-wise running maximum, with its positions


def prefix_max_text(x):
    rows, n = x.shape
    return f"""
        kernel prefix_max(x: f32[{rows * n}], out: f32[{rows * n}] writes, at: i64[{rows * n}] writes)
          for r in {rows} parallel:
            alloc best: reg f32[1]
            alloc place: reg i64[1]
            best[0] = -inf
            place[0] = 0
            for c in {n}:
              if x[r*{n} + c] > best[0]:
                best[0] = x[r*{n} + c]
                place[0] = c
              out[r*{n} + c] = best[0]
              at[r*{n} + c] = place[0]
    """


def prefix_max_vjp(inputs, outputs, cotangents):
    (x,), (_, at), (ct, none) = inputs, outputs, cotangents
    assert none is None  # positions are integers
    rows = dlc.arange(x.shape[0]).reshape(-1, 1) * x.shape[1]
    flat = dlc.index_add(dlc.zeros(x.shape[0] * x.shape[1]), 0, (rows + at).reshape(-1), ct.reshape(-1))
    return flat.reshape(*x.shape)


prefix_max = dlc.custom_kernel(
    prefix_max_text, lambda x: [x, (x.shape, dlc.int64)], vjp=prefix_max_vjp,
)


def numpy_prefix(x):
    out = np.maximum.accumulate(x, -1)
    at = np.array([[int(np.flatnonzero(row[: k + 1] == m[k])[0]) for k in range(len(row))] for row, m in zip(x, out,
                   strict=True)])
    return out, at


# ---------------------------------------------------------------- where it works


@pytest.mark.parametrize("shape", [(1, 1), (3, 85), (16, 16), (7, 300)])
@pytest.mark.parametrize("jitted", [False, True])
def test_values(shape, jitted):
    a, b = f32(*shape), f32(*shape, seed=1)
    close((dlc.jit(swiglu) if jitted else swiglu)(a, b), plain_swiglu(a, b))
    out, at = (dlc.jit(prefix_max) if jitted else prefix_max)(a)
    want, where = numpy_prefix(a.numpy())
    np.testing.assert_array_equal(out.numpy(), want)
    np.testing.assert_array_equal(at.numpy(), where)


def test_among_other_operations():
    """Views and expressions are computed into memory first; what follows reads its results."""
    a, b = f32(9, 20), f32(20, 9, seed=1)
    f = dlc.jit(lambda a, b, g: g(a.T[2:] * 2, (b + 1)[2:]).sum(0).exp())
    close(f(a, b, swiglu), f(a, b, plain_swiglu))


@pytest.mark.parametrize("wrt", [0, 1])
@pytest.mark.parametrize("jitted", [False, True])
def test_gradients(wrt, jitted):
    a, b = f32(5, 30), f32(5, 30, seed=1)

    def gradient(f):
        g = dlc.grad(lambda a, b: (f(a * 2, b) ** 2).sum(), wrt)
        return (dlc.jit(g) if jitted else g)(a, b)

    close(gradient(swiglu), gradient(plain_swiglu))


def test_backward_and_no_gradient_to_integers():
    x = dlc.Tensor(rng().standard_normal((4, 9)).astype(np.float32), requires_grad=True)
    out, at = prefix_max(x)
    (out * at.astype(dlc.float32)).sum().backward()
    _, where = numpy_prefix(x.detach().numpy())
    want = np.zeros((4, 9), np.float32)
    for r, c in np.ndindex(4, 9):
        want[r, where[r, c]] += where[r, c]
    np.testing.assert_allclose(x.grad.numpy(), want)


def test_higher_derivatives_and_forward_mode():
    a, b = f32(3, 8), f32(3, 8, seed=1)

    def second(f):
        return dlc.grad(lambda a: (dlc.grad(lambda x: (f(x, b) ** 2).sum())(a) ** 2).sum())(a)

    close(second(swiglu), second(plain_swiglu), 1e-4)
    for x, y in zip(dlc.jvp(swiglu, (a, b), (b, a)), dlc.jvp(plain_swiglu, (a, b), (b, a)), strict=True):
        close(x, y)
    forward_over_reverse = [dlc.jvp(dlc.grad(lambda x, f=f: f(x, b).sum()), (a,), (b,))[1]
                            for f in (swiglu, plain_swiglu)]
    close(*forward_over_reverse)


def test_a_rule_that_uses_its_own_kernel():
    """The gradient of a running sum is a running sum the other way: to the fourth order, then it says so."""
    text = """
        kernel sums(x: f32[6], out: f32[6] writes)
          for whole in 1 parallel:
            alloc s: reg f32[1]
            s[0] = 0.0
            for i in 6:
              s[0] += x[i]
              out[i] = s[0]
    """
    sums = dlc.custom_kernel(text, lambda x: x, vjp=lambda ins, out, ct: dlc.flip(sums(dlc.flip(ct))))
    x = f32(6)

    def nth(f, n):
        g = lambda x: (f(x) ** 6).sum()  # noqa: E731
        for _ in range(n):
            g = lambda x, h=g: dlc.grad(h)(x).sum()  # noqa: E731
        return g(x)

    for n in range(1, 4):
        close(nth(sums, n), nth(dlc.cumsum, n), 1e-3)


def test_jvp_of_its_own():
    calls = []

    def jvp(inputs, out, tangents):
        calls.append(tangents)
        s = dlc.sigmoid(inputs[0])
        return tangents[0] * inputs[1] * s * (1 + inputs[0] * (1 - s)) + tangents[1] * inputs[0] * s

    f = dlc.custom_kernel(swiglu_text, lambda a, b: a, jvp=jvp)
    a, b = f32(2, 5), f32(2, 5, seed=1)
    close(dlc.jvp(f, (a, b), (b, a))[1], dlc.jvp(plain_swiglu, (a, b), (b, a))[1])
    assert len(calls) == 1  # traced once
    dlc.jvp(f, (b, a), (b, a))
    assert len(calls) == 1
    with pytest.raises(TraceError, match="custom kernel swiglu has no vjp(?s:.*)test_custom_kernel.py"):
        dlc.grad(lambda a: f(a, b).sum())(a).numpy()


@pytest.mark.parametrize("axes", [0, (0, None), (None, 0), (1, 0)])
def test_vmap(axes):
    a = f32(4, 4, 7)
    b = f32(*((4, 7) if axes == (0, None) else (4, 4, 7)), seed=1)
    a = a[0] if axes == (None, 0) else a
    close(dlc.vmap(swiglu, axes)(a, b), dlc.vmap(plain_swiglu, axes)(a, b))

    def per_example(f):
        return dlc.jit(dlc.vmap(dlc.grad(lambda a, b: f(a, b).sum()), axes))(a, b)

    close(per_example(swiglu), per_example(plain_swiglu))


def test_vmap_by_a_rule():
    seen = []

    def batching(size, batched, a, b):
        seen.append((size, batched))
        a, b = (x if flag else dlc.broadcast_to(x, (size, *x.shape)) for x, flag in zip((a, b), batched, strict=True))
        return swiglu(a.reshape(size * a.shape[1], -1), b.reshape(size * a.shape[1], -1)).reshape(*a.shape)

    f = dlc.custom_kernel(swiglu_text, lambda a, b: a, vjp=swiglu_vjp, batching=batching)
    a, b = f32(3, 4, 5), f32(4, 5, seed=1)
    graph = dlc.jit(dlc.vmap(f, (0, None))).graph(a, b)
    assert [n.op for n in graph.nodes()].count("scan") == 0 and seen == [(3, (True, False))]
    close(dlc.vmap(f, (0, None))(a, b), plain_swiglu(a, b))
    close(dlc.grad(lambda a: dlc.vmap(f, (0, None))(a, b).sum())(a), dlc.grad(lambda a: plain_swiglu(a, b).sum())(a))


def test_in_a_loop_over_its_own_state():
    """A carry and a result in the same memory would be seen by the next step: they are not."""
    shift = dlc.custom_kernel(
        """
        kernel shift(x: f32[8], out: f32[8] writes)
          for i in 8 parallel:
            out[i] = x[(i + 1) % 8] + x[i]
        """, lambda x: x)
    x = f32(8)
    carry, _ = dlc.jit(lambda x: dlc.scan(lambda c, _: (shift(c), None), x, length=5))(x)
    want = x.numpy()
    for _ in range(5):
        want = np.roll(want, -1) + want
    np.testing.assert_allclose(carry.numpy(), want, rtol=1e-6)


def test_state_is_not_overwritten_while_it_is_read():
    """Each element is read at its own place, but again after it was written: this must not run in place."""
    twice = dlc.custom_kernel(
        """
        kernel twice(x: f32[64], out: f32[64] writes)
          for b in 4 parallel:
            for k in 3:
              for i in 16 vector(16):
                out[b*16 + i] = x[b*16 + i] * 2.0
        """, lambda x: x)
    state = f32(64)
    before = state.numpy().copy()

    @dlc.jit
    def step():
        state.assign(twice(state))

    step()
    np.testing.assert_array_equal(state.numpy(), before * 2)


def test_a_kernel_object_and_no_inputs():
    n = 10
    out = loops.Buffer("out", dlc.int32, (n,))
    i = loops.axis("i", n)
    body = loops.loop(i, loops.store(out, (i,), loops.cast(i * i, dlc.int32)), "parallel")
    squares = dlc.custom_kernel(loops.Kernel("squares", (out,), frozenset((out,)), body), ((2, 5), dlc.int32))
    np.testing.assert_array_equal(squares().numpy(), (np.arange(n) ** 2).reshape(2, 5))


def test_empty_tensors():
    f = dlc.custom_kernel("kernel none(x: f32[0], out: f32[0] writes)\n  pass\n", lambda x: x)
    assert f(dlc.zeros(0, 3)).shape == (0, 3)


def test_interpreted_and_debugged(monkeypatch):
    a, b = f32(3, 20), f32(3, 20, seed=1)
    want = plain_swiglu(a, b)
    with dlc.debug():
        close(dlc.jit(swiglu)(a, b), want)
    monkeypatch.setenv("DLC_INTERPRET", "1")
    close(swiglu(a * 1.0, b), want)


def test_results_of_one_call_are_computed_together(monkeypatch):
    compiled = []
    monkeypatch.setattr(programs, "compile_graph", lambda g, *a, _f=programs.compile_graph, **k: (compiled.append(g),
                                                                                             _f(g, *a, **k))[1])
    out, at = prefix_max(f32(3, 13))
    out.numpy(), at.numpy()
    assert len(compiled) == 1 and len(compiled[0].outputs) == 2


def python_block(page, start):
    text = Path(__file__).parents[2].joinpath(page).read_text(encoding="utf-8")
    return next(b for b in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if start in b)


def test_the_examples_of_the_documentation():
    names = {"dlc": dlc}
    exec(python_block("docs/semantics.md", "kernel swiglu"), names)  # noqa: S102
    exec(python_block("README.md", "kernel running_max"), names)  # noqa: S102
    a, b, x = f32(70, 100), f32(70, 100, seed=1), f32(64, 128)
    close(names["swiglu"](a, b), plain_swiglu(a, b))
    for wrt in (0, 1):
        close(*(dlc.grad(lambda a, b, f=f: (f(a, b) ** 2).sum(), wrt)(a, b) for f in (names["swiglu"], plain_swiglu)))
    np.testing.assert_array_equal(names["running_max"](x).numpy(), np.maximum.accumulate(x.numpy(), -1))


# ---------------------------------------------------------------- as text


def test_graph_text():
    f = dlc.jit(lambda a, b: dlc.grad(lambda a: (swiglu(a, b) + prefix_max(a)[0]).sum())(a))
    graph = f.graph(f32(3, 4), f32(3, 4))
    verify(graph)
    text = print_graph(graph)
    assert 'kernel="""\n    kernel swiglu(a: f32[12]' in text
    again = parse_graph(text)
    verify(again)
    assert structure(again) == structure(graph)


def test_the_kernel_and_its_derivative_are_part_of_the_key():
    def graph_of(text, vjp):
        f = dlc.custom_kernel(text, lambda a, b: a, vjp=vjp)
        return structure(dlc.jit(lambda a, b: dlc.grad(lambda a: f(a, b).sum())(a)).graph(f32(2, 3), f32(2, 3)))

    def other(a, b):
        return swiglu_text(a, b).replace("1.0 +", "2.0 +")

    same = graph_of(swiglu_text, swiglu_vjp)
    assert same == graph_of(swiglu_text, lambda i, o, c: swiglu_vjp(i, o, c))
    assert same != graph_of(other, swiglu_vjp)
    assert same != graph_of(swiglu_text, lambda i, o, c: (c, c))


def test_a_call_with_a_kernel_that_reaches_outside_does_not_parse():
    graph = dlc.jit(swiglu).graph(f32(3, 4), f32(3, 4))
    text = print_graph(graph).replace("min(256, 12 - r*256) of 256", "256")
    with pytest.raises(ParseError, match="index r\\*256 \\+ i of out runs from 0 to 255"):
        parse_graph(text)


# ---------------------------------------------------------------- what is refused


HEAD = "kernel k(x: f32[4], i: i64[4], out: f32[4] writes)\n"


def made(body, head=HEAD):
    return dlc.custom_kernel(head + body, lambda x, i: x)


@pytest.mark.parametrize(("body", "error", "message"), [
    ("  for j in 4:\n    out[j] = y[j]\n", ParseError, "line 3, column 14: no 'y' in scope"),
    ("  for j in 5:\n    out[j] = 1.0\n", VerifyError, "runs from 0 to 4, outside 0..3(?s:.*)# line 3"),
    ("  for j in 4:\n    out[j] = x[j - 1]\n", VerifyError, "runs from -1 to 2"),
    ("  for j in 4:\n    x[j] = 1.0\n", VerifyError, "x is written but not declared in writes"),
    ("  for j in 4:\n    alloc r: reg f32[4]\n    r[j] = 1.0\n", VerifyError, "reg buffer"),
    ("  alloc s: shared f32[99999]\n  out[0] = 1.0\n", VerifyError, "399996 bytes of shared buffers"),
    ("  for j in 9999 unroll:\n    out[j%4] = 1.0\n", VerifyError, "more than 4096 statements"),
    ("  for j in 4 vector(3):\n    out[j] = 1.0\n", VerifyError, "3 lanes: a power of two"),
    ("  for b in 2 grid:\n    for t in 2 lane:\n      if t < 1:\n        sync\n      out[b*2 + t] = 1.0\n", VerifyError,
     "all threads of a block must come here"),
    ("  for b in 4 grid:\n    out[b] = 1.0\n", VerifyError, "a store outside the lane loop"),
    ("  for t in 2000 lane:\n    out[t%4] = 1.0\n", VerifyError, "of at most 1024"),
    ("  wait copy 0\n", VerifyError, "not for custom kernels"),
])
def test_refused_when_made(body, error, message):
    with pytest.raises(error, match=message) as raised:
        made(body)
    assert "test_custom_kernel.py" in str(raised.value)


def test_half_arithmetic_is_refused():
    with pytest.raises(VerifyError, match="add in bf16: cast to f32"):
        dlc.custom_kernel("kernel h(x: bf16[4], out: bf16[4] writes)\n  for i in 4:\n    out[i] = x[i] + x[i]\n", None)
    f = dlc.custom_kernel("kernel h(x: bf16[4], out: bf16[4] writes)\n  for i in 4 parallel:\n"
                          "    out[i] = bf16(f32(x[i]) + f32(x[i]))\n", lambda x: x)
    np.testing.assert_array_equal(f(dlc.ones(4, dtype=dlc.bfloat16)).astype(dlc.float32).numpy(), np.full(4, 2.0))


def test_types_that_do_not_fit():
    f = made("  for j in 4:\n    out[j] = x[j]\n")
    i = dlc.arange(4)
    with pytest.raises(ShapeError, match="input 0 is f32\\[5\\] of 5 elements, its parameter x has 4(?s:.*)test_c"):
        f(f32(5), i)
    with pytest.raises(DTypeError, match="input 1 is f32\\[4\\], its parameter i i64"):
        f(f32(4), f32(4))
    with pytest.raises(ShapeError, match="3 parameters \\(x, i, out\\) for 1 inputs and 1 results"):
        dlc.custom_kernel(HEAD + "  out[0] = 1.0\n", lambda x: x)(f32(4))
    with pytest.raises(ShapeError, match="parameter out is input 0, and inputs are only read"):
        dlc.custom_kernel("kernel k(out: f32[4] writes, x: f32[4])\n  pass\n", lambda x: x)(f32(4))
    with pytest.raises(ShapeError, match="parameter y is result 0, and not marked `writes`"):
        dlc.custom_kernel("kernel k(x: f32[4], y: f32[4])\n  pass\n", lambda x: x)(f32(4))
    with pytest.raises(ShapeError, match="outputs must be types"):
        dlc.custom_kernel(HEAD + "  out[0] = 1.0\n", lambda x, i: 3)(f32(4), i)


@pytest.mark.parametrize("values", [[0, 3, -1, 4], [1 << 62, -(1 << 62), 2, 1], [-(1 << 63), (1 << 63) - 1, 0, 0]])
@pytest.mark.parametrize("body", [
    "  for j in 4:\n    out[j] = x[i[j]]\n",
    "  for j in 4:\n    out[j] = x[i[j]*4 + j]\n",
    "  for j in 4:\n    out[j] = 0.0\n  for j in 4:\n    out[i[j]] = x[j]\n",
    "  for j in 4:\n    out[j] = 0.0\n    if (i[j] >= 0) & (i[j] + 2 < 6):\n      out[i[j]] += x[i[j] + 1]\n",
    "  for v in 4 vector(4):\n    out[v] = x[i[v] if i[v] + v < 4] if i[v] < 4\n",
    "  for j in 4:\n    out[j] = 0.0\n    for k in i[j] of 4:\n      out[j] += x[k]\n",
    "  alloc s: shared i64[1]\n  for j in 4:\n    out[j] = 0.0\n    s[0] = 1\n    if s[0] < 4:\n      s[0] = i[j]\n"
    "      out[s[0]] = 2.0\n",
])
def test_data_cannot_reach_outside(body, values):
    """Whatever the indices are, the compiled kernel does what the interpreter, which would notice, does."""
    from dlc.ir.graph.custom import evaluate

    f = made("  for whole in 1 parallel:\n" + textwrap.indent(body, "  "))
    x, i = f32(4), dlc.Tensor(np.array(values, np.int64))
    graph = dlc.jit(f).graph(x, i)
    call = next(n for n in graph.nodes() if n.op == "call")
    (want,) = evaluate(call, [x.numpy(), i.numpy()])
    written = ~np.isnan(want)
    np.testing.assert_array_equal(dlc.jit(f)(x, i).numpy()[written], want[written])


@pytest.mark.parametrize("seed", range(8))
def test_any_text_is_a_kernel_or_an_error(seed):
    """Damaged texts raise errors that say where, and never anything else; those that pass run."""
    random = rng(seed)
    texts = [swiglu_text(dlc.zeros(2, 8), None), prefix_max_text(dlc.zeros(2, 8)), BLOCKS]
    for _ in range(60):
        text = list(texts[random.integers(3)])
        for _ in range(random.integers(1, 4)):
            at = random.integers(len(text))
            text[at] = "".join(random.choice(list(" []()*+-<>=:,#\n0129axiforwn"), random.integers(0, 3)))
        try:
            f = dlc.custom_kernel("".join(text), lambda *xs: [(x.shape, x.dtype) for x in xs])
            params = kernel_of(f._text).params
            ins = [f32(b.size) if b.dtype is dlc.float32 else dlc.zeros(b.size, dtype=b.dtype) for b in params]
            n = next((k for k, b in enumerate(params) if b in kernel_of(f._text).writes), len(params))
            f.outputs = [((b.size,), b.dtype) for b in params[n:]]
            for out in f(*ins[:n]):
                out.numpy()
        except DlcError as error:
            assert str(error)


def test_rules_that_do_not_fit():
    x = f32(6)
    text = "kernel copy(x: f32[6], out: f32[6] writes)\n  for i in 6:\n    out[i] = x[i]\n"
    outside = dlc.ones(6)

    def grad(vjp):
        f = dlc.custom_kernel(text, lambda x: x, vjp=vjp)
        return dlc.grad(lambda x: f(x).sum())(x).numpy()

    with pytest.raises(ShapeError, match="the vjp of custom kernel copy gave 2 gradients for 1 inputs"):
        grad(lambda i, o, c: (c, c))
    with pytest.raises(ShapeError, match="the vjp of custom kernel copy gave f32\\[\\] for input 0"):
        grad(lambda i, o, c: c.sum())
    with pytest.raises(TraceError, match="uses a Tensor or an array that is none of its arguments"):
        grad(lambda i, o, c: c * outside)
    np.testing.assert_array_equal(grad(lambda i, o, c: None), np.zeros(6))


def test_no_derivative_is_an_error_at_the_call():
    f = made("  for j in 4 parallel:\n    out[j] = x[j]\n")
    i = dlc.arange(4)
    with pytest.raises(TraceError, match="custom kernel k has no vjp(?s:.*)stop_gradient(?s:.*)test_custom_kernel"):
        dlc.grad(lambda x: f(x, i).sum())(f32(4)).numpy()
    held = dlc.grad(lambda x: (f(dlc.stop_gradient(x), i) * x).sum())(f32(4))
    close(held, f32(4))


# ---------------------------------------------------------------- on a GPU

BLOCKS = """
kernel reverse_rows(x: f32[40], out: f32[40] writes)
  for b in 5 grid:
    alloc row: shared f32[8]
    for t in 8 lane:
      row[t] = x[b*8 + t]
      sync
      out[b*8 + t] = row[7 - t]
"""


@pytest.fixture
def gpu(monkeypatch):
    return fake_gpu.use(monkeypatch)


def test_grid_and_lanes_are_for_gpus(gpu):
    f = dlc.custom_kernel(BLOCKS, lambda x: x)
    x = f32(5, 8)
    with pytest.raises(DeviceError, match="grid or lane loops, which are for GPUs(?s:.*)test_custom_kernel.py"):
        f(x).numpy()
    out = dlc.jit(f)(x.to("cuda"))
    assert out.device == "cuda:0"
    np.testing.assert_array_equal(out.numpy(), x.numpy()[:, ::-1])


@pytest.mark.skipif(not os.environ.get("DLC_TEST_DEVICE"), reason="needs a GPU, DLC_TEST_DEVICE=cuda")
def test_blocks_share_memory_on_this_gpu():
    x = f32(5, 8)
    for f in (dlc.custom_kernel(BLOCKS, lambda x: x), dlc.jit(dlc.custom_kernel(BLOCKS, lambda x: x))):
        out = f(x)
        assert out.device.startswith("cuda")
        np.testing.assert_array_equal(out.numpy(), x.numpy()[:, ::-1])


def test_parallel_loops_run_on_gpus_too(gpu):
    a, b = f32(3, 100), f32(3, 100, seed=1)
    close(dlc.jit(swiglu)(a.to("cuda"), b.to("cuda")), plain_swiglu(a, b))


def test_one_thread_of_a_gpu_is_refused(gpu):
    f = dlc.custom_kernel("kernel copy(x: f32[6], out: f32[6] writes)\n  for i in 6:\n    out[i] = x[i]\n", lambda x: x)
    with pytest.raises(DeviceError, match="would run on one thread of the GPU(?s:.*)test_custom_kernel.py"):
        f(f32(6).to("cuda")).numpy()
