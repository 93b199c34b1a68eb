"""Random choices that are written down, so that a case can be drawn again and made smaller.

A family draws everything from a `Draw`. The list of its choices is the case: `Draw(seed, choices)` repeats them, and a
shorter or lower list gives a simpler case, whatever the family (`simpler`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# What schedules divide by: vectors, tiles, blocks. The neighbours of these sizes have the tails.
_TILES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)


class Draw:
    """A source of choices. `small` limits extents, for devices on which large cases take too long."""

    def __init__(self, seed: int, choices: Sequence[int] | None = None, small: int = 0):
        self._random = random.Random(seed)
        self._given = list(choices) if choices is not None else None
        self.choices: list[int] = []
        self.small = small

    def integer(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included, each as likely."""
        return self._note(self._random.randint(low, high) if self._given is None else 0, low, high)

    def extent(self, high: int, low: int = 1) -> int:
        """The extent of an axis: often a few elements, often one more or less than a tile, else anything to `high`."""
        if self.small:
            high = max(low, min(high, self.small))
        value = 0
        if self._given is None:
            kind = self._random.random()
            if kind < 0.35:
                value = self._random.randint(low, max(low, min(high, 20)))
            elif kind < 0.65:
                value = self._random.choice(_TILES) + self._random.choice((-1, 0, 0, 1))
                value = value if value <= high else self._random.randint(low, high)
            else:
                value = round(low * (high / low) ** self._random.random())
        return self._note(value, low, high)

    def one_of(self, values: Sequence[T]) -> T:
        """One of `values`; the first is the simplest."""
        return values[self.integer(0, len(values) - 1)]

    def chance(self, percent: int) -> bool:
        """True so often; False is simpler."""
        return bool(self._note(int(self._random.random() * 100 < percent) if self._given is None else 0, 0, 1))

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """The values in some order; the given one is the simplest."""
        rest, out = list(values), []
        while rest:
            out.append(rest.pop(self.integer(0, len(rest) - 1) if len(rest) > 1 else 0))
        return out

    def _note(self, value: int, low: int, high: int) -> int:
        if self._given is not None:
            at = len(self.choices)
            value = self._given[at] if at < len(self._given) else low
        value = max(low, min(high, value))
        self.choices.append(value)
        return value


def simpler(choices: Sequence[int]) -> Iterator[list[int]]:
    """Lists of choices that give simpler cases than this one, the boldest steps first."""
    for length in (len(choices) // 2, 3 * len(choices) // 4):
        yield list(choices[:length])
    for fall in (lambda c: 0, lambda c: 1, lambda c: c // 2, lambda c: c - 1):
        for at, c in enumerate(choices):
            if fall(c) < c:
                yield [*choices[:at], fall(c), *choices[at + 1 :]]
