"""Memory-bound kernels on 2048x4096 fp32, and causal attention on 2x16x512x64."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Arrays, Floor
from benchmarks.function import function_case

ROWS, COLUMNS = 2048, 4096
BATCH, HEADS, LENGTH, WIDTH = 2, 16, 512, 64
MATRIX = 4.0 * ROWS * COLUMNS  # bytes


def normal(*shapes: tuple[int, ...]) -> Any:
    """Inputs named by position, standard normal, float32."""

    def make(rng: np.random.Generator) -> Arrays:
        return {str(k): rng.standard_normal(shape, np.float32) for k, shape in enumerate(shapes)}

    return make


def chain_numpy(x: np.ndarray, b: np.ndarray, r: np.ndarray) -> np.ndarray:
    s = x + b
    return 0.5 * s * (1 + np.tanh(np.sqrt(2 / np.pi) * (s + 0.044715 * s**3))) * 0.5 + r


def chain_torch(x: Any, b: Any, r: Any) -> Any:
    import torch.nn.functional as F

    return F.gelu(x + b, approximate="tanh") * 0.5 + r


def chain_jax(x: Any, b: Any, r: Any) -> Any:
    import jax

    return jax.nn.gelu(x + b, approximate=True) * 0.5 + r


def chain_dlc(x: Any, b: Any, r: Any) -> Any:
    import dlc.nn.functional as F

    return F.gelu(x + b, approximate="tanh") * 0.5 + r


def softmax_numpy(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_torch(x: Any) -> Any:
    return x.softmax(-1)


def softmax_jax(x: Any) -> Any:
    import jax

    return jax.nn.softmax(x, -1)


def softmax_dlc(x: Any) -> Any:
    import dlc.nn.functional as F

    return F.softmax(x, -1)


def layernorm_numpy(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def layernorm_torch(x: Any, w: Any, b: Any) -> Any:
    import torch.nn.functional as F

    return F.layer_norm(x, (COLUMNS,), w, b)


def layernorm_jax(x: Any, w: Any, b: Any) -> Any:
    import jax

    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * w + b


def layernorm_dlc(x: Any, w: Any, b: Any) -> Any:
    import dlc.nn.functional as F

    return F.layer_norm(x, (COLUMNS,), w, b)


def attention_numpy(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH)
    scores[..., np.triu(np.ones((LENGTH, LENGTH), bool), 1)] = -np.inf
    return softmax_numpy(scores) @ v


def attention_torch(q: Any, k: Any, v: Any) -> Any:
    import torch.nn.functional as F

    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_jax(q: Any, k: Any, v: Any) -> Any:
    import jax

    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2)


def attention_dlc(q: Any, k: Any, v: Any) -> Any:
    import dlc.nn.functional as F

    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


CASES = [
    function_case(
        "k_chain",
        inputs=normal((ROWS, COLUMNS), (COLUMNS,), (ROWS, COLUMNS)),
        numpy=chain_numpy,
        torch=chain_torch,
        jax=chain_jax,
        dlc=chain_dlc,
        floor=Floor(12 * ROWS * COLUMNS, 3 * MATRIX),
    ),
    function_case(
        "k_softmax",
        inputs=normal((ROWS, COLUMNS)),
        numpy=softmax_numpy,
        torch=softmax_torch,
        jax=softmax_jax,
        dlc=softmax_dlc,
        floor=Floor(5 * ROWS * COLUMNS, 2 * MATRIX),
    ),
    function_case(
        "k_layernorm",
        inputs=normal((ROWS, COLUMNS), (COLUMNS,), (COLUMNS,)),
        numpy=layernorm_numpy,
        torch=layernorm_torch,
        jax=layernorm_jax,
        dlc=layernorm_dlc,
        floor=Floor(7 * ROWS * COLUMNS, 2 * MATRIX),
    ),
    function_case(
        "k_sum0",
        inputs=normal((ROWS, COLUMNS)),
        numpy=lambda x: x.sum(0),
        torch=lambda x: x.sum(0),
        jax=lambda x: x.sum(0),
        dlc=lambda x: x.sum(0),
        floor=Floor(ROWS * COLUMNS, MATRIX),
    ),
    function_case(  # The result is row-major: torch eager alone would return a transposed view.
        "k_transpose",
        inputs=normal((ROWS, COLUMNS)),
        numpy=lambda x: x.T + 1,
        torch=lambda x: (x.T + 1).contiguous(),
        jax=lambda x: x.T + 1,
        dlc=lambda x: x.T + 1,
        floor=Floor(ROWS * COLUMNS, 2 * MATRIX),
    ),
    function_case(
        "k_attn",
        inputs=normal(*[(BATCH, HEADS, LENGTH, WIDTH)] * 3),
        numpy=attention_numpy,
        torch=attention_torch,
        jax=attention_jax,
        dlc=attention_dlc,
        floor=Floor(2.0 * BATCH * HEADS * LENGTH**2 * WIDTH, 4 * 4.0 * BATCH * HEADS * LENGTH * WIDTH),
    ),
]
