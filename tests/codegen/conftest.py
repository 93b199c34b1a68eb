"""With `DLC_TEST_DEVICE=emulated` the GPU's programs run as CUDA C here too, instead of in the Loop IR interpreter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the emulated GPU's `run_program` where these tests use the interpreter's for programs of a GPU."""
    if os.environ.get("DLC_TEST_DEVICE", "").startswith("emulated"):
        from tests import cuda_on_cpu

        for name in ("cuda_programs", "cuda_attention", "gpu_scatter", "gpu_tf32"):
            module = sys.modules.get(f"tests.codegen.test_{name}")
            if module is not None:
                monkeypatch.setattr(module, "run_program", cuda_on_cpu.run_program, raising=False)
    yield
