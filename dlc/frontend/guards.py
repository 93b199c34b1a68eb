"""What a compiled entry depends on outside its arguments, and whether that is still as it was at the trace.

`Reach` finds what the function may read. Here it becomes a flat list of readers: at a call each gives what is there
now, and all of it is compared, by identity, with what was there when the function was traced. Numbers, strings and
None are also compared by value, containers by content. What an object of ours reports (`trace.attribute_changed`) is
only read after something was reported. Nothing that can be referred to weakly is kept alive: where such a thing is
gone, the entry is gone.
"""

from __future__ import annotations

import operator
import pickle
import random
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from dlc.frontend import placement
from dlc.frontend import trace as tracing
from dlc.frontend.reach import (
    MAX_ELEMENTS,
    MISSING,
    SCALARS,
    Reach,
    Space,
    bases_of,
    by_content,
    flat,
    held_by,
    is_container,
    is_data,
    is_users_module,
    listing,
)  # fmt: skip
from dlc.frontend.tensor import Tensor


class _Appeared(Exception):
    """A name is there that was not: `args[0]`."""


class _Place:
    """Some values that are read together."""

    def __init__(self, read: Callable[[], Sequence[Any]], what: str, labels: list[str], was: list[Any]):
        self.read, self.what, self.labels, self.was = read, what, labels, was


class _Places:
    """Values that are compared together."""

    def __init__(self, places: list[_Place]):
        self.places = places
        self._reads = [p.read for p in places]
        self._arrange()

    def _arrange(self) -> None:
        """Strong references first, weak ones after them: each part is compared by one loop in C."""
        was = [w for p in self.places for w in p.was]
        self._count = len(was)
        strong = [k for k, w in enumerate(was) if type(w) is not weakref.ref]
        weak = [k for k, w in enumerate(was) if type(w) is weakref.ref]
        self._order = operator.itemgetter(*strong, *weak, 0, 0) if was else tuple  # two more: always a tuple
        self._strong, self._weak = [was[k] for k in strong], [was[k] for k in weak]

    def hold(self) -> bool:
        values: list[Any] = []
        try:
            for read in self._reads:
                values += read()
        except Exception:  # a reader may run into anything once objects have changed
            return False
        if len(values) == self._count:
            values = self._order(values)
            if all(map(operator.is_, values, self._strong)) and all(
                map(operator.is_, islice(values, len(self._strong), None), map(operator.call, self._weak))
            ):
                return True
            then = [*self._strong, *(ref() for ref in self._weak)]
            if any(now is not old and not _equal(now, old) for now, old in zip(values, then, strict=False)):
                return False
        return not self.change()

    def change(self) -> str:
        """What has changed, in the user's names, or ''. Equal numbers and strings are taken for what was there."""
        for place in self.places:
            try:
                values = place.read()
            except _Appeared as appeared:
                return appeared.args[0]
            except Exception:
                return f"{place.what} is gone"
            if len(values) != len(place.was):
                return f"the number of elements of {place.what} changed"
            for k, (now, was) in enumerate(zip(values, place.was, strict=True)):
                old = was() if type(was) is weakref.ref else was
                if now is not old and not _equal(now, old):
                    return f"{place.labels[min(k, len(place.labels) - 1)]} changed from {_short(old)} to {_short(now)}"
                if type(was) is not weakref.ref:
                    place.was[k] = now
        self._arrange()
        return ""


class Life:
    """Ends with the first of the objects that an entry depends on by weak references."""

    def __init__(self) -> None:
        self.over = False
        self.ended: Callable[[], None] | None = None

    def __call__(self, _: weakref.ref) -> None:
        if not self.over:
            self.over = True
            if self.ended is not None:
                self.ended()


