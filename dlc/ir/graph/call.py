"""The row of `call`, a kernel of the user's as Loop IR text.

What it means is in `custom.py`, which is imported with the Loop IR by those graphs only that have a call.
"""

from __future__ import annotations

from typing import Any

from dlc.ir.graph.table import Attrs, Op, Types, register


def _infer(ins: Types, attrs: Attrs) -> Types:
    from dlc.ir.graph import custom

    return custom.infer(ins, attrs)


def _evaluate(node: Any, ins: Any) -> Any:
    from dlc.ir.graph import custom

    return custom.evaluate(node, ins)


register(Op("call", _infer, evaluate=_evaluate))
