"""The error bounds of docs/semantics.md for long sums, for each family: all-equal values and values with a large mean,
whose rounding errors grow with the length of a running sum (those of values around 0 cancel)."""

from __future__ import annotations

import os

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F

DEVICE = os.environ.get("DLC_TEST_DEVICE", "")
SLOW_DEVICE = DEVICE.startswith(("fake", "emulated"))
CONTRACTIONS = 2048 if DEVICE else 512  # roundings
HALF_EPS = {"float32": 2.0**-24, "float64": 2.0**-53}


def values(kind: str, *shape: int, dtype: str = "float32") -> np.ndarray:
    if kind == "equal":
        return np.full(shape, 0.1, dtype)
    return (1 + 0.1 * np.random.default_rng(len(shape)).standard_normal(shape)).astype(dtype)


def close(got, want, scale, most: float = 256) -> None:
    """Within so many roundings of `scale`, the sum of magnitudes, and one of the result."""
    got = got.numpy()
    error = np.abs(got.astype(np.float64) - want) / HALF_EPS[got.dtype.name]
    assert np.all(error <= most * np.asarray(scale) + np.abs(want)), (error / np.asarray(scale)).max()


def jit(f, *arrays):
    return dlc.jit(f)(*map(dlc.asarray, arrays))


def wide(*arrays):
    return [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]


