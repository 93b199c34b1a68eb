"""Names of kernels in LLVM IR."""

from __future__ import annotations

import re


def symbol(name: str) -> str:
    """`name` as LLVM spells a global symbol, without the @."""
    return name if re.fullmatch(r"[A-Za-z_.$][\w.$]*", name) else '"' + name.replace('"', "'") + '"'


def one_line(text: str) -> str:
    return text.replace("\n", " ").rstrip()
