"""`DLC_TEST_DEVICE=cuda pytest tests/frontend tests/nn tests/optim` runs tests on a GPU: it is the default device.

`fake` is a GPU imitated by the Loop IR interpreter (tests/fake_gpu.py): slow, and needs no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


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
        dlc.set_default_device("cuda" if device == "fake" else device)
        yield
