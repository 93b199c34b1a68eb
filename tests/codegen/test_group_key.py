"""Groups with equal keys become the same kernel: reuse must never change what lowering would have given."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.codegen.lower.gpu.attention import lower_attention
from dlc.codegen.program import gpu_lowering, kernels
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.target.gpu import GpuTarget
from dlc.frontend.core import eager
from dlc.ir.graph.text import parse_graph
from dlc.ir.loops import traverse
from dlc.ir.loops.key import kernel_key
from dlc.ir.loops.text import print_kernel
from dlc.runtime import compile as compiler
from tests.targets import cpu


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16))

    def forward(self, x: dlc.Tensor) -> dlc.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.inner(x)


def _transformer() -> tuple[nn.Module, dlc.Tensor]:
    return nn.Sequential(_Block(), _Block(), nn.Linear(16, 5)), dlc.random.normal((3, 7, 16))


def _convolutions() -> tuple[nn.Module, dlc.Tensor]:
    def block(i: int, o: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

    pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(1))
    return nn.Sequential(block(3, 8), nn.Residual(block(8, 8)), block(8, 8), pool), dlc.random.normal((4, 3, 8, 8))


@pytest.mark.parametrize("make", [_transformer, _convolutions])
def test_a_reused_kernel_is_what_lowering_gives(make, monkeypatch):
    taken = kernels.Kernels.lowered
    counts = {"all": 0, "new": 0}

    def checked(self, region, group):
        got = taken(self, region, group)
        counts["all"] += 1
        if group.kind in kernels.REPEATED:
            again = self.lower(region.fused, group, region.target)
            assert kernel_key(again.kernel) == kernel_key(got.kernel), f"{group.units} becomes a kernel of its own"
            assert (again.nodes, again.tasks) == (got.nodes, got.tasks)
        counts["new"] = len(self.kernels)
        return got

    monkeypatch.setattr(kernels.Kernels, "lowered", checked)
    monkeypatch.setenv("DLC_CACHE", "0")
    eager._executables.clear()
    model, x = make()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    @dlc.jit
    def step(x):
        loss = F.mse_loss(model(x), dlc.zeros_like(model(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    assert np.isfinite(step(x).item())
    assert counts["new"] < counts["all"]


def _kernels(text: str) -> int:
    graph = parse_graph(text)
    target = cpu("avx512")
    return len(build_program(target_layout(graph, target), (), target, "main").kernels())


SAME = """\
graph g(%a: f32[40,30], %b: f32[40,30]) {
  %0: f32[40] = reduce(%a) axes=[1] monoid="sum"
  %1: f32[40] = reduce(%b) axes=[1] monoid="sum"
  return %0, %1
}
"""


def test_what_differs_stays_different():
    assert _kernels(SAME) == 1
    assert _kernels(SAME.replace('monoid="sum"', 'monoid="max"', 1)) == 2
    assert _kernels(SAME.replace("%b: f32[40,30]", "%b: f32[40,31]")) == 2
    assert _kernels(SAME.replace("%b: f32[40,30]", "%b: f64[40,30]").replace("%1: f32", "%1: f64")) == 2


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_attention_of_equal_layers_is_lowered_once(arch, monkeypatch):
    """Forward, and the gradients of the queries and of keys and values; another shape or mask is another kernel."""
    lowered: list[str] = []

    def counted(fused, group, sched):
        lowered.append(group.units[0].node.op)
        return lower_attention(fused, group, sched)

    monkeypatch.setitem(gpu_lowering.LOWER, "attention", counted)
    monkeypatch.setitem(gpu_lowering.LOWER, "attention_grad", counted)

    def layers(x: dlc.Tensor, causal: tuple[bool, ...], keys: tuple[int, ...]) -> dlc.Tensor:
        for c, k in zip(causal, keys, strict=True):
            x = x + F.scaled_dot_product_attention(x, x[..., :k, :], x[..., :k, :] * 2, is_causal=c)
        return x

    def count(causal: tuple[bool, ...], keys: tuple[int, ...]) -> Counter[str]:
        lowered.clear()
        x = dlc.zeros((2, 3, 40, 32), dtype=dlc.bfloat16)
        loss = dlc.grad(lambda x: dlc.sum(dlc.sin(layers(dlc.sin(x), causal, keys))))
        graph = dlc.jit(lambda x: loss(x)).lower(x).graph
        program = compiler.lower(graph, compiler.Job(GpuTarget.of(arch), "step", ()))
        runs = [k for k in program.kernels() if "attention" in k.name]
        assert len(runs) == len(lowered)
        return Counter(lowered)

    assert count((True,) * 4, (40,) * 4) == {"attention": 1, "attention_grad": 2}
    assert count((True, True, False, False), (40,) * 4) == {"attention": 2, "attention_grad": 4}
    assert count((False, False), (40, 24)) == {"attention": 2, "attention_grad": 4}


@pytest.mark.parametrize("make", [_transformer, _convolutions])
def test_on_a_gpu_too(make, monkeypatch):
    """There the kernel is shared after lowering, so equal ones are compared by their text."""
    taken, compared = kernels.Kernels.lowered, []

    def checked(self, region, group):
        known = len(self.known)
        got = taken(self, region, group)
        if group.kind in kernels.REPEATED and len(self.known) == known:
            again = self.lower(region.fused, group, region.target)
            assert print_kernel(traverse.canonical(again.kernel)) == print_kernel(traverse.canonical(got.kernel))
            assert (again.nodes, again.tasks, again.kernel.schedule) == (got.nodes, got.tasks, got.kernel.schedule)
            compared.append(group)
        return got

    monkeypatch.setattr(kernels.Kernels, "lowered", checked)
    model, x = make()
    target = GpuTarget.of("sm_90a")
    graph = dlc.jit(lambda x: dlc.grad(lambda x: (model(x) ** 2).sum())(x)).graph(x)
    compiler.lower(graph, compiler.Job(target, "step", ()))
    assert compared
