"""One run on a GPU machine: is every kind of kernel right, and how fast are the ones with a floor?

    python -m benchmarks.gpu_check [zoo|time] [words that the names of cases begin with, ...]

Needs CuPy; PyTorch, where it is installed, gives the peers' times. The zoo compares whole programs with the graph
interpreter (NumPy); the timings take the median of event-timed launches and try several schedules a kernel. Each part
runs in a process of its own, and goes on in a new one after an error that takes the GPU's context along. Prints
tables, and writes them to $OUT/gpu_check.json where $OUT is set. Exit status 1 if anything is wrong.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cupy
import numpy as np

from dlc.codegen.cuda.kernel import emit_module, symbol
from dlc.codegen.cuda.launch import launch_shape
from dlc.codegen.program.build import target_layout
from dlc.codegen.program.gpu_lowering import LOWER
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import DType, bfloat16, float16, float32, float64
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import Kernel
from dlc.passes.fuse.fuse import fuse
from dlc.passes.fuse.materialize import own_outputs
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.windows import lower_unwindow
from dlc.passes.views.views import memory_of
from dlc.runtime import devices, programs
from dlc.runtime.cuda import device as cuda_device

RNG = np.random.default_rng(0)


def tensor(name: str, *shape: int, dtype: DType = float32) -> Node:
    return param(TensorType(dtype, shape), name)


def this_gpu() -> GpuTarget:
    """The GPU of this machine."""
    p = cupy.cuda.runtime.getDeviceProperties(0)
    arch = f"sm_{p['major']}{p['minor']}" + ("a" if p["major"] >= 9 else "")
    return GpuTarget(arch, p["multiProcessorCount"], p["sharedMemPerBlockOptin"], p["l2CacheSize"])


# ---------------------------------------------------------------- running kernels


_TENSOR_MAP = np.dtype([("words", np.uint64, 16)], align=True)


class Loaded:
    """Compiled kernels, ready to launch on device addresses."""

    def __init__(self, kernels: Sequence[Kernel], target: GpuTarget):
        self.source = emit_module(kernels, target)
        start = time.perf_counter()
        self.module = cupy.RawModule(code=self.source, options=(f"-arch={target.arch}",))
        self.functions = {}
        for k in kernels:
            f = self.module.get_function(symbol(k))
            shared = launch_shape(k).shared_bytes
            if shared > 48 << 10:
                f.max_dynamic_shared_size_bytes = shared
            self.functions[k] = f
        self.seconds = time.perf_counter() - start

    def launch(self, kernel: Kernel, pointers: Sequence[int], sizes: dict[int, int]) -> None:
        shape = launch_shape(kernel)
        grid = shape.grid({kernel.params[k]: n for k, n in sizes.items()})
        maps = [np.frombuffer(cuda_device.gpu().tensor_map(m, pointers[m.param]), _TENSOR_MAP)[0] for m in shape.maps]
        args = (*map(np.intp, pointers), *maps)
        if grid:
            self.functions[kernel]((grid,), (shape.block,), args, shared_mem=shape.shared_bytes)


# ---------------------------------------------------------------- the zoo


def random_arguments(graph: Graph) -> list[np.ndarray]:
    out = []
    for p in graph.params:
        d = p.dtype
        if d.is_bool:
            out.append(RNG.random(p.shape) < 0.5)
        elif d.is_float:
            out.append(np.asarray(RNG.standard_normal(p.shape)).astype(d.np))
        else:
            low, high = dtypes.limits(d)
            out.append(RNG.integers(max(low, -50), min(high, 50), p.shape).astype(d.np))
    return out


def expand(x: Node, like: Node, axes: Sequence[int]) -> Node:
    return B.expand(x, like.shape, axes)


def softmax_of(x: Node, axis: int) -> Node:
    e = B.op("exp", B.op("sub", x, expand(B.reduce(x, "max", (axis,)), x, (axis,))))
    return B.op("div", e, expand(B.reduce(e, "sum", (axis,)), x, (axis,)))


def normalised(x: Node, axes: Sequence[int]) -> Node:
    count = math.prod(x.shape[a] for a in axes)

    def mean(y: Node) -> Node:
        total = B.reduce(y, "sum", axes)
        return expand(B.op("div", total, B.like(total, count)), x, axes)

    centred = B.op("sub", x, mean(x))
    return B.op("mul", centred, B.op("rsqrt", B.op("add", mean(B.op("mul", centred, centred)), B.like(x, 1e-5))))


def gelu_tanh(x: Node) -> Node:
    cube = B.op("mul", B.op("mul", x, x), x)
    inner = B.op("mul", B.op("add", x, B.op("mul", cube, B.like(x, 0.044715))), B.like(x, math.sqrt(2 / math.pi)))
    return B.op("mul", B.op("mul", x, B.like(x, 0.5)), B.op("add", B.op("tanh", inner), B.like(x, 1)))


def chain(m: int, n: int) -> Graph:
    x, b, r = tensor("x", m, n), tensor("b", n), tensor("r", m, n)
    y = gelu_tanh(B.op("add", x, B.broadcast_to(b, x.shape)))
    return Graph((x, b, r), [B.op("add", B.op("mul", y, B.like(y, 0.5)), r)])


def softmax(*shape: int, axis: int = -1, dtype: DType = float32) -> Graph:
    x = tensor("x", *shape, dtype=dtype)
    return Graph((x,), [softmax_of(x, axis % len(shape))])


def layernorm(m: int, n: int, dtype: DType = float32) -> Graph:
    x, w, b = tensor("x", m, n, dtype=dtype), tensor("w", n, dtype=dtype), tensor("b", n, dtype=dtype)
    y = B.op("mul", normalised(x, (1,)), B.broadcast_to(w, x.shape))
    return Graph((x, w, b), [B.op("add", y, B.broadcast_to(b, x.shape))])


def reduction(monoid: str, axes: Sequence[int], *shape: int, dtype: DType = float32) -> Graph:
    x = tensor("x", *shape, dtype=dtype)
    return Graph((x,), [B.reduce(x, monoid, axes)])


def transpose(m: int, n: int, dtype: DType = float32) -> Graph:
    x = tensor("x", m, n, dtype=dtype)
    y = B.permute(x, (1, 0))
    return Graph((x,), [B.op("add", y, B.like(y, 1))])


def gemm(m: int, n: int, k: int, spec: str = "mk,kn->mn", dtype: DType = float32, out: DType | None = None) -> Graph:
    sizes = {"m": m, "n": n, "k": k, "b": 3}
    a, b = spec.split("->")[0].split(",")
    x, y = tensor("x", *(sizes[c] for c in a), dtype=dtype), tensor("y", *(sizes[c] for c in b), dtype=dtype)
    return Graph((x, y), [B.contract(x, y, spec, out)])


def linear_gelu(m: int, k: int, n: int, dtype: DType = float32) -> Graph:
    x, w, b = tensor("x", m, k, dtype=dtype), tensor("w", n, k, dtype=dtype), tensor("b", n, dtype=dtype)
    y = B.contract(x, w, "mk,nk->mn")
    return Graph((x, w, b), [gelu_tanh(B.op("add", y, B.broadcast_to(b, y.shape)))])


def conv(n: int, c: int, h: int, o: int, stride: int = 1, dtype: DType = float32) -> Graph:
    x, w = tensor("x", n, c, h, h, dtype=dtype), tensor("w", o, c, 3, 3, dtype=dtype)
    taps = B.window(B.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), (2, 3), (3, 3), (stride, stride))
    return Graph((x, w), [B.contract(taps, w, "nchwkl,ockl->nohw")])


def adam(*shapes: Sequence[int]) -> Graph:
    lr = tensor("lr")
    params, outputs = [lr], []
    for k, shape in enumerate(shapes):
        p, g, m, v = (tensor(f"{n}{k}", *shape) for n in "pgmv")
        params += [p, g, m, v]
        m2 = B.op("add", B.op("mul", m, B.like(m, 0.9)), B.op("mul", g, B.like(g, 0.1)))
        v2 = B.op("add", B.op("mul", v, B.like(v, 0.999)), B.op("mul", B.op("mul", g, g), B.like(g, 0.001)))
        step = B.op("div", m2, B.op("add", B.op("sqrt", B.op("abs", v2)), B.like(v, 1e-8)))
        outputs += [B.op("sub", p, B.op("mul", step, B.broadcast_to(lr, p.shape))), m2, v2]
    return Graph(params, outputs)


def attention(b: int, t: int, d: int, dtype: DType = float32) -> Graph:
    q, k, v = (tensor(n, b, t, d, dtype=dtype) for n in "qkv")
    scores = B.contract(q, k, "bid,bjd->bij")
    weights = softmax_of(B.op("mul", scores, B.like(scores, d**-0.5)), 2)
    return Graph((q, k, v), [B.contract(weights, v, "bij,bjd->bid")])


def functions(dtype: DType) -> Graph:
    x = tensor("x", 777, dtype=dtype)
    positive = B.op("add", B.op("abs", x), B.like(x, 0.125))
    small = B.op("div", x, B.like(x, 8))
    names = "neg abs sign floor ceil trunc round exp expm1 sin cos tan atan sinh cosh tanh asinh erf"
    outs = [B.op(n, x) for n in names.split()]
    outs += [B.op(n, positive) for n in "sqrt rsqrt log log2 log1p".split()]
    outs += [B.op(n, small) for n in "asin acos atanh".split()] + [B.op("acosh", B.op("add", positive, B.like(x, 1)))]
    outs += [B.op(n, x, B.flip(x, (0,))) for n in "max min atan2 floordiv mod div".split()]
    outs.append(B.op("pow", positive, x))
    return Graph((x,), outs)


def integers(dtype: DType) -> Graph:
    x, y = tensor("x", 333, dtype=dtype), tensor("y", 333, dtype=dtype)
    names = "add sub mul floordiv mod max min and or xor shl shr eq lt"
    unary = ("neg", "abs", "not", "sign")
    casts = [B.cast(x, d) for d in dtypes.ALL]
    return Graph((x, y), [B.op(n, x, y) for n in names.split()] + [B.op(n, x) for n in unary] + casts)


def float_casts(dtype: DType) -> Graph:
    x = tensor("x", 500, dtype=dtype)
    wide = B.op("mul", x, B.like(x, 256))  # exact: the interpreter rounds to half here, a kernel only where it stores
    return Graph((x,), [B.cast(wide, d) for d in dtypes.ALL if not d.is_bool])


def grouped(n: int, h: int, w: int, groups: int, each: int) -> Graph:
    """Normalised groups of channels of an image with channels last in memory."""
    x = tensor("x", n, h, w, groups * each)
    return Graph((x,), [normalised(B.reshape(B.permute(x, (0, 3, 1, 2)), (n, groups, each * h * w)), (2,))])


def table_gradient(n: int, width: int, updates: int, combine: str = "add", dtype: DType = float32) -> Graph:
    """Rows of updates combined into a table, as the gradient of an embedding is."""
    x, u = tensor("x", n, width, dtype=dtype), tensor("u", updates, width, dtype=dtype)
    i = tensor("i", updates, dtype=dtypes.int64)
    at = B.op("mod", i, B.like(i, n))
    return Graph((x, i, u), [make("scatter", (x, at, u), axis=0, combine=combine)])


def ordered() -> Graph:
    x, i, u = tensor("x", 40, 33), tensor("i", 70, dtype=dtypes.int64), tensor("u", 70, 33)
    index = B.op("mod", i, B.like(i, 40))
    outs = [make("scatter", (x, index, u), axis=0, combine=c) for c in ("add", "set", "max")]
    outs += [make("cumulative", (x,), axis=a, monoid=m, reverse=r)
             for a in (0, 1) for m, r in (("sum", False), ("max", True))]
    outs.append(make("gather", (x, index), axis=0))
    outs.append(make("concat", (x, u), axis=0))
    return Graph((x, i, u), outs)


def sorts() -> Graph:
    x = tensor("x", 7, 300)
    outs = []
    for axis, descending in ((1, False), (0, True)):
        s = make("sort", (x,), axis=axis, descending=descending)
        outs += [make("item", (s,), index=k) for k in (0, 1)]
    return Graph((x,), outs)


def zoo() -> dict[str, Callable[[], Graph]]:
    cases: dict[str, Callable[[], Graph]] = {
        "chain": lambda: chain(100, 257), "chain/4": lambda: chain(128, 512),
        "adam": lambda: adam((300, 77), (77,), (), (5000,)),
        "ordered": ordered, "sorts": sorts,
        "conv": lambda: conv(3, 5, 17, 19), "conv/4": lambda: conv(4, 16, 16, 32),
        "conv s2": lambda: conv(2, 8, 15, 9, 2),
        "attention": lambda: attention(3, 100, 64),
        "groups 8": lambda: grouped(16, 32, 32, 8, 8), "groups 3": lambda: grouped(5, 7, 9, 4, 3),
        "table add": lambda: table_gradient(65, 384, 4096), "table wide": lambda: table_gradient(3000, 650, 1000),
        "table set": lambda: table_gradient(65, 100, 5000, "set"),
        "table bf16": lambda: table_gradient(40, 96, 3000, dtype=bfloat16),
        "skinny f64": lambda: gemm(7, 130, 200, "mk,nk->mn", float64),
    }
    for spec in ("mk,nk->mn", "mk,kn->mn", "km,kn->mn", "nk,mk->nm"):
        cases[f"skinny {spec}"] = lambda s=spec: gemm(20, 650, 333, s)
        cases[f"skinny {spec}/4"] = lambda s=spec: gemm(13, 644, 2600, s)
    for shape in ((3, 5), (1000, 33), (64, 1024), (33, 4096), (5, 50304), (4, 100001)):
        cases[f"softmax {shape}"] = lambda s=shape: softmax(*s)
        cases[f"layernorm {shape}"] = lambda s=shape: layernorm(*s)
    cases["softmax axis 0"] = lambda: softmax(100, 300, axis=0)
    cases["softmax f16"] = lambda: softmax(50, 1000, dtype=float16)
    cases["layernorm bf16"] = lambda: layernorm(50, 768, bfloat16)
    for monoid in ("sum", "max", "argmax", "argmin"):
        for axes in ((0,), (1,), (0, 1), (0, 2)):
            cases[f"{monoid} {axes}"] = lambda m=monoid, a=axes: reduction(m, a, 130, 70, 41)
    cases["sum all"] = lambda: reduction("sum", (0, 1), 2000, 3000)
    cases["sum rows"] = lambda: reduction("sum", (0,), 5000, 513)
    for m, n in ((33, 65), (128, 256), (1000, 1000)):
        cases[f"transpose {m}x{n}"] = lambda m=m, n=n: transpose(m, n)
    cases["transpose bf16"] = lambda: transpose(256, 320, bfloat16)
    for dtype in (float32, float64, float16, bfloat16):
        for spec in ("mk,kn->mn", "mk,nk->mn", "km,kn->mn", "mk,kn->nm", "bmk,bkn->bmn"):
            cases[f"{dtype.short} {spec}"] = lambda d=dtype, s=spec: gemm(150, 136, 264, s, d)
        cases[f"{dtype.short} ragged"] = lambda d=dtype: gemm(37, 53, 29, "mk,kn->mn", d)
        cases[f"{dtype.short} deep"] = lambda d=dtype: gemm(64, 48, 8192, "mk,nk->mn", d)
        cases[f"{dtype.short} linear_gelu"] = lambda d=dtype: linear_gelu(96, 128, 160, d)
        cases[f"functions {dtype.short}"] = lambda d=dtype: functions(d)
        cases[f"casts {dtype.short}"] = lambda d=dtype: float_casts(d)
    cases["i32 gemm"] = lambda: gemm(40, 50, 60, dtype=dtypes.int32)
    cases["bf16 conv"] = lambda: conv(4, 16, 16, 32, dtype=bfloat16)
    cases["bf16 attention"] = lambda: attention(3, 128, 64, bfloat16)
    for dtype in dtypes.ALL:
        if dtype.is_int:
            cases[f"integers {dtype.short}"] = lambda d=dtype: integers(d)
    return cases


_TOLERANCE = {"float64": 1e-11, "float32": 3e-5, "float16": 2e-2, "bfloat16": 5e-2}


def difference(got: np.ndarray, want: np.ndarray, dtype: DType) -> str:
    """'' if near enough, else what is wrong."""
    if not dtype.is_float:
        wrong = int(np.sum(got != want))
        return f"{wrong} of {want.size} differ" if wrong else ""
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return f"NaN at {int(np.sum(np.isnan(a) != np.isnan(b)))} places of {b.size}"
    fine = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~fine & ~np.isnan(a)], b[~fine & ~np.isnan(b)]):
        return "infinities differ"
    scale = max(1e-30, float(np.sqrt(np.mean(b[fine] ** 2)))) if fine.any() else 1.0
    error = float(np.max(np.abs(a[fine] - b[fine]) / (scale + np.abs(b[fine])))) if fine.any() else 0.0
    return f"error {error:.2e}" if error > _TOLERANCE[dtype.name] else ""


def check(graph: Graph) -> list[str]:
    """What is wrong with the compiled graph, launched kernel by kernel, and then as one CUDA graph."""
    args = random_arguments(graph)
    executable = programs.compile_graph(graph, device="cuda:0")
    buffers = [devices.allocate(p.type.nbytes, "cuda:0") for p in graph.params]
    for buffer, value, p in zip(buffers, args, graph.params, strict=True):
        devices.write(buffer, np.asarray(value, p.dtype.np))
    want = graph_interp.evaluate(lower_unwindow(remove_markers(graph)), args)
    bad = []
    for call in ("launches", "graph"):
        outs = executable.run(buffers)
        for k, (o, buffer, w) in enumerate(zip(graph.outputs, outs, want, strict=True)):
            text = difference(devices.read(buffer, o.shape, o.dtype.np), np.asarray(w), o.dtype)
            if text:
                bad.append(f"{call}: output {k} ({o.op}): {text}")
    return bad


def run_zoo(names: Sequence[str]) -> None:
    """Prints a JSON line for each case; stops after an error that takes the context along."""
    cases = zoo()
    for name in names:
        lost = False
        start = time.perf_counter()
        try:
            bad = check(cases[name]())
        except Exception as error:  # a report of all cases is worth more than the first traceback
            bad = [f"{type(error).__name__}: {str(error)[:300]}"]
            traceback.print_exc(limit=-3)
            lost = context_lost(error)
        print(RESULT + json.dumps({"name": name, "bad": bad, "seconds": time.perf_counter() - start}), flush=True)
        if lost:
            return


def context_lost(error: Exception) -> bool:
    """Is this an error after which nothing more runs in this process?"""
    return any(word in str(error).lower() for word in ("illegal", "misaligned", "launch failure", "unspecified"))


RESULT = "result: "  # how a line of a part's output begins that is for the process that started it


# ---------------------------------------------------------------- timings


def device_values(graph: Graph) -> tuple[dict[Node, Any], list[Any]]:
    """Random memory for the parameters, and the same as float32 arrays."""
    memory, wide = {}, []
    for p in graph.params:
        values = cupy.random.standard_normal(p.type.size, dtype=cupy.float32)
        memory[p] = values
        if p.dtype.is_int:
            memory[p] = cupy.random.randint(0, 1 << 30, p.type.size).astype(p.dtype.np)
            wide.append(memory[p].astype(cupy.float32))
            continue
        if p.dtype is not float32:
            rounded = cupy.asnumpy(values).astype(p.dtype.np)
            memory[p] = cupy.asarray(rounded.view(np.uint8))
            values = cupy.asarray(rounded.astype(np.float32))
        wide.append(values.reshape(p.shape))
    return memory, wide


def as_float32(memory: Any, dtype: DType) -> Any:
    """Device memory of a tensor as float32 numbers."""
    if dtype is bfloat16:
        return (memory.view(cupy.uint16).astype(cupy.uint32) << 16).view(cupy.float32)
    return memory.view(dtype.np).astype(cupy.float32)


def time_graph(graph: Graph, values: dict[Node, Any], target: GpuTarget, choose: Callable,
               repeats: int = 20) -> tuple[float, str, Any]:
    """Milliseconds for all kernels of a graph with the schedules of `choose`, the registers they take, the output."""
    memory = dict(values)
    graph = own_outputs(target_layout(graph, target))
    fused = fuse(graph)

    def place(node: Node | int) -> int:
        if isinstance(node, int):
            node_size = cupy.asarray(np.array([node]))
            keep.append(node_size)
            return node_size.data.ptr
        if node not in memory:
            memory[node] = cupy.full(node.type.nbytes, 0xFF, cupy.uint8)
        return memory[node].data.ptr

    keep: list[Any] = []
    launches = []
    registers = []
    for group in fused.groups:
        lowered = LOWER[group.kind](fused, group, choose(fused, group, target))
        loaded = Loaded([lowered.kernel], target)
        sizes = {k: n for k, n in enumerate(lowered.nodes) if isinstance(n, int)}
        launches.append((loaded, lowered.kernel, [place(n) for n in lowered.nodes], sizes))
        f = loaded.functions[lowered.kernel]
        registers.append(f"{f.num_regs}r" + (f"+{f.local_size_bytes}L" if f.local_size_bytes else ""))

    def once() -> None:
        for loaded, kernel, pointers, sizes in launches:
            loaded.launch(kernel, pointers, sizes)

    once()
    cupy.cuda.runtime.deviceSynchronize()
    out = graph.outputs[0]
    result = as_float32(memory[memory_of(out)], out.dtype)
    return timed(once, repeats), "/".join(registers), result


def timed(once: Callable[[], None], repeats: int = 20) -> float:
    """Median milliseconds of `once`, replayed from a CUDA graph of three."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        once()
        stream.synchronize()
        stream.begin_capture()
        for _ in range(3):
            once()
        graph = stream.end_capture()
        graph.launch(stream)
        times = []
        for _ in range(repeats):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(start, end) / 3)
    return statistics.median(times)


