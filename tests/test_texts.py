"""Programs in files beside the Python files (`dlc/base/texts.py`): read, cut into sections, and all of them there."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from string import Template

import pytest

import dlc
from dlc.base import texts
from dlc.codegen.cuda import mma

PACKAGE = Path(dlc.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".ll", ".cuh"))


def sections(path: Path) -> dict[str, str]:
    return dict(texts.sections(".".join(path.parent.relative_to(PACKAGE.parent).parts), path.name))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a file into a package of its own, and tells the package's name."""
    def write(file: str, text: str) -> str:
        name = f"texts_of_{tmp_path.name}"
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / file).write_text(text, encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop(f"texts_of_{tmp_path.name}", None)


def test_sections(write):
    head = "; about $the file\n;; more\n\n"
    package = write("a.ll", head + ";! second_2\n\n\n  call @f() ; ä\n\n  ret\n\n;! first\n;!no\n ;! no\n")
    assert list(texts.sections(package, "a.ll").items()) == [
        ("second_2", "  call @f() ; ä\n\n  ret"), ("first", ";!no\n ;! no")]
    package = write("a.cuh", "//! a\n%0 $x ${x}y {} %% \\n\n//! b\n")
    assert dict(texts.sections(package, "a.cuh")) == {"a": "%0 $x ${x}y {} %% \\n", "b": ""}
    assert texts.section(package, "a.cuh", "a", x=7) == "%0 7 7y {} %% \\n"
    assert texts.section(package, "a.cuh", "b", name="", file="", package="") == ""


def test_a_file_is_read_once(write):
    package = write("a.ll", ";! a\n1\n")
    first = texts.sections(package, "a.ll")
    write("a.ll", ";! a\n2\n")
    assert texts.sections(package, "a.ll") is first
    with pytest.raises(TypeError):
        first["a"] = "3"


def test_mistakes(write):
    package = write("a.ll", ";! a\n$x\n")
    with pytest.raises(KeyError, match="x"):
        texts.section(package, "a.ll", "a")
    with pytest.raises(KeyError, match="b"):
        texts.section(package, "a.ll", "b", x=1)
    with pytest.raises(FileNotFoundError):
        texts.sections(package, "b.ll")
    with pytest.raises(ValueError, match="c.ll: two sections a"):
        texts.sections(write("c.ll", ";! a\n1\n;! a\n1\n"), "c.ll")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_of_the_compiler(path):
    """They have sections, each with something in it, and a head that says what they are."""
    text, comment = path.read_text("utf-8"), ";" if path.suffix == ".ll" else "//"
    assert text.startswith(comment + " ") and text.endswith("\n") and "\t" not in text
    assert all(sections(path).values()) and sections(path)
    marks = re.findall(rf"^{comment}!.*", text, re.MULTILINE)
    assert marks == [f"{comment}! {name}" for name in sections(path)]
    for section in sections(path).values():
        assert Template(section).is_valid() and "%%" not in section


def test_every_section_is_reachable():
    """A device function is found by its name, or by what a table says."""
    cuda = PACKAGE / "codegen" / "cuda"
    assert set(sections(cuda / "mma.cuh")) == {*mma.CALLS, "wgmma", "wgmma_held"}
    for name, section in sections(cuda / "device_functions.cuh").items():
        assert re.search(rf"\bstruct {name}\b|\b{name}\(", section), name
    source = {path: path.read_text() for folder in ("codegen/llvm", "runtime/cpu")
              for path in (PACKAGE / folder).rglob("*.py")}
    for path in FILES:
        if path.suffix == ".ll":
            beside = "".join(text for place, text in source.items() if place.parent == path.parent)
            assert f'"{path.name}"' in beside
            assert all(f'"{name}"' in beside for name in sections(path))


def test_no_longer_program_lies_in_a_python_string():
    """What has more than 12 lines and defines functions of LLVM IR or CUDA C."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if not re.search(r"define |__device__|__global__", text):
            continue
        for node in ast.walk(ast.parse(text)):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            strings = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
            whole = "".join(strings)
            if re.search(r"^(define|declare) |__device__|__global__", whole, re.MULTILINE) and whole.count("\n") > 12:
                found.append(f"{path}:{node.lineno}")
    assert not found
