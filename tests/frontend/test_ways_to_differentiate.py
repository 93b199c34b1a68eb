"""Random functions: all ways to their gradient agree, also where values are looked at on the way."""

import random

import numpy as np
import pytest

import dlc

product = dlc.jit(lambda a, b: dlc.tanh(a) * b)


def looked(a, b):
    y = a * b
    y.realize()
    assert repr(y)
    return y - a * float(y.sum() * 0 + 1)


def assigned(a, b):
    y = a * 1
    y[0] = b[1]
    y += b
    return y


def partly(a, b):
    with dlc.no_grad():
        c = a * b
    return c * 0.3 + a * b.detach()


OPERATIONS = (
    lambda a, b: a * b + 0.5,
    lambda a, b: dlc.where(a > 0, a, b * 2),
    lambda a, b: a[[1, 0, 2]] + b.mean(),
    lambda a, b: dlc.concat([a[:1], b[1:]]),
    lambda a, b: dlc.outer(a, b) @ a * 0.1,
    lambda a, b: dlc.scan(lambda c, t: (c * 0.5 + t * b.mean(), None), a[0], a)[0] + a,
    lambda a, b: dlc.checkpoint(lambda y: dlc.sin(y) * b)(a),
    lambda a, b: dlc.vmap(lambda y: y * b.sum() * 0.1)(a),
    product,
    assigned,
    partly,
)


def function(seed, look):
    """A function of two vectors; `look` adds operations that look at values."""
    draw = random.Random(seed)
    steps = [(draw.randrange(len(OPERATIONS)), draw.random(), draw.random()) for _ in range(draw.randint(3, 8))]

    def f(x, w):
        values = [x, w]
        for k, i, j in steps:
            a, b = values[int(i * len(values))], values[int(j * len(values))]
            values.append(OPERATIONS[k](a, b))
            if look:
                looked(values[-1], a)
                assert np.isfinite(values[-1].sum().item())
        return (values[-1] * values[-2]).sum() + values[-3].mean()

    return f


def backward(f, x, w):
    x.requires_grad = w.requires_grad = True
    f(x, w).backward()
    return [dlc.zeros(3) if t.grad is None else t.grad for t in (x, w)]


def forward(f, x, w):
    none, each = dlc.zeros(3), [dlc.asarray(row) for row in np.eye(3, dtype=np.float32)]
    moves = [[(e, none) for e in each], [(none, e) for e in each]]
    return [dlc.stack([dlc.jvp(f, (x, w), m)[1] for m in part]) for part in moves]


@pytest.mark.parametrize("seed", range(12))
def test_ways_agree(seed):
    def operands():
        return dlc.asarray([0.3, -0.7, 1.1]), dlc.asarray([0.5, 0.2, -0.4])

    plain, look = function(seed, False), function(seed, True)
    want = dlc.jit(dlc.grad(plain, argnums=(0, 1)))(*operands())
    ways = {
        "grad": dlc.grad(plain, argnums=(0, 1))(*operands()),
        "grad, looked at": dlc.grad(look, argnums=(0, 1))(*operands()),
        "backward": backward(plain, *operands()),
        "backward, looked at": backward(look, *operands()),
        "jvp": forward(look, *operands()),
    }
    for name, got in ways.items():
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-3, atol=1e-4, err_msg=name)
