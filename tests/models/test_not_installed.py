"""`models` are examples to run from a clone: an installed dlc has no package of that name, which users may have."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_only_dlc_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert "models" in packages
    assert {name for name in packages if any(fnmatch(name, pattern) for pattern in patterns)} == {"dlc"}
