"""Generated CUDA C, run: by tests/cuda_on_cpu, with threads and blocks in several orders, against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.codegen.layout import gpu_aligned_operands
from dlc.ir.dtypes import bfloat16, float16, float32, float64
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.loops import schedule
from dlc.ir.loops.interp.values import tf32
from dlc.passes.autodiff.vjp import expand
from dlc.runtime import devices
from dlc.runtime import programs as compiler
from dlc.runtime.cuda import compile as cuda_compile
from tests import cuda_on_cpu
from tests.codegen.test_cuda_programs import forced
from tests.codegen.test_gpu_convolutions import convolution
from tests.codegen.test_gpu_scatter import args_of, scatter
from tests.passes import programs
from tests.passes.attention_graphs import attention
from tests.passes.programs import tensor
from tests.random_graphs import arguments, graphs, integer_graphs
from tests.runtime.test_cuda_executable import on_gpu

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")
_TOLERANCE = {"float64": 1e-12, "float32": 3e-5, "float16": 2e-2, "bfloat16": 6e-2}


def check(monkeypatch, *graphs: Graph, args=None, arch: str = "sm_90a", orders=((0, True), (1, False), (2, True)),
          tolerance: float = 0.0, matrices: bool = False, exact: bool = False, sm_count: int = 0,
          races: bool = True) -> str:
    """Run graphs as one program, and again with threads in other orders; its CUDA C. With `exact` results are compared
    with those of the same graph without rounding, as near as halves allow."""
    params = [p for g in graphs for p in g.params]
    graph = Graph(params, [o for g in graphs for o in g.outputs])
    args = [a for g in graphs for a in arguments(g)] if args is None else args
    want = graph_interp.evaluate(expand(graph) if exact else graph, args, wide=exact)
    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(arch=arch, sm_count=sm_count, races=races))
    executable = compiler.compile_graph(graph, device="cuda:0", tf32=matrices)
    for gpu.order, gpu.late in orders:
        out = executable.run([on_gpu(np.asarray(a)) for a in args])
        for node, buffer, w in zip(graph.outputs, out, want, strict=True):
            got = devices.read(buffer, node.shape, node.dtype.np)
            if exact:
                np.testing.assert_allclose(got.astype(np.float64), w, 0.03, 0.012 * np.abs(w).max())
            elif node.dtype.is_float:
                half = any(getattr(n.type, "dtype", float32).is_half for n in graph.nodes())
                t = tolerance or _TOLERANCE["bfloat16" if half else node.dtype.name]
                np.testing.assert_allclose(got.astype(np.float64), w.astype(np.float64), t, t)
            else:
                np.testing.assert_array_equal(got, w)
    return cuda_compile.source(executable.program, gpu.target(0))


def test_maps(monkeypatch):
    x, y = tensor("x", 3, 5), tensor("y", 3, 5)
    one = Graph((x, y), [B.op("add", B.op("mul", x, y), x), B.op("exp", y)])
    x, row = tensor("x", 2, 192), tensor("row", 192)
    two = Graph((x, row), [B.op("add", B.op("mul", x, x), B.broadcast_to(row, x.shape))])
    check(monkeypatch, one, two, programs.softmax((3, 20), dtype=float16), programs.softmax((3, 19), dtype=float64))


def test_gates_and_orders_at_the_edge(monkeypatch):
    """Saturated gates with their derivatives, and NaN in sorted rows."""
    x = tensor("x", 2, 12)
    gate = B.op("sigmoid", x)
    slope = expand(Graph((x,), [B.item(make("vjp", (gate, B.like(x, 1), x), outputs=1), 0)])).outputs[0]
    orders = [make("sort", (x,), axis=1, descending=d) for d in (False, True)]
    graph = Graph((x,), [gate, slope, *(B.item(s, k) for s in orders for k in (0, 1))])
    ends = [0.0, -0.5, 20.0, -20.0, 88.0, -88.0, 90.0, -90.0, 3e38, -3e38, np.inf, -np.inf]
    bad = [np.nan, 1.0, -np.inf, np.nan, np.inf, 0.0, 2.0, -1.0, 5.0, 4.0, 3.0, -2.0]
    check(monkeypatch, graph, args=[np.array([ends, bad], np.float32)])


@pytest.mark.parametrize("order", [(1, 0), (0, 2, 1), (2, 1, 0)])
def test_transposes(monkeypatch, order):
    shape = (33, 40) if len(order) == 2 else (17, 3, 36)
    graphs = []
    for dtype in (float32, float16):
        x = tensor("x", *shape, dtype=dtype)
        graphs.append(Graph((x,), [B.op("neg", B.permute(x, order))]))
    check(monkeypatch, *graphs)


def test_rows_and_columns(monkeypatch):
    x = tensor("x", 5, 1030)
    reductions = Graph((x,), [B.reduce(x, m, (a,)) for m in ("sum", "max", "argmin") for a in (0, 1)])
    check(monkeypatch, reductions, programs.softmax((3, 33)), programs.softmax((33, 3), 0), programs.softmax((2, 1030)),
          programs.layernorm(3, 260), programs.batchnorm(3, 5, 3))


def test_split_reductions(monkeypatch):
    x = tensor("x", 1 << 13, 24)
    text = check(monkeypatch, Graph((x,), [B.reduce(x, "sum", a) for a in ((0,), (0, 1))]), orders=((2, True),),
                 tolerance=1e-3)
    assert text.count("__global__") > 2


# ------------------------------------------------------------------------------------------------------- contractions

_SPECS = [("mk,kn->mn", (33, 72), (72, 80)), ("mk,nk->mn", (70, 40), (20, 40)), ("km,kn->mn", (24, 72), (24, 40)),
          ("km,nk->nm", (40, 72), (34, 40)), ("bmk,bkn->bmn", (2, 17, 24), (2, 24, 48))]  # fmt: skip


def products(dtype=float32, specs=_SPECS) -> list[Graph]:
    graphs = []
    for spec, a, b in specs:
        x, y = tensor("x", *a, dtype=dtype), tensor("y", *b, dtype=dtype)
        z = B.contract(x, y, spec)
        graphs.append(Graph((x, y), [B.op("add", z, B.like(z, 1))]))
    return graphs


def test_float32(monkeypatch):
    odd = [("ik,kj->ij", (5, 3), (3, 9)), ("i,i->", (9,), (9,)), ("k,kj->j", (33,), (33, 11)), ("i,j->ij", (5,), (7,))]
    text = check(monkeypatch, *products(), *products(specs=odd), *products(float64, odd[:2]))
    assert "mma" not in text


@pytest.mark.parametrize("tile", [(16, 16, 4, 4, 4), (32, 16, 8, 8, 2), (16, 64, 8, 4, 8)])
def test_tiles_of_float32(monkeypatch, tile):
    forced(monkeypatch, "contract", schedule.GpuContract(*tile, False))
    check(monkeypatch, *products(), orders=((1, True),), races=tile[0] == 32)


def test_tf32(monkeypatch):
    forced(monkeypatch, "contract", schedule.GpuMma(32, 64, 32, 4, 2, 2, 32))
    graphs = products()
    args = [tf32(np.asarray(a, np.float32)) for g in graphs for a in arguments(g)]
    assert "mma_tf32<" in check(monkeypatch, *graphs, args=args, arch="sm_80", matrices=True)


@pytest.mark.parametrize("sched", [
    schedule.GpuMma(64, 32, 64, 5, 1, 2, 32), schedule.GpuMma(32, 64, 64, 3, 2, 2, 32),
    schedule.GpuMma(128, 64, 64, 3, 2, 1, 128), schedule.GpuMma(64, 64, 64, 3, 1, 1, bulk=True),
    schedule.GpuMma(128, 64, 64, 2, 2, 1, bulk=True, persistent=3),
], ids=lambda s: f"{s.bm}x{s.bn}-{s.lanes}-{'bulk' if s.bulk else 'threads'}")  # fmt: skip
def test_half_floats(monkeypatch, sched):
    forced(monkeypatch, "contract", sched)
    text = check(monkeypatch, *products(bfloat16), *products(float16, _SPECS[:1]))
    assert ("mma_16<" in text) == (sched.lanes == 32) and ("bulk_copy" in text) == sched.bulk


_LARGE = [("mk,kn->mn", (264, 136), (136, 520)), ("km,nk->nm", (136, 264), (520, 136))]


@pytest.mark.parametrize("dtype, matrices, arch, words", [
    (bfloat16, False, "sm_80", ["mma_16<"]), (bfloat16, False, "sm_90a", ["wgmma_64x", "_registers<", "bulk_copy_2("]),
    (float32, True, "sm_90a", ["mma_tf32<"]), (float32, False, "sm_80", []),
])  # fmt: skip
@pytest.mark.parametrize("sm_count", [1, 2])
def test_the_tiles_of_large_products(monkeypatch, sm_count, dtype, matrices, arch, words):
    graphs = products(dtype, _LARGE)
    args = [a if dtype is bfloat16 else np.asarray(tf32(a)) for g in graphs for a in arguments(g)]
    text = check(monkeypatch, *graphs, args=args, arch=arch, matrices=matrices, sm_count=sm_count,
                 orders=((sm_count + 1, True),), tolerance=0.06 if dtype is bfloat16 else 1e-4,
                 races=False)
    assert all(word in text for word in words)


def test_long_inner_ranges_and_few_rows(monkeypatch):
    specs = [("mk,kn->mn", (4, 192), (192, 8)), ("mk,nk->mn", (5, 66), (65, 66)), ("mk,kn->mn", (3, 250), (250, 6))]
    text = check(monkeypatch, *products(specs=specs), *products(bfloat16, [("mk,kn->mn", (4, 2048), (2048, 8))]))
    assert text.count("__global__") > 4


@pytest.mark.parametrize("dtype, arch", [(bfloat16, "sm_80"), (bfloat16, "sm_90a"), (float32, "sm_80")])
def test_convolutions(monkeypatch, dtype, arch):
    monkeypatch.setattr(gpu_aligned_operands, "WORTH", 0)
    monkeypatch.setattr(gpu_aligned_operands, "PRODUCTS", 0)
    graphs = [convolution(n, c, h, o, stride, dtype, part) for part in ("fwd", "dgrad", "wgrad")
              for n, c, h, o, stride in ((2, 16, 6, 8, 1), (3, 3, 5, 8, 1), (2, 8, 7, 16, 2))]
    check(monkeypatch, *graphs, arch=arch, orders=((1, True),))


# ------------------------------------------------------------------------------------------- attention, ordered, loops


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_attention(monkeypatch, arch):
    graphs = [attention((), 70, mask="causal", gradient=True), attention((2,), 33, 80, inner=24, value=8),
              attention((), 17, inner=80, value=72, drop=True, gradient=True)]
    text = check(monkeypatch, *graphs, arch=arch, exact=True)
    assert ("wgmma_held_64x" if arch == "sm_90a" else "mma_held_16<") in text


def test_scatter_sort_and_cumulative(monkeypatch):
    small = [scatter((7, 40), (530,), (530, 40), combine=c) for c in ("add", "set", "max")]
    small += [scatter((5, 40), (16, 64), (16, 64, 40), dtype=bfloat16), scatter((6, 5), (9,), (9, 5))]
    x = tensor("x", 6, 5)
    outs = [make("cumulative", (x,), axis=a, monoid="sum", reverse=r) for a in (0, 1) for r in (False, True)]
    s = make("sort", (x,), axis=1, descending=True)
    ordered = Graph((x,), [*outs, *(make("item", (s,), index=k) for k in (0, 1))])
    rng = np.random.default_rng(0)
    args = [a for g in small for a in args_of(g, "skewed", rng)] + arguments(ordered)
    check(monkeypatch, *small, ordered, args=args)


def test_a_loop(monkeypatch):
    c, x, w = tensor("c", 3, 20), tensor("x", 3, 20), tensor("w", 20, 20)
    new = B.op("tanh", B.op("add", B.contract(c, w, "ij,jk->ik"), x))
    start, rows, weights = tensor("start", 3, 20), tensor("rows", 5, 3, 20), tensor("weights", 20, 20)
    s = make("scan", (weights, start, rows), body=Graph((w, c, x), [new, B.op("neg", new)]), consts=1, carry=1,
             length=5, reverse=False)
    check(monkeypatch, Graph((weights, start, rows), [B.item(s, 0), B.item(s, 1)]))


# ------------------------------------------------------------------------------------------------------- random graphs

_SETTINGS = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@_SETTINGS
@given(st.lists(integer_graphs(), min_size=6, max_size=6), st.integers(0, 10_000))
def test_random_integer_graphs(several, seed):
    with pytest.MonkeyPatch.context() as patch:
        check(patch, *several, args=[a for g in several for a in arguments(g, seed)], orders=((seed, True),))


@_SETTINGS
@given(st.lists(graphs(float_types=(float32, float64), max_extent=9), min_size=6, max_size=6), st.integers(0, 10_000))
def test_random_graphs(several, seed):
    with pytest.MonkeyPatch.context() as patch:
        check(patch, *several, args=[a for g in several for a in arguments(g, seed)], orders=((seed, True),),
              tolerance=1e-3)


# ------------------------------------------------------------------------------------------------------ training steps


def mlp():
    model = nn.Sequential(nn.Linear(12, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.3), nn.Linear(40, 5))
    return model, lambda x, y: F.cross_entropy(model(x), y), ((9, 12), (9,), 5)


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.one, self.two, self.skip = nn.BatchNorm2d(out), nn.BatchNorm2d(out), nn.Conv2d(channels, out, 1, stride)

    def forward(self, x):
        return F.relu(self.two(self.second(F.relu(self.one(self.first(x))))) + self.skip(x))


def resnet():
    model = nn.Sequential(Block(3, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return model, lambda x, y: F.cross_entropy(model(x), y), ((4, 3, 8, 8), (4,), 5)


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(19, 32), nn.Embedding(21, 32)
        self.norm, self.wide, self.narrow = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 19)

    def forward(self, x):
        b, t = x.shape
        x = self.tokens(x) + self.places(dlc.arange(t))
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).permute(0, 2, 1, 3).reshape(b, t, 32)
        x = x + self.out(y)
        return self.head(x + self.narrow(F.gelu(self.wide(x))))


def gpt():
    model = Gpt()

    def loss(x, y):
        with dlc.autocast(dlc.bfloat16):
            return F.cross_entropy(model(x).reshape(-1, 19), y.reshape(-1))

    return model, loss, ((3, 21), (3, 21), 19)


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.rnn, self.head = nn.Embedding(19, 12), nn.LSTM(12, 20, 2), nn.Linear(20, 19)

    def forward(self, x):
        return self.head(self.rnn(self.tokens(x))[0])


def lstm():
    model = Lstm()
    return model, lambda x, y: F.cross_entropy(model(x).reshape(-1, 19), y.reshape(-1)), ((7, 3), (7, 3), 19)


def trained(build) -> list[np.ndarray]:
    """The losses of three steps, and the gradients of the first, on the default device."""
    dlc.manual_seed(0)
    model, loss_of, (x_shape, y_shape, classes) = build()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    y = dlc.asarray(rng.integers(0, classes, y_shape))
    x = y if x_shape == y_shape else dlc.asarray(rng.standard_normal(x_shape).astype(np.float32))

    @dlc.jit
    def step(x, y):
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss, [p.grad for p in model.parameters()]

    (first, grads), (second, _), (third, _) = (step(x, y) for _ in range(3))
    return [t.numpy().astype(np.float64) for t in (first, second, third, *grads)]


@pytest.mark.parametrize("build, arch, tolerance", [
    (mlp, "sm_90a", 1e-4), (resnet, "sm_80", 2e-3), (gpt, "sm_80", 0.03), (gpt, "sm_90a", 0.03), (lstm, "sm_80", 1e-4),
])  # fmt: skip
@pytest.mark.slow
def test_training_steps(monkeypatch, build, arch, tolerance):
    want = trained(build)
    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(arch=arch, order=5, races=True))
    dlc.set_default_device("cuda")
    got = trained(build)
    assert gpu.calls["graph launches"] >= 2
    for a, b in zip(got, want, strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b) + 1e-6
