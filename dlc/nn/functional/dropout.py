"""Dropout. Random bits come from dlc.random's counter-based generator, the same on every target."""

from __future__ import annotations

import dlc
from dlc import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """In training each element is 0 with probability `p`, else divided by 1 - p; otherwise the input itself."""
    return _drop("dropout", input, tuple(input.shape), p, training)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Drops whole channels of (N, C, L) or (C, L)."""
    return _drop("dropout1d", input, (*input.shape[:-1], 1), p, training)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Drops whole channels of (N, C, H, W) or (C, H, W)."""
    return _drop("dropout2d", input, (*input.shape[:-2], 1, 1), p, training)


def _drop(name: str, input: Tensor, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
    check_probability(name, p)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input * 0.0
    keep = dlc.random.dropout_mask(shape, 1.0 - p)
    return dlc.where(keep, input * (1.0 / (1.0 - p)), 0)


def check_probability(name: str, p: float) -> float:
    """`p` itself. Raises ValueError outside [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}: probability {p} is outside [0, 1]")
    return p
