"""The layers of the JAX peers: pure functions of parameters that carry torch's names; images are channels-last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def from_torch(array: np.ndarray, image: bool = False) -> np.ndarray:
    """Images NCHW -> NHWC, convolution kernels OIHW -> HWIO; all else as it is."""
    if array.ndim != 4:
        return array
    return np.ascontiguousarray(array.transpose((0, 2, 3, 1) if image else (2, 3, 1, 0)))


def to_torch(array: np.ndarray) -> np.ndarray:
    """Convolution kernels HWIO -> OIHW; all else as it is."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


class Scope:
    """What a model needs at one step: parameters, buffers (read, and written to `new_buffers`), random bits, precision.

    Contractions take operands of `dtype` and accumulate in float32; all else is float32.
    """

    def __init__(self, params: Any, buffers: Any, key: jax.Array, dropout: float, dtype: Any) -> None:
        self.params, self.buffers, self.new_buffers = params, buffers, dict(buffers)
        self.key, self.rate, self.dtype = key, dropout, dtype

    def __getitem__(self, name: str) -> jax.Array:
        return self.params[name]

    def linear(self, name: str, x: jax.Array) -> jax.Array:
        y = self.einsum("...i,oi->...o", x, self[name + ".weight"])
        return y + self[name + ".bias"] if name + ".bias" in self.params else y

    def einsum(self, spec: str, *operands: jax.Array) -> jax.Array:
        low = [operand.astype(self.dtype) for operand in operands]
        return jnp.einsum(spec, *low, preferred_element_type=jnp.float32)

    def conv(self, name: str, x: jax.Array, stride: int = 1, padding: int = 1) -> jax.Array:
        y = lax.conv_general_dilated(
            x.astype(self.dtype),
            self[name + ".weight"].astype(self.dtype),
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).astype(jnp.float32)
        return y + self[name + ".bias"] if name + ".bias" in self.params else y

    def double_size(self, name: str, x: jax.Array) -> jax.Array:
        """ConvTranspose2d with a 2x2 kernel and stride 2: its windows do not overlap, so it is one product."""
        n, h, w, _ = x.shape
        y = self.einsum("nijc,aboc->niajbo", x, self[name + ".weight"])
        return y.reshape(n, 2 * h, 2 * w, -1) + self[name + ".bias"]

    def batch_norm(self, name: str, x: jax.Array) -> jax.Array:
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        mean = x.mean(axes)
        var = (x * x).mean(axes) - mean * mean
        for key, value in (("running_mean", mean), ("running_var", var * (count / (count - 1)))):
            old = self.buffers[f"{name}.{key}"]
            self.new_buffers[f"{name}.{key}"] = 0.9 * old + 0.1 * lax.stop_gradient(value)
        scale = lax.rsqrt(var + 1e-5) * self[name + ".weight"]
        return x * scale + (self[name + ".bias"] - mean * scale)

    def layer_norm(self, name: str, x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        y = centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
        return y * self[name + ".weight"] + self[name + ".bias"]

    def group_norm(self, name: str, x: jax.Array, groups: int) -> jax.Array:
        parts = x.reshape(*x.shape[:-1], groups, -1)
        centred = parts - parts.mean((1, 2, 4), keepdims=True)
        y = centred * lax.rsqrt((centred * centred).mean((1, 2, 4), keepdims=True) + 1e-5)
        return y.reshape(x.shape) * self[name + ".weight"] + self[name + ".bias"]

    def dropout(self, x: jax.Array) -> jax.Array:
        if not self.rate:
            return x
        self.key, key = jax.random.split(self.key)
        return jnp.where(jax.random.bernoulli(key, 1 - self.rate, x.shape), x / (1 - self.rate), 0)


def max_pool(x: jax.Array, size: int) -> jax.Array:
    window = (1, size, size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over all rows of -log softmax(logits)[label]."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_probabilities, labels[..., None], -1).mean()
