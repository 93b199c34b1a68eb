"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = {p.relative_to(ROOT).as_posix() for top in ("dlc", "tests", "models", "benchmarks", "docs", "tools")
         for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".md", ".ll", ".cuh", ".cpp")}
INVENTED = {"weights.py", "models/NAME.py"}  # files of examples


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_exist(document: Path):
    named = set(re.findall(r"`([\w./]+\.(?:py|ll|cuh))`", document.read_text(encoding="utf-8"))) - INVENTED
    ends = {"/".join(f.split("/")[k:]) for f in FILES for k in range(f.count("/") + 1)}
    assert sorted(named - ends) == []


def test_every_folder_is_in_the_tree_of_the_architecture():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## One training step")[0]
    folders = {p.parent.name for p in (ROOT / "dlc").rglob("__init__.py")} - {"dlc", "functional", "launch", "interp"}
    assert sorted(name for name in folders if f"{name}/`" not in text) == []