def reduction(axis, *lead):
    """Sums over `axis` of [n, *lead], or of [*lead, n]."""
    def family(kind, n):
        columns = int(np.prod(lead, initial=1))
        x = values(kind, *((n // columns, *lead) if axis == 0 else (*lead, n // columns)))
        (w,) = wide(x)
        close(jit(lambda x: x.sum(axis), x), w.sum(axis), w.sum(axis))
        close(jit(lambda x: dlc.mean(x, axis), x), w.mean(axis), w.mean(axis))
    return family


def several_axes(kind, n):
    x = values(kind, n // 2100, 7, 300)
    (w,) = wide(x)
    close(jit(lambda x: x.sum((0, 2)), x), w.sum((0, 2)), w.sum((0, 2)))


def in_float64(kind, n):
    x = values(kind, n // 4, 4, dtype="float64")
    want = np.sum(x.astype(np.longdouble), 0)
    close(jit(lambda x: x.sum(0), x), want, want)
    close(jit(lambda x: dlc.cumsum(x, 0)[-1], x), want, want)


def of_halves(kind, n):
    for dtype, eps in ((dlc.float16, 2.0**-11), (dlc.bfloat16, 2.0**-8)):
        x = dlc.asarray(values(kind, n // 8, 8)).astype(dtype).realize()
        w = x.astype(dlc.float64).numpy()
        got = dlc.jit(lambda x: (x.mean(0), x.mean()))(x)
        for g, want in zip(got, (w.mean(0), w.mean()), strict=True):
            np.testing.assert_allclose(g.astype(dlc.float64).numpy(), want, rtol=eps)


def deviations(kind, n):
    x = values("mean 1", n // 5, 5)
    (w,) = wide(x)
    close(jit(lambda x: dlc.var(x, 0), x), w.var(0), w.var(0))
    close(jit(lambda x: dlc.std(x), x), w.std(), w.std())
    close(jit(lambda x: dlc.vector_norm(x), x), np.linalg.norm(w), np.linalg.norm(w))


def exponentials(kind, n):
    x = values(kind, n // 3, 3)
    (w,) = wide(x)
    total = np.exp(w).sum(0)
    weights, scale = (np.exp(w) / total)[:99], np.exp(w.max()) / total
    close(jit(lambda x: dlc.logsumexp(x, 0), x), np.log(total), np.log(total))
    close(jit(lambda x: F.softmax(x, 0)[:99], x), weights, scale)
    close(jit(lambda x: F.softmax(x.T, 1)[:, :99], x), weights.T, scale[:, None])


def products(kind, n):
    for m, columns in ((1, 1), (1, 3), (2, 2), (7, 5)):
        x, y = values(kind, m, n // 8), values(kind, n // 8, columns)
        a, b = wide(x, y)
        for f, args in ((lambda x, y: x @ y, (x, y)), (lambda x, y: x @ y.T, (x, np.ascontiguousarray(y.T))),
                        (lambda x, y: x.T @ y, (np.ascontiguousarray(x.T), y))):
            close(jit(f, *args), a @ b, a @ b, CONTRACTIONS)
    x = values(kind, n // 10, 10)
    (w,) = wide(x)
    close(jit(lambda x: dlc.einsum("ij,ij->j", x, x), x), (w * w).sum(0), (w * w).sum(0))
    close(jit(lambda x: dlc.vecdot(x.reshape(-1), x.reshape(-1)), x), (w * w).sum(), (w * w).sum())


def wide_products(kind, n):
    x, y = values(kind, 64, n // 100), values(kind, n // 100, 48)
    a, b = wide(x, y)
    close(jit(lambda x, y: x @ y, x, y), a @ b, a @ b, CONTRACTIONS)
    close(jit(lambda x, y: x @ y.T, x, np.ascontiguousarray(y.T)), a @ b, a @ b, CONTRACTIONS)


def gradients_of_layers(kind, n):
    rows = n // 16
    x, w, b = values(kind, rows, 3), values(kind, 3, 4), values(kind, 4)
    got = jit(dlc.grad(lambda w, b, x: (x @ w + b).sum(), argnums=(0, 1)), w, b, x)
    want = np.repeat(x.astype(np.float64).sum(0)[:, None], 4, 1)
    close(got[0], want, want, CONTRACTIONS)
    close(got[1], rows, rows)
    scale = jit(dlc.grad(lambda s, x: (x * s).mean()), values(kind, 3), x)
    close(scale, wide(x)[0].mean(0) / 3, wide(x)[0].mean(0) / 3)


def gradients_of_convolutions(kind, n):
    side = 64
    x, f = values(kind, max(1, n // (3 * side * side)), 3, side, side), values(kind, 4, 3, 3, 3)
    got = jit(dlc.grad(lambda f, x: F.conv2d(x, f).sum()), f, x)
    (w,) = wide(x)
    taps = [[w[:, :, i : i + side - 2, j : j + side - 2].sum((0, 2, 3)) for j in range(3)] for i in range(3)]
    want = np.broadcast_to(np.moveaxis(np.array(taps), 2, 0), (4, 3, 3, 3))
    close(got, want, want, CONTRACTIONS)


def rows_added(kind, n):
    rng = np.random.default_rng(5)
    for count, columns, index in ((1, 8, None), (10, 1, None), (1000, 4, None), (3000, 2, "skewed"), (70000, 8, None)):
        updates = n // 10
        if DEVICE and updates < 64 * count:  # docs/semantics.md: may be rounded at each update
            continue
        i = rng.integers(0, count, updates)
        if index == "skewed":
            i[rng.random(updates) < 0.7] = 17
        u = values(kind, updates, columns)
        want = np.zeros((count, columns))
        np.add.at(want, i, wide(u)[0])
        close(jit(lambda i, u, c=count, k=columns: dlc.zeros((c, k)).index_add(0, i, u), i, u), want, want)
        weight = values(kind, count, columns)
        got = jit(dlc.grad(lambda w, i, u: (F.embedding(i, w) * u).sum()), weight, i, u)
        close(got, want, want)


def rows_of_halves_added(kind, n):
    i = np.random.default_rng(5).integers(0, 3, n // 10)
    for dtype, eps in ((dlc.float16, 2.0**-11), (dlc.bfloat16, 2.0**-8)):
        u = dlc.asarray(values(kind, len(i), 4) / 1000).astype(dtype).realize()
        want = np.zeros((3, 4))
        np.add.at(want, i, u.astype(dlc.float64).numpy())
        got = dlc.jit(lambda i, u, d=dtype: dlc.zeros((3, 4), dtype=d).index_add(0, i, u))(dlc.asarray(i), u)
        np.testing.assert_allclose(got.astype(dlc.float64).numpy(), want, rtol=eps)


def running_sums(kind, n):
    for shape, axis in (((n,), 0), ((n // 40, 40), 0), ((5, n // 5), 1)):
        x = values(kind, *shape)
        (w,) = wide(x)
        close(jit(lambda x, a=axis: dlc.cumsum(x, a), x), np.cumsum(w, axis), np.cumsum(w, axis))
        back = np.flip(np.cumsum(np.flip(w, axis), axis), axis)
        got = jit(dlc.grad(lambda x, a=axis: dlc.cumsum(x, a).sum()), x)
        close(got, np.cumsum(np.ones_like(w)[::-1], axis)[::-1] if len(shape) == 1 else np.flip(
            np.cumsum(np.ones_like(w), axis), axis), back / w.min())


def running_products(kind, n):
    x = (1 + values("mean 1", n // 4, 4) / 2**12).astype(np.float32)
    x[::2] = 1 / x[::2]
    (w,) = wide(x)
    close(jit(lambda x: dlc.cumprod(x, 0), x), np.cumprod(w, 0), np.cumprod(w, 0), 2)


def gradients_of_loops(kind, n):
    x, w = values(kind, n // 100, 4), values(kind, 4)

    def loss(w, b, xs):
        def step(c, x):
            return 0.5 * c + w * x + b, (x * w * w).sum()
        c, y = dlc.scan(step, xs[0] * 0, xs)
        return c.sum() + y.sum()

    got = jit(dlc.grad(loss, argnums=(0, 1)), w, w, x)
    a, v = wide(w, x)
    left = 0.5 ** np.arange(len(v) - 1, -1, -1.0)
    close(got[0], (v * (left[:, None] + 2 * a)).sum(0), (v * (left[:, None] + 2 * a)).sum(0))
    close(got[1], left.sum(), left.sum())


FAMILIES = {
    "columns of 1": reduction(0, 1), "columns of 3": reduction(0, 3), "columns of 64": reduction(0, 64),
    "columns of 1000": reduction(0, 1000), "row": reduction(-1), "rows of 2": reduction(-1, 2),
    "all": reduction(None, 10),
} | {f.__name__: f for f in (
    several_axes, in_float64, of_halves, deviations, exponentials, products, wide_products, gradients_of_layers,
    gradients_of_convolutions, rows_added, rows_of_halves_added, running_sums, running_products, gradients_of_loops,
)}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_digits(family):
    FAMILIES[family]("equal", 40_000 if SLOW_DEVICE else 400_000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "mean 1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_digits_of_ten_million(family, kind):
    FAMILIES[family](kind, 10_000_000)


@pytest.mark.skipif(SLOW_DEVICE, reason="16 million steps of one thread")
def test_running_sum_of_ones_goes_on():
    """Beyond 2^24 float32 has every second whole number only: a running sum in order would stop there."""
    n = 2**24 + 4000
    got = dlc.jit(lambda: dlc.cumsum(dlc.ones((n,)), 0)[-8000:])().numpy()
    np.testing.assert_array_equal(got[:4000], np.arange(n - 7999, n - 3999))
    assert np.abs(got - np.arange(n - 7999, n + 1.0)).max() <= 1


def test_statistics_of_a_convolution():
    """Batch normalisation of what is one number at most pixels."""
    rng = np.random.default_rng(0)
    some = rng.random((16, 1, 64, 64)) < 0.15
    x = np.where(some, rng.standard_normal((16, 4, 64, 64), dtype="f4"), np.float32(-0.4242))
    f = rng.standard_normal((8, 4, 3, 3), dtype="f4") * np.float32(0.1)
    p, y = np.pad(x.astype("f8"), ((0, 0), (0, 0), (1, 1), (1, 1))), np.zeros((16, 8, 64, 64))
    for a in range(3):
        for b in range(3):
            y += np.einsum("nchw,kc->nkhw", p[:, :, a : a + 64, b : b + 64], f[:, :, a, b].astype("f8"))
    want = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-5)
    got = jit(lambda x, f: F.batch_norm(F.conv2d(x, f, padding=1), None, None, training=True), x, f).numpy()
    assert np.linalg.norm(got - want) < 5e-7 * np.linalg.norm(want)
