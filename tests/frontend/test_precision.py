"""dlc.set_float32_matmul_precision: what it changes, what is compiled again, what it does not touch."""

import numpy as np
import pytest

import dlc
from tests import fake_gpu
from tests.nn.against_torch import normal


@pytest.fixture(autouse=True)
def restored():
    yield
    dlc.set_float32_matmul_precision("highest")


@pytest.fixture
def gpu(monkeypatch):
    return fake_gpu.use(monkeypatch)


A, B = normal(48, 40), normal(40, 64, seed=1)


def error(result: dlc.Tensor) -> float:
    return float(np.abs(result.numpy() - A.astype(np.float64) @ B).max())


def test_the_setting():
    assert dlc.get_float32_matmul_precision() == "highest"
    dlc.set_float32_matmul_precision("high")
    assert dlc.get_float32_matmul_precision() == "high"
    with pytest.raises(ValueError, match="'highest' or 'high', not 'medium'"):
        dlc.set_float32_matmul_precision("medium")
    assert dlc.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("jit", [True, False])
def test_products_on_a_gpu_are_exact_unless_asked(gpu, jit):
    product = dlc.jit(lambda a, b: a @ b) if jit else lambda a, b: a @ b
    a, b = dlc.asarray(A, device="cuda"), dlc.asarray(B, device="cuda")
    errors = []
    for precision in ("highest", "high", "highest"):
        dlc.set_float32_matmul_precision(precision)
        errors.append(error(product(a, b)))
    assert errors[0] == errors[2] < 1e-4 < errors[1] < 5e-2
    if jit:
        assert product.traces == 2  # back at "highest" the first entry runs


def test_gradients_and_dumps_follow(gpu):
    dlc.set_float32_matmul_precision("high")
    a, b = dlc.asarray(A, device="cuda"), dlc.asarray(B, device="cuda")
    gradient = dlc.jit(dlc.grad(lambda a, b: ((a @ b) ** 2).sum()))
    got, want = gradient(a, b).numpy(), 2 * (A.astype(np.float64) @ B) @ B.T
    assert 1e-4 < np.abs(got - want).max() < 1e-1 * np.abs(want).max()
    text = gradient.lower(a, b).text("scheduled", "cuda:sm_80")
    assert text.count("mma(") >= 2
    dlc.set_float32_matmul_precision("highest")
    assert "mma(" not in gradient.lower(a, b).text("scheduled", "cuda:sm_80")


def test_other_dtypes_are_as_before(gpu):
    dlc.set_float32_matmul_precision("high")
    a, b = (dlc.asarray(x.astype(np.float64), device="cuda") for x in (A, B))
    assert error(a @ b) < 1e-9


def test_a_cpu_computes_as_before():
    product = dlc.jit(lambda a, b: a @ b)
    a, b = dlc.asarray(A, device="cpu"), dlc.asarray(B, device="cpu")
    exact = product(a, b).numpy()
    dlc.set_float32_matmul_precision("high")
    np.testing.assert_array_equal(product(a, b).numpy(), exact)


def test_the_warning_about_retraces_names_it():
    from dlc.frontend.jit import retraces

    before = retraces.describe((), ())
    dlc.set_float32_matmul_precision("high")
    assert retraces.difference(before, retraces.describe((), ())) == (
        "float32_matmul_precision changed from highest to high")
