"""The wheel: built from the sources, installed into a folder of its own, and used from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = (".py", ".ll", ".cuh")

USE = """
import numpy as np
import dlc
print(dlc.__file__)
x = dlc.asarray(np.arange(1 << 20, dtype=np.float64).reshape(1024, 1024))
f = dlc.jit(lambda x: dlc.sin(x * 1e6).sum(0))
np.testing.assert_allclose(f(x).numpy(), np.sin(np.arange(1 << 20).reshape(1024, 1024) * 1e6).sum(0), atol=1e-9)
a = dlc.asarray(np.ones((256, 256), np.float32)).to(dlc.bfloat16)
source = dlc.jit(lambda a: a @ a).lower(a).text("cuda", "cuda:sm_90a")
assert "wgmma.mma_async" in source and "mbarrier" in source and "struct bf16" in source
"""


def call(*command: str | Path, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, sources)
    for name in ("dlc", "models"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, sources)
    (found,) = out.iterdir()
    return found


@pytest.mark.slow
def test_the_wheel_has_all_files_of_the_package(wheel):
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "dlc").rglob("*") if path.suffix in SOURCES}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == files  # and nothing else: users have packages called `models`
        assert all(archive.read(name) == (ROOT / name).read_bytes() for name in files)


@pytest.mark.slow
def test_an_installed_wheel_compiles(wheel, tmp_path):
    """With the thread pool, and texts for CPU and GPU: nothing is read from the sources."""
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    call(sys.executable, "-m", "pip", "install", "--target", target, "--no-deps", "--no-index", wheel)
    environment = {**os.environ, "PYTHONPATH": str(target), "DLC_CACHE_DIR": str(tmp_path / "cache"), "DLC_CACHE": "1",
                   "DLC_NUM_THREADS": "2"}
    environment.pop("DLC_INTERPRET", None)
    for _ in range(2):  # compiled, then from the disk cache
        out = call(sys.executable, "-c", USE, cwd=elsewhere, env=environment)
        assert Path(out.strip()) == target / "dlc" / "__init__.py"
