"""The names in code objects: instructions taken apart by hand are those that the interpreter's own `dis` shows."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import dis
import enum
import functools
import inspect
import types
import typing
from collections.abc import Iterator

import pytest

from dlc.frontend.core import tensor
from dlc.frontend.jit import codenames, reach

_UNSEEN = {"CACHE", "EXTENDED_ARG", "PUSH_NULL"}
# more than 256 names, constants and variables of a closure: arguments in two bytes
WIDE = "\n".join(["def f():", *(f"    v{k} = g{k}.a{k}" for k in range(300)), "    def h():",
                  *(f"        v{k}.s{k} = v{k}.m{k}(w{k}, {k}.5)" for k in range(300)), "    return h"])


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


@pytest.mark.parametrize("source", [
    WIDE, *map(inspect.getsource, (argparse, ast, dataclasses, enum, functools, inspect, typing, reach, tensor)),
], ids=["wide", "argparse", "ast", "dataclasses", "enum", "functools", "inspect", "typing", "reach", "tensor"])
def test_the_instructions(source):
    for code in codes(compile(source, "<source>", "exec")):
        want = [(s.opname, s.argval if s.opcode in dis.hasname or "DEREF" in s.opname else None)
                for s in dis.get_instructions(code) if s.opname not in _UNSEEN]
        assert [(s.op, s.name) for s in codenames._steps(code)] == want


def test_what_is_learnt_of_names():
    space: dict = {}
    exec(WIDE, space)
    names, variables = codenames.names_of(space["f"].__code__)
    for k in (0, 1, 255, 256, 299):
        assert names[f"s{k}"] == codenames.STORED and names[f"m{k}"] == codenames.CALLED
        assert names[f"g{k}"] == names[f"a{k}"] == names[f"w{k}"] == codenames.READ
    assert variables == {}
    inner = codenames.names_of(next(c for c in codes(space["f"].__code__) if c.co_name == "h"))
    assert set(inner.variables) == {f"v{k}" for k in range(300)} and set(inner.variables.values()) == {codenames.READ}
