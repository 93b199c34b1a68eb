"""Kernel sizes, strides and paddings: an integer for every spatial axis, or one for each."""

from __future__ import annotations

import operator


def per_axis(function: str, name: str, value, n: int, least: int = 0) -> tuple[int, ...]:
    """`value` as `n` integers, each at least `least`. Raises ValueError naming the argument."""
    try:
        out = (operator.index(value),) * n
    except TypeError:
        try:
            out = tuple(operator.index(v) for v in value)
        except TypeError:
            raise ValueError(f"{function}: {name} is an integer or {n} integers, not {value!r}") from None
        out = out * n if len(out) == 1 else out
    if len(out) != n or min(out) < least:
        raise ValueError(f"{function}: {name} is an integer or {n} integers, each at least {least}, not {value!r}")
    return out


def same_padding(sizes: tuple[int, ...], dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    """Per axis (before, after) that keep the extent at stride 1; an odd one goes after."""
    totals = [d * (k - 1) for k, d in zip(sizes, dilations, strict=True)]
    return [(t // 2, t - t // 2) for t in totals]
