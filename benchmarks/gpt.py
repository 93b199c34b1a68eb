"""gpt_char: a GPT over 65 characters, pre-norm, with a tied head and no dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import Training, training_case

BATCH, LAYERS, HEADS, WIDTH, CONTEXT, VOCABULARY = 4, 6, 6, 384, 256, 65


def model(lib: Any, dropout: float) -> Any:
    nn, F = lib.nn, lib.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
            x = x + self.project(y.permute(0, 2, 1, 3).reshape(n, t, WIDTH))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.positions.weight
            return F.linear(self.norm(self.blocks(x)), self.tokens.weight)

    net = GPT()
    for embedding in (net.tokens, net.positions):
        nn.init.normal_(embedding.weight, std=0.02)
    return net


def loss(lib: Any, net: Any, tokens: Any, following: Any) -> Any:
    return lib.nn.functional.cross_entropy(net(tokens).reshape(-1, VOCABULARY), following.reshape(-1))


def jax_loss(scope: Any, tokens: Any, following: Any) -> Any:
    import jax

    from benchmarks.jax_layers import cross_entropy

    x = scope["tokens.weight"][tokens] + scope["positions.weight"]
    for layer in range(LAYERS):
        name = f"blocks.{layer}."
        qkv = scope.linear(name + "qkv", scope.layer_norm(name + "norm1", x))
        qkv = qkv.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS).astype(scope.dtype)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        x = x + scope.linear(name + "project", y.reshape(x.shape))
        h = jax.nn.gelu(scope.linear(name + "up", scope.layer_norm(name + "norm2", x)), approximate=True)
        x = x + scope.linear(name + "down", h)
    return cross_entropy(scope.einsum("btc,vc->btv", scope.layer_norm("norm", x), scope["tokens.weight"]), following)


def batch(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(VOCABULARY, size=(BATCH, CONTEXT)) for _ in range(2)]


CASES = [
    training_case(Training("gpt_char", model, loss, jax_loss, batch)),
    training_case(Training("gpt_char_bf16", model, loss, jax_loss, batch, bf16=True)),
]
