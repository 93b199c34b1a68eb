"""The anchors' training steps with small batches, as CUDA C on the CPU, against the CPU's own results: minutes.

Schedules are chosen for few multiprocessors, so that small batches get the tiles of large ones.
"""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest

import dlc
from benchmarks import gpt, mlp, resnet, unet
from benchmarks.gpu_models import GPT_124M, UNET, GpuCase, _lstm, _step, settings
from dlc import optim
from tests import cuda_on_cpu

SMALL_GPT = {**GPT_124M, "BATCH": 1, "LAYERS": 1, "CONTEXT": 200, "VOCABULARY": 520}
CASES = {case.name: case for case in [
    _step("mlp_resnet", mlp, 0, 0, dropout=0.1),
    _step("resnet9_course", resnet, 0, 0, "course_model", "course_loss", partial(resnet.images, 3)),
    _step("resnet9_dawn_bf16", resnet, 0, 0, "dawn_model", "dawn_loss", partial(resnet.images, 2), bf16=True),
    _lstm("lstm_course", 0, 0, 30, 100, 1, 6, 16),
    _lstm("lstm_medium", 0, 0, 650, 650, 2, 2, 20),
    _step("gpt_char", gpt, 0, 0, BATCH=1, LAYERS=1),
    _step("gpt_char_bf16", gpt, 0, 0, bf16=True, BATCH=1, LAYERS=1),
    _step("gpt2_124m_bf16", gpt, 0, 0, bf16=True, **SMALL_GPT),
    _step("unet", unet, 0, 0, **{**UNET, "BATCH": 1}),
]}  # fmt: skip
# relative error of all gradients as one vector: rounding moves values across the kinks of ReLU and max-pooling
TOLERANCE = {"float32": 1e-4, "tf32": 0.1, "bf16": 0.2}


def trained(case: GpuCase) -> list[np.ndarray]:
    """The losses of two steps, and the gradients of the first, on the default device."""
    dlc.manual_seed(0)
    with settings(case):
        assert case.training is not None
        training = case.training()
        model = training.model(dlc, training.dropout)
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        batch = [dlc.asarray(a) for a in training.batch(np.random.default_rng(0))]

        @dlc.jit
        def step(*batch):
            optimizer.zero_grad()
            with dlc.autocast(dlc.bfloat16) if training.bf16 else contextlib.nullcontext():
                loss = training.loss(dlc, model, *batch)
            loss.backward()
            optimizer.step()
            return loss, [p.grad for p in model.parameters()]

        (first, grads), (second, _) = step(*batch), step(*batch)
        together = np.concatenate([g.numpy().astype(np.float64).ravel() for g in grads])
        return [first.numpy(), second.numpy(), together]


@pytest.mark.slow
@pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", CASES)
def test_a_step(monkeypatch, name, arch):
    case = CASES[name]
    want = trained(case)
    gpu = cuda_on_cpu.use(monkeypatch, cuda_on_cpu.EmulatedGpu(1, 1 << 32, arch, order=3, sm_count=4))
    for precision in ("bf16",) if case.bf16 else ("float32", "tf32"):
        dlc.set_default_device("cuda")
        dlc.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            got = trained(case)
        finally:
            dlc.set_default_device("cpu")
            dlc.set_float32_matmul_precision("highest")
        errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, want, strict=True)]
        assert errors[0] < (1e-5 if precision == "float32" else 1e-3), errors
        assert errors[2] < TOLERANCE[precision], errors
    assert gpu.calls["kernel launches"] and gpu.calls["graph launches"]
