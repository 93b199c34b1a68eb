"""Which launches of a graph must wait for which: those that touch the same memory, one of them writing.

The arena packs tensors whose lives do not overlap *in program order* into the same bytes, so order is found from bytes,
not from tensors: a launch waits for the last ones that wrote what it reads or writes, and for those that still read
what it writes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from dlc.runtime.cuda.plan import Flat


def in_order(launches: int) -> list[list[int]]:
    """Every launch waits for the one before."""
    return [[k - 1] if k else [] for k in range(launches)]


def by_memory(flat: Flat) -> list[list[int]]:
    """For each launch, the launches that it must wait for, without those that one of these waits for itself.

    Different bases are different memory: a donated output's base is its input's.
    """
    memories: dict[int, _Memory] = {}
    after: list[list[int]] = []
    firsts, bases, offsets = flat.first.tolist(), flat.base.tolist(), flat.offset.tolist()
    extents, written = flat.extent.tolist(), flat.written.tolist()
    for k in range(len(firsts) - 1):
        arguments = range(firsts[k], firsts[k + 1])
        waits: set[int] = set()
        for a in arguments:
            memory = memories.setdefault(bases[a], _Memory())
            waits |= memory.waits(offsets[a], offsets[a] + extents[a], written[a])
        for a in arguments:
            memories[bases[a]].note(k, offsets[a], offsets[a] + extents[a], written[a])
        waits.discard(k)
        implied = {j for w in waits for j in after[w]}
        after.append(sorted(waits - implied))
    return after


class _Memory:
    """Who wrote and who reads each piece of one memory. Pieces are [starts[i], starts[i+1])."""

    def __init__(self) -> None:
        self.starts: list[int] = [0]
        self.writer: list[int] = [-1]
        self.readers: list[tuple[int, ...]] = [()]

    def waits(self, begin: int, end: int, writes: bool) -> set[int]:
        out: set[int] = set()
        for i in range(bisect_right(self.starts, begin) - 1, bisect_left(self.starts, end)):
            if writes and self.readers[i]:
                out.update(self.readers[i])
            elif self.writer[i] >= 0:
                out.add(self.writer[i])
        return out

    def note(self, k: int, begin: int, end: int, writes: bool) -> None:
        low, high = self._cut(begin), self._cut(end)
        if writes:  # one piece from now on
            self.starts[low:high] = [begin]
            self.writer[low:high] = [k]
            self.readers[low:high] = [()]
            return
        for i in range(low, high):
            if k != self.writer[i] and k not in self.readers[i]:
                self.readers[i] = (*self.readers[i], k)

    def _cut(self, at: int) -> int:
        """The piece that begins at `at`, made by cutting one if need be."""
        i = bisect_left(self.starts, at)
        if i == len(self.starts) or self.starts[i] != at:
            self.starts.insert(i, at)
            self.writer.insert(i, self.writer[i - 1])
            self.readers.insert(i, self.readers[i - 1])
        return i
