"""unet: two levels down and up, GroupNorm and SiLU, on 3x32x32 images."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import Training, training_case

BATCH, GROUPS, CHANNELS = 8, 8, (16, 32, 64)


def model(lib: Any, dropout: float) -> Any:
    nn = lib.nn
    low, middle, high = CHANNELS

    def double(a: int, b: int) -> Any:
        def single(a: int) -> list[Any]:
            return [nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(GROUPS, b), nn.SiLU()]

        return nn.Sequential(*single(a), *single(b))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2, self.bottom = double(3, low), double(low, middle), double(middle, high)
            self.pool = nn.MaxPool2d(2)
            self.up2, self.merge2 = nn.ConvTranspose2d(high, middle, 2, 2), double(2 * middle, middle)
            self.up1, self.merge1 = nn.ConvTranspose2d(middle, low, 2, 2), double(2 * low, low)
            self.out = nn.Conv2d(low, 3, 1)

        def forward(self, x: Any) -> Any:
            fine = self.down1(x)
            coarse = self.down2(self.pool(fine))
            x = self.up2(self.bottom(self.pool(coarse)))
            x = self.up1(self.merge2(lib.concat((coarse, x), 1)))
            return self.out(self.merge1(lib.concat((fine, x), 1)))

    return UNet()


def loss(lib: Any, net: Any, x: Any, y: Any) -> Any:
    return lib.nn.functional.mse_loss(net(x), y)


def jax_loss(scope: Any, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_layers import max_pool

    def double(name: str, x: Any) -> Any:
        for conv, norm in (("0", "1"), ("3", "4")):
            x = jax.nn.silu(scope.group_norm(f"{name}.{norm}", scope.conv(f"{name}.{conv}", x), GROUPS))
        return x

    fine = double("down1", x)
    coarse = double("down2", max_pool(fine, 2))
    x = scope.double_size("up2", double("bottom", max_pool(coarse, 2)))
    x = scope.double_size("up1", double("merge2", jnp.concatenate((coarse, x), -1)))
    x = scope.conv("out", double("merge1", jnp.concatenate((fine, x), -1)), padding=0)
    return ((x - y) ** 2).mean()


def batch(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal((BATCH, 3, 32, 32), np.float32) for _ in range(2)]


CASES = [training_case(Training("unet", model, loss, jax_loss, batch))]
