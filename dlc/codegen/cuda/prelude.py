"""Device functions that generated kernels call (`device_functions.cuh`). A module gets those that it uses, so the
source needs no header.
"""

from __future__ import annotations

import re

from dlc.base import texts

_WORD = re.compile(r"[A-Za-z_]\w*")


def prelude(text: str) -> str:
    """The functions that `text` needs, and those that they need, in an order that C++ takes."""
    functions = texts.sections(__package__, "device_functions.cuh")
    needed: set[str] = set()
    stack = [text]
    while stack:
        for word in set(_WORD.findall(stack.pop())):
            if word in functions and word not in needed:
                needed.add(word)
                stack.append(functions[word])
    return "\n".join(source for name, source in functions.items() if name in needed)
