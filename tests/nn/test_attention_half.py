"""Attention on half floats with its gradients, on the device of this run.

With `DLC_TEST_DEVICE=cuda` these are the GPU's fused kernels.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from tests import targets

# the Loop IR interpreter runs smaller ones: tests/codegen/test_cuda_attention.py, test_tile_schedules.py
PRETENDED = os.environ.get("DLC_TEST_CPU")
pytestmark = pytest.mark.skipif(
    os.environ.get("DLC_TEST_DEVICE") == "fake" or bool(PRETENDED) and not targets.runs(targets.cpu(PRETENDED)),
    reason="too long for the interpreter",
)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, causal: bool) -> list[np.ndarray]:
    """The result, and the gradients of sum(result * w) by q, k and v, in float64."""
    q, k, v, w = (x.astype(np.float64) for x in (q, k, v, w))
    scale = 1 / math.sqrt(q.shape[-1])
    s = q @ k.swapaxes(-1, -2) * scale
    if causal:
        s[..., np.triu(np.ones(s.shape[-2:], bool), 1)] = -np.inf
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = w @ v.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
    return [p @ v, ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ w]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "allowed"), [(dlc.bfloat16, 1.5e-2), (dlc.float16, 3e-3)])
@pytest.mark.parametrize("shape", [(2, 3, 512, 64), (1, 2, 333, 64), (1, 2, 77, 32), (1, 1, 640, 128),
                                   (1, 1, 2048, 64)])
def test_result_and_gradients(shape, dtype, allowed, causal):
    rng = np.random.default_rng(0)
    given = [dlc.asarray(rng.standard_normal(shape, np.float32)).to(dtype).realize() for _ in range(4)]

    @dlc.jit
    def both(q, k, v, w):
        def total(q, k, v):
            return (F.scaled_dot_product_attention(q, k, v, is_causal=causal) * w).float().sum()

        return F.scaled_dot_product_attention(q, k, v, is_causal=causal), *dlc.grad(total, argnums=(0, 1, 2))(q, k, v)

    got = [x.float().numpy().astype(np.float64) for x in both(*given)]
    want = reference(*(x.float().numpy() for x in given), causal)
    for name, ours, exact in zip(("result", "dq", "dk", "dv"), got, want, strict=True):
        assert np.linalg.norm(ours - exact) <= allowed * np.linalg.norm(exact), name
