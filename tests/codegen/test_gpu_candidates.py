"""Schedules worth measuring on a GPU: few, ranked, and every one computes the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dlc
from dlc.codegen.cuda.kernel import emit_module
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.memory import plan_memory
from dlc.codegen.schedule import gpu as gpu_schedule
from dlc.codegen.schedule import gpu_candidates
from dlc.codegen.schedule.cpu_candidates import MOST
from dlc.codegen.schedule.tuned_text import decode, encode, kernel_digest
from dlc.codegen.target.gpu import GpuTarget
from dlc.codegen.target.tuned import Tuned
from dlc.ir.dtypes import bfloat16, float32
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph
from dlc.ir.loops import schedule
from dlc.ir.loops.verify import verify
from dlc.ir.program.interp import run_program
from dlc.runtime import cache
from dlc.runtime.cuda import modules as cuda_modules
from dlc.runtime.tuning import gpu as cuda_tuning
from dlc.runtime.tuning import search, trials
from tests import fake_gpu
from tests.passes import programs
from tests.passes.programs import tensor
from tests.random_graphs import arguments
from tests.runtime.test_cuda_modules import needs_nvrtc

TARGET = GpuTarget.of("sm_90a")


def product(spec: str, a, c, dtype=float32) -> Graph:
    x, y = tensor("x", *a, dtype=dtype), tensor("y", *c, dtype=dtype)
    return Graph((x, y), [b.contract(x, y, spec, float32)])


def columns() -> Graph:
    x = tensor("x", 40, 70)
    return Graph((x,), [b.sum_(x, [0])])


def turned() -> Graph:
    x, y = tensor("x", 36, 40), tensor("y", 40, 36)
    return Graph((x, y), [b.op("add", b.permute(x, (1, 0)), y)])


GRAPHS = {
    "rows": programs.softmax((3, 33)), "norm": programs.layernorm(5, 24), "columns": columns(), "turned": turned(),
    "product": product("mk,kn->mn", (65, 33), (33, 40)), "skinny": product("mk,nk->mn", (3, 70), (40, 70)),
    "halves": product("mk,nk->mn", (40, 72), (48, 72), bfloat16),
}  # fmt: skip


def every_choice(graph: Graph, target: GpuTarget = TARGET):
    """(kind, candidates) of the groups that have a choice."""
    graph = target_layout(graph, target)
    program = build_program(graph, (), target, "test")
    for fused in program.fused:
        for group in fused.groups:
            yield group.kind, gpu_candidates.group_schedules(fused, group, target), fused, group


@pytest.mark.parametrize("name", GRAPHS)
def test_every_candidate_computes_the_same(name, monkeypatch):
    graph = GRAPHS[name]
    args = arguments(graph)
    want = graph_interp.evaluate(graph, args)
    tried = 0
    real = gpu_schedule.choose
    for kind, found, fused, group in every_choice(graph):
        assert found[0] == gpu_schedule.choose(fused, group, TARGET)
        assert len(found) <= MOST and len(set(found)) == len(found)
        for s in found[1:]:
            with monkeypatch.context() as patch:
                patch.setattr(gpu_schedule, "choose", lambda f, g, t, s=s, k=kind: s if g.kind == k else real(f, g, t))
                program = plan_memory(build_program(target_layout(graph, TARGET), (), TARGET, "test"))
            for kernel in program.kernels():
                verify(kernel)
            assert s in [k.schedule for k in program.kernels()]
            for have, w in zip(run_program(program, args, 0), want, strict=True):
                np.testing.assert_allclose(have.astype(np.float64), w.astype(np.float64), 3e-2, 1e-2)
            tried += 1
    assert tried >= 3


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", [float32, bfloat16])
def test_every_tile_compiles_and_fits(arch, dtype, monkeypatch):
    target = GpuTarget.of(arch)
    graph = product("mk,nk->mn", (512, 512), (512, 512), dtype)
    real = gpu_schedule.choose
    kernels = []
    for _, found, _, group in every_choice(graph, target):
        if group.kind != "contract":
            continue
        for s in found:
            with monkeypatch.context() as patch:
                patch.setattr(gpu_schedule, "choose",
                              lambda f, g, t, s=s: s if g.kind == "contract" else real(f, g, t))
                program = build_program(target_layout(graph, target), (), target, "test")
            kernel = next(k for k in program.kernels() if k.schedule == s)
            kernels.append(replace(kernel, name=f"candidate_{len(kernels)}"))
    assert len(kernels) >= 6
    assert len({k.schedule for k in kernels}) == len(kernels)
    cuda_modules.cubin(emit_module(kernels, target), arch)


def test_a_jitted_function_is_tuned_on_a_gpu(monkeypatch, tmp_path):
    gpu = fake_gpu.use(monkeypatch)
    monkeypatch.setenv("DLC_CACHE", "1")
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cuda_tuning, "WORTH", 0)
    monkeypatch.setattr(cuda_tuning, "KERNEL_S", 60)
    monkeypatch.setattr(trials, "MOST_REPEATS", 2)
    made = []
    real = search.search
    monkeypatch.setattr(search, "search", lambda subject, machine: made.append(subject) or real(subject, machine))
    x = np.linspace(-1, 1, 24 * 12, dtype=np.float32).reshape(24, 12)

    def f(x):
        return dlc.exp(x @ x.T).sum(1)

    out = dlc.jit(f, tune=True)(dlc.tensor(x, device="cuda"))
    np.testing.assert_allclose(out.numpy(), np.exp(x @ x.T).sum(1), rtol=1e-5)
    assert {type(s.schedules[0]) for s in made} >= {schedule.GpuContract}
    assert cache.tuned().stats().entries == len(made)
    assert gpu.calls["kernel launches"] > 10
    n = len(made)
    dlc.jit(lambda x: f(x), tune=True)(dlc.tensor(x, device="cuda")).numpy()
    assert len(made) == n


def test_a_table_changes_a_gpu_kernel():
    graph = product("mk,kn->mn", (65, 33), (33, 40))
    program = build_program(target_layout(graph, TARGET), (), TARGET, "test")
    (kernel,) = program.kernels()
    (choices,) = [found for kind, found, _, _ in every_choice(graph) if kind == "contract"]
    table = Tuned({}, {kernel_digest(kernel): choices[-1]})
    target = replace(TARGET, tuned=table)
    (after,) = build_program(target_layout(graph, target), (), target, "test").kernels()
    assert after.scheduled == f"{choices[-1]!r} tuned"
    assert target.key() == TARGET.key()
    assert decode(encode(table)).kernels == table.kernels
