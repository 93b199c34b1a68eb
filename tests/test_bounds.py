"""What the package keeps for later has an end, and where it may not run it says so."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dlc
from dlc.ir import dtypes
from dlc.ir.graph.graph import TensorType, make, param
from dlc.passes.views import strides

ROOT = Path(dlc.__file__).parent

# Tables without a bound, and what bounds them: a name in a file -> a reason.
BOUNDED_BY = {
    "base/texts.py": {"sections": "the package's files"},
    "runtime/cpu/host.py": {"detect": "the one host"},
    "runtime/cpu/stored.py": {"compiler_version": "the one compiler"},
    "codegen/llvm/types.py": dict.fromkeys(("type_text", "memory_type", "suffix"), "dtypes and lengths of vectors"),
    "codegen/llvm/quadrants.py": {"_functions": "two texts"},
    "codegen/program/build.py": {"": "lives as long as one compilation"},
}


def test_caches_of_functions_are_bounded():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        decorated = {id(d): f.name for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for d in f.decorator_list}
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Call)) else ""
            endless = text == "functools.cache" or text.startswith("functools.lru_cache(") and "None" in text
            if endless and decorated.get(id(node), "") not in BOUNDED_BY.get(name, {}):
                wrong.append(f"{name}:{node.lineno}: {text}")
            if isinstance(node, ast.ImportFrom) and node.module == "functools":
                assert not {"cache", "lru_cache"} & {alias.name for alias in node.names}, name  # for this test to see
    assert not wrong, wrong


def test_strides_of_views_are_forgotten(monkeypatch):
    monkeypatch.setattr(strides, "KNOWN_VIEWS", 10)
    for extent in range(2, 40):
        x = param(TensorType(dtypes.float32, (extent, 3)))
        view = make("permute", (x,), axes=(1, 0))
        assert strides.strides_of(view) == (1, 3)
        assert len(strides._strides_of_view) <= 10


@pytest.mark.parametrize("build", [
    "sys._is_gil_enabled = lambda: False",
    "import sysconfig; real = sysconfig.get_config_var; "
    "sysconfig.get_config_var = lambda name: 1 if name == 'Py_GIL_DISABLED' else real(name)",
])
def test_free_threaded_builds_are_refused(build):
    for module in ("dlc", "dlc.nn", "dlc.ir.graph"):
        code = f"import sys; {build}; import {module}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: dlc needs Python's global interpreter lock"), done.stderr
