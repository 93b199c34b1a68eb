"""Checks of hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def not_negative(optimizer: str, options: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError for one of `names` below 0 (or NaN)."""
    for name in names:
        if not options[name] >= 0:
            raise ValueError(f"{optimizer}: {name} is {options[name]}, it must not be negative")


def fractions(optimizer: str, options: Mapping[str, Any], name: str) -> None:
    """Raise ValueError for a decay rate outside [0, 1)."""
    values = options[name] if isinstance(options[name], (tuple, list)) else (options[name],)
    if any(not 0 <= v < 1 for v in values):
        raise ValueError(f"{optimizer}: {name} is {options[name]}, it must be in [0, 1)")
