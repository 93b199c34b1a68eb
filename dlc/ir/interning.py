"""Hash-consing: a table from keys to the one living object of each key.

`weakref.WeakValueDictionary` does the same in several Python calls an access; the compiler makes a few hundred thousand
accesses for a large model.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Entry(weakref.ref):
    __slots__ = ("key",)
    key: Hashable


class Interned(Generic[T]):
    """Objects by key, for as long as somebody else holds them.

    `entries` is for `table.entries.get(key)` in hot loops: an entry called gives the object, or None if it is gone.
    """

    def __init__(self) -> None:
        self.entries: dict[Hashable, _Entry] = {}

    def _forget(self, entry: _Entry) -> None:
        if self.entries.get(entry.key) is entry:  # not a later object of the same key
            del self.entries[entry.key]

    def get(self, key: Hashable) -> T | None:
        entry = self.entries.get(key)
        return None if entry is None else entry()

    def add(self, key: Hashable, value: T) -> None:
        entry = _Entry(value, self._forget)
        entry.key = key
        self.entries[key] = entry

    def __len__(self) -> int:
        return len(self.entries)
