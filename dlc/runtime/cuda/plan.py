"""A program as a GPU runs it: launches with their grids, and arguments as places relative to a few base addresses.

A plan has no kernels in it, only their names, so that it is stored in the disk cache as JSON beside the machine code.
`flatten` writes all launches out, loops unrolled, as arrays that the executable turns into addresses in one addition.

Bases are numbered: the inputs, the outputs, then ARENA and CONSTS (counted from the end).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlc.ir.program.tensor_map import TensorMap

ARENA, CONSTS = -2, -1
CONST_BYTES = 16  # each run-time size starts where a vector could be read


class Function(NamedTuple):
    """A kernel in machine code: the number of its module, its name there, and how it is launched. After the pointers
    it takes tensor maps, made for the addresses of some of them."""

    module: int
    name: str
    block: int
    shared_bytes: int
    maps: tuple[TensorMap, ...] = ()


class Argument(NamedTuple):
    """The address base + start + sum(steps[d] * iteration of loop d), in bytes; `extent` bytes from there are used."""

    base: int
    start: int
    steps: tuple[int, ...]
    extent: int
    written: bool


class Step(NamedTuple):
    """A launch. `place` is its number in the text of the program (`llvm_program.launches`)."""

    function: int
    grid: int
    arguments: tuple[Argument, ...]
    place: int


class Loop(NamedTuple):
    """Steps that run `count` times."""

    count: int
    body: tuple[Step | Loop, ...]


class Plan(NamedTuple):
    """Everything about a program but its machine code.

    `into[k]` is the parameter whose buffer output k takes over (-1: none), `output_bytes` and `output_names` are of the
    outputs, `consts` the run-time sizes that kernels read.
    """

    name: str
    inputs: int
    functions: tuple[Function, ...]
    steps: tuple[Step | Loop, ...]
    into: tuple[int, ...]
    output_bytes: tuple[int, ...]
    output_names: tuple[str, ...]
    arena_bytes: int
    consts: tuple[int, ...]

    def launches(self) -> int:
        """How many kernels run in one run of the program."""
        return _count(self.steps)


class Flat(NamedTuple):
    """All launches of a plan in order. Arguments of launch k are entries first[k] to first[k+1] of `base`, `offset`."""

    function: np.ndarray
    grid: np.ndarray
    place: np.ndarray
    first: np.ndarray
    base: np.ndarray  # counted from 0: ARENA and CONSTS come after the outputs
    offset: np.ndarray
    extent: np.ndarray
    written: np.ndarray


def flatten(plan: Plan, bases: int, within: tuple[int, ...] = ()) -> Flat:
    """The launches of a plan with `bases` base addresses, as they are in iteration `within` of enclosing loops."""
    launches: list[tuple[int, int, int]] = []
    first, rows = [0], []

    def visit(steps: Sequence[Step | Loop], at: tuple[int, ...]) -> None:
        for s in steps:
            if isinstance(s, Loop):
                for i in range(s.count):
                    visit(s.body, (*at, i))
                continue
            launches.append((s.function, s.grid, s.place))
            for a in s.arguments:
                move = sum(step * i for step, i in zip(a.steps, at, strict=False))
                rows.append((a.base % bases, a.start + move, a.extent, a.written))
            first.append(len(rows))

    visit(plan.steps, within)
    head = np.array(launches, np.int64).reshape(-1, 3)
    body = np.array(rows, np.int64).reshape(-1, 4)
    return Flat(head[:, 0], head[:, 1], head[:, 2], np.array(first, np.int64), body[:, 0], body[:, 1], body[:, 2],
                body[:, 3] != 0)  # fmt: skip


def encode(plan: Plan) -> list:
    """The plan as what JSON can hold."""
    return list(plan)


def decode(data: list) -> Plan:
    """The plan that `encode` gave. Raises ValueError or TypeError for anything else."""
    name, inputs, functions, steps, into, sizes, names, arena, consts = data
    return Plan(name, inputs, tuple(map(_decode_function, functions)), tuple(map(_decode_step, steps)), tuple(into),
                tuple(sizes), tuple(names), arena, tuple(consts))  # fmt: skip


def _decode_function(data: list) -> Function:
    *rest, maps = data
    return Function(*rest, tuple(TensorMap(param, dtype, start, tuple(sizes), tuple(strides), tuple(box), swizzled)
                                 for param, dtype, start, sizes, strides, box, swizzled in maps))


def _decode_step(data: list) -> Step | Loop:
    if len(data) == 2:
        return Loop(data[0], tuple(map(_decode_step, data[1])))
    function, grid, arguments, place = data
    decoded = tuple(Argument(base, start, tuple(steps), extent, written)
                    for base, start, steps, extent, written in arguments)  # fmt: skip
    return Step(function, grid, decoded, place)


def _count(steps: Sequence[Step | Loop]) -> int:
    return sum(s.count * _count(s.body) if isinstance(s, Loop) else 1 for s in steps)
