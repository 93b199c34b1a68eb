"""Does a scheduled kernel compute what it should, no more and no less? `check(kernel, sizes)` at given sizes:

- every access is inside its buffer, and no loop is longer than its axis;
- every element of every result is written, exactly once: no tail overlaps what another tile writes. Only a kernel that
  combines into a result (`+=`), and scatters and sorts, which go through theirs in order, may write an element again:
  first it is written plainly, and then by no other parallel iteration. Nor is it read by another one, or before it is
  written. A place that depends on data counts as any place that its clamp allows, and as written nowhere for certain;
- what lives in a task or a thread (reg and shared buffers) is written before it is read;
- between two barriers no thread of a block touches what another one writes, in shared memory or in a result that the
  kernel reads back. Where gates order threads (bulk copies) that is left to the interpreter.

Results whose elements lie apart, because other kernels write what is between them, are told by `apart`. Of a kernel
that a user wrote only the bounds are checked: what it does not write is undefined.

No element is computed: only index expressions, conditions and extents run (`loops_accesses`). What cannot be decided so
is given back as notes: accesses at places that follow from what the kernel itself computed (a merge sort's runs), and
kernels with more points than are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlc.base.errors import VerifyError
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.accesses import MOST_POINTS, Access, Form, Points, TooMany, World, accesses, extent_of, form_of
from dlc.ir.loops.instructions import TmaCopy
from dlc.ir.loops.ir import RUNTIME, Buffer, Expr, Kernel, Stmt
from dlc.ir.loops.schedule import GpuOrdered, Plain
from dlc.ir.loops.text import print_stmt

LARGEST = 1 << 20  # elements of a kernel's largest buffer up to which programs are checked
TURNS = 4  # turns of a loop with barriers after which its pattern is known
BLOCKS = 3  # of a grid of which threads are compared
SHARED_OUT = ("parallel", "grid")  # loops whose iterations run at the same time, and wait for nobody
NEVER = np.iinfo(np.int64).max  # a time

Apart = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides of a result


def check(kernel: Kernel, sizes: Mapping[Buffer, int] | None = None,
          apart: Mapping[Buffer, Apart] | None = None) -> list[str]:
    """Notes on what could not be decided. Raises VerifyError.

    `sizes` has the numbers in the parameters that hold a size, and of elements of those that have any size.
    """
    sized = _sized(kernel, sizes or {})
    now = dict(zip(kernel.params, sized.params, strict=True))
    checked = _Check(sized, {now[b]: at for b, at in (apart or {}).items()})
    checked.run()
    return checked.notes


def _sized(kernel: Kernel, sizes: Mapping[Buffer, int]) -> Kernel:
    """The kernel with numbers for the sizes that it reads when it runs."""
    numbers = {loops.load(b, loops.const(0)): loops.const(n) for b, n in sizes.items() if b.size == 1}
    whole = {b: replace(b, shape=(n,)) for b, n in sizes.items() if b.size == RUNTIME}
    if RUNTIME in (whole.get(b, b).size for b in kernel.params):
        raise ValueError(f"kernel {kernel.name} is for tensors of any size: give sizes")
    if numbers:
        kernel = replace(kernel, body=traverse.substitute(kernel.body, numbers))
    return traverse.replace_buffers(kernel, whole) if whole else kernel


@dataclass(eq=False)
class _At:
    """Where an access is made: its points, and its place as a sum (None where that may be anywhere)."""

    access: Access
    points: Points
    place: Form | None

    @property
    def certain(self) -> bool:
        """Is it made wherever its loops say, at places that they say?"""
        return self.points.decided and self.place is not None and not self.of_data

    @property
    def of_data(self) -> bool:
        axes = self.points.world.of_data
        return self.place is None or any(a is not None and a.axes & axes for a in self.place)


class _Check:
    def __init__(self, kernel: Kernel, apart: Mapping[Buffer, Apart]):
        self.kernel, self.apart = kernel, apart
        self.notes: list[str] = []
        self.world = World(kernel)
        self.found = accesses(kernel)
        self.all = [self._at(a) for a in self.found.accesses]
        self.bulk = {a.buffer for a in self.found.accesses if isinstance(a.stmt, TmaCopy)}

    def fail(self, stmt: Stmt | None, message: str) -> VerifyError:
        text = "" if stmt is None else "\n    " + print_stmt(stmt).split("\n", 1)[0].strip()
        return VerifyError(f"kernel {self.kernel.name}: {message}{text}\n    schedule: {self.kernel.scheduled}")

    def note(self, message: str) -> None:
        if message not in self.notes:
            self.notes.append(message)

    def run(self) -> None:
        self._extents()
        for at in self.all:
            self._inside(at)
        if self.kernel.custom:
            return
        private = {b for b in self.found.scopes if b.space in ("reg", "shared")}
        for b in sorted(self.kernel.writes, key=lambda b: b.name):
            self._guarded(self._result, b)
        for b in private:
            self._guarded(self._before_read, b)
        if any(f.kind == "lane" for a in self.found.accesses for f in a.loops):
            for b in [*private, *self.kernel.writes]:
                if b.space != "reg" and b not in self.bulk:
                    self._guarded(self._threads_apart, b)

    def _guarded(self, rule: Callable, *args: Any) -> Any:
        """What a rule gives, or None and a note."""
        try:
            return rule(*args)
        except TooMany:
            self.note("more points than are looked at")

    def _at(self, a: Access) -> _At:
        place = self.world.known(a.place)
        return _At(a, Points(self.world, a.loops, a.conditions, a.footprint), None if place is None else form_of(place))

    def of(self, b: Buffer) -> list[_At]:
        return [at for at in self.all if at.access.buffer is b]

    # -- bounds ----------------------------------------------------------------------------------------------------

    def _extents(self) -> None:
        for loop, around, conditions in self.found.extents:
            low, high = self.world.interval(loop.extent)
            if high <= loop.axis.attr[1]:
                continue
            e = self.world.known(loop.extent)
            if e is None:
                self.note(f"the extent of loop {loop.axis.attr[0]} follows from data")
                continue
            reach = self._guarded(Points(self.world, around, conditions).bounds, form_of(e))
            if reach is not None and reach[1] > loop.axis.attr[1]:
                raise self.fail(loop, f"a loop of up to {reach[1]} turns over an axis of {loop.axis.attr[1]}")

    def _inside(self, at: _At) -> None:
        a, b = at.access, at.access.buffer
        for e, n in zip(a.index, b.shape, strict=True):
            self._within(at, e, n)
        if a.footprint:
            self._within(at, a.place, b.size)

    def _within(self, at: _At, e: Expr, n: int) -> None:
        low, high = self.world.interval(e)
        if 0 <= low and high < n:
            return
        b, known = at.access.buffer, self.world.known(e)
        if known is None:
            if all(x.attr.space == "global" for x in traverse.loads_of(e)):
                raise self.fail(at.access.stmt, f"{b.name} is touched at any place, outside 0..{n - 1}")
            self.note(f"{b.name}: a place follows from what the kernel computed")
            return
        reach = self._guarded(at.points.loosely(known.axes).bounds, form_of(known))
        if reach is not None and not 0 <= reach[0] <= reach[1] < n:
            reach = self._guarded(at.points.bounds, form_of(known))
        if reach is not None and not 0 <= reach[0] <= reach[1] < n:
            raise self.fail(at.access.stmt, f"{b.name} is touched at {reach[0]} to {reach[1]}, outside 0..{n - 1}")

    # -- results ---------------------------------------------------------------------------------------------------

    def made(self, at: _At, *forms: Form, also: Sequence[Expr] = ()) -> list[np.ndarray]:
        """Places, and other forms, at all points; times are the earliest."""
        assert at.place is not None
        axes = at.points.relevant(at.place) | set(also)
        cut = [{a: k for a, k in form.items() if a is None or a in axes} for form in forms]
        return at.points.at([at.place, *cut], also)

    def by_iteration(self, at: _At) -> list[np.ndarray]:
        """Places, the parallel iterations that touch them, and when."""
        workers = [f.axis for f in at.access.loops if f.kind in SHARED_OUT][:1]
        return self.made(at, {None: 0, **dict.fromkeys(workers, 1)}, at.access.time, also=workers)

    def _result(self, b: Buffer) -> None:
        everything = self.of(b)
        sure = [at for at in everything if at.access.kind == "write" and at.certain]
        others = [at for at in everything if at not in sure]
        if not sure and any(at.access.writes and not at.certain for at in others):
            self.note(f"{b.name}: which elements are written follows from data")
            return
        in_order = isinstance(self.kernel.schedule, (Plain, GpuOrdered)) or any(at.access.writes for at in others)
        owner, first, count = self._written(b, sure, in_order)
        want = self._wanted(b)
        stmt = sure[-1].access.stmt if sure else None
        if np.any(missing := (count == 0) & want):
            raise self.fail(stmt, f"{missing.sum()} of {want.sum()} elements of {b.name} are never written, the first "
                            f"is {np.argmax(missing)}")
        if np.any(foreign := (count > 0) & ~want):
            raise self.fail(stmt, f"element {np.argmax(foreign)} of {b.name} is written, which another kernel writes")
        if np.any(twice := count > 1) and not in_order:
            raise self.fail(stmt, f"{twice.sum()} elements of {b.name} are written {count.max()} times, the first is "
                            f"{np.argmax(twice)}")
        for at in others:
            self._of_own(at, owner, first)

    def _written(self, b: Buffer, sure: Sequence[_At], in_order: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each element: a parallel iteration that writes it (-1: none does), when first, and how often."""
        owner, first = np.full(b.size, -1, np.int64), np.full(b.size, NEVER)
        count = np.zeros(b.size, np.int64)
        for at in sure:
            places, who, when = self.by_iteration(at)
            seen = at.points.relevant(at.place or {}) | {f.axis for f in at.access.loops if f.kind in SHARED_OUT}
            count += np.bincount(places, minlength=b.size) * at.points.repeats(seen)
            before = owner[places]
            owner[places] = who
            if in_order and (np.any((before >= 0) & (before != who)) or np.any(owner[places] != who)):
                raise self.fail(at.access.stmt, f"elements of {b.name} are written by several parallel iterations")
            np.minimum.at(first, places, when)
        return owner, first, count

    def _of_own(self, at: _At, owner: np.ndarray, first: np.ndarray) -> None:
        """What is read, combined into, or written at a place that depends on data was written before by the same
        parallel iteration."""
        b = at.access.buffer
        if at.place is None:
            self.note(f"{b.name}: whose elements are touched")
            return
        places, who, when = self.by_iteration(at)
        if np.any((owner[places] != who) & (owner[places] >= 0)):
            raise self.fail(at.access.stmt, f"elements of {b.name} that another parallel iteration writes are touched")
        if np.any(first[places] >= when):
            raise self.fail(at.access.stmt, f"elements of {b.name} are touched before they are written")

    def _wanted(self, b: Buffer) -> np.ndarray:
        """The elements of a result that this kernel is to write."""
        if b not in self.apart:
            return np.ones(b.size, bool)
        shape, strides = self.apart[b]
        want = np.zeros(b.size, bool)
        place = np.zeros((), np.int64)
        for n, k in zip(shape, strides, strict=True):
            place = place[..., None] + np.arange(n) * k
        want[place.ravel()] = True
        return want

    # -- buffers of a task or a thread -------------------------------------------------------------------------------

    def _before_read(self, b: Buffer) -> None:
        everything = [at for at in self.of(b) if at.place is not None]
        if len(everything) != len(self.of(b)):
            self.note(f"{b.name}: what is touched when")
            return
        outer = {f.axis for f in self.found.scopes[b]}
        writes = [at for at in everything if at.access.kind == "write" and at.certain]
        # loops around the buffer on which it depends what is written: it is another buffer for each of their turns
        turns = sorted(set().union(*(at.points.relevant(at.place or {}) for at in writes)) & outer if writes else (),
                       key=lambda a: a.attr[2])
        lengths = {f.axis: extent_of(f) for at in everything for f in at.access.loops}
        which: Form = {None: 0}
        total = b.size
        for a in turns:
            which[a], total = total, total * lengths[a]
        if total > MOST_POINTS:
            raise TooMany
        first = np.full(total, NEVER)

        def touched(at: _At) -> tuple[np.ndarray, np.ndarray]:
            places, turn, when = self.made(at, which, self._inner_time(at, outer), also=turns)
            return turn + places, when

        for at in writes:
            np.minimum.at(first, *touched(at))
        by_data = any(at.access.kind == "write" and not at.certain for at in everything)
        for at in everything:
            if at.access.reads and (early := self._early(at, first, touched)) is not None:
                if not by_data and at.certain:
                    raise self.fail(at.access.stmt, f"element {early % b.size} of {b.name} is read where nothing was "
                                    "written")
                self.note(f"{b.name}: what is written before it is read follows from data")

    def _early(self, at: _At, first: np.ndarray, touched: Callable[[_At], tuple[np.ndarray, np.ndarray]]) -> int | None:
        """A place that is read before it is first written. With fewer conditions it may be clear that there is none."""
        own = frozenset().union(*(a.axes for a in at.place or {} if a is not None))
        for points in (at.points.loosely(own), at.points):
            places, when = touched(replace(at, points=points))
            early = first[places] >= when
            if not early.any():
                return None
        return int(places[np.argmax(early)])

    def _inner_time(self, at: _At, outer: set[Expr]) -> Form:
        """When, since the buffer was allocated. What is copied in bulk is there when its gate says so."""
        if isinstance(at.access.stmt, TmaCopy):
            return {None: -1}
        return {a: k for a, k in at.access.time.items() if a not in outer}

    # -- threads -----------------------------------------------------------------------------------------------------

    def _threads_apart(self, b: Buffer) -> None:
        everything = self.of(b)
        if b.space == "global" and not any(at.access.reads for at in everything):
            return
        if any(at.place is None for at in everything):
            self.note(f"{b.name}: which threads touch it")
            return
        barriers = self._barriers()
        keys, threads, written = [], [], []
        for at in everything:
            places, thread, block, when = self._events(at)
            interval = np.searchsorted(barriers, when)
            keys.append((interval * BLOCKS + block) * b.size + places)
            threads.append(-1 - thread if at.access.group > 1 else thread)
            written.append(np.full(places.size, at.access.writes))
        key, thread, wrote = (np.concatenate(x) if x else np.zeros(0) for x in (keys, threads, written))
        if not key.size:
            return
        order = np.lexsort((thread, key))
        key, thread, wrote = key[order], thread[order], wrote[order]
        start = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        clash = np.logical_or.reduceat(wrote, start) & (np.maximum.reduceat(thread, start)
                                                        != np.minimum.reduceat(thread, start))
        if clash.any() and any(at.of_data for at in everything):
            self.note(f"{b.name}: which threads touch it")
        elif clash.any():
            place = int(key[start[np.argmax(clash)]] % b.size)
            stmt = next(at.access.stmt for at in everything if at.access.writes)
            raise self.fail(stmt, f"threads touch element {place} of {b.name} that another one writes, with no barrier "
                            "between")

    def _barriers(self) -> np.ndarray:
        """The times of all barriers, in order."""
        times = [np.zeros(0, np.int64)]
        for around, time in self.found.syncs:
            points = Points(self.world, around, ())
            axes = [f.axis for f in around if f.axis in time]
            times.append(points.at([time], axes, dict.fromkeys(axes, TURNS))[0])
        return np.sort(np.concatenate(times))

    def _events(self, at: _At) -> list[np.ndarray]:
        """Place, thread, block and time: of loops with barriers the first turns, of the grid some blocks."""
        a = at.access
        waiting = {f.axis for around, _ in self.found.syncs for f in around if f.kind not in ("grid", "lane")}
        first = {f.axis: TURNS for f in a.loops if f.axis in waiting}
        grid = [f.axis for f in a.loops if f.kind == "grid"]
        lane = [f.axis for f in a.loops if f.kind == "lane"]
        first |= dict.fromkeys(grid, BLOCKS)
        thread: Form = {None: 0, **dict.fromkeys(lane, 1)}
        if a.group > 1:
            first |= dict.fromkeys(lane, 1)
        block: Form = {None: 0, **dict.fromkeys(grid, 1)}
        assert at.place is not None
        also = [f.axis for f in a.loops if f.axis in waiting or f.kind == "lane"]
        axes = at.points.relevant(at.place) | set(also)
        forms = [{x: k for x, k in form.items() if x is None or x in axes} for form in (thread, block, a.time)]
        return at.points.at([at.place, *forms], also, first)
