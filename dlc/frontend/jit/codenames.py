"""The names in a function's code. It is not run, and its instructions are only asked which names are not read."""

from __future__ import annotations

import dis
import functools
import re
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

# What the code learns of the value that a name holds. STORED: nothing, it only assigns to the name. CALLED: nothing
# where the value is plain data, as it only calls it (`o.step()`), or a method of it that stores and returns nothing
# (`o.seen.append(x)`). READ: anything. An instruction that is not known here counts as READ.
STORED, CALLED, READ = range(3)
_STORING = {"append", "add", "extend", "appendleft", "extendleft", "insert", "update", "clear", "discard"}
_METHOD = {"LOAD_METHOD"} if sys.version_info < (3, 12) else {"LOAD_ATTR", "LOAD_SUPER_ATTR"}  # with the lowest bit set
_OPERATORS = {"COMPARE_OP": "==", "CONTAINS_OP": "==", "FORMAT_": "repr", "CONVERT_VALUE": "repr"}  # what they call
_NO_STEP = {"CACHE", "EXTENDED_ARG", "PUSH_NULL"}


class Names(NamedTuple):
    """What is in a function's code and in that of functions inside it: STORED, CALLED or READ."""

    names: dict[str, int]  # global names, attributes, identifier-like strings
    variables: dict[str, int]  # of the closure


@functools.lru_cache(8192)
def names_of(code: types.CodeType) -> Names:
    """The names in `code`."""
    names: dict[str, int] = dict.fromkeys(code.co_names, -1)
    variables: dict[str, int] = dict.fromkeys(code.co_freevars, -1)
    steps = [s for s in dis.get_instructions(code) if s.opname not in _NO_STEP]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        found = variables if "DEREF" in step.opname else names
        if type(step.argval) is str and step.argval in found:
            found[step.argval] = max(found[step.argval], _level(step, after))
    for op, name in _OPERATORS.items():
        if any(step.opname.startswith(op) for step in steps):
            names[name] = READ
    inner = [names_of(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    for found, more in [(names, i.names) for i in inner] + [(variables, i.variables) for i in inner]:
        for name, level in more.items():
            if found is names or name in variables:  # others are variables of this function
                found[name] = max(found.get(name, -1), level)
    names.update((word, READ) for constant in code.co_consts for word in words(constant))
    # READ: in an instruction that we do not know
    return Names(*({n: READ if level < 0 else level for n, level in found.items()} for found in (names, variables)))


def _level(step: dis.Instruction, after: dis.Instruction | None) -> int:
    if step.opname.startswith(("STORE_", "DELETE_")):
        return STORED
    if after is not None and after.argval in _STORING and after.opname.startswith(("LOAD_METHOD", "LOAD_ATTR")):
        return CALLED
    return CALLED if step.opname in _METHOD and (step.opname == "LOAD_METHOD" or step.arg & 1) else READ


def words(constant: Any) -> Iterator[str]:
    """The names that a constant may stand for: of attributes (`"scale"`, `"a.b"`, `"{0.scale}"`), also in tuples."""
    if isinstance(constant, str):
        paths = [constant] if constant.replace(".", "").isidentifier() else re.findall(r"\{([\w.[\]]*)", constant)
        for path in paths:
            yield from re.findall(r"[^\W\d]\w*", path)
    elif isinstance(constant, (tuple, frozenset)):
        for part in constant:
            yield from words(part)