def only(kind: str, sched: schedule.Schedule) -> Callable:
    """The given schedule for groups of a kind, the usual ones for others."""
    return lambda f, g, t: sched if g.kind == kind else gpu_schedule.choose(f, g, t)


def timings() -> list[tuple[str, float, Graph, list[tuple[str, Callable]]]]:
    """(name, floor in ms, graph, variants)."""
    usual = [("chosen", gpu_schedule.choose)]
    rows = [(f"group {g} block {b}", only("rows", schedule.GpuRows(b, g, 4, k)))
            for b, g, k in ((128, 128, 32), (256, 256, 16), (512, 512, 8), (1024, 1024, 4), (128, 32, 128))]
    maps = [(f"lanes {n} unroll {u} block {b}", only("map", schedule.GpuMap(b, n, u)))
            for n, u, b in ((4, 1, 256), (4, 2, 256), (4, 4, 256), (4, 4, 128), (4, 2, 512), (8, 2, 256), (1, 8, 256))]
    tiles = [(f"tile {n} lanes {v} block {b}", only("map", schedule.GpuMap(b, v, 1, n)))
             for n, v, b in ((32, 1, 256), (64, 1, 256), (64, 4, 256), (32, 4, 256), (64, 1, 512), (64, 2, 256))]
    gemms = [(f"{m}x{n}x{k} {a}x{b} /{c}", only("contract", schedule.GpuContract(m, n, k, a, b, False, c)))
             for m, n, k, a, b, c in ((128, 128, 8, 8, 8, 1), (128, 128, 8, 8, 8, 2), (128, 128, 16, 8, 8, 1),
                                      (128, 128, 16, 8, 8, 2), (128, 128, 32, 8, 8, 1), (256, 128, 8, 16, 8, 1),
                                      (128, 256, 8, 8, 16, 1), (64, 128, 16, 8, 8, 2), (128, 64, 16, 8, 8, 3))]
    mmas = [(f"{m}x{n} stages {s} groups {a}x{b} of {g}", only("contract", schedule.GpuMma(m, n, 64, s, a, b, g)))
            for m, n, s, a, b, g in ((128, 256, 3, 2, 1, 128), (256, 128, 4, 2, 1, 128), (128, 128, 3, 2, 1, 128),
                                     (128, 128, 6, 2, 1, 128), (128, 192, 4, 2, 1, 128), (256, 128, 4, 4, 1, 128),
                                     (128, 128, 4, 2, 4, 32), (128, 128, 3, 2, 2, 32), (128, 256, 4, 2, 4, 32))]
    forward = [(f"bn {n} slices {s} bk {k} along {a} tile {x}x{y} of {t}",
                only("contract", schedule.GpuSkinny(t, 20, n, k, x, y, s, a)))
               for t, n, k, x, y, s, a in ((512, 20, 160, 4, 4, 20, 4), (512, 20, 80, 4, 4, 20, 4),
                                           (256, 20, 160, 4, 4, 10, 4), (256, 20, 80, 4, 4, 10, 2),
                                           (512, 20, 336, 4, 4, 12, 4), (512, 40, 112, 4, 4, 8, 2),
                                           (256, 20, 232, 4, 4, 8, 1), (512, 24, 128, 4, 4, 16, 4),
                                           (512, 32, 160, 4, 8, 20, 4), (512, 16, 224, 4, 4, 14, 4))]
    backward = [(f"bn {n} slices {s} bk {k} along {a} tile {x}x{y} of {t}",
                 only("contract", schedule.GpuSkinny(t, 20, n, k, x, y, s, a)))
                for t, n, k, x, y, s, a in ((512, 8, 400, 4, 4, 50, 4), (512, 12, 256, 4, 4, 32, 4),
                                            (512, 16, 200, 4, 4, 25, 4), (512, 20, 160, 4, 4, 20, 4),
                                            (256, 8, 200, 4, 4, 25, 4), (512, 8, 200, 4, 4, 50, 2),
                                            (512, 8, 192, 10, 4, 96, 2), (256, 16, 192, 4, 4, 12, 4))]
    return [
        ("skinny 20x2600x650", 0.003, gemm(20, 2600, 650, "mk,nk->mn"), usual + forward),
        ("skinny 20x650x2600", 0.003, gemm(20, 650, 2600, "mk,kn->mn"), usual + backward),
        ("table 65x384 of 16384", 0.015, table_gradient(65, 384, 16384), usual),
        ("table 65x384 of 16384 bf16", 0.015, table_gradient(65, 384, 16384, dtype=bfloat16), usual),
        ("table 50304x768 of 16384", 0.11, table_gradient(50304, 768, 16384), usual),
        ("table 10000x650 of 700", 0.02, table_gradient(10000, 650, 700), usual),
        ("groups 64x1024x8x8", 0.012, grouped(64, 32, 32, 8, 8), usual),
        ("k_chain", 0.137, chain(8192, 4096), usual + maps),
        ("k_softmax", 0.094, softmax(8192, 4096), usual + rows),
        ("k_layernorm", 0.094, layernorm(8192, 4096), usual + rows),
        ("k_sum0", 0.052, reduction("sum", (0,), 8192, 4096), usual),
        ("k_sum1", 0.052, reduction("sum", (1,), 8192, 4096), usual + rows),
        ("k_sum", 0.052, reduction("sum", (0, 1), 8192, 4096), usual),
        ("k_transpose", 0.098, transpose(4096, 8192), usual + tiles),
        ("adam 32M", 0.31, adam((1 << 25,)), usual),
        ("gemm 4096 f32", 3.0, gemm(4096, 4096, 4096), usual + gemms),
        ("gemm 4096 f32 nt", 3.0, gemm(4096, 4096, 4096, "mk,nk->mn"), usual),
        ("gemm 4096 f32 tn", 3.0, gemm(4096, 4096, 4096, "km,kn->mn"), usual),
        ("gemm 1024 f32", 0.06, gemm(1024, 1024, 1024), usual),
        ("gemm 4096 bf16", 0.24, gemm(4096, 4096, 4096, dtype=bfloat16), usual + mmas),
        ("gemm 4096 bf16 nt", 0.24, gemm(4096, 4096, 4096, "mk,nk->mn", bfloat16), usual + mmas),
        ("gemm 4096 bf16 tn", 0.24, gemm(4096, 4096, 4096, "km,kn->mn", bfloat16), usual),
        ("gemm 8192 bf16", 1.9, gemm(8192, 8192, 8192, dtype=bfloat16), usual),
        ("gemm 1024 bf16", 0.02, gemm(1024, 1024, 1024, dtype=bfloat16), usual),
        ("conv 64x64x32x32 bf16", 0.0, conv(64, 64, 32, 64, dtype=bfloat16), usual),
        ("conv 64x64x32x32 f32", 0.0, conv(64, 64, 32, 64), usual),
    ]


