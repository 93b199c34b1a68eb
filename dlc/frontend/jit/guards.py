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
from typing import Any

import numpy as np

from dlc.frontend.core import places as placement
from dlc.frontend.core import trace as tracing
from dlc.frontend.core.tensor import Tensor
from dlc.frontend.jit.objects import (
    MAX_ELEMENTS,
    MISSING,
    SCALARS,
    ClosureCell,
    bases_of,
    by_content,
    dict_of,
    flat,
    held_by,
    is_data,
    is_lasting,
    is_leaf,
    is_users_module,
    listing,
)
from dlc.frontend.jit.reach import Reach, Space

CHECKS_BEFORE_COMPILING = 3  # of one entry: many are called once or twice


class _Appeared(Exception):
    """A name is there that was not: `args[0]`."""


class _Place:
    """Some values that are read together."""

    def __init__(self, read: Callable[[], Sequence[Any]], what: str, labels: list[str], was: list[Any]):
        self.read, self.what, self.labels, self.was = read, what, labels, was

    def conditions(self, k: int, names: dict[str, Any]) -> list[str]:
        """Python expressions, true where a value may be another object than before. What they name is put into
        `names`, under names that end in `k`."""
        names[f"read{k}"], names[f"was{k}"] = self.read, self.was
        if any(type(was) is weakref.ref for was in self.was):
            return [f"differ(read{k}(), was{k})"]
        return [f"len(now := read{k}()) != {len(self.was)}", f"not all(map(same, now, was{k}))"]


class _SpacePlace(_Place):
    """Values of a name space: what is fixed of its owner, then what is in its table."""

    def __init__(self, space: Space, absent: frozenset, expected: Callable[[Any], Any]):
        fixed = {w: get for w, get in space.fixed.items() if get is bases_of or not by_content(get(space.held))}
        names = [n for n, v in space.taken.items() if not by_content(v)]
        was = [v if get is bases_of else expected(v) for get in fixed.values() for v in [get(space.held)]]
        was += [expected(space.taken[n]) for n in names]
        super().__init__(self._read, space.what.format("something"), [*fixed, *map(space.what.format, names)], was)
        self._owner, self._table, self._absent = space.owner, space.table, absent
        self._name = space.what.format
        self._fixed, self._keys = [*fixed.values()], [*map(space.key, names)]

    def _read(self) -> Sequence[Any]:
        held = self._owner()
        now = self._table(held)
        if not (now.keys().isdisjoint(self._absent) if len(now) > len(self._absent) else self._absent.isdisjoint(now)):
            raise _Appeared(f"{self._name(next(k for k in now if k in self._absent))} is new")
        return [*(get(held) for get in self._fixed), *(now[k] for k in self._keys)]

    def conditions(self, k: int, names: dict[str, Any]) -> list[str]:
        now = self._table(self._owner())
        names[f"owner{k}"], names[f"absent{k}"], names[f"there{k}"] = self._owner, self._absent, [*now]
        lasting = is_lasting(self._owner())
        names[f"held{k}"] = self._owner() if lasting else None
        held, table = f"(o := held{k})" if lasting else f"(o := owner{k}())", "(t := o.__dict__)"
        if self._table is not dict_of:
            names[f"table{k}"], table = self._table, f"(t := table{k}(o))"
        if not self._absent:
            first = f"{table} is None"
        elif not now:
            first = table  # something is there
        elif len(now) > 2 * len(self._absent):
            first = f"not {table}.keys().isdisjoint(absent{k})"
        else:
            first = f"[*{table}] != there{k}"  # other names, or the same in another order
        read = []
        for j, get in enumerate(self._fixed):
            names[f"get{j}_{k}"] = get
            if isinstance(get, operator.attrgetter):
                read.append(f"o.{get.__reduce__()[1][0]}")
            elif isinstance(get, ClosureCell):
                read.append(f"o.__closure__[{get.k}].cell_contents")
            else:
                read.append(f"get{j}_{k}(o)")
        for j, key in enumerate(self._keys):
            names[f"key{j}_{k}"] = key
            read.append(f"t[{key!r}]" if type(key) in (str, bytes) else f"t[key{j}_{k}]")
        out = [f"{held} is None", first]
        return out + _others(read, self.was, k, names)