class Guards:
    """Everything that the trace of `fn` may read besides its arguments. `objects`: arguments that are no Tensors."""

    def __init__(self, fn: Callable, objects: Iterable[Any]):
        self.life = Life()
        self._refs: dict[int, weakref.ref] = {}
        self._attributes_version, self._flags_version = tracing.attributes_version, tracing.flags_version
        reach = Reach([fn, *objects], self.weak)
        tracing.watch(reach.names, *(space.extra for space in reach.spaces if space.kind == "object"))
        free: list[_Place] = []
        reported: list[_Place] = []
        self._lazy: list[_Place] = []
        shared: dict[frozenset, frozenset] = {}  # one set for all layers of a kind
        for space in reach.spaces:
            absent, lazy = space.absent(reach.names)
            places = reported if space.reports else free
            if absent or space.taken or space.fixed:
                places.append(self._of_space(space, shared.setdefault(absent, absent)))
            if lazy:
                self._lazy.append(self._of_lazy(space, lazy))
        for path, container, what, reports in reach.contents:
            if len(listing(type(container))(container)) <= 2 * MAX_ELEMENTS:  # type: ignore[misc]
                (reported if reports else free).append(self._of_content(path, container, what))
        for space in reach.spaces:
            space.release()
        if reach.layers:
            free.append(self._of_layers(reach.layers))
        self._places, self._attributes = _Places(free + self._lazy), _Places(reported)
        self._tensors = [*map(self.weak, reach.tensors)]
        self._consumed, self._streams, self._caches = reach.consumed, reach.streams, reach.caches
        self._unknown = reach.unknown
        self._arrays = [self.weak(a) for a in reach.arrays if a.size <= MAX_ELEMENTS]
        self._before = self._states()

    def weak(self, value: Any) -> weakref.ref | None:
        """A weak reference, whose end is the entry's; None where there can be none."""
        found = self._refs.get(id(value))
        if found is None:
            try:
                found = self._refs[id(value)] = weakref.ref(value, self.life)
            except TypeError:
                return None
        return found

    def knows(self, value: Any) -> bool:
        """Whether `value` was there before the trace, so that there is no need to keep it."""
        found = self._refs.get(id(value))
        return found is not None and found() is value

    # --- checking ---

    def hold(self) -> bool:
        """Whether everything is as it was."""
        if self.life.over or not self._places.hold():
            return False
        attributes, flags = tracing.attributes_version, tracing.flags_version
        if attributes != self._attributes_version:
            if not self._attributes.hold():
                return False
            self._attributes_version = attributes
        if flags != self._flags_version:
            if not self._flags.hold():
                return False
            self._flags_version = flags
        return True

    def explain(self) -> str:
        """What has changed, in the user's names."""
        return self._places.change() or self._attributes.change() or self._flags.change()

    def finish(self, tensors: Iterable[Tensor], arrays: Iterable[np.ndarray]) -> str:
        """After the trace, which read `tensors` and `arrays`: why the entry cannot serve another call, or ''."""
        self._tensors = [*{id(ref): ref for ref in (*self._tensors, *map(self.weak, tensors))}.values()]
        self._flags = _Places([self._of_flags()])
        for place in self._lazy:
            for k, (was, now) in enumerate(zip(place.was, place.read(), strict=True)):
                if was is MISSING and is_data(now):
                    place.was[k] = self._expected(now)
        read = {id(b) for a in arrays for b in (a, a.base)}  # these are read again at each call
        of_arrays = [self._of_array(ref) for ref in self._arrays if id(ref()) not in read]
        self._places = _Places(self._places.places + of_arrays)
        if self._consumed:
            return f"it reads {self._consumed}, which ends what it reads"
        now = self._states()
        changed = [what for what, state in self._before.items() if now[what] != state]
        self._streams = self._caches = self._before = None  # type: ignore[assignment]
        if changed:
            return f"it changes {changed[0]}"
        imported = [*filter(is_users_module, self._unknown)]
        if imported:
            return f"it imports {imported[0]}"
        return "" if self.hold() else f"it changes what it depends on: {self.explain()}"

    def _states(self) -> dict[str, Any]:
        """What a trace advances where it draws random numbers that are none of ours, or fills a cache with objects."""
        out: dict[str, Any] = {"Python's random numbers": random.getstate()}
        out["NumPy's random numbers"] = pickle.dumps(np.random.get_state())
        for k, stream in enumerate(self._streams):
            out[f"random generator {k} ({type(stream).__name__})"] = _state_of(stream)
        for cache in self._caches:
            new = [v for v in held_by(cache) if not is_data(v) and not self.knows(v)]
            out[f"the cache of {cache.__name__}"] = {*map(id, new)}
        return out

    # --- places ---

    def _expected(self, value: Any) -> Any:
        """What is kept of a value to compare with: numbers and the like themselves, other things weakly."""
        return value if issubclass(type(value), SCALARS) else self.weak(value) or value

    def _of_space(self, space: Space, absent: frozenset) -> _Place:
        fixed = {what: get for what, get in space.fixed.items() if get is bases_of or not by_content(get(space.held))}
        names = [n for n, v in space.taken.items() if not by_content(v)]
        was = [v if get is bases_of else self._expected(v) for get in fixed.values() for v in [get(space.held)]]
        was += [self._expected(space.taken[n]) for n in names]
        labels = [*fixed, *map(space.what.format, names)]
        owner, table, what, large = space.owner, space.table, space.what, len(space.now) > len(absent)
        head, tail = _together([*fixed.values()]), _picker([*map(space.key, names)])

        def read() -> Sequence[Any]:
            held = owner()
            now = table(held)
            if not (now.keys().isdisjoint(absent) if large else absent.isdisjoint(now)):
                raise _Appeared(f"{what.format(next(k for k in now if k in absent))} is new")
            return [*head(held), *tail(now)]

        return _Place(read, what.format("something"), labels, was)

    def _of_layers(self, classes: list[type]) -> _Place:
        """`forward` of layers of ours, which may be patched."""
        refs = [self.weak(k) for k in dict.fromkeys(classes)]
        labels = [f"'forward' of class {k.__name__}" for k in dict.fromkeys(classes)]

        def read() -> Sequence[Any]:
            return [ref().forward for ref in refs]  # type: ignore[misc]

        return _Place(read, "a layer", labels, [*map(self._expected, read())])

    def _of_lazy(self, space: Space, names: list[str]) -> _Place:
        owner, table = space.owner, space.table

        def read() -> Sequence[Any]:  # what is not there would come out as it did
            now = table(owner())
            return [now.get(n, place.was[k]) for k, n in enumerate(names)]

        place = _Place(read, "", [*map(space.what.format, names)], [MISSING] * len(names))
        return place

    def _of_content(self, path: Callable[[], Any], container: Any, what: str) -> _Place:
        how, kind = listing(type(container)), type(container)
        was = flat(container)
        if not any(map(is_container, how(container))):  # type: ignore[misc, arg-type]

            def read() -> Sequence[Any]:
                now = path()
                return [kind, *how(now)] if type(now) is kind else ()  # type: ignore[misc]
        else:

            def read() -> Sequence[Any]:
                return flat(path())

        return _Place(read, what, [f"an element of {what}"], [*map(self._expected, was)])

    def _of_array(self, ref: Any) -> _Place:
        """The content of an array that the function did not take as a Tensor: it may have looked at it."""

        def read() -> Sequence[Any]:
            now = state(ref())
            return place.was if now == place.was else now  # the very objects, where they are equal

        def state(array: np.ndarray) -> list[Any]:
            return [array.shape, array.dtype.str, np.ndarray.tobytes(array)]

        place = _Place(read, "a NumPy array", ["a NumPy array"], state(ref()))
        return place

    def _of_flags(self) -> _Place:
        """`requires_grad` of Tensors, and where they are."""
        tensors = self._tensors

        def read() -> Sequence[Any]:
            now = [t() for t in tensors]
            return [t._requires_grad for t in now] + [t.device for t in now if placement.several]  # type: ignore

        what = "requires_grad or the device of a Tensor"
        return _Place(read, what, [what], [*read()])


