"""The names in a function's code. It is not run, and its instructions are only asked which names are not read.

They are taken apart here: `dis` describes each for people, which takes ten times as long, and a first call pays for it.
"""

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
# the argument's lowest bits that are no part of a name's number
_FLAGS = {"LOAD_GLOBAL": 1} if sys.version_info < (3, 12) else {"LOAD_GLOBAL": 1, "LOAD_ATTR": 1, "LOAD_SUPER_ATTR": 2}
_CALLS = {"COMPARE_OP": "==", "CONTAINS_OP": "==", "FORMAT_": "repr", "CONVERT_VALUE": "repr"}  # what operators call
_OPERATORS = {op: name for start, name in _CALLS.items() for op in dis.opname if op.startswith(start)}
_NO_STEP = frozenset(dis.opmap[name] for name in ("CACHE", "PUSH_NULL") if name in dis.opmap)
_NAMED = frozenset(dis.hasname)


class Names(NamedTuple):
    """What is in a function's code and in that of functions inside it: STORED, CALLED or READ."""

    names: dict[str, int]  # global names, attributes, identifier-like strings
    variables: dict[str, int]  # of the closure


@functools.lru_cache(8192)
def names_of(code: types.CodeType) -> Names:
    """The names in `code`."""
    names: dict[str, int] = dict.fromkeys(code.co_names, -1)
    variables: dict[str, int] = dict.fromkeys(code.co_freevars, -1)
    steps = list(_steps(code))
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.name is not None:
            found = variables if "DEREF" in step.op else names
            if step.name in found:
                found[step.name] = max(found[step.name], _level(step, after))
    names.update((_OPERATORS[op], READ) for op in {step.op for step in steps} & _OPERATORS.keys())
    inner = [names_of(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    for found, more in [(names, i.names) for i in inner] + [(variables, i.variables) for i in inner]:
        for name, level in more.items():
            if found is names or name in variables:  # others are variables of this function
                found[name] = max(found.get(name, -1), level)
    names.update((word, READ) for constant in code.co_consts for word in words(constant))
    # READ: in an instruction that we do not know
    return Names(*({n: READ if level < 0 else level for n, level in found.items()} for found in (names, variables)))


class _Step(NamedTuple):
    """An instruction: its operation, its argument, the global name, the attribute or the variable that it is about."""

    op: str
    arg: int
    name: str | None


def _steps(code: types.CodeType) -> Iterator[_Step]:
    """The instructions of `code`."""
    cells = [*code.co_varnames, *(n for n in code.co_cellvars if n not in code.co_varnames), *code.co_freevars]
    arg = 0
    for op, low in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        if op in _NO_STEP:
            continue
        arg = arg << 8 | low
        if op == dis.EXTENDED_ARG:
            continue
        word = dis.opname[op]
        if op in _NAMED:
            yield _Step(word, arg, code.co_names[arg >> _FLAGS.get(word, 0)])
        else:
            yield _Step(word, arg, cells[arg] if "DEREF" in word else None)
        arg = 0


def _level(step: _Step, after: _Step | None) -> int:
    if step.op.startswith(("STORE_", "DELETE_")):
        return STORED
    if after is not None and after.name in _STORING and after.op.startswith(("LOAD_METHOD", "LOAD_ATTR")):
        return CALLED
    return CALLED if step.op in _METHOD and (step.op == "LOAD_METHOD" or step.arg & 1) else READ


def words(constant: Any) -> Iterator[str]:
    """The names that a constant may stand for: of attributes (`"scale"`, `"a.b"`, `"{0.scale}"`), also in tuples."""
    if isinstance(constant, str):
        paths = [constant] if constant.replace(".", "").isidentifier() else re.findall(r"\{([\w.[\]]*)", constant)
        for path in paths:
            yield from re.findall(r"[^\W\d]\w*", path)
    elif isinstance(constant, (tuple, frozenset)):
        for part in constant:
            yield from words(part)
