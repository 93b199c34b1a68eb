"""What is left of a float64 when quarter turns are taken off exactly, however many: x = k pi/2 + angle + rest.

The Loop IR has an operation for each part. `pio2_count` gives k modulo 4 in the low bits of 1.5 * 2^52 + k,
`pio2_angle` the float64 nearest to 0 of those that differ from x by whole quarters, `pio2_rest` what rounding it lost.
Their operands are (x, near, limit): where |x| is below `limit`, infinite or NaN the result is `near`.
"""

from __future__ import annotations

import math

import numpy as np

DIGITS = 1280
# 2/pi * 2^DIGITS: bits enough for the largest float64, and 190 more
TWO_OVER_PI = int(
    "A2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561B7246E3A424DD2E0"
    "06492EEA09D1921CFE1DEB1CB129A73EE88235F52EBB4484E99C7026B45F7E413991D639835339F4"
    "9C845F8BBDF9283B1FF897FFDE05980FEF2F118B5A0A6D1F6D367ECF27CB09B74F463F669E5FEA2D"
    "7527BAC7EBE5F17B3D0739F78A5292EA6BFB5FB11F8D5D0856033046FC7B6BABF0CFBC209AF4361D",
    16,
)
HALF_PI = (1 << 2 * DIGITS) // TWO_OVER_PI  # pi/2 * 2^DIGITS
MAGIC = 1.5 * 2.0**52
PARTS = ("pio2_count", "pio2_angle", "pio2_rest")


def split(x: float) -> tuple[float, float, float]:
    """(MAGIC + k mod 4, angle, rest) of a finite number."""
    numerator, denominator = x.as_integer_ratio()
    quarters, one = numerator * TWO_OVER_PI, denominator << DIGITS
    k = (2 * quarters + one) // (2 * one)
    left, unit = (quarters - k * one) * HALF_PI, one << DIGITS
    angle = left / unit  # a quotient of whole numbers is rounded once, however large they are
    top, bottom = angle.as_integer_ratio()
    return MAGIC + k % 4, angle, (left * bottom - top * unit) / (unit * bottom)


def pio2(name: str, x: np.ndarray, near: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """One of the operations, on arrays."""
    x, near, limit = np.broadcast_arrays(x, near, limit)
    out, part = near.copy(), PARTS.index(name)
    for at in np.argwhere((np.abs(x) >= limit) & (np.abs(x) < math.inf)):
        out[tuple(at)] = split(float(x[tuple(at)]))[part]
    return out[()]
