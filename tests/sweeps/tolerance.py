"""How far a result may lie from its float64 reference: derived from the terms that it adds up, never from its value.

**Sums** of products of arguments with non-negative factors (contractions, convolutions, averages, gathers, and their
gradients). With S the same sum over the absolute values of all arguments, and K its number of terms (the sum over
arguments of 1), a result may be off by

    (4 + 2 sqrt(K)) eps S + roundings * eps_out * S

where eps is 2^-23 (2^-52 in float64), whatever narrower type the results have, and eps_out that of the result. Rounding
errors of a sum are independent and at most eps/2 of a partial sum each, so that their deviation is below
sqrt(K) eps S / 3.4: the bound is seven deviations or more, for which 10^11 elements give no false alarm; a term that is
left out shows up to K of some 20,000. Where all of it is whole numbers below 2^22 (2^51), which every order of adding
gives exactly, the first term is not granted, and the second is relative to the result if that is rounded once.

**Smooth** functions: the reference is computed again with the operands and the results of each of its operations
(those of its gradient too, and the parts of composed ones) multiplied by 1 +- eps, in random signs: Monte Carlo
arithmetic. What that changes is what rounding may change: 32 times the largest change in a tensor is allowed (6 for
halves, whose eps is large), and 16 eps + 2 sqrt(K) eps of the tensor's largest magnitude, with the K that the case
states. So an exact 0 that is a difference of large numbers may be their noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._decomp import core_aten_decompositions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def for_sums(want: np.ndarray, size: np.ndarray, terms: np.ndarray, dtype: str, roundings: int,
             whole: bool) -> np.ndarray:
    """What may be between a result and `want`; `size` and `terms` are S and K, for each element. `dtype` is the coarser
    one of the result and of what is rounded on the way to it."""
    eps = EPS["float64"] if dtype == "float64" else EPS["float32"]
    exact = whole and np.all(size == np.floor(size)) and size.max(initial=0) < 0.5 / eps
    smallest = terms * _SMALLEST[dtype]
    if exact and roundings == 1:
        return EPS[dtype] * np.abs(want) + smallest
    sums = 0 if exact else (4 + 2 * np.sqrt(np.maximum(terms, 1))) * eps * size
    return sums + roundings * EPS[dtype] * size + smallest


def coarser(one: str, other: str) -> str:
    """The float type with fewer digits."""
    return max(one, other, key=EPS.__getitem__)


def for_smooth(want: np.ndarray, noisy: list[np.ndarray], terms: int, dtype: str, result: str) -> float:
    """The same for a smooth function that computes in `dtype`, with `noisy` values of it beside."""
    changes = [np.abs(n - want) for n in noisy]
    noise = max((float(np.max(c, initial=0, where=np.isfinite(c))) for c in changes), default=0.0)
    largest = float(np.max(np.abs(want), initial=0, where=np.isfinite(want)))
    half = EPS[dtype] > 1e-4
    summed = 2 * max(terms, 1) ** 0.5 * (EPS["float64"] if dtype == "float64" else EPS["float32"])
    return (6 if half else 32) * noise + ((4 if half else 16) * EPS[dtype] + summed + EPS[result]) * largest


class Noise(TorchDispatchMode):
    """Multiplies what goes into each operation on floats, and what comes out, by 1 +- eps."""

    _composed = core_aten_decompositions()

    def __init__(self, eps: float, seed: int):
        super().__init__()
        self.eps, self.random = eps, torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        parts = self._composed.get(func)
        if parts is not None:
            with self:
                out = parts(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        if func._schema.is_mutable or any(r.alias_info for r in func._schema.returns):
            return func(*args, **(kwargs or {}))
        # operands too, as a sum over many elements is rounded at each of them
        return tree_map(self._disturbed, func(*tree_map(self._disturbed, args), **(kwargs or {})))

    def _disturbed(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        signs = torch.randint(0, 2, x.shape, generator=self.random, dtype=x.dtype) * 2 - 1
        return x * (1 + self.eps * signs)
