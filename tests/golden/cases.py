"""The files of golden cases: what stands in one, and how it is read and written. `docs/golden.md` is for their readers.

    # what the case shows
    target: avx2

    --- in
    graph main(%x: f32[6]) {
      ...
    --- out
    ...

A pass that leaves its input alone has the output `(the same)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
IN, OUT = "\n--- in\n", "--- out\n"
SAME = "(the same)\n"


@dataclass(frozen=True)
class Case:
    """`head` is everything above the input: the comment, and `options` (target, schedule) by name. `goal` is the text
    that the pass of the case's folder has to make of `text`; a new case has none yet."""

    path: Path
    head: str
    options: dict[str, str]
    text: str
    goal: str

    @property
    def folder(self) -> str:
        """The name of the pass: 'simplify/views'."""
        return self.path.relative_to(FOLDER).parent.as_posix()

    @property
    def name(self) -> str:
        return self.path.relative_to(FOLDER).with_suffix("").as_posix()

    def write(self, out: str) -> None:
        """Make `out` the goal."""
        shown = SAME if out == self.text else out
        self.path.write_text(f"{self.head}{IN}{self.text}{OUT}{shown}", encoding="utf-8")


def read(path: Path) -> Case:
    """The case in a file. Raises ValueError for a file that has not its parts."""
    head, found, rest = path.read_text(encoding="utf-8").partition(IN)
    text, _, goal = rest.partition(OUT)
    if not found or not re.match(r"# \S", head):
        raise ValueError(f"{path}: a case begins with a comment that says what it shows, and has a part '--- in'")
    lines = [line for line in head.splitlines() if line and not line.startswith("#")]
    options = dict(line.split(": ", 1) for line in lines)
    return Case(path, head, options, text, text if goal == SAME else goal)


def cases() -> Iterator[Case]:
    """All cases, by name."""
    for path in sorted(FOLDER.rglob("*.txt")):
        yield read(path)
