"""A diffusion model of handwritten digits: `python -m models.ddpm --picture digits.png`, or with `--data mnist`.

Images turn into noise on the cosine schedule (Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021,
arXiv:2102.09672): x_t = cos(a) x + sin(a) noise, where a goes from 0 to pi/2 with the time t in [0, 1]. The network
predicts v = cos(a) noise - sin(a) x (Salimans and Ho 2022, arXiv:2202.00512), from which the image and the noise follow
at every t. DDIM sampling (Song et al. 2020, arXiv:2010.02502) turns them back without drawing anything.
"""

from __future__ import annotations

import copy
import math

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from models import data, pictures, training

DECAY = 0.999  # of the average of the weights
TEST_SEED = 1000


class Embedding(nn.Module):
    """Times (N,) as vectors (N, 4 * width): waves of many lengths (Vaswani et al. 2017), then two layers."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())

    def forward(self, t: dlc.Tensor) -> dlc.Tensor:
        half = self.width // 2
        rates = 1000 * dlc.exp(dlc.arange(half) * (-math.log(10000.0) / half))
        angles = dlc.expand_dims(t, axis=1) * rates
        return self.layers(dlc.concat((dlc.sin(angles), dlc.cos(angles)), 1))


class Block(nn.Module):
    """Two convolutions with the time between them, and what came in added at the end."""

    def __init__(self, inputs: int, outputs: int, time: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time = nn.Linear(time, outputs)
        self.second = nn.Sequential(nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: dlc.Tensor, time: dlc.Tensor) -> dlc.Tensor:
        hidden = self.first(x) + self.time(time).reshape(len(x), -1, 1, 1)
        return self.skip(x) + self.second(hidden)


class Attention(nn.Module):
    """Every place of an image looks at all others."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.norm, self.attend = nn.GroupNorm(8, width), nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: dlc.Tensor) -> dlc.Tensor:
        tokens = dlc.swapaxes(dlc.flatten(self.norm(x), 2), 1, 2)
        out, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        return x + dlc.swapaxes(out, 1, 2).reshape(x.shape)


class UNet(nn.Module):
    """Noisy images (N, channels, H, W) at times (N,) to v of their shape; H and W are multiples of 4."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        fine, middle, coarse, time = width, 2 * width, 4 * width, 4 * width
        self.embedding = Embedding(width)
        self.enter = nn.Conv2d(channels, fine, 3, padding=1)
        self.down1, self.down2 = Block(fine, fine, time), Block(fine, middle, time)
        self.bottom1, self.bottom2 = Block(middle, coarse, time), Block(coarse, coarse, time)
        self.attention = Attention(coarse)
        self.up2, self.up1 = Block(coarse + middle, middle, time), Block(middle + fine, fine, time)
        self.shrink, self.grow = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
        self.leave = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, channels, 3, padding=1))
        nn.init.zeros_(self.leave[2].weight)

    def forward(self, x: dlc.Tensor, t: dlc.Tensor) -> dlc.Tensor:
        time = self.embedding(t)
        fine = self.down1(self.enter(x), time)
        middle = self.down2(self.shrink(fine), time)
        x = self.bottom1(self.shrink(middle), time)
        x = self.bottom2(self.attention(x), time)
        x = self.up2(dlc.concat((self.grow(x), middle), 1), time)
        x = self.up1(dlc.concat((self.grow(x), fine), 1), time)
        return self.leave(x)


class Diffusion(nn.Module):
    """The network that is trained, and the moving average of its weights, which samples better."""

    def __init__(self, channels: int, size: int, width: int):
        super().__init__()
        self.shape = (channels, size, size)
        self.net = UNet(channels, width)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("steps", dlc.zeros(()))

    def update_average(self) -> None:
        """Towards the present weights; at first faster, to forget where they started."""
        self.steps.assign(self.steps + 1)
        keep = dlc.minimum((self.steps + 1) / (self.steps + 10), DECAY)
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.assign(dlc.lerp(now.detach(), mean, keep))


def turn(t: dlc.Tensor) -> tuple[dlc.Tensor, dlc.Tensor]:
    """(share of the image, share of the noise) at times t, to be multiplied with images: the cosine schedule."""
    angle = ((t + 0.008) / 1.008 * (math.pi / 2)).reshape(-1, 1, 1, 1)
    return dlc.cos(angle), dlc.sin(angle)


def loss_of(net: UNet, x: dlc.Tensor, t: dlc.Tensor, noise: dlc.Tensor) -> dlc.Tensor:
    signal, spread = turn(t)
    return F.mse_loss(net(signal * x + spread * noise, t), signal * noise - spread * x)


@dlc.jit
def train_step(model, optimizer, x, y):
    loss = loss_of(model.net, x, dlc.rand(len(x)), dlc.randn(x.shape))
    optimizer.zero_grad()
    loss.backward()
    nn.clip_grad_norm_(model.net.parameters(), 1.0)
    optimizer.step()
    model.update_average()
    return loss


@dlc.jit
def test_loss(model, x, key):
    times, noise = dlc.random.split(key)
    t, noise = dlc.random.uniform((len(x),), key=times), dlc.random.normal(x.shape, key=noise)
    return loss_of(model.average, x, t, noise)


@dlc.jit
def denoise(model, x, t, until):
    """Noisy images at time `t` as they would have been at the earlier time `until` (DDIM)."""
    signal, spread = turn(dlc.zeros(len(x)) + t)
    v = model.average(x, dlc.zeros(len(x)) + t)
    image, noise = dlc.clip(signal * x - spread * v, -1, 1), signal * v + spread * x
    signal, spread = turn(dlc.zeros(len(x)) + until)
    return signal * image + spread * noise


def sample(model: Diffusion, count: int, seed: int, steps: int = 50) -> np.ndarray:
    """`count` images (count, channels, H, W) in [0, 1]."""
    x = dlc.random.normal((count, *model.shape), key=dlc.random.key(seed))
    times = np.linspace(1, 0, steps + 1).tolist()
    for t, until in zip(times, times[1:], strict=False):
        x = denoise(model, x, t, until)
    return np.clip(x.numpy() / 2 + 0.5, 0, 1)


def example_args_train_step():
    """What `dlc dump models/ddpm.py:train_step` compiles for: a batch of scikit-learn's digits."""
    model = Diffusion(1, 8, 32)
    return model, optim.AdamW(model.net.parameters()), dlc.zeros(128, 1, 8, 8), dlc.zeros(128, dtype=dlc.int64)


def example_args_denoise():
    return Diffusion(1, 8, 32), dlc.zeros(64, 1, 8, 8), 1.0, 0.98


def measure(model: Diffusion, data: data.Data) -> float:
    """The mean loss on held-out images, always with the same times and noise."""
    losses = [test_loss(model, x, dlc.random.key(TEST_SEED + k)).item() for k, (x, _) in enumerate(data.test)]
    return float(np.mean(losses))


def picture(model: Diffusion, data: data.Data, path: str) -> None:
    pictures.save(path, sample(model, 64, seed=0)[:, 0], columns=8)


def build(data: data.Data, lr: float, wide: bool = False):
    model = Diffusion(data.channels, data.size, 64 if wide else 32)
    return model, optim.AdamW(model.net.parameters(), lr=lr, weight_decay=0.0)


TASK = training.Task(data.centred, "test loss", ".4f", measure, picture=picture, variants={"wide": {"epochs": 30}})

if __name__ == "__main__":
    training.command(build, train_step, None, {"digits": 100, "mnist": 10}, batch_size=128, lr=2e-3, task=TASK)()