def _state_of(stream: Any) -> Any:
    if isinstance(stream, random.SystemRandom):
        return object()  # never the same
    if isinstance(stream, random.Random):
        return stream.getstate()
    bits = stream.bit_generator if isinstance(stream, np.random.Generator) else stream
    return pickle.dumps(bits.get_state() if isinstance(bits, np.random.RandomState) else bits.state)


def _picker(keys: list[Any]) -> Callable[[Any], Sequence[Any]]:
    """The values under `keys` of a mapping. Raises KeyError."""
    if len(keys) > 1:
        return operator.itemgetter(*keys)
    if keys:
        (key,) = keys
        return lambda table: (table[key],)
    return lambda table: ()


def _together(gets: list[Callable[[Any], Any]]) -> Callable[[Any], Sequence[Any]]:
    """What all of `gets` give of an object."""
    if len(gets) > 1 and all(isinstance(get, operator.attrgetter) for get in gets):
        return operator.attrgetter(*(name for get in gets for name in get.__reduce__()[1]))  # type: ignore[attr-defined]
    if len(gets) == 1:
        (get,) = gets
        return lambda held: (get(held),)
    return lambda held: [get(held) for get in gets]


def _equal(a: Any, b: Any) -> bool:
    """Whether two objects cannot be told apart: numbers and the like, and the bases of classes."""
    if type(a) is not type(b):
        return False
    if type(a) is tuple:
        return len(a) == len(b) and all(map(operator.is_, a, b))
    return is_data(a) and isinstance(a, SCALARS) and repr(a) == repr(b)


def _short(value: Any) -> str:
    if value is MISSING or value is None:
        return "nothing" if value is MISSING else "None"
    if isinstance(value, Tensor):
        return f"a {value.dtype.name} {value.shape} Tensor"
    if isinstance(value, types.FunctionType):
        return f"function {value.__name__}"
    if isinstance(value, SCALARS):
        text = repr(value)
        return text if len(text) < 60 else text[:57] + "..."
    return f"a {type(value).__name__}"
