"""Checks of hyperparameters."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from dlc import Tensor


def not_negative(optimizer: str, options: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError for one of `names` below 0, infinite or NaN, TypeError for what is no number."""
    for name in names:
        value = options[name].item() if isinstance(options[name], Tensor) else options[name]
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{optimizer}: {name} is {value!r}, it must be a number")
        if not 0 <= value < math.inf:
            raise ValueError(f"{optimizer}: {name} is {value}, it must be a finite number that is not negative")


def fractions(optimizer: str, options: Mapping[str, Any], name: str, count: int) -> None:
    """Raise ValueError where a hyperparameter is not `count` decay rates in [0, 1)."""
    values = options[name] if isinstance(options[name], (tuple, list)) else (options[name],)
    if len(values) != count or not all(isinstance(v, (numbers.Real, Tensor)) for v in values):
        raise ValueError(f"{optimizer}: {name} is {options[name]!r}, it must be {count} number{'s' * (count > 1)}")
    if any(not 0 <= v < 1 for v in values):
        raise ValueError(f"{optimizer}: {name} is {options[name]}, it must be in [0, 1)")
