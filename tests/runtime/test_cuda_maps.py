"""Tensor maps: what the driver is asked for, and that launches have them for the addresses that they use."""

from __future__ import annotations

import ctypes
import json

import ml_dtypes
import numpy as np
import pytest

from dlc.base.errors import DeviceError
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.ir.dtypes import bfloat16
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, TensorType, make, param
from dlc.ir.loops import schedule
from dlc.ir.program.tensor_map import TensorMap
from dlc.runtime import devices, programs
from dlc.runtime.cuda import maps as cuda_maps
from dlc.runtime.cuda import plan as cuda_plan
from tests import fake_gpu
from tests.runtime.test_cuda_executable import on_gpu

P, U = ctypes.c_void_p, ctypes.c_uint
SPEC = TensorMap(1, "bfloat16", 8, (5, 7, 64), (512, 64, 1), (1, 4, 64), True)


class Driver:
    def __init__(self, status: int = 0):
        def encode(at, *args):
            ctypes.memset(at, 7, 128)
            read = {k: (ctypes.c_uint64 if k in (3, 4) else ctypes.c_uint32) * args[1] for k in (3, 4, 5, 6)}
            self.call = [at % 64, *(list(read[k].from_address(a)) if k in read else a for k, a in enumerate(args))]
            return status

        self.cuTensorMapEncodeTiled = ctypes.CFUNCTYPE(ctypes.c_int, P, U, U, *[P] * 5, *[U] * 4)(encode)


def test_what_the_driver_is_asked():
    lib = Driver()
    assert cuda_maps.encode(lib, SPEC, 4096) == bytes([7]) * 128
    align, dtype, rank, address, sizes, strides, box, steps, *rest = lib.call
    assert (align, dtype, rank, address) == (0, 9, 3, 4096 + 16)
    assert (sizes, strides[:2], box, steps) == ([64, 7, 5], [128, 1024], [64, 4, 1], [1, 1, 1])
    assert rest == [0, 3, 3, 0]
    cuda_maps.encode(lib, SPEC._replace(dtype="float16", swizzled=False), 0)
    assert lib.call[1] == 6 and lib.call[9] == 0


def test_a_refusal_names_the_tensor():
    with pytest.raises(DeviceError, match=r"error 1.*sizes=\(5, 7, 64\)"):
        cuda_maps.encode(Driver(1), SPEC, 4096)


@pytest.fixture
def bulk(monkeypatch):
    sched = schedule.GpuMma(64, 64, 64, 3, 1, 1, bulk=True)
    monkeypatch.setattr(gpu_schedule, "contract", lambda node, target: sched)
    return fake_gpu.use(monkeypatch)


def half(*shape: int):
    return param(TensorType(bfloat16, shape))


def bits(a: np.ndarray) -> np.ndarray:
    return a.astype(ml_dtypes.bfloat16)


def result(out, node) -> np.ndarray:
    return devices.read(out, node.shape, node.dtype.np).astype(np.float32)


def test_maps_follow_the_addresses(bulk):
    """The fake GPU checks at every launch that a map is for the address beside it."""
    x, w, v = half(16, 64), half(64, 64), half(64, 64)
    y = B.contract(x, w, "ij,jk->ik")
    graph = Graph((x, w, v), [B.contract(y, v, "ij,kj->ik"), B.op("neg", x)])
    executable = programs.compile_graph(graph, device="cuda:0")
    assert [len(f.maps) for f in executable.plan.functions if "contract" in f.name] == [2, 2]
    rng = np.random.default_rng(0)
    arrays = [bits(rng.standard_normal(p.shape)) for p in graph.params]
    buffers = [on_gpu(a) for a in arrays]
    assert cuda_plan.decode(json.loads(json.dumps(cuda_plan.encode(executable.plan)))) == executable.plan
    made = []
    for turn in range(4):
        if turn == 3:
            buffers[1] = on_gpu(arrays[1])
        a, b, c = (t.astype(np.float32) for t in arrays)
        out = executable.run(buffers)
        want = bits(a @ b).astype(np.float32) @ c.T
        np.testing.assert_allclose(result(out[0], graph.outputs[0]), want, 0.05, 0.5)
        made.append(bulk.calls["maps"])
    assert made == [4, 4, 4, 5]


@pytest.mark.parametrize("extra, maps", [(8, 2), (4, 0)])
def test_rows_of_a_loop_that_are_not_aligned_are_copied_by_threads(bulk, extra, maps):
    w, row = half(64, 64), half(16 * 64 + extra)
    x = B.reshape(B.slice_(row, (0,), (16 * 64,)), (16, 64))
    body = Graph((w, row), [B.contract(x, w, "ij,jk->ik")])
    ws, rows = half(64, 64), half(3, 16 * 64 + extra)
    scan = make("scan", (ws, rows), None, body=body, consts=1, carry=0, length=3, reverse=False)
    graph = Graph((ws, rows), [B.item(scan, 0)])
    executable = programs.compile_graph(graph, device="cuda:0")
    assert sum(len(f.maps) for f in executable.plan.functions) == maps
    rng = np.random.default_rng(0)
    arrays = [bits(rng.standard_normal(p.shape)) for p in graph.params]
    (out,) = executable.run([on_gpu(a) for a in arrays])
    a, b = (t.astype(np.float32) for t in arrays)
    np.testing.assert_allclose(result(out, graph.outputs[0]), b[:, : 16 * 64].reshape(3, 16, 64) @ a, 0.05, 0.5)


def test_kernels_without_maps_take_pointers_alone(monkeypatch):
    fake_gpu.use(monkeypatch)
    x = half(16, 64)
    executable = programs.compile_graph(Graph((x,), [B.op("neg", x)]), device="cuda:0")
    (series,) = executable._series
    assert not series._maps.of and len(series.table) == len(series.values)
