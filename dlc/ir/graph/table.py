"""The table of operations: empty here; `ops.py` fills it, and files of single operations add theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Types = tuple[Any, ...]  # of TensorType
Attrs = dict[str, Any]


@dataclass(frozen=True)
class Op:
    """One row: a name and `infer(operand types, attrs) -> type` (or a tuple of types).

    `plain(node)`, if it is given, is the graph of other operations that the operation stands for, and
    `evaluate(node, arrays)` what it gives in NumPy: what else would need a row in each table gets by with these.
    """

    name: str
    infer: Callable[[Types, Attrs], Any]
    elementwise: bool = False
    view: bool = False
    plain: Callable[[Any], Any] | None = None
    evaluate: Callable[[Any, Any], Any] | None = None


OPS: dict[str, Op] = {}


def register(*rows: Op) -> None:
    """Add rows to the table. Raises ValueError for a name that is there."""
    for row in rows:
        if row.name in OPS:
            raise ValueError(f"there is an operation {row.name} already")
        OPS[row.name] = row
