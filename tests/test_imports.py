"""Imports point downwards only: each floor of DESIGN section 2 may use those below it, and nothing above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each folder, with the packages of ours that its files may import.
FLOORS = {
    "dlc/ir": ("dlc.ir",),
    "dlc/passes": ("dlc.ir", "dlc.passes"),
    "dlc/codegen": ("dlc.ir", "dlc.passes", "dlc.codegen"),
    "dlc/runtime": ("dlc.ir", "dlc.passes", "dlc.codegen", "dlc.runtime"),
    "dlc/inspect": ("dlc.ir", "dlc.passes", "dlc.codegen", "dlc.runtime", "dlc.inspect"),
    "dlc/frontend": ("dlc.ir", "dlc.passes", "dlc.runtime", "dlc.inspect", "dlc.frontend"),
    "dlc/nn": ("dlc", "dlc.nn"),
    "dlc/optim": ("dlc", "dlc.nn", "dlc.optim"),
    "dlc/data": ("dlc", "dlc.data"),
    "dlc/cli": ("dlc", "dlc.ir", "dlc.codegen", "dlc.runtime", "dlc.inspect", "dlc.frontend", "dlc.cli"),
    "models": ("dlc", "dlc.nn", "dlc.optim", "dlc.data", "models"),
}
# What every floor may use: it is about no IR.
BASE = ("dlc.ir.errors", "dlc.ir.files", "dlc.ir.settings", "dlc.ir.workers")
# What a floor, or one file, uses besides: single modules.
ALSO = {
    "dlc/frontend/interop.py": ("dlc",),  # `__array_namespace__` returns the package itself
    # modules and optimizers tell the tracer of changed attributes, and errors name the user's line; a module's
    # state_dict is made of its cells
    "dlc/nn": ("dlc.frontend.trace", "dlc.frontend.location", "dlc.frontend.placement", "dlc.frontend.labels",
               "dlc.frontend.detached"),
    "dlc/optim": ("dlc.frontend.trace", "dlc.frontend.location"),
    "dlc/data": ("dlc.frontend.location", *BASE),
    "models": BASE,
}
FILES = [(folder, path) for folder in FLOORS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(("folder", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_imports_point_downwards(folder: str, path: Path):
    wrong = [f"line {line} imports {name}" for line, name in imports(path) if not allowed(name, folder, path)]
    assert not wrong, f"{path.relative_to(ROOT)}: {'; '.join(wrong)}"


def test_every_file_has_a_floor():
    known = {path for _, path in FILES} | {ROOT / "dlc/__init__.py", ROOT / "dlc/__main__.py"}
    assert [str(p.relative_to(ROOT)) for p in sorted((ROOT / "dlc").rglob("*.py")) if p not in known] == []


def allowed(name: str, folder: str, path: Path) -> bool:
    """Whether a file of `folder` may import the module `name`."""
    if name in ALSO.get(folder, ()) or name in ALSO.get(path.relative_to(ROOT).as_posix(), ()):
        return True
    return any(name == p or (p != "dlc" and name.startswith(p + ".")) for p in FLOORS[folder])


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours, also inside functions; `from dlc import nn` counts as dlc.nn."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [_module(f"{node.module}.{alias.name}") or str(node.module) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] in ("dlc", "models", "benchmarks"))


def _module(name: str) -> str | None:
    """`name` if it is a module of ours, and None if it is something in one."""
    path = ROOT.joinpath(*name.split("."))
    return name if path.with_suffix(".py").exists() or (path / "__init__.py").exists() else None
