"""`fn.lower(*args)`: the stages of the compiler from Python."""

from __future__ import annotations

import os

import numpy as np
import pytest
from click.testing import CliRunner

import dlc
from dlc import nn
from dlc.cli import main
from dlc.inspect.stages import CPU_STAGES, GPU_STAGES, STAGES

pytestmark = pytest.mark.skipif("DLC_TEST_DEVICE" in os.environ, reason="compares with the CPU's stages")

model = nn.Linear(8, 4)
count = dlc.zeros(())


@dlc.jit
def step(x, scale=2.0):
    count.assign(count + 1)
    return dlc.exp(model(x) * scale).sum(-1)


def example_args():
    return (dlc.ones(5, 8),)


def test_stages_are_those_of_dlc_dump():
    lowered = step.lower(*example_args())
    for stage in STAGES:
        if stage in GPU_STAGES and stage != "cuda":
            continue  # need NVRTC
        printed = CliRunner().invoke(main, ["dump", f"{__file__}:step", "--stage", stage])
        assert printed.exit_code == 0, printed.output
        ours, theirs = (text.replace("\r", "").split() for text in (lowered.text(stage), printed.output))
        ours, theirs = ([w for w in words if ".py:" not in w and not w.startswith("uid=")] for words in (ours, theirs))
        assert ours == theirs, stage


def test_nothing_runs_and_nothing_changes():
    before = count.numpy().copy(), step.traces
    lowered = step.lower(dlc.ones(5, 8), scale=3.0)
    lowered.text("fused")
    assert (count.numpy().item(), step.traces) == (before[0].item(), before[1])
    assert "%x: f32[5,8]" in lowered.text("graph") and "%model.weight" in lowered.text("graph")
    assert [p.attrs["name"] for p in lowered.graph.params] == ["x", "scale", "count", "model.weight", "model.bias"]


def test_devices():
    lowered = step.lower(*example_args())
    assert lowered.device == "cpu"
    assert "blockIdx.x" in lowered.text("cuda", "cuda:sm_80") or "threadIdx.x" in lowered.text("cuda", "cuda:sm_80")
    assert all(k.params for k in lowered.kernels("loops")) and lowered.program().kernels()
    with pytest.raises(ValueError, match="no stage 'fusd'; there are graph"):
        lowered.text("fusd")
    with pytest.raises(ValueError, match="no stage llvm for a GPU"):
        lowered.text(CPU_STAGES[0], "cuda:sm_90")
    with pytest.raises(dlc.DeviceError, match="sm_12345|architecture|arch"):
        lowered.text("fused", "cuda:sm_12345x")


def test_profile():
    before = count.numpy().item()
    profile = step.lower(*example_args()).profile(repeat=3)
    assert profile.seconds > 0 and {k.name for k in profile.kernels}
    assert all(k.seconds >= 0 and k.bytes > 0 for k in profile.kernels)
    assert count.numpy().item() > before  # it ran


def test_gradient_history():
    leaf = dlc.Tensor(np.ones((5, 8), np.float32), requires_grad=True)
    x = leaf * 2
    with pytest.raises(dlc.TraceError, match="step: the arguments carry gradient history(?s:.*)test_lowered.py"):
        step.lower(x)
