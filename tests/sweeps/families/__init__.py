"""The families of random cases: each draws a `Case` from a `Draw`."""

from __future__ import annotations

from collections.abc import Callable

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families import contractions, convolutions, elements, indexing, layers, programs, reductions

_PARTS = (contractions, convolutions, indexing, reductions, layers, elements, programs)
FAMILIES: dict[str, Callable[[Draw], Case]] = {name: f for part in _PARTS for name, f in part.FAMILIES.items()}
WEIGHTS = {"matmul": 3, "einsum": 3, "conv2d": 4, "programs": 4, "smooth_programs": 2, "states": 2}  # 1 of the others
