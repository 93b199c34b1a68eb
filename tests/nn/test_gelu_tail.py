"""gelu keeps its digits far out on the left, where 1 + erf has none: value and two derivatives against mpmath."""

from __future__ import annotations

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp


def _exactly(x: float) -> tuple:
    """x Phi(x) and its derivatives, and the sizes of what the derivatives are the sums of."""
    with mp.workdps(50):
        x = mp.mpf(x)
        phi, density = mp.ncdf(x), mp.npdf(x)
        values = x * phi, phi + x * density, density * (2 - x * x)
        sizes = abs(x) * phi, phi + abs(x) * density, density * (2 + x * x)
        return values, sizes


def _points(dtype) -> np.ndarray:
    rng = np.random.default_rng(0)
    dense = [rng.uniform(-40, 40, 300), rng.uniform(-6, 2, 300), rng.standard_normal(100) * 1e-4]
    return np.concatenate([*dense, np.arange(-40, 41), [-5.5, -0.7517916, 2**0.5, -(2**0.5)]]).astype(dtype)


@pytest.mark.parametrize("machine", ["compiled", "interpreted"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_derivatives(dtype, machine, monkeypatch):
    """To a few units of the last place, and x^2 / 2 more in a derivative (what the rounding of x^2 does to e^(-x^2/2)).
    """
    if machine == "interpreted":
        monkeypatch.setenv("DLC_INTERPRET", "1")
    x = _points(dtype)
    given = dlc.tensor(x)
    slope = dlc.grad(lambda v: F.gelu(v).sum())
    got = F.gelu(given), slope(given), dlc.grad(lambda v: slope(v).sum())(given)
    forward = dlc.jvp(F.gelu, (given,), (dlc.ones_like(given),))[1]
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    exact = [_exactly(float(v)) for v in x]
    for order, values in enumerate((*got, forward)):
        order = 1 if order == 3 else order
        for v, value, (wants, sizes) in zip(x, values.numpy(), exact, strict=True):
            ulps = 8 + (float(v) ** 2 if order else 0)
            error = abs(mp.mpf(float(value)) - wants[order])
            # what is no normal number has few digits, and is multiplied by x, or 2 - x^2
            assert error <= ulps * eps * sizes[order] + tiny * eps * (40 + 2 * ulps), (order, v, value, wants[order])


def test_halves_are_rounded_from_float32():
    for dtype in (dlc.float16, dlc.bfloat16):
        x = dlc.linspace(-12, 4, 500).astype(dtype)
        want = np.array([float(_exactly(float(v))[0][0]) for v in x.astype(dlc.float32).numpy()], np.float32)
        got = F.gelu(x)
        rounded = dlc.tensor(want).astype(dtype)
        step = dlc.finfo(dtype).eps if hasattr(dlc, "finfo") else {dlc.float16: 2**-10, dlc.bfloat16: 2**-7}[dtype]
        np.testing.assert_allclose(got.astype(dlc.float32).numpy(), rounded.astype(dlc.float32).numpy(), step, 2**-24)
