"""lstm_course and lstm_medium: word language models of 10,000 words."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Case
from benchmarks.training import Training, training_case

WORDS = 10_000


def lstm(name: str, embedding: int, hidden: int, layers: int, length: int, batch: int) -> Case:
    """Embedding, LSTM and a Linear over the vocabulary; the batch is (length, batch) words in, the same out."""

    def model(lib: Any, dropout: float) -> Any:
        nn = lib.nn

        class LanguageModel(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = nn.Embedding(WORDS, embedding)
                self.lstm = nn.LSTM(embedding, hidden, layers)
                self.head = nn.Linear(hidden, WORDS)

            def forward(self, words: Any) -> Any:
                return self.head(self.lstm(self.embedding(words))[0])

        return LanguageModel()

    def loss(lib: Any, net: Any, words: Any, following: Any) -> Any:
        return lib.nn.functional.cross_entropy(net(words).reshape(-1, WORDS), following.reshape(-1))

    def jax_loss(scope: Any, words: Any, following: Any) -> Any:
        import jax
        import jax.numpy as jnp

        from benchmarks.jax_layers import cross_entropy

        x = scope["embedding.weight"][words]
        for layer in range(layers):
            names = (f"lstm.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            w_in, w_hidden, b_in, b_hidden = (scope[name] for name in names)
            projected = scope.einsum("tbi,gi->tbg", x, w_in) + (b_in + b_hidden)

            def cell(carry: Any, gates: Any, w_hidden: Any = w_hidden) -> Any:
                h, c = carry
                i, f, g, o = jnp.split(gates + scope.einsum("bh,gh->bg", h, w_hidden), 4, -1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zeros = jnp.zeros((batch, hidden), jnp.float32)
            _, x = jax.lax.scan(cell, (zeros, zeros), projected)
        return cross_entropy(scope.linear("head", x), following)

    def make_batch(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.integers(WORDS, size=(length, batch)), rng.integers(WORDS, size=(length, batch))]

    return training_case(Training(name, model, loss, jax_loss, make_batch))


CASES = [lstm("lstm_course", 30, 100, 1, 40, 16), lstm("lstm_medium", 650, 650, 2, 35, 20)]
