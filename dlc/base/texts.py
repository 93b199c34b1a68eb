"""Programs that are emitted as they are written, from files beside the Python files: LLVM IR (`.ll`), CUDA C (`.cuh`).

A comment line `;! name` or `//! name` begins a section, which reaches to the next one. What comes before the first is
about the file and is not emitted. Placeholders are `$name` or `${name}`, as `string.Template` has them: neither
language uses that character.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from string import Template
from types import MappingProxyType

_MARKS = (";! ", "//! ")


@functools.cache
def sections(package: str, file: str) -> Mapping[str, str]:
    """The sections of a file of `package` by name, in order, without the blank lines around them."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in importlib.resources.files(package).joinpath(file).read_text("utf-8").split("\n"):
        if line.startswith(_MARKS):
            name = line.partition("! ")[2]
            if name in found:
                raise ValueError(f"{package}/{file}: two sections {name}")
            current = found[name] = []
        else:
            current.append(line)
    return MappingProxyType({name: "\n".join(lines).strip("\n") for name, lines in found.items()})


def section(package: str, file: str, name: str, /, **values: object) -> str:
    """One section, its placeholders replaced. Raises KeyError for a placeholder that has no value."""
    return Template(sections(package, file)[name]).substitute(values)
