"""Numbers that change between otherwise equal graphs become inputs, so that a new number is not a new compilation.

A number in eager code is a constant of its graph at first, and is folded as such. When a graph comes again in which
only numbers are others, those that changed are parameters from then on: `x * rate` in a loop is compiled twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from dlc.base import forks
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, Node, TensorType, param, structure, substitute

REMEMBERED = 512  # graphs


@dataclass
class _Seen:
    """The numbers with which a graph came first, and the positions of those that were others later."""

    numbers: list[str]
    changing: set[int] = field(default_factory=set)


_seen: OrderedDict[tuple, _Seen] = OrderedDict()
_lock = forks.lock()


def changing_as_inputs(graph: Graph, device: str) -> tuple[Graph, list[np.ndarray]] | None:
    """`graph` with parameters for the numbers that it did not always have, and their values; None where there are none.

    Called for graphs that were not compiled with these very numbers.
    """
    constants = [n for n in graph.nodes() if n.op == "const" and not n.dtype.is_bool]
    if not constants:
        return None
    numbers = [repr(n.attrs["value"]) for n in constants]
    key = structure(graph, numbers=False), device
    with _lock:
        seen = _seen.get(key)
        if seen is None:
            _seen[key] = _Seen(numbers)
            if len(_seen) > REMEMBERED:
                _seen.popitem(last=False)
            return None
        _seen.move_to_end(key)
        seen.changing |= {k for k, (now, was) in enumerate(zip(numbers, seen.numbers, strict=True)) if now != was}
        changing = sorted(seen.changing)
    if not changing:
        return None
    params = [param(TensorType(constants[k].dtype, ()), "number") for k in changing]
    places: dict[Node, Node] = {}
    for k, p in zip(changing, params, strict=True):
        places[constants[k]] = b.broadcast_to(p, constants[k].shape) if constants[k].shape else p
    with np.errstate(over="ignore"):  # what is too large for its type is infinite
        values = [np.array(constants[k].attrs["value"], constants[k].dtype.np) for k in changing]
    return Graph((*graph.params, *params), substitute(graph.outputs, places), graph.name), values
