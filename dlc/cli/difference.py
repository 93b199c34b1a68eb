"""The difference of two graphs as a unified diff that does not mind renumbering."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

CONTEXT = 3


def difference(a: str, b: str, name_a: str, name_b: str) -> str:
    """Lines that differ in more than the numbers of values; unchanged ones around them are as in `b`."""
    return "\n".join(_lines(a.splitlines(), b.splitlines(), name_a, name_b))


def _lines(a: list[str], b: list[str], name_a: str, name_b: str) -> Iterator[str]:
    matcher = SequenceMatcher(None, list(map(_unnumbered, a)), list(map(_unnumbered, b)), autojunk=False)
    groups = list(matcher.get_grouped_opcodes(CONTEXT))
    if not groups:
        yield f"{name_a} and {name_b} are the same"
        return
    yield f"--- {name_a}"
    yield f"+++ {name_b}"
    for group in groups:
        (_, a0, _, b0, _), (_, _, a1, _, b1) = group[0], group[-1]
        yield f"@@ -{a0 + 1},{a1 - a0} +{b0 + 1},{b1 - b0} @@"
        for tag, i, j, k, m in group:
            if tag == "equal":
                yield from (f" {line}" for line in b[k:m])
            else:
                yield from (f"-{line}" for line in a[i:j])
                yield from (f"+{line}" for line in b[k:m])


def _unnumbered(line: str) -> str:
    return re.sub(r"%\d+\b", "%", line)
