"""resnet9_course and resnet9_dawn: residual CNNs on 3x32x32 images."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import Training, training_case

COURSE_BATCH, DAWN_BATCH, CLASSES = 128, 32, 10


def residual(nn: Any, body: Any) -> Any:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Any) -> Any:
            return x + self.body(x)

    return Residual()


def course_model(lib: Any, dropout: float) -> Any:
    nn = lib.nn

    def conv(a: int, b: int, kernel: int = 3, stride: int = 1) -> Any:
        return nn.Sequential(nn.Conv2d(a, b, kernel, stride, padding=kernel // 2), nn.BatchNorm2d(b), nn.ReLU())

    return nn.Sequential(
        conv(3, 16, 7, 4),
        conv(16, 32, stride=2),
        residual(nn, nn.Sequential(conv(32, 32), conv(32, 32))),
        conv(32, 64, stride=2),
        conv(64, 128, stride=2),
        residual(nn, nn.Sequential(conv(128, 128), conv(128, 128))),
        nn.Flatten(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


def course_jax_loss(scope: Any, x: Any, y: Any) -> Any:
    import jax

    from benchmarks.jax_layers import cross_entropy

    def conv(name: str, x: Any, padding: int = 1, stride: int = 1) -> Any:
        return jax.nn.relu(scope.batch_norm(name + ".1", scope.conv(name + ".0", x, stride, padding)))

    x = conv("1", conv("0", x, 3, 4), 1, 2)
    x = x + conv("2.body.1", conv("2.body.0", x))
    x = conv("4", conv("3", x, 1, 2), 1, 2)
    x = x + conv("5.body.1", conv("5.body.0", x))
    x = x.reshape(len(x), -1)
    return cross_entropy(scope.linear("9", jax.nn.relu(scope.linear("7", x))), y)


def dawn_model(lib: Any, dropout: float) -> Any:
    nn = lib.nn

    def conv(a: int, b: int, *more: Any) -> Any:
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), *more)

    return nn.Sequential(
        conv(3, 64),
        conv(64, 128, nn.MaxPool2d(2)),
        residual(nn, nn.Sequential(conv(128, 128), conv(128, 128))),
        conv(128, 256, nn.MaxPool2d(2)),
        conv(256, 512, nn.MaxPool2d(2)),
        residual(nn, nn.Sequential(conv(512, 512), conv(512, 512))),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(512, CLASSES, bias=False),
    )


def dawn_jax_loss(scope: Any, x: Any, y: Any) -> Any:
    import jax

    from benchmarks.jax_layers import cross_entropy, max_pool

    def conv(name: str, x: Any) -> Any:
        return jax.nn.relu(scope.batch_norm(name + ".1", scope.conv(name + ".0", x)))

    x = max_pool(conv("1", conv("0", x)), 2)
    x = x + conv("2.body.1", conv("2.body.0", x))
    x = max_pool(conv("4", max_pool(conv("3", x), 2)), 2)
    x = x + conv("5.body.1", conv("5.body.0", x))
    x = max_pool(x, 4).reshape(len(x), -1)
    return cross_entropy(scope.linear("8", x) * 0.125, y)


def course_loss(lib: Any, net: Any, x: Any, y: Any) -> Any:
    return lib.nn.functional.cross_entropy(net(x), y)


def dawn_loss(lib: Any, net: Any, x: Any, y: Any) -> Any:
    return lib.nn.functional.cross_entropy(net(x) * 0.125, y)


def images(count: int) -> Any:
    def batch(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.standard_normal((count, 3, 32, 32), np.float32), rng.integers(CLASSES, size=count)]

    return batch


CASES = [
    training_case(Training("resnet9_course", course_model, course_loss, course_jax_loss, images(COURSE_BATCH))),
    # Max pooling and ReLU choose by comparing: where rounding turns a near tie, gradients below it change by 0.2 %, and
    # Adam's first steps are as large for a small gradient as for a big one. From initial weights moved by up to one
    # unit in the last place, torch's own float32 losses at the fourth step are off by up to 0.27 % (12 runs).
    training_case(Training("resnet9_dawn", dawn_model, dawn_loss, dawn_jax_loss, images(DAWN_BATCH), noise=1e-2)),
    training_case(Training("resnet9_dawn_bf16", dawn_model, dawn_loss, dawn_jax_loss, images(DAWN_BATCH), bf16=True)),
]