def peers() -> dict[str, float]:
    """Milliseconds of PyTorch's own kernels, where it is installed."""
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        return {}
    x, r = (torch.randn(8192, 4096, device="cuda") for _ in range(2))
    b = torch.randn(4096, device="cuda")
    a, c = (torch.randn(4096, 4096, device="cuda") for _ in range(2))
    h, i = a.bfloat16(), c.bfloat16()
    torch.backends.cuda.matmul.allow_tf32 = False
    cases = {
        "copy": lambda: r.copy_(x), "k_softmax": lambda: torch.softmax(x, 1),
        "k_layernorm": lambda: F.layer_norm(x, (4096,), b, b), "k_sum0": lambda: x.sum(0),
        "gemm 4096 f32": lambda: a @ c, "gemm 4096 bf16": lambda: h @ i,
    }
    out = {}
    for name, once in cases.items():
        for _ in range(3):
            once()
        times = []
        for _ in range(10):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(3):
                once()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 3)
        out[name] = statistics.median(times)
    return out


def run_timings(target: GpuTarget, names: Sequence[str]) -> None:
    """Prints a JSON line for each "case/variant", whose result is compared with cuBLAS' or the first variant's."""
    for name, floor, graph, variants in timings():
        wanted = [(v, choose) for v, choose in variants if f"{name}/{v}" in names]
        if not wanted:
            continue
        values, wide = device_values(graph)
        reference = None
        node = graph.outputs[0]
        if node.op == "contract" and graph.params == node.inputs:
            reference = cupy.einsum(node.attrs["spec"], *wide).reshape(-1)
        for variant, choose in wanted:
            row: dict[str, Any] = {"name": f"{name}/{variant}", "floor": floor, "bad": []}
            lost = False
            try:
                row["ms"], row["registers"], result = time_graph(graph, values, target, choose)
                reference = result if reference is None else reference
                error = float(cupy.linalg.norm(result - reference) / cupy.linalg.norm(reference))
                row["error"] = error
                if not error < (5e-3 if node.dtype.is_half else 1e-5):
                    row["bad"] = [f"error {error:.2e}"]
            except Exception as error:
                row["bad"] = [f"{type(error).__name__}: {str(error)[:150]}"]
                lost = context_lost(error)
            text = f"{row['ms']:9.4f} ms" if "ms" in row else "        -   "
            print(f"{row['name']:56s} {text}  floor {floor:.3f}  {row.get('registers', '')} {row['bad'] or ''}")
            print(RESULT + json.dumps(row), flush=True)
            if lost:
                return


