"""`DLC_TEST_DEVICE=cuda pytest tests/frontend tests/nn tests/optim` runs tests on a GPU: it is the default device.

Two need no GPU, and are slow: `fake`, where the Loop IR interpreter runs kernels (tests/fake_gpu.py), and `emulated`,
where their CUDA C runs on the CPU (tests/cuda_on_cpu): also as `emulated:sm_80`, `emulated:sm_90a:5` for threads in
order 5, `emulated:sm_90a:5:2` with schedules for two multiprocessors.

`DLC_TEST_CPU=sse2` (avx2, avx512, avx512-bf16, amx) runs any test as if on a host with those features
(tests/targets.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the output of every case of tests/golden")


def pytest_configure() -> None:
    """Before any test module asks what the host is."""
    name = os.environ.get("DLC_TEST_CPU")
    if name:
        from tests import targets

        targets.pretend(pytest.MonkeyPatch(), name)


@pytest.fixture
def watched() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Makes a context where class numbers are looked at: on a GPU nobody waits for them but `dlc.debug()`."""
    import dlc

    return dlc.debug if os.environ.get("DLC_TEST_DEVICE") else contextlib.nullcontext


@pytest.fixture(scope="session", autouse=True)
def default_device() -> Iterator[None]:
    """The default device of the whole run, as the environment says."""
    device = os.environ.get("DLC_TEST_DEVICE", "")
    if not device:
        yield
        return
    import dlc

    with pytest.MonkeyPatch.context() as patch:
        if device == "fake":
            from tests import fake_gpu

            fake_gpu.use(patch)
        elif device.startswith("emulated"):
            from tests import cuda_on_cpu

            arch, order, count = (*device.split(":")[1:], *("sm_90a", "0", "0")[device.count(":"):])
            gpu = cuda_on_cpu.EmulatedGpu(arch=arch, order=int(order), nbytes=1 << 32, sm_count=int(count))
            cuda_on_cpu.use(patch, gpu)
        dlc.set_default_device("cuda" if device == "fake" or device.startswith("emulated") else device)
        yield
