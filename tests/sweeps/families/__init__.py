"""The families of random cases: each draws a `Case` from a `Draw`."""

from __future__ import annotations

from collections.abc import Callable

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families import contractions, convolutions, indexing, layers, reductions

FAMILIES: dict[str, Callable[[Draw], Case]] = {**contractions.FAMILIES, **convolutions.FAMILIES, **indexing.FAMILIES,
                                             **reductions.FAMILIES, **layers.FAMILIES}
WEIGHTS: dict[str, int] = {"matmul": 3, "einsum": 3, "conv2d": 4}  # 1 where none is given
