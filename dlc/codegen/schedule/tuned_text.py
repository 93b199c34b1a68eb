"""Measured schedules (`codegen/target/tuned.py`): the keys by which kernels are known, and tables as text.

A contraction is known by its structure down to the memory that it reads, because its register tile is chosen before
its operands are packed; every other kernel is known by the text that it has with the schedule chosen by formulas.
"""

from __future__ import annotations

import hashlib
import json
import typing
from dataclasses import asdict, fields
from typing import Any

from dlc.codegen.target.tuned import Tuned
from dlc.ir.graph.graph import Graph, Node, param, structure, substitute
from dlc.ir.loops import schedule, traverse
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.text import print_kernel
from dlc.passes.views.views import base_of

FAMILIES: dict[str, type] = {family.__name__: family for family in typing.get_args(schedule.Schedule)}


def alone(node: Node) -> tuple[Graph, list[Node]]:
    """A graph of one contraction over parameters that stand for the memory that it reads, and what they stand for."""
    bases = list(dict.fromkeys(base_of(i) for i in node.inputs))
    params = [param(b.type, **{k: v for k, v in b.attrs.items() if k == "strides"}) for b in bases]
    return Graph(params, substitute([node], dict(zip(bases, params, strict=True)))), bases


def contract_key(node: Node) -> str:
    """What a contraction is known by: its structure and that of the views it reads memory through."""
    graph = alone(node)[0]
    return digest(repr((structure(graph), [p.attrs.get("strides") for p in graph.params])))


def kernel_digest(kernel: Kernel) -> str:
    """What a kernel with the chosen schedule is known by."""
    loose = [k for k, p in enumerate(kernel.params) if p in kernel.unaligned]
    return digest(f"{print_kernel(traverse.canonical(kernel))}{loose}")


def encode(tuned: Tuned) -> str:
    """A table as text."""
    return json.dumps([{key: pack(s) for key, s in sorted(part.items())} for part in (tuned.contracts, tuned.kernels)])


def from_json(text: str | bytes) -> Any:
    """The data in a JSON text. Raises ValueError for what is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists in lists in lists without end") from None


def decode(text: str) -> Tuned:
    """A table back from text. Raises ValueError for what is none."""
    parts = from_json(text)
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, dict) for p in parts)):
        raise ValueError("not a table of schedules")
    contracts, kernels = ({key: unpack(value) for key, value in part.items()} for part in parts)
    if not all(isinstance(s, schedule.Contract) for s in contracts.values()):
        raise ValueError("the schedule of a contraction is of another family")
    return Tuned(contracts, kernels)  # type: ignore[arg-type]


def pack(sched: schedule.Schedule) -> list[Any]:
    """A schedule as JSON data: its family and its numbers."""
    return [type(sched).__name__, asdict(sched)]


def unpack(value: Any) -> schedule.Schedule:
    """A schedule back from JSON data. Raises ValueError for what is none."""
    if not (isinstance(value, list) and list(map(type, value)) == [str, dict] and value[0] in FAMILIES):
        raise ValueError("not a schedule")
    family, numbers = FAMILIES[value[0]], value[1]
    if numbers.keys() != {f.name for f in fields(family)} or not all(type(n) in (int, bool) for n in numbers.values()):
        raise ValueError(f"not the numbers of a {family.__name__} schedule")
    return family(**numbers)


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
