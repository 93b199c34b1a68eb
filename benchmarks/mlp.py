"""mlp_resnet: a residual MLP with BatchNorm and dropout on 784 features."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import Training, training_case

BATCH, FEATURES, WIDTH, HIDDEN, BLOCKS, CLASSES = 100, 784, 100, 50, 3, 10


def model(lib: Any, dropout: float) -> Any:
    nn = lib.nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(WIDTH, HIDDEN),
                nn.BatchNorm1d(HIDDEN),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(HIDDEN, WIDTH),
                nn.BatchNorm1d(WIDTH),
            )

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(x + self.body(x))

    blocks = [Residual() for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU(), *blocks, nn.Linear(WIDTH, CLASSES))


def loss(lib: Any, net: Any, x: Any, y: Any) -> Any:
    return lib.nn.functional.cross_entropy(net(x), y)


def jax_loss(scope: Any, x: Any, y: Any) -> Any:
    import jax

    from benchmarks.jax_layers import cross_entropy

    x = jax.nn.relu(scope.linear("0", x))
    for block in range(2, 2 + BLOCKS):
        h = scope.batch_norm(f"{block}.body.1", scope.linear(f"{block}.body.0", x))
        h = scope.dropout(jax.nn.relu(h))
        x = jax.nn.relu(x + scope.batch_norm(f"{block}.body.5", scope.linear(f"{block}.body.4", h)))
    return cross_entropy(scope.linear(str(2 + BLOCKS), x), y)


def batch(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.random((BATCH, FEATURES), np.float32), rng.integers(CLASSES, size=BATCH)]


CASES = [training_case(Training("mlp_resnet", model, loss, jax_loss, batch, dropout=0.1))]
