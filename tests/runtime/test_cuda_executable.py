"""Programs run on a GPU that is imitated: kernels by the Loop IR interpreter, CUDA's calls recorded."""

import threading

import numpy as np
import pytest

from dlc.base.errors import DeviceError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, TensorType, make, param
from dlc.ir.graph.interp import evaluate
from dlc.runtime import devices, programs
from dlc.runtime.cpu import memory
from dlc.runtime.cuda import executable as cuda_executable
from dlc.runtime.cuda import memory as cuda_memory
from tests import fake_gpu
from tests.runtime.test_cuda_plan import f32, scan_graph


@pytest.fixture
def gpu(monkeypatch):
    return fake_gpu.use(monkeypatch)


def on_gpu(array):
    buffer = cuda_memory.allocate(array.nbytes, 0)
    cuda_memory.upload(buffer, array)
    return buffer


def check(graph, executable, arrays, buffers=None, rtol=1e-5):
    out = executable.run(buffers or [on_gpu(a) for a in arrays])
    expected = evaluate(graph, arrays)
    for buffer, value, node in zip(out, expected, graph.outputs, strict=True):
        np.testing.assert_allclose(devices.read(buffer, node.shape, node.dtype.np), value, rtol=rtol, atol=1e-5)
    return out


def layers(n=6, m=9):
    """Two chains that meet: some kernels may run at the same time, and tensors share the arena."""
    x, w, v = f32(n, m), f32(m, m), f32(m, n)
    left = b.op("exp", b.op("mul", b.contract(x, w, "ij,jk->ik"), b.like(x, 0.1)))
    right = b.permute(b.contract(b.op("neg", v), x, "ij,jk->ik"), (1, 0))
    total = b.sum_(b.op("mul", left, b.contract(left, right, "ij,jk->ik")), (1,))
    return Graph((x, w, v), [total, b.sum_(left, (0,)), b.op("tanh", right)], "layers")


def arrays_for(graph, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(p.shape).astype(p.dtype.np) for p in graph.params]


@pytest.mark.parametrize("concurrent", [True, False])
def test_a_graph_from_the_second_call(gpu, monkeypatch, concurrent):
    monkeypatch.setattr(cuda_executable, "CONCURRENT", concurrent)
    graph = layers()
    executable = programs.compile_graph(graph, device="cuda:0")
    launches = executable.plan.launches()
    for call in range(4):
        check(graph, executable, arrays_for(graph, call))
    assert gpu.calls["kernel launches"] == launches and gpu.calls["graphs"] == 1 and gpu.calls["graph launches"] == 3
    # everything stays where it is: no argument changes, nothing is copied
    arrays = arrays_for(graph, 9)
    buffers = [on_gpu(a) for a in arrays]
    out = check(graph, executable, arrays, buffers)
    kept = [b.address for b in out]
    del out
    gpu.calls.clear()
    again = executable.run(buffers)
    moved = sum(b.address != a for b, a in zip(again, kept, strict=True))
    assert gpu.calls["copies in"] == 0 and (moved or gpu.calls["updated kernels"] == 0)


def test_only_kernels_with_moved_arguments_are_updated(gpu):
    graph = layers()
    executable = programs.compile_graph(graph, device="cuda:0")
    arrays = arrays_for(graph)
    buffers = [on_gpu(a) for a in arrays]
    outs = [check(graph, executable, arrays, buffers) for _ in range(2)]
    gpu.calls.clear()
    arrays[2] = arrays[2] + 1
    buffers[2] = on_gpu(arrays[2])
    check(graph, executable, arrays, buffers)
    users = {k for k, s in enumerate(executable.plan.steps) for a in s.arguments if a.base in (2, 3, 4, 5)}
    assert gpu.calls["updated kernels"] == len(users) < executable.plan.launches()
    del outs


def test_donated_state(gpu):
    p, g = f32(300, name="p"), f32(300)
    new = b.op("sub", p, b.op("mul", g, b.like(g, 0.5)))
    graph = Graph((p, g), [b.sum_(new, (0,)), new])
    executable = programs.compile_graph(graph, ((0, 1),), device="cuda:0")
    value, step = arrays_for(graph)
    state, fixed = on_gpu(value), on_gpu(step)
    for _ in range(4):
        value = value - step * np.float32(0.5)
        total, same = executable.run([state, fixed])
        assert same is state
        np.testing.assert_allclose(devices.read(state, (300,), np.float32), value, rtol=1e-5)
        np.testing.assert_allclose(devices.read(total, (), np.float32), value.sum(), rtol=1e-4)
    with pytest.raises(DeviceError, match="state 0 is on cuda:1"):
        executable.run([devices.copied(state, "cuda:1"), fixed])


def test_inputs_in_host_memory(gpu):
    x, n, m = f32(64), param(TensorType(dtypes.float64, ())), f32(3000)
    graph = Graph((x, n, m), [b.op("mul", x, b.broadcast_to(b.cast(n, dtypes.float32), (64,))), b.op("neg", m)])
    executable = programs.compile_graph(graph, device="cuda:0")
    arrays = arrays_for(graph)
    x_buffer = on_gpu(arrays[0])
    for value, big, copies in ((2.0, 1.0, 2), (2.0, 2.0, 1), (3.0, 2.0, 2)):
        arrays = [arrays[0], np.array(value), np.full(3000, big, np.float32)]
        gpu.calls.clear()
        buffers = [x_buffer, memory.from_array(arrays[1]), memory.from_array(arrays[2])]
        check(graph, executable, arrays, buffers)
        assert gpu.calls["copies in"] == copies  # the small ones only if they changed
    check(graph, executable, arrays, [devices.copied(x_buffer, "cuda:1"), *buffers[1:]])