def run_parts(part: str, names: list[str]) -> list[dict[str, Any]]:
    """Run cases in child processes, a new one after each lost context."""
    rows: list[dict[str, Any]] = []
    while names:
        child = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu_check", "child", part, *names],
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        seen = set()
        for line in child.stdout:
            if line.startswith(RESULT):
                rows.append(json.loads(line.removeprefix(RESULT)))
                seen.add(rows[-1]["name"])
            else:
                print(line, end="", flush=True)
        if child.wait() and names[0] not in seen:  # died without a word
            rows.append({"name": names[0], "bad": [f"exit status {child.returncode}"]})
            seen.add(names[0])
        names = [n for n in names if n not in seen]
    return rows


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["child"]:
        if arguments[1] == "zoo":
            run_zoo(arguments[2:])
        else:
            run_timings(this_gpu(), arguments[2:])
        return 0
    parts = [p for p in ("zoo", "time") if p in arguments] or ["zoo", "time"]
    words = [a for a in arguments if a not in ("zoo", "time")]
    result: dict[str, Any] = {"target": repr(this_gpu())}
    print(result["target"], cupy.__version__, flush=True)
    cases = {"zoo": list(zoo()), "time": [f"{n}/{v}" for n, _, _, vs in timings() for v, _ in vs]}
    bad = []
    for part in parts:
        names = [n for n in cases[part] if not words or n.startswith(tuple(words))]
        result[part] = run_parts(part, names)
        wrong = [f"{r['name']}: {b}" for r in result[part] for b in r["bad"]]
        print(f"{part}: {len(result[part])} cases, {len(wrong)} wrong", flush=True)
        bad += wrong
    if "time" in parts:
        result["peers"] = peers()
        print("peers (PyTorch), ms:", {k: round(v, 4) for k, v in result["peers"].items()})
        best: dict[str, dict[str, Any]] = {}
        for r in result["time"]:
            name = r["name"].split("/")[0]
            if not r["bad"] and r["ms"] < best.get(name, {"ms": math.inf})["ms"]:
                best[name] = r
        chosen = {r["name"].split("/")[0]: r.get("ms") for r in result["time"] if r["name"].endswith("/chosen")}
        print("\ncase                     floor    chosen      best  of")
        for name, r in best.items():
            ms = chosen.get(name)
            print(f"{name:24s} {r['floor']:.3f} {ms or math.nan:9.4f} {r['ms']:9.4f}  {r['name'].split('/', 1)[1]}")
    print("\n".join(bad))
    if "OUT" in os.environ:
        with open(os.path.join(os.environ["OUT"], "gpu_check.json"), "w") as f:
            json.dump(result, f, indent=1)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
