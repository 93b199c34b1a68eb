"""Where in the user's program something was made."""

from __future__ import annotations

from typing import NamedTuple


class Loc(NamedTuple):
    """A line of the user's program."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"