@pytest.mark.parametrize("limit", [20_000, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_loops(gpu, monkeypatch, limit, reverse):
    monkeypatch.setattr(cuda_executable, "GRAPH_LIMIT", limit)
    graph = scan_graph(9, reverse)
    executable = programs.compile_graph(graph, device="cuda:0")
    for call in range(3):
        check(graph, executable, arrays_for(graph, call))
    assert gpu.calls["graphs"] == (limit > 8)
    assert gpu.calls["kernel launches"] == executable.plan.launches() * (3 if limit == 8 else 1)


def test_nested_loops(gpu, monkeypatch):
    """A running product over the columns of a running sum over rows."""
    c, e = f32(), f32()
    inner = Graph((c, e), (b.op("add", c, e), b.op("mul", c, e)), "inner")
    carry, row = f32(3), f32(3)
    fresh = b.sum_(carry, (0,))
    columns = make("scan", (fresh, row), None, body=inner, length=3, consts=0, carry=1, reverse=False)
    body = Graph((carry, row), (b.op("add", carry, row), b.item(columns, 1)), "body")
    start, rows = f32(3), f32(4, 3)
    loop = make("scan", (start, rows), None, body=body, length=4, consts=0, carry=1, reverse=True)
    graph = Graph((start, rows), [b.item(loop, 0), b.item(loop, 1)])
    for limit in (20_000, 8):
        monkeypatch.setattr(cuda_executable, "GRAPH_LIMIT", limit)
        executable = programs.compile_graph(graph, device="cuda:0")
        for call in range(2):
            check(graph, executable, arrays_for(graph, call))


def test_nothing_to_do(gpu):
    x = f32(0, 3)
    graph = Graph((x,), [b.op("exp", x)])
    executable = programs.compile_graph(graph, device="cuda:0")
    for _ in range(2):
        check(graph, executable, arrays_for(graph))


def test_threads_take_turns(gpu):
    graph = layers()
    executable = programs.compile_graph(graph, device="cuda:0")
    arrays = [arrays_for(graph, k) for k in range(6)]
    expected = [evaluate(graph, a) for a in arrays]
    failures = []

    def work(k):
        for _ in range(4):
            out = executable.run([on_gpu(a) for a in arrays[k]])
            for buffer, value, node in zip(out, expected[k], graph.outputs, strict=True):
                got = devices.read(buffer, node.shape, node.dtype.np)
                if not np.allclose(got, value, rtol=1e-4, atol=1e-5):
                    failures.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures and gpu.calls["graphs"] == 1


def test_the_arena_is_shared_and_grows(gpu):
    small, large = layers(4, 5), layers(40, 30)
    a, z = (programs.compile_graph(g, device="cuda:0") for g in (small, large))
    for _ in range(3):
        check(small, a, arrays_for(small))
        check(large, z, arrays_for(large), rtol=1e-3)
        cuda_memory.release_arenas()
    assert z.arena_bytes > a.arena_bytes > 0
    check(large, z, arrays_for(large), rtol=1e-3)
    check(small, a, arrays_for(small))
    scratch = [b for b in cuda_memory._buffers(0) if "scratch" in str(b.label)]
    assert len(scratch) == 1 and scratch[0].nbytes == z.arena_bytes


def test_out_of_memory_gives_the_arena_back_first(monkeypatch):
    fake_gpu.use(monkeypatch, fake_gpu.FakeGpu(1, 100_000))
    assert cuda_memory.arena(60_000, 0).nbytes == 60_000
    kept = cuda_memory.allocate(80_000, 0, "something large")
    with pytest.raises(MemoryError, match=r"78.1 KiB +something large"):
        cuda_memory.allocate(50_000, 0)
    del kept
    assert cuda_memory.allocate(50_000, 0).nbytes == 50_000


def test_profile(gpu):
    graph = scan_graph(5)
    executable = programs.compile_graph(graph, device="cuda:0", profile=True)
    check(graph, executable, arrays_for(graph))
    assert executable.program is not None and len(executable.times) >= 2 and all(t > 0 for t in executable.times)
    check(graph, executable, arrays_for(graph))
    assert gpu.calls["graphs"] == 0


def test_segments_are_launches(gpu):
    """One optimizer update of many parameters: a launch for each, of one kernel."""
    params = [f32(k) for k in (5, 21, 300)]
    graph = Graph(params, [b.op("mul", p, b.like(p, 0.5)) for p in params])
    executable = programs.compile_graph(graph, tuple((k, k) for k in range(3)), device="cuda:0")
    arrays = arrays_for(graph)
    buffers = [on_gpu(a) for a in arrays]
    executable.run(buffers)
    for buffer, a in zip(buffers, arrays, strict=True):
        np.testing.assert_allclose(devices.read(buffer, a.shape, np.float32), a / 2)
