"""Two GPUs of one machine: `DLC_TEST_DEVICE=cuda pytest tests/frontend/test_two_devices.py` where there are two.

With `DLC_TEST_DEVICE=fake` (or without a GPU) they are imitated, so that the test itself is tested everywhere.
"""

import os
import threading

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.base.errors import DeviceError
from dlc.frontend.core import places
from tests import fake_gpu

BOTH = ("cuda:0", "cuda:1")
STEPS = 6


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    if os.environ.get("DLC_TEST_DEVICE", "").startswith("cuda"):
        try:
            places.usable("cuda:1")
        except DeviceError:
            pytest.skip("needs two GPUs")
    else:
        fake_gpu.use(monkeypatch)


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((16, 8), np.float32), rng.integers(0, 4, 16)


def training(device: str, start: dict[str, np.ndarray]):
    """A jitted step on `device` from the weights `start`, and its model."""
    model = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    model.load_state_dict(start)
    model.to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)

    @dlc.jit
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


def weights() -> dict[str, np.ndarray]:
    dlc.random.seed(3)
    model = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    return {name: value.numpy() for name, value in model.state_dict().items()}


def losses(device: str, start: dict[str, np.ndarray], seed: int) -> list[float]:
    step, _ = training(device, start)
    x, y = (dlc.asarray(a, device=device) for a in data(seed))
    return [float(step(x, y)) for _ in range(STEPS)]


def test_each_gpu_trains_as_the_cpu_does():
    start = weights()
    expected = losses("cpu", start, 0)
    assert expected[-1] < expected[0]
    for device in BOTH:
        np.testing.assert_allclose(losses(device, start, 0), expected, rtol=1e-4)


def test_both_at_once_from_two_threads():
    start, found = weights(), {}

    def work(device: str, seed: int) -> None:
        found[device] = losses(device, start, seed)

    threads = [threading.Thread(target=work, args=(device, k)) for k, device in enumerate(BOTH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, device in enumerate(BOTH):
        np.testing.assert_allclose(found[device], losses("cpu", start, k), rtol=1e-4)


def test_one_function_on_both():
    """Inputs of another device are another program, and results stay where their inputs are."""
    f = dlc.jit(lambda x: (x @ x.T).sum(0))
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    for _ in range(3):
        for device in BOTH:
            got = f(dlc.asarray(x, device=device))
            assert got.device == device
            np.testing.assert_allclose(got.numpy(), (x @ x.T).sum(0), rtol=1e-4, atol=1e-5)


def test_a_pipeline_over_both():
    """The first half of a model on one GPU, the second on the other; copies wait for what they read."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((64, 64)).astype(np.float32) / 8 for _ in range(2))
    first, second = dlc.jit(lambda x, w: F.relu(x @ w)), dlc.jit(lambda x, w: x @ w)
    a0, b1 = dlc.asarray(a, device="cuda:0"), dlc.asarray(b, device="cuda:1")
    for k in range(8):
        x = rng.standard_normal((32, 64)).astype(np.float32)
        got = second(first(dlc.asarray(x, device="cuda:0"), a0).to("cuda:1"), b1)
        assert got.device == "cuda:1"
        np.testing.assert_allclose(got.numpy(), np.maximum(x @ a, 0) @ b, rtol=1e-3, atol=1e-4, err_msg=str(k))
        np.testing.assert_array_equal(got.to("cuda:0").cpu().numpy(), got.numpy())


def test_mixed_devices_are_refused():
    x, y = (dlc.ones(2, 3, device=device) for device in BOTH)
    with pytest.raises(DeviceError, match="cuda:0(.|\n)*cuda:1"):
        x + y


@pytest.mark.parametrize("device", BOTH)
def test_an_array_made_in_a_compiled_function_goes_where_it_is_used(device):
    x = dlc.asarray(np.arange(5.0, dtype=np.float32), device=device)
    with dlc.device(device):
        y = dlc.jit(lambda x: x + dlc.asarray(np.full(5, 2.0, np.float32)))(x)
    assert y.device == device
    np.testing.assert_array_equal(y.numpy(), np.arange(5) + 2)
