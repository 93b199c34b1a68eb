"""Every pass makes of each of its cases the text that stands in the case's file. `docs/golden.md` says how to read
them; `pytest tests/golden --update-golden` rewrites them."""

from __future__ import annotations

import pytest

from tests.golden.cases import FOLDER, Case, cases, read
from tests.golden.passes import OPTIONS, PASSES

CASES = tuple(cases())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case, request: pytest.FixtureRequest):
    assert case.options.keys() <= OPTIONS
    out = PASSES[case.folder](case.text, case.options)
    if request.config.getoption("--update-golden"):
        case.write(out)
    else:
        assert out == case.goal, f"{case.path} has another text; rewrite it with --update-golden if this is meant"


def test_every_pass_has_cases():
    assert {case.folder for case in CASES} == set(PASSES)


def test_the_page_has_every_folder():
    page = (FOLDER.parents[1] / "docs" / "golden.md").read_text(encoding="utf-8")
    assert not [folder for folder in PASSES if f"`{folder}`" not in page]


def test_a_case_says_what_it_shows(tmp_path):
    path = tmp_path / "case.txt"
    path.write_text("target: avx2\n\n--- in\n")
    with pytest.raises(ValueError, match="begins with a comment"):
        read(path)


def test_there_are_no_other_files():
    others = {p.name for p in FOLDER.rglob("*") if p.is_file() and p.suffix not in (".txt", ".pyc")}
    assert others == {"__init__.py", "cases.py", "passes.py", "test_golden.py"}