class _LayersPlace(_Place):
    """`forward` of layers of ours, which may be patched."""

    def __init__(self, classes: list[type], expected: Callable[[Any], Any]):
        self._classes = classes  # ours: they last
        labels = [f"'forward' of class {c.__name__}" for c in classes]
        super().__init__(self._read, "a layer", labels, [*map(expected, self._read())])

    def _read(self) -> Sequence[Any]:
        return [c.forward for c in self._classes]  # type: ignore[attr-defined]

    def conditions(self, k: int, names: dict[str, Any]) -> list[str]:
        names.update({f"class{j}_{k}": c for j, c in enumerate(self._classes)})
        return _others([f"class{j}_{k}.forward" for j in range(len(self._classes))], self.was, k, names)


def _others(read: list[str], was: list[Any], k: int, names: dict[str, Any]) -> list[str]:
    """Expressions for: what the expressions `read` give is another object than what is in `was`."""
    names.update({f"was{j}_{k}": value for j, value in enumerate(was)})
    calls = ["()" if type(value) is weakref.ref else "" for value in was]
    return [f"{now} is not was{j}_{k}{call}" for j, (now, call) in enumerate(zip(read, calls, strict=True))]


class _Places:
    """Values that are compared together."""

    def __init__(self, places: list[_Place]):
        self.places = places
        self._names: dict[str, Any] = {}
        self._checks = 0
        self._changed: Callable[[], bool] = lambda: True

    def hold(self) -> bool:
        """Whether all values are what they were.

        After a few calls, one function is made that only compares by identity and gives up at the first difference:
        then, and before, `change` decides.
        """
        try:
            if not self._changed():
                return True
        except Exception:  # it may run into anything once objects have changed
            pass
        held = not self.change()
        if held:
            self._checks += 1
            if self._checks == CHECKS_BEFORE_COMPILING:
                self._compile()
            elif self._checks > CHECKS_BEFORE_COMPILING:
                self._conditions()  # equal values, but other objects: these are compared with from now on
        return held

    def _conditions(self) -> list[str]:
        return [c for k, place in enumerate(self.places) for c in place.conditions(k, self._names)]

    def _compile(self) -> None:
        lines = "".join(f"    if {c}:\n        return True\n" for c in self._conditions())
        self._names = {**self._names, "differ": _differ, "same": operator.is_}
        exec(f"def changed():\n{lines}    return False\n", self._names)
        self._changed = self._names.pop("changed")  # which would hold itself

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
                places.append(_SpacePlace(space, shared.setdefault(absent, absent), self._expected))
            if lazy:
                self._lazy.append(self._of_lazy(space, lazy))
        for path, container, what, reports in reach.contents:
            if len(listing(type(container))(container)) <= 2 * MAX_ELEMENTS:  # type: ignore[misc]
                (reported if reports else free).append(self._of_content(path, container, what))
        for space in reach.spaces:
            space.release()
        if reach.layers:
            free.append(_LayersPlace([*dict.fromkeys(reach.layers)], self._expected))
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
        return value if issubclass(type(value), SCALARS) or is_lasting(value) else self.weak(value) or value

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
        if all(map(is_leaf, how(container))):  # type: ignore[misc, arg-type]

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


def _differ(values: Sequence[Any], was: list[Any]) -> bool:
    """Whether `values` are other objects than `was`, in which weak references stand for what they refer to."""
    if len(values) != len(was):
        return True
    return any(now is not (old() if type(old) is weakref.ref else old) for now, old in zip(values, was, strict=True))


def _equal(a: Any, b: Any) -> bool:
    """Whether two objects cannot be told apart: numbers and the like, and the bases of classes."""
    if type(a) is not type(b):
        return False
    if type(a) is tuple:
        return len(a) == len(b) and all(x is y or _equal(x, y) for x, y in zip(a, b, strict=True))
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
