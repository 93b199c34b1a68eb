"""Tensors that trade values in one compiled call: what one assignment overwrites, another may still have to read."""

from __future__ import annotations

import numpy as np
import pytest

import dlc

ARITHMETIC = {
    "nothing": lambda v, old, k: v,
    "add": lambda v, old, k: v + 1.0,
    "its own constant": lambda v, old, k: v * (1.0 + k),
    "own value": lambda v, old, k: v * 0.5 + old[k],
    "a neighbour": lambda v, old, k: v - 0.25 * old[(k + 1) % len(old)],
    "all": lambda v, old, k: v - 0.125 * sum(old),
}


def traded(values: list, sources: list[int], arithmetic) -> list:
    return [arithmetic(values[s], values, k) for k, s in enumerate(sources)]


def check(shape: tuple[int, ...], sources: list[int], name: str, rng: np.random.Generator, calls: int = 3) -> None:
    values = [rng.standard_normal(shape).astype(np.float32) for _ in sources]
    cells = [dlc.asarray(v) for v in values]

    @dlc.jit
    def step():
        old = [c.detach() for c in cells]
        for cell, new in zip(cells, traded(old, sources, ARITHMETIC[name]), strict=True):
            cell.assign(new)

    for _ in range(calls):
        step()
        values = [np.asarray(v, np.float32) for v in traded(values, sources, ARITHMETIC[name])]
    for k, (cell, want) in enumerate(zip(cells, values, strict=True)):
        np.testing.assert_allclose(cell.numpy(), want, 1e-5, 1e-5, err_msg=f"{shape} {sources} {name}: tensor {k}")


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("size", [1, 7, 17, 1000, 100_003])
def test_two_tensors_swap(size, name):
    check((size,), [1, 0], name, np.random.default_rng(size))


@pytest.mark.parametrize("seed", range(24))
def test_random_trades(seed):
    """Permutations, and where one value goes to several tensors, of several sizes and shapes."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    sources = rng.permutation(count) if seed % 2 else rng.integers(0, count, count)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 16, 31, 64, 65], rng.integers(1, 4)))
    check(shape, [int(s) for s in sources], str(rng.choice(list(ARITHMETIC))), rng)


@pytest.mark.parametrize("shape", [(3, 1), (7, 5), (64, 7), (1000, 3)])
def test_a_part_of_a_new_value_goes_into_another_tensor(shape):
    """The same element is read with a condition and without: two loads, of which one may come after the store."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-3, 4, shape).astype(np.float32) for _ in range(2))
    a, b = dlc.asarray(x), dlc.asarray(y)

    @dlc.jit
    def step():
        b.assign(b * 2.0)
        part = dlc.concat([a[:1], b[1:] + 1.0])
        a.assign(part)

    for _ in range(2):
        step()
        y = y * 2
        x = np.concatenate([x[:1], y[1:] + 1])
    np.testing.assert_array_equal(a.numpy(), x)
    np.testing.assert_array_equal(b.numpy(), y)


def test_rows_trade_places_in_one_tensor():
    x = dlc.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))

    @dlc.jit
    def turn():
        x.assign(dlc.roll(x, 1, axis=0))

    turn()
    turn()
    np.testing.assert_array_equal(x.numpy(), np.roll(np.arange(12).reshape(3, 4), 2, axis=0))


@pytest.mark.parametrize("n", [3, 64, 200])
def test_a_product_takes_the_place_of_its_operands(n):
    rng = np.random.default_rng(n)
    a, b = (rng.standard_normal((n, n)).astype(np.float32) / n for _ in range(2))
    x, y = dlc.asarray(a), dlc.asarray(b)

    @dlc.jit
    def step():
        new = x @ y
        y.assign(y @ x)
        x.assign(new)

    for _ in range(2):
        step()
        a, b = a @ b, b @ a
    np.testing.assert_allclose(x.numpy(), a, 1e-4, 1e-5)
    np.testing.assert_allclose(y.numpy(), b, 1e-4, 1e-5)


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("sources", [[1, 0], [2, 0, 1], [0, 0, 1, 2]])
def test_carries_of_a_scan_trade_places(size, name, sources):
    rng = np.random.default_rng(size)
    values = [rng.standard_normal(size).astype(np.float32) for _ in sources]

    def body(carry, _):
        return traded(list(carry), sources, ARITHMETIC[name]), carry[0]

    @dlc.jit
    def loop(*carry):
        return dlc.scan(body, list(carry), None, length=5)

    last, firsts = loop(*(dlc.asarray(v) for v in values))
    want = []
    for _ in range(5):
        want.append(values[0])
        values = [np.asarray(v, np.float32) for v in traded(values, sources, ARITHMETIC[name])]
    for got, value in zip(last, values, strict=True):
        np.testing.assert_allclose(got.numpy(), value, 1e-5, 1e-5)
    np.testing.assert_allclose(firsts.numpy(), np.stack(want), 1e-5, 1e-5)


def test_cells_that_a_scan_assigns_trade_places():
    a, b = dlc.asarray(np.full(5, 1.0, np.float32)), dlc.asarray(np.full(5, 2.0, np.float32))

    @dlc.jit
    def loop():
        def body(carry, _):
            old = a.detach()
            a.assign(b)
            b.assign(old * 3.0)
            return carry + 1.0, a * 1.0

        return dlc.scan(body, dlc.zeros(()), None, length=3)

    loop()
    x, y = 1.0, 2.0
    for _ in range(3):
        x, y = y, x * 3.0
    assert a.tolist() == [x] * 5 and b.tolist() == [y] * 5
